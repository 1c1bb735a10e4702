"""Which of several endings goes on with a text: SWAG, HellaSwag and a person's own file."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import starmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.splits import Table
from datamodules.text.groups import split_by_group
from datamodules.text.rows import Rows
from datamodules.text.tokens import TokenTable, WordPieceDataModule
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError
from foundation.randomness import keyed_generator

HIDDEN = ("-1", "", "None")
"""Labels of those who keep the right endings to themselves."""


class ChoiceTable(Table):
    """Examples of C pairs each. A batch has ``input_ids`` and ``segment_ids`` [B, C, L], ``lengths`` and ``letters``
    [B, C] and ``label`` [B], all int64.

    Args:
        pairs: example i has the rows i C to i C + C - 1.
        labels: int64 [N].
        letters: int64 [N, C], see ``OffersEndings``.
    """

    def __init__(self, pairs: TokenTable, labels: Tensor, letters: Tensor) -> None:
        super().__init__({"label": labels, "letters": letters})
        self.pairs, self.choices = pairs, len(pairs) // max(len(labels), 1)

    def rows(self, positions: Tensor) -> Tensor:
        return (positions.unsqueeze(1) * self.choices + torch.arange(self.choices, device=positions.device)).flatten()

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        batch = super().__getitem__(positions)
        pairs = self.pairs[self.rows(positions)]
        pairs.setdefault("segment_ids", torch.zeros_like(pairs["input_ids"]))
        shape = (len(positions), self.choices)
        return batch | {key: pairs[key].view(*shape, *pairs[key].shape[1:])
                        for key in ("input_ids", "segment_ids", "lengths")}  # fmt: skip

    def take(self, positions: Tensor) -> "ChoiceTable":
        columns = (self.columns[name][positions] for name in ("label", "letters"))
        return ChoiceTable(self.pairs.take(self.rows(positions)), *columns)

    def to(self, device: torch.device) -> "ChoiceTable":
        columns = (self.columns[name].to(device) for name in ("label", "letters"))
        return ChoiceTable(self.pairs.to(device), *columns)

    def contents(self) -> Iterator[Tensor]:
        yield from self.pairs.contents()
        yield self.columns["label"]


class MultipleChoiceDataModule(WordPieceDataModule):
    """A context with several endings, one of which is right.

    A batch is as ``ChoiceTable`` says: ``[CLS] context [SEP] start ending [SEP]`` of each ending. ``num_classes`` is
    how many there are.

    Args:
        file: of training: ``.jsonl`` or ``.csv``, packed (``.gz``) or not, which need not be said.
        test_file: of the test; None sets whole groups of ``file`` aside, with ``test_size`` rows or a few more.
        context: the column of the context.
        start: of what every ending begins with; None: nothing.
        endings: the column that has all of them, or one for each.
        label: of the right one's number, from 0.
        group: of what examples share; no two splits of a file have the same. None: rows are split one by one.
        test_size: None: a tenth of the rows, or a few more.
        vocabulary, lowercase: see ``TextFilesDataModule``.
        only_endings: leave the contexts out, as who asks what the endings alone give away.
        shuffled_words: put the words of each ending (and context) into an order that is drawn: what words give away.
        name, test_name: what a record calls the data, and what it is tested on; None: as the files are called.
        splits: see ``SplitDataModule``; ``val_size`` rows or a few more, so that groups stay whole.
    """

    name = "multiple_choice"

    def __init__(
        self,
        *,
        file: str,
        vocabulary: str,
        endings: str | Sequence[str],
        context: str = "context",
        label: str = "label",
        start: str | None = None,
        group: str | None = None,
        test_file: str | None = None,
        test_size: int | None = None,
        lowercase: bool = True,
        only_endings: bool = False,
        shuffled_words: bool = False,
        name: str | None = None,
        test_name: str | None = None,
        max_length: int = 128,
        **splits: Any,
    ) -> None:
        super().__init__(max_length=max_length, **splits)
        if test_file is not None and test_size is not None:
            raise UserError("datamodule.test_file has its own test rows: leave datamodule.test_size=null.")
        if test_size is not None and test_size < 1:
            raise UserError(f"datamodule.test_size is {test_size}: give a number of rows, 1 or more, or null.")
        self.file, self.test_file, self.test_size = file, test_file, test_size
        self.context, self.start, self.endings, self.label, self.group = context, start, endings, label, group
        self.name = name or stem_of(file)
        self.test_name = test_name or set_aside(test_file, test_size, group)
        self.only_endings, self.shuffled_words = only_endings, shuffled_words
        self.tokenizer = WordPiece.of_file(vocabulary, lowercase)

    @cached_property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Endings of an example."""
        if not isinstance(self.endings, str):
            return len(self.endings)
        rows = Rows(self.file, "datamodule.file")
        return len(next((self._endings(rows, row) for row in rows), []))

    def load(self) -> dict[str, ChoiceTable]:
        table, groups = self._table("file", self.file)
        if self.test_file is not None:
            sizes = {"val": self.val_size}
        else:
            sizes = {
                "test": max(len(table) // 10, 1) if self.test_size is None else self.test_size,
                "val": self.val_size,
            }
        rows = split_by_group(groups, sizes, self.split_seed, self.name, self.group or "row")
        tables = {split: table.take(positions) for split, positions in rows.items()}
        return tables if self.test_file is None else tables | {"test": self._table("test_file", self.test_file)[0]}

    def cut(self, loaded: dict[str, ChoiceTable]) -> dict[str, ChoiceTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return loaded

    def _table(self, key: str, file: str) -> tuple[ChoiceTable, list[Any]]:
        """The examples of a file, and the group of each."""
        rows, contexts, endings, labels, groups = Rows(file, f"datamodule.{key}"), [], [], [], []
        letters: list[list[int]] = []
        for number, row in enumerate(rows):
            found = self._endings(rows, row)
            if len(found) != self.num_classes:
                raise rows.refused(f"it has {len(found)} endings, and the first row {self.num_classes}")
            start = "" if self.start is None else f"{rows.text(row, self.start, 'datamodule.start')} "
            contexts += [rows.text(row, self.context, "datamodule.context")] * len(found)
            endings += [start + it for it in found]
            letters.append([len(it) for it in found])
            labels.append(self._label(rows, row))
            groups.append(number if self.group is None else str(rows.cell(row, self.group, "datamodule.group")))
        if not labels:
            raise UserError(f"datamodule.{key}={file} has no rows.")
        if self.shuffled_words:
            contexts, endings = (list(starmap(shuffled, enumerate(it))) for it in (contexts, endings))
        pairs = self.table(endings) if self.only_endings else self.table(contexts, endings)
        return ChoiceTable(pairs, torch.tensor(labels), torch.tensor(letters)), groups

    def _endings(self, rows: Rows, row: Mapping[str, Any]) -> list[str]:
        if not isinstance(self.endings, str):
            return [rows.text(dict(row), it, "datamodule.endings") for it in self.endings]
        found = rows.cell(dict(row), self.endings, "datamodule.endings")
        if not isinstance(found, list) or len(found) < 2 or not all(isinstance(it, str) for it in found):
            raise rows.refused(f"{self.endings} is {found!r}, which is no list of two texts or more")
        return found

    def _label(self, rows: Rows, row: dict[str, Any]) -> int:
        found = str(rows.cell(row, self.label, "datamodule.label"))
        if found in HIDDEN:
            raise rows.refused(
                f"{self.label} is {found!r}, as of files whose right endings are hidden: these are neither learnt from "
                "nor scored; give a file that has them"
            )
        if not found.isdecimal() or int(found) >= self.num_classes:
            raise rows.refused(f"{self.label} is {found!r}: give a number from 0 to {self.num_classes - 1}")
        return int(found)

    def describe(self) -> dict[str, Any]:
        """Also by what examples are kept together."""
        ablated = {"only_endings": self.only_endings, "shuffled_words": self.shuffled_words}
        named = {key: it for key, it in ablated.items() if it}
        return super().describe() | {"choices": self.num_classes, "group": self.group} | named


def stem_of(file: str) -> str:
    """A file's name without its folder and endings."""
    return Path(Path(file).name.removesuffix(".gz")).stem


def set_aside(test_file: str | None, test_size: int | None, group: str | None) -> str:
    """What a test is of, in words."""
    if test_file is not None:
        return stem_of(test_file)
    share = "a tenth" if test_size is None else f"{test_size} rows"
    return share if group is None else f"{share}, by {group}"


def shuffled(number: int, text: str) -> str:
    """The words of a file's text of that number in an order that its number decides."""
    words = text.split()
    order = torch.randperm(len(words), generator=keyed_generator(number, "shuffled words")).tolist()
    return " ".join(words[it] for it in order)
