"""How many edits outputs are away from what they should be, as phones and words are counted."""

from collections.abc import Sequence

from callbacks.instruments.outputs import OutputsMeasurement
from foundation.errors import UserError, did_you_mean

UNITS = {"blanks": str.split, "characters": list}


def edits_between(one: Sequence[str], other: Sequence[str]) -> int:
    """The fewest insertions, deletions and substitutions that make one of the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for number, unit in enumerate(one, start=1):
        corner, row[0] = row[0], number
        for place, it in enumerate(other, start=1):
            corner, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, corner + (unit != it))
    return row[-1]


def nearest(output: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[int, int]:
    """Edits to the reference with the fewest, and its length; of several the shortest's."""
    return min((edits_between(output, it), len(it)) for it in references)


class ErrorRate(OutputsMeasurement):
    """Logs ``<stage>/error_rate``, edits by units of the references (which may be above 1), and ``sequence_error``, the
    share of outputs that are no reference. Of several references the nearest counts.

    Args:
        units: what is counted: what stands between ``blanks`` (phones, words), or ``characters``.
        outputs: see ``OutputsMeasurement``.
    """

    key = "error_rate"
    names = {"error_rate": "min", "sequence_error": "min"}  # noqa: RUF012

    def __init__(self, folder: str, units: str = "blanks", shown: int = 10) -> None:
        super().__init__(folder, shown)
        if units not in UNITS:
            raise UserError(f"callbacks.error_rate.units is {units!r}: {did_you_mean(str(units), UNITS)}")
        self.units = units

    def scores(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        cut = UNITS[self.units]
        found = [
            nearest(cut(output), [cut(it) for it in them]) for output, them in zip(outputs, references, strict=True)
        ]
        edits, units = (sum(it) for it in zip(*found, strict=True))
        return {
            "error_rate": edits / units if units else float("nan"),
            "sequence_error": sum(it > 0 for it, _ in found) / len(found),
        }
