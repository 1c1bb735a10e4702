"""Names in a sentence's tags, found as CoNLL's own script does."""

from collections import Counter
from collections.abc import Iterable, Sequence

OUTSIDE = "O"
Entity = tuple[str, int, int]
"""Type, first word, and the word behind the last."""


def entities(tags: Sequence[str]) -> list[Entity]:
    """The names in a sentence's tags (``B-PER``, ``I-PER``, ``O``; ``E-`` and ``S-`` end one), in their order.

    As ``conlleval`` cuts them, so that IOB1, IOB2 and IOBES are all read: a name begins at ``B-`` or ``S-``, and at
    any other tag of a type that does not go on from the word before.
    """
    found: list[Entity] = []
    begun: tuple[str, int] | None = None
    before = (OUTSIDE, "")
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = parts_of(tag)
        goes_on = prefix in "IE" and before[0] in "BI" and kind == before[1]
        if begun is not None and not goes_on:
            found.append((*begun, place))
            begun = None
        if prefix != OUTSIDE and not goes_on:
            begun = (kind, place)
        before = (prefix, kind)
    return found


def parts_of(tag: str) -> tuple[str, str]:
    """``B``, ``I``, ``E``, ``S`` or ``O``, and the type. A tag without a hyphen is a type."""
    prefix, hyphen, kind = tag.partition("-")
    return (prefix, kind) if hyphen or tag == OUTSIDE else ("I", tag)


def counted(tags: Sequence[str], told: Sequence[str]) -> dict[str, Counter[str]]:
    """Of a sentence, by type: how many names it has, are told, and are told rightly, from first word to last."""
    are, found = entities(tags), entities(told)
    return {
        "has": Counter(kind for kind, *_ in are),
        "told": Counter(kind for kind, *_ in found),
        "right": Counter(kind for kind, *_ in set(are) & set(found)),
    }


def f1(has: int, told: int, right: int) -> float:
    """The harmonic mean of precision and recall; 0 where nothing is right, as CoNLL's script has it."""
    return 2 * right / (has + told) if right else 0.0


def kinds_of(tags: Iterable[str]) -> list[str]:
    """The types of names that tags tell apart, sorted."""
    return sorted({kind for _, kind in map(parts_of, tags)} - {""})
