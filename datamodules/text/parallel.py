"""Parallel text in a person's own files: two plain files of as many lines, or one table of two columns."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datamodules.image_files import say
from datamodules.text.pairs import PairsDataModule, Texts
from datamodules.text.rows import Rows, found
from datamodules.text.sentences import TextFile
from datamodules.text.subwords import Subwords
from datamodules.text.words import SPLIT, Vocabulary, Words
from foundation.errors import UserError, did_you_mean

KINDS = (*SPLIT, "bpe")
Files = str | Sequence[str]


class ParallelTextDataModule(PairsDataModule):
    """Lines of one language and the same in another.

    Args:
        train, val, test: two files, the source's and the target's, whose lines of one number are a pair; or one table
            (``.tsv``, ``.csv``, ``.jsonl``). Packed (``.gz``) or not, which need not be said. Without ``val``,
            ``val_size`` pairs of training are set aside; without ``test``, ``test_size`` of them.
        columns: of a table, the source's and the target's: names, or numbers from 0 without ``header``.
        header: the first row of a table has the columns' names.
        vocabulary: of ``words`` by the rule of ``words_of``; of what stands between ``blanks``, for text that is
            tokenised; of ``characters``; or of pieces, ``bpe``.
        joint: one vocabulary for both sides.
        lowercase: texts are made lower case before they are cut. References stay as they are.
        min_count: a word that training has more rarely is unknown.
        pieces: of a vocabulary of ``bpe``, at most, the four marks among them.
        cache_dir: where vocabularies of ``bpe`` are kept; can be deleted at any time.
        name, test_name: what a record calls the data, and what it is tested on.
        pairs: see ``PairsDataModule``.
    """

    def __init__(
        self,
        *,
        train: Files,
        cache_dir: str,
        val: Files | None = None,
        test: Files | None = None,
        columns: Sequence[str | int] = (0, 1),
        header: bool = False,
        vocabulary: str = "words",
        joint: bool = False,
        lowercase: bool = False,
        min_count: int = 2,
        pieces: int = 8000,
        name: str = "parallel_text",
        test_name: str = "test",
        **pairs: Any,
    ) -> None:
        super().__init__(**pairs)
        if vocabulary not in KINDS:
            raise UserError(f"datamodule.vocabulary is {vocabulary!r}: {did_you_mean(str(vocabulary), KINDS)}")
        if len(columns) != 2:
            raise UserError(f"datamodule.columns is {list(columns)}: give two, the source's and the target's.")
        if min_count < 1:
            raise UserError(f"datamodule.min_count is {min_count}: give how often a known word stands, 1 or more.")
        if test is not None and self.test_size is not None:
            raise UserError("datamodule.test has its own pairs: leave datamodule.test_size=null.")
        files = {"train": train, "val": val, "test": test}
        self.files = {split: named(split, it) for split, it in files.items() if it is not None}
        self.columns, self.header = [str(it) for it in columns], header
        self.kind, self.joint, self.lowercase, self.min_count, self.pieces = (
            vocabulary, joint, lowercase, min_count, pieces,
        )  # fmt: skip
        self.cache_dir, self.name, self.test_name = Path(cache_dir).expanduser(), name, test_name

    def read(self) -> dict[str, Texts]:
        texts = {split: self._of(split) for split in self.files}
        missing = [split for split in ("test", "val") if split not in texts]
        texts |= self.aside(texts["train"], *missing)
        if "val" not in missing:
            if self.val_size > len(texts["val"]):
                raise UserError(self._unfit_val_size(len(texts["val"]), official=True))
            texts["val"] = self.some(texts["val"], self.val_size)
        return texts

    def make_vocabularies(self, train: Texts) -> dict[str, Vocabulary]:
        if self.joint:
            both = self._vocabulary([*train.sources, *train.targets])
            return {"source": both, "target": both}
        return {"source": self._vocabulary(train.sources), "target": self._vocabulary(train.targets)}

    def _vocabulary(self, texts: Sequence[str]) -> Vocabulary:
        if self.kind == "bpe":
            return Subwords.cached(texts, self.pieces, self.lowercase, self.cache_dir)
        words = Words.of_texts(texts, self.kind, self.lowercase, self.min_count)
        if not words.words:
            raise UserError(
                f"datamodule.min_count={self.min_count} leaves no word of {self.name} that is known: give a "
                "smaller one."
            )
        return words

    # --- files -----------------------------------------------------------------------------------------------------

    def _of(self, split: str) -> Texts:
        """Training leaves pairs without a text out, and counts them in a line; elsewhere they are refused, since
        leaving them out would move what is measured."""
        sources, references, left_out = [], [], 0
        for source, target, where in self._pairs(split):
            if source and target:
                sources.append(source)
                references.append((target,))
            elif split == "train":
                left_out += 1
            else:
                side = "both texts are" if not source and not target else "a text is"
                raise UserError(f"{where}: {side} empty, and datamodule.{split} is measured: take the pair out.")
        if left_out:
            quiet = self.trainer is not None and self.trainer.global_rank > 0
            say(f"{self.name}: {left_out:,} pairs with an empty text are left out of training.", quiet)
        if not sources:
            raise UserError(f"datamodule.{split}={' and '.join(self.files[split])}: there are no pairs of texts.")
        return Texts(sources, references)

    def _pairs(self, split: str) -> Iterator[tuple[str, str, str]]:
        """Source, target, and where they stand."""
        names = self.files[split]
        if len(names) == 1:
            rows = Rows(names[0], f"datamodule.{split}", self.header)
            for row in rows:
                source, target = (rows.text(row, it, "datamodule.columns").strip() for it in self.columns)
                yield source, target, f"{rows.path}, line {rows.file.line}"
            return
        one, other = (TextFile(found(name, f"datamodule.{split}")) for name in names)
        for source, target in zip_longest(one.lines(), other.lines()):
            if source is None or target is None:
                shorter, longer = (one, other) if source is None else (other, one)
                count = sum(1 for _ in longer.lines())
                raise UserError(
                    f"{shorter.path} ends with line {shorter.line:,}, and {longer.path} has {count:,} lines: line i of "
                    "one has to be that of the other in the other language."
                )
            yield source.strip(), target.strip(), f"{one.path} and {other.path.name}, line {one.line}"

    def describe(self) -> dict[str, Any]:
        """Also how text is cut."""
        how = {"vocabulary": self.kind, "joint": self.joint, "lowercase": self.lowercase}
        return super().describe() | how | ({"min_count": self.min_count} if self.kind != "bpe" else {})


def named(split: str, files: Files) -> list[str]:
    names = [files] if isinstance(files, str) else list(files)
    if len(names) not in (1, 2):
        raise UserError(
            f"datamodule.{split} names {len(names)} files: give two, the source's and the target's, or one table."
        )
    return names
