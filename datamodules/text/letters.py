"""Rows of letters to be written again by a rule: a set that needs no file, learnt in a minute."""

from typing import Any

import numpy as np

from datamodules.text.pairs import PairsDataModule, Texts
from datamodules.text.words import Vocabulary, Words
from foundation.errors import UserError, did_you_mean
from foundation.randomness import keyed_uniforms

RULES = {"copy": "as it stands", "reverse": "from behind", "double": "each letter twice"}
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class LettersDataModule(PairsDataModule):
    """Rows of letters with blanks between them, and what a rule makes of each. Row i is a function of (data_seed, i);
    no row is there twice, so that none of the test is one of training.

    Args:
        rows: how many are made; those that are there already are left out, ``test_size`` and ``val_size`` held out.
        rule: ``copy``, ``reverse`` or ``double``.
        letters: how many of the alphabet.
        shortest, longest: letters of a row.
        data_seed: decides the rows; its own key, so that runs that differ in ``seed`` see the same ones.
        pairs: see ``PairsDataModule``.
    """

    name = "letters"

    def __init__(
        self,
        *,
        rows: int = 4000,
        rule: str = "copy",
        letters: int = 12,
        shortest: int = 3,
        longest: int = 8,
        data_seed: int = 0,
        **pairs: Any,
    ) -> None:
        super().__init__(**pairs)
        if rule not in RULES:
            raise UserError(f"datamodule.rule is {rule!r}: {did_you_mean(str(rule), RULES)}")
        if not 2 <= letters <= len(ALPHABET):
            raise UserError(f"datamodule.letters is {letters}: give 2 to {len(ALPHABET)}.")
        if not 1 <= shortest <= longest:
            raise UserError(
                f"datamodule.shortest={shortest} and datamodule.longest={longest}: give numbers of letters, 1 or more, "
                "the smaller one first."
            )
        if rows < 3:
            raise UserError(f"datamodule.rows is {rows}: give a number of rows, 3 or more.")
        self.rows, self.rule, self.letters, self.data_seed = rows, rule, letters, data_seed
        self.shortest_row, self.longest_row = shortest, longest

    def read(self) -> dict[str, Texts]:
        drawn = keyed_uniforms(self.data_seed, "letters", rows=np.arange(self.rows), columns=1 + self.longest_row)
        lengths = self.shortest_row + (drawn[:, 0] * (self.longest_row - self.shortest_row + 1)).astype(int)
        numbers = (drawn[:, 1:] * self.letters).astype(int)
        rows = ["".join(ALPHABET[it] for it in row[:length]) for row, length in zip(numbers, lengths, strict=True)]
        kept = list(dict.fromkeys(rows))
        texts = Texts([" ".join(it) for it in kept], [(" ".join(self.ruled(it)),) for it in kept])
        return self.aside(texts, "test", "val")

    def ruled(self, row: str) -> str:
        return {"copy": row, "reverse": row[::-1], "double": "".join(2 * it for it in row)}[self.rule]

    def make_vocabularies(self, train: Texts) -> dict[str, Vocabulary]:
        alphabet = Words(ALPHABET[: self.letters], by="blanks")
        return {"source": alphabet, "target": alphabet}

    def describe(self) -> dict[str, Any]:
        """Also the rule."""
        return super().describe() | {"rule": self.rule, "letters": self.letters}
