"""The CMU pronouncing dictionary: letters of English words, and the phones that they are said by."""

import re
from collections.abc import Iterator
from typing import Any

from datamodules.text.pairs import PairsDataModule, Texts
from datamodules.text.rows import found
from datamodules.text.sentences import TextFile
from datamodules.text.words import Vocabulary, Words
from foundation.errors import UserError

LINE = re.compile(r"(\S+?)(?:\(\d+\))?\s+([A-Z]{1,2}[012]?(?:\s[A-Z]{1,2}[012]?)*)\s*(?:\s#.*)?")
"""A word, the number of a further pronunciation, phones with their stress, a comment."""
STRESS = str.maketrans("", "", "012")
COMMENT = ";;;"  # a line of older releases


class CMUDictDataModule(PairsDataModule):
    """Words as letters, and their phones with blanks between them, stress removed: 39 phones.

    It is split by word. Training has an example for each pronunciation of a word; validation and test have one for each
    word, whose references are all its pronunciations and whose loss is that of the first.

    Args:
        file: of a word and its phones a line, packed (``.gz``) or not, which need not be said.
        test_size: words of the test; None: a tenth. ``val_size``: of validation.
        pairs: see ``PairsDataModule``.
    """

    name = "cmudict"

    def __init__(self, *, file: str, **pairs: Any) -> None:
        super().__init__(**pairs)
        self.file = file

    def read(self) -> dict[str, Texts]:
        spoken: dict[str, dict[str, None]] = {}
        for word, phones in self._lines():
            spoken.setdefault(word, {})[phones] = None
        words = Texts(list(spoken), [tuple(it) for it in spoken.values()])
        splits = self.aside(words, "test", "val")
        train = splits["train"]
        pairs = [(word, (it,)) for word, them in zip(train.sources, train.references, strict=True) for it in them]
        return splits | {"train": Texts([word for word, _ in pairs], [it for _, it in pairs])}

    def _lines(self) -> Iterator[tuple[str, str]]:
        """A word and its phones."""
        file = TextFile(found(self.file, "datamodule.file"))
        for line in file.lines():
            if not (line := line.strip()) or line.startswith(COMMENT):
                continue
            if not (entry := LINE.fullmatch(line)):
                raise UserError(
                    f"{file.path}, line {file.line} is {line[:60]!r}: give a word and its phones, as in cmudict.dict."
                )
            yield entry[1].lower(), entry[2].translate(STRESS)

    def make_vocabularies(self, train: Texts) -> dict[str, Vocabulary]:
        return {
            "source": Words.of_texts(train.sources, by="characters", lowercase=True),
            "target": Words.of_texts(train.targets, by="blanks"),
        }
