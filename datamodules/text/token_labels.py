"""Sentences with a label for each word, as CoNLL 2003 has them."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from datamodules.image_files import say
from datamodules.text.rows import found
from datamodules.text.sentences import TextFile
from datamodules.text.tokens import TokenTable, WordPieceDataModule
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError, did_you_mean

UNLABELLED = -100
DOCUMENT = "-DOCSTART-"


class TokenLabelTable(TokenTable):
    """A batch has ``input_ids``, ``lengths`` and ``token_label`` [B, L] int64: a word's label at its first piece, -100
    elsewhere.

    Args:
        token_labels: [all tokens] of any integer type.
        table: see ``TokenTable``.
    """

    def __init__(self, token_ids: Tensor, starts: Tensor, lengths: Tensor, token_labels: Tensor) -> None:
        super().__init__(token_ids, starts, lengths)
        self.token_labels = token_labels

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        batch = super().__getitem__(positions)
        starts = self.columns["starts"][batch["index"]].unsqueeze(1)
        places = torch.arange(batch["input_ids"].shape[1], device=starts.device)
        is_text = places < batch["lengths"].unsqueeze(1)
        labels = self.token_labels[torch.where(is_text, starts + places, 0)].long()
        return batch | {"token_label": labels.masked_fill(~is_text, UNLABELLED)}

    def with_columns(self, columns: Mapping[str, Tensor]) -> "TokenLabelTable":
        return TokenLabelTable(self.token_ids, columns["starts"], columns["lengths"], self.token_labels)

    def to(self, device: torch.device) -> "TokenLabelTable":
        starts, lengths = (self.columns[name].to(device) for name in ("starts", "lengths"))
        return TokenLabelTable(self.token_ids.to(device), starts, lengths, self.token_labels.to(device))

    def contents(self) -> Iterator[Tensor]:
        yield from super().contents()
        for rows in torch.arange(len(self)).split(4096):
            yield self[rows]["token_label"]


class TokenLabelsDataModule(WordPieceDataModule):
    """Words a line, each with its label: ``[CLS] pieces of the words [SEP]``. A batch is as ``TokenLabelTable`` says.

    Args:
        file, val_file, test_file: a word a line with white space before what is said of it, a blank line between
            sentences; packed (``.gz``) or not, which need not be said. val_file None: ``val_size`` of ``file``.
        word_column, label_column: from 0; negative ones from behind.
        classes: all labels in the order of their numbers; None: those of ``file``, O first.
        vocabulary, lowercase: see ``TextFilesDataModule``.
        name, test_name: what a record calls the data, and what it is tested on.
        splits: see ``SplitDataModule``.
    """

    def __init__(
        self,
        *,
        file: str,
        test_file: str,
        vocabulary: str,
        val_file: str | None = None,
        word_column: int = 0,
        label_column: int = -1,
        classes: Sequence[str] | None = None,
        lowercase: bool = True,
        name: str = "token_labels",
        test_name: str = "test",
        max_length: int = 128,
        **splits: Any,
    ) -> None:
        super().__init__(max_length=max_length, **splits)
        self.files = {"train": file, "test": test_file} | ({} if val_file is None else {"val": val_file})
        self.word_column, self.label_column, self.classes = word_column, label_column, classes
        self.name, self.test_name = name, test_name
        self.tokenizer = WordPiece.of_file(vocabulary, lowercase)

    @cached_property
    def class_names(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        if self.classes is not None:
            return list(self.classes)
        labels = {label for sentence in self._sentences("train") for _, label in sentence}
        if len(labels) < 2:
            raise UserError(f"{self.files['train']} has fewer than two labels: set datamodule.label_column.")
        return sorted(labels, key=lambda it: (it != "O", it))

    @property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.class_names)

    def load(self) -> dict[str, TokenLabelTable]:
        return {split: self._table(split) for split in self.files}

    def _table(self, split: str) -> TokenLabelTable:
        sentences = list(self._sentences(split))
        if not sentences:
            raise UserError(f"{self.files[split]} has no sentences.")
        numbers = {label: number for number, label in enumerate(self.class_names)}
        encoded = self.encode_words([[word for word, _ in sentence] for sentence in sentences])
        ids, labels, lost = [], [], 0
        for sentence, (row, begins) in zip(sentences, encoded, strict=True):
            told = [UNLABELLED] * len(row)
            for (_, label), place in zip(sentence, begins, strict=True):
                told[place] = numbers[label]
            lost += sum(it >= self.max_length - 1 for it in begins)
            ids.append([*row[: self.max_length - 1], self.tokenizer.sep])
            labels.append([*told[: self.max_length - 1], UNLABELLED])
        if lost:
            quiet = self.trainer is not None and self.trainer.global_rank > 0
            what = f"words of {self.files[split]} lie behind datamodule.max_length={self.max_length} and are not seen"
            say(f"{self.name}: {lost:,} {what}.", quiet)
        table = TokenTable.of(ids)
        flat = torch.tensor(list(chain.from_iterable(labels)), dtype=torch.int16)
        return TokenLabelTable(table.token_ids, table.columns["starts"], table.columns["lengths"], flat)

    def encode_words(self, sentences: Sequence[Sequence[str]]) -> list[tuple[list[int], list[int]]]:
        """Of each sentence, given as words, ``[CLS]`` and the ids of its pieces however many, and the place of each
        word's first one among them. A word that has no piece is [UNK]."""
        pieces = iter(self.tokenizer.ids_of([word for sentence in sentences for word in sentence]))
        encoded = []
        for sentence in sentences:
            row, begins = [self.tokenizer.cls], []
            for _ in sentence:
                begins.append(len(row))
                row += next(pieces) or [self.tokenizer.unknown]
            encoded.append((row, begins))
        return encoded

    def _sentences(self, split: str) -> Iterator[list[tuple[str, str]]]:
        """Words with their labels."""
        key = "datamodule.file" if split == "train" else f"datamodule.{split}_file"
        file = TextFile(found(self.files[split], key))
        known = None if split == "train" and self.classes is None else set(self.class_names)
        sentence: list[tuple[str, str]] = []
        for line in chain(file.lines(), [""]):
            cells = line.split()
            if not cells or cells[0] == DOCUMENT:
                if sentence:
                    yield sentence
                sentence = []
                continue
            try:
                word, label = cells[self.word_column], cells[self.label_column]
            except IndexError:
                columns = f"columns {self.word_column} and {self.label_column}"
                raise UserError(f"{file.path}, line {file.line} has {len(cells)} cells, not {columns}.") from None
            if known is not None and label not in known:
                raise UserError(f"{file.path}, line {file.line}: {label!r} is no class; {did_you_mean(label, known)}")
            sentence.append((word, label))

    def describe(self) -> dict[str, Any]:
        """Also the classes."""
        return super().describe() | {"classes": self.class_names}
