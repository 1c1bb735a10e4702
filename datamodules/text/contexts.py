"""Texts with the endings that people gave them, out of files in SWAG's or HellaSwag's layout or a person's own."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from datamodules.text.rows import Rows
from foundation.errors import UserError
from foundation.randomness import keyed_generator


@dataclass(frozen=True)
class Context:
    """A text and what really goes on with it."""

    item: int
    """Its row in the file, from 0."""
    text: str
    ending: str
    group: str


@dataclass(frozen=True)
class Layout:
    """How a file has them. Keys of sentences begin with ``prefix``.

    Args:
        context: the column of the text.
        ending: of what goes on with it; None: it is the one of ``endings`` that ``label`` says.
        endings: the column with a list of endings, or the columns that have one each.
        label: of the right one's number, from 0. One of -1, as hidden labels have, is refused.
        start: of what every ending begins with: it is put behind the text.
        group: of what texts share; None: each stands by itself.
    """

    context: str = "context"
    ending: str | None = None
    endings: str | Sequence[str] = "endings"
    label: str = "label"
    start: str | None = None
    group: str | None = None
    prefix: str = "datamodule."

    def read(self, file: str, key: str = "file") -> list[Context]:
        rows = Rows(file, f"{self.prefix}{key}")
        found = [self._of(rows, row, number) for number, row in enumerate(rows)]
        if not found:
            raise UserError(f"{self.prefix}{key}={file} has no rows.")
        return found

    def _of(self, rows: Rows, row: dict[str, Any], number: int) -> Context:
        text = rows.text(row, self.context, f"{self.prefix}context")
        if self.start is not None:
            text = f"{text} {rows.text(row, self.start, f'{self.prefix}start')}"
        ending = self._ending(rows, row) if self.ending is None else rows.text(row, self.ending, f"{self.prefix}ending")
        for what, it in (("text to go on with", text), ("ending", ending)):
            if not it.strip():
                raise rows.refused(f"it has no {what}: each text needs the ending that really goes on with it")
        group = number if self.group is None else rows.cell(row, self.group, f"{self.prefix}group")
        return Context(number, text, ending, str(group))

    def _ending(self, rows: Rows, row: dict[str, Any]) -> str:
        label = str(rows.cell(row, self.label, f"{self.prefix}label"))
        if isinstance(self.endings, str):
            among = rows.cell(row, self.endings, f"{self.prefix}endings")
        else:
            among = [rows.cell(row, it, f"{self.prefix}endings") for it in self.endings]
        if not isinstance(among, list) or not all(isinstance(it, str) for it in among):
            raise rows.refused(f"{self.endings} is {among!r}, which is no list of texts")
        if not label.isdecimal() or int(label) >= len(among):
            raise rows.refused(f"{self.label} is {label!r}, which says no right ending: give 0 to {len(among) - 1}")
        return among[int(label)]


def folds_of(groups: Iterable[str], folds: int, seed: int) -> list[int]:
    """Which fold each row is in: whole groups, in a drawn order the largest first, each to the smallest fold so far."""
    groups = list(groups)
    counts: dict[str, int] = {}
    for it in groups:
        counts[it] = counts.get(it, 0) + 1
    names = list(counts)
    shuffled = [names[it] for it in torch.randperm(len(names), generator=keyed_generator(seed, "folds")).tolist()]
    sizes, fold = [0] * folds, {}
    for name in sorted(shuffled, key=lambda it: -counts[it]):
        fold[name] = min(range(folds), key=lambda it: sizes[it])
        sizes[fold[name]] += counts[name]
    return [fold[it] for it in groups]
