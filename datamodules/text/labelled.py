"""Texts with labels in a person's own file, and the tasks of GLUE in theirs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from datamodules.image_files import say
from datamodules.text.rows import Rows
from datamodules.text.tokens import TokenTable, WordPieceDataModule
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError, did_you_mean
from foundation.randomness import keyed_generator

MOST_CLASSES = 1000  # of labels that nobody has listed
TENTH = 10


class LabelledTextDataModule(WordPieceDataModule):
    """Texts, or pairs of them, each with a label: a class, or a number (``regression``).

    A batch is as of ``TokensDataModule``, ``[CLS] text [SEP]``; of pairs ``[CLS] text [SEP] text_b [SEP]`` with
    ``segment_ids`` [B, L]. ``label`` is int64 [B], or float32 [B]. What is longer than ``max_length`` is cut behind, of
    a pair the longer one first; a line says how many are.

    Args:
        file: of training: ``.csv``, ``.tsv`` or ``.jsonl``, packed (``.gz``) or not, which need not be said.
        test_file: of the test; None sets ``test_size`` rows of ``file`` aside.
        text, label, text_b: the columns' names, or numbers from 0 without ``header``. text_b: None without pairs.
        header: the first row has the columns' names.
        classes: every label as it stands in the file, in the order of the classes' numbers, or a mapping from it to the
            class's name; None takes those of ``file`` in their order (as numbers where all are).
        regression: labels are numbers.
        skip_bad_rows: rows that have too few or too many cells are left out, and a line counts them; else refused.
        test_size: rows of the test without ``test_file``; None: a tenth.
        train_size: rows of training that ``split_seed`` chooses, so that a large set takes less time; None: all.
        vocabulary, lowercase: see ``TextFilesDataModule``.
        name, test_name: what a record calls the data, and what it is tested on.
        splits: see ``SplitDataModule``.
    """

    def __init__(
        self,
        *,
        file: str,
        vocabulary: str,
        test_file: str | None = None,
        text: str | int = "text",
        label: str | int = "label",
        text_b: str | int | None = None,
        header: bool = True,
        classes: Sequence[Any] | Mapping[Any, str] | None = None,
        regression: bool = False,
        skip_bad_rows: bool = False,
        test_size: int | None = None,
        train_size: int | None = None,
        lowercase: bool = True,
        name: str = "labelled_text",
        test_name: str = "test",
        max_length: int = 128,
        **splits: Any,
    ) -> None:
        super().__init__(max_length=max_length, **splits)
        if regression and classes:
            raise UserError("datamodule.regression=true has numbers as labels, and no classes: leave one of them out.")
        if test_file is not None and test_size is not None:
            raise UserError("datamodule.test_file has its own test rows: leave datamodule.test_size=null.")
        for key, size in {"test_size": test_size, "train_size": train_size}.items():
            if size is not None and size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of rows, 1 or more, or null.")
        if isinstance(classes, str):
            raise UserError(f"datamodule.classes is {classes!r}: give a list, or a mapping from labels to names.")
        self.file, self.test_file, self.test_size, self.train_size = file, test_file, test_size, train_size
        self.columns = {"text": str(text), "label": str(label)} | ({} if text_b is None else {"text_b": str(text_b)})
        self.header, self.regression, self.skip_bad_rows, self.classes = header, regression, skip_bad_rows, classes
        self.name, self.test_name = name, test_name
        self.tokenizer = WordPiece.of_file(vocabulary, lowercase)

    @cached_property
    def labels(self) -> list[str]:
        """As they stand in the file, in the order of their numbers."""
        if self.classes is not None:
            return [str(it) for it in self.classes]
        found = set()
        for _, label in self._rows("file", self.file):
            found.add(label)
            if len(found) > MOST_CLASSES:
                raise UserError(
                    f"{self.file} has over {MOST_CLASSES:,} different labels in {self.columns['label']!r}: set "
                    "datamodule.label to the column of classes, or datamodule.regression=true."
                )
        if len(found) < 2:
            raise UserError(
                f"{self.file} has {'no row' if not found else f'the label {found.pop()!r} alone'}: two classes or more "
                "are needed."
            )
        return sorted(found, key=lambda it: (float(it), it) if all(map(is_number, found)) else (0, it))

    @property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0 if self.regression else len(self.labels)

    @property
    def class_names(self) -> list[str] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.regression:
            return None
        return [str(it) for it in self.classes.values()] if isinstance(self.classes, Mapping) else self.labels

    def load(self) -> dict[str, TokenTable]:
        train = self._table("file", self.file)
        if self.test_file is not None:
            return {"train": train, "test": self._table("test_file", self.test_file)}
        size = max(len(train) // TENTH, 1) if self.test_size is None else self.test_size
        if size >= len(train):
            raise UserError(
                f"{self.file} has {len(train)} rows, of which {size} for the test leave nothing to train on: set "
                "datamodule.test_size to a smaller number, or datamodule.test_file."
            )
        order = torch.randperm(len(train), generator=keyed_generator(self.split_seed, "labelled text test split"))
        return {"train": train.take(order[size:].sort().values), "test": train.take(order[:size].sort().values)}

    def cut(self, loaded: dict[str, TokenTable]) -> dict[str, TokenTable]:
        tables = super().cut(loaded)
        if self.train_size is not None:
            train = tables["train"]
            if self.train_size > len(train):
                size = f"datamodule.train_size={self.train_size}"
                raise UserError(f"{size}: {self.name} has {len(train)} training rows. Choose fewer.")
            order = torch.randperm(len(train), generator=keyed_generator(self.split_seed, "labelled text train size"))
            tables["train"] = train.take(order[: self.train_size].sort().values)
        return tables

    def _table(self, key: str, file: str) -> TokenTable:
        rows = list(self._rows(key, file))
        if not rows:
            raise UserError(f"datamodule.{key}={file} has no rows.")
        first, *second = (list(it) for it in zip(*(texts for texts, _ in rows), strict=True))
        table = self.table(first, second[0] if second else None, self._numbers([label for _, label in rows]))
        if cut := int((table.known_lengths == self.max_length).sum()):
            quiet = self.trainer is not None and self.trainer.global_rank > 0
            what = f"fill datamodule.max_length={self.max_length} or are cut to it"
            say(f"{self.name}: {cut:,} of {len(table):,} rows of {file} {what}.", quiet)
        return table

    def _numbers(self, labels: Sequence[str]) -> Tensor:
        if self.regression:
            return torch.tensor([float(it) for it in labels], dtype=torch.float32)
        numbers = {label: number for number, label in enumerate(self.labels)}
        return torch.tensor([numbers[it] for it in labels], dtype=torch.int64)

    def _rows(self, key: str, file: str) -> Iterator[tuple[list[str], str]]:
        """The texts of each row, and its label."""
        known = None if self.classes is None else set(self.labels)
        if key == "test_file" and not self.regression:
            known = set(self.labels)
        rows = Rows(file, f"datamodule.{key}", self.header, self.skip_bad_rows)
        for row in rows:
            texts = [rows.text(row, column, f"datamodule.{it}") for it, column in self.columns.items() if it != "label"]
            label = as_word(rows.cell(row, self.columns["label"], "datamodule.label"))
            if not label:
                raise rows.refused(f"{self.columns['label']} is empty; every row has a label")
            if self.regression and not is_number(label):
                raise rows.refused(f"{self.columns['label']} is {label!r}, which is no number")
            if known is not None and label not in known:
                raise rows.refused(
                    f"{self.columns['label']} is {label!r}, which is no class; {did_you_mean(label, known)}"
                )
            yield texts, label
        if rows.skipped:
            say(f"{self.name}: {rows.skipped:,} rows of {rows.path} have too few or too many cells and are left out.")

    def describe(self) -> dict[str, Any]:
        """Also which files and columns."""
        return (
            super().describe() | {"columns": self.columns} | ({"classes": self.class_names} if self.num_classes else {})
        )


def as_word(label: Any) -> str:
    """A label of a JSON file as text: 1, true and "1" as 1, True and 1."""
    return label.strip() if isinstance(label, str) else "" if label is None else str(label)


def is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False
