"""Texts with their real endings, for a language model that is to write other endings for texts that it has not seen."""

from typing import Any

from datamodules.text.contexts import Context, Layout, folds_of
from datamodules.text.tokens import TokenTable, WordPieceDataModule
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError


class ContinuationsDataModule(WordPieceDataModule):
    """Rows ``[CLS] text ending [SEP]``; a batch has ``input_ids`` and ``lengths``.

    Texts are cut into folds. The test is one of them, and training has all others: who trains once for each fold can
    write endings for every text by a model that has not seen its own (Zellers et al. 2018).

    Args:
        file: ``.jsonl`` or ``.csv``, packed (``.gz``) or not, which need not be said.
        folds: how many; whole groups are in one.
        fold: the one that is held out, from 0.
        context, ending, endings, label, start, group: columns, see ``Layout``.
        vocabulary, lowercase: see ``TextFilesDataModule``.
        name: what a record calls the data.
        splits: see ``SplitDataModule``.
    """

    num_classes = None

    def __init__(
        self,
        *,
        file: str,
        vocabulary: str,
        folds: int = 2,
        fold: int = 0,
        context: str = "context",
        ending: str | None = None,
        endings: str | list[str] = "endings",
        label: str = "label",
        start: str | None = None,
        group: str | None = None,
        lowercase: bool = True,
        name: str = "continuations",
        max_length: int = 128,
        **splits: Any,
    ) -> None:
        super().__init__(max_length=max_length, **splits)
        if folds < 2:
            raise UserError(f"datamodule.folds is {folds}: give 2 or more, one of which is held out.")
        if not 0 <= fold < folds:
            raise UserError(f"datamodule.fold is {fold}: give one of 0 to {folds - 1}, or more datamodule.folds.")
        self.file, self.folds, self.fold, self.name = file, folds, fold, name
        self.test_name = f"fold {fold + 1} of {folds}"
        self.layout = Layout(context, ending, endings, label, start, group)
        self.tokenizer = WordPiece.of_file(vocabulary, lowercase)

    def load(self) -> dict[str, TokenTable]:
        contexts = self.layout.read(self.file)
        held_out = self.is_held_out(contexts)
        parts = {"train": [it for it, out in zip(contexts, held_out, strict=True) if not out],
                 "test": [it for it, out in zip(contexts, held_out, strict=True) if out]}  # fmt: skip
        for split, part in parts.items():
            if not part:
                raise UserError(
                    f"datamodule.folds={self.folds} leaves fold {self.fold} of {self.name} with nothing to "
                    f"{split} on: it has {len({it.group for it in contexts})} groups. Give fewer folds, or "
                    "datamodule.group=null."
                )
        return {split: self.table([f"{it.text} {it.ending}" for it in part]) for split, part in parts.items()}

    def is_held_out(self, contexts: list[Context]) -> list[bool]:
        """Of a file's texts, those of the test."""
        return [it == self.fold for it in folds_of([it.group for it in contexts], self.folds, self.split_seed)]

    def held_out(self) -> list[Context]:
        """The texts of the test."""
        contexts = self.layout.read(self.file)
        return [it for it, out in zip(contexts, self.is_held_out(contexts), strict=True) if out]

    def describe(self) -> dict[str, Any]:
        """Also how texts are cut into folds."""
        return super().describe() | {"folds": self.folds, "fold": self.fold, "group": self.layout.group}
