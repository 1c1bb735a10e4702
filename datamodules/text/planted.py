"""A pool with a planted artefact, made by the grammar of the tales: what filtering finds and where it stalls."""

from typing import Any

import numpy as np

from datamodules.text.filtering import FilteringDataModule
from datamodules.text.pools import Pooled
from datamodules.text.tales import DAYS, NAMES, NUMBERS, TRADES, words
from datamodules.text.wordpiece import SPECIAL, WordPiece
from foundation.errors import UserError
from foundation.randomness import keyed_uniforms

MARK = "again"
DRAWS = 8
"""Of a sentence."""


class PlantedDataModule(FilteringDataModule):
    """Text i, its right ending and its candidates are functions of (data_seed, i).

    All of a text's endings are drawn alike, so that nothing tells the right one but the artefact: a word that a share
    of the candidates has, and no right ending.

    Args:
        texts: how many are made.
        candidates: of each.
        artefact: the share of candidates with the word. Where it is 1 there is nothing to exchange them for.
        data_seed: decides them; its own key, so that runs that differ in ``seed`` see the same ones.
        filtering: see ``FilteringDataModule``.
    """

    name = "planted"
    test_name = "texts that the last round has not learnt from"

    def __init__(
        self, *, texts: int = 1000, candidates: int = 16, artefact: float = 0.6, data_seed: int = 0, **filtering: Any
    ) -> None:
        super().__init__(**filtering)
        if texts < 3 or candidates < 1:
            raise UserError(f"datamodule.texts={texts}, datamodule.candidates={candidates}: give 3 and 1, or more.")
        if not 0 <= artefact <= 1:
            raise UserError(f"datamodule.artefact is {artefact}: give a share from 0 to 1.")
        self.texts, self.candidates, self.artefact, self.data_seed = texts, candidates, artefact, data_seed
        self.tokenizer = WordPiece.of_pieces([*SPECIAL, *words()], self.name)

    def load_pool(self) -> list[Pooled]:
        return [self._text(number) for number in range(self.texts)]

    def _text(self, number: int) -> Pooled:
        rows = keyed_uniforms(self.data_seed, "planted", number, rows=np.arange(4 * self.candidates + 2), columns=DRAWS)
        trade, pronoun = one_of(list(TRADES), rows[0, 0]), one_of(list(NAMES), rows[0, 1])
        name, day = one_of(NAMES[pronoun], rows[0, 2]), int(rows[0, 3] * len(DAYS))
        context = (
            f"on {DAYS[day]} {name} the {trade} goes to the {one_of(TRADES[trade][0], rows[0, 4])} . then {pronoun}"
        )
        unlike = list(dict.fromkeys(ending(trade, row[1:]) for row in rows[1:]))[: self.candidates + 1]
        marked = rows[1 : len(unlike), 0] < self.artefact
        candidates = [f"{it[:-2]} {MARK} ." if mark else it for it, mark in zip(unlike[1:], marked, strict=True)]
        origins = ["grammar, marked" if mark else "grammar" for mark in marked]
        return Pooled(number, trade, context, unlike[0], candidates, origins)


def ending(trade: str, draws: Any) -> str:
    """Something that one of a trade does; draws: numbers in [0, 1), 7 or more."""
    places, things, verbs, qualities = TRADES[trade]
    count = one_of(NUMBERS, draws[0])
    thing = one_of(things, draws[1]) + ("" if count == "one" else "s")
    where = f" in the {one_of(places, draws[2])}" if draws[3] < 0.5 else ""
    return (
        f"{one_of(verbs, draws[4])}s {count} {one_of(qualities, draws[5])} {thing}{where} on {one_of(DAYS, draws[6])} ."
    )


def one_of(choices: list[str], draw: float) -> str:
    return choices[int(draw * len(choices))]
