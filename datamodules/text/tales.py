"""Tales that need no file: made by a small grammar of our own, to learn masked words and next sentences in a minute."""

from collections.abc import Iterator
from typing import Any

import torch

from datamodules.text.corpus import Corpus
from datamodules.text.pretraining import PretrainingDataModule
from datamodules.text.wordpiece import PREFIX, SPECIAL, WordPiece
from foundation.errors import UserError
from foundation.randomness import keyed_generator

DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
NAMES = {
    "she": ["anna", "clara", "greta", "ines", "mary", "vera"],
    "he": ["boris", "david", "felix", "hugo", "oscar", "tom"],
}
NUMBERS = ["one", "two", "three", "four", "five"]

# For each trade: where it is at work, on what, what it does to it, and how that is.
TRADES = {
    "farmer": (["barn", "field"], ["cow", "goat", "hen", "pig"], ["feed", "milk", "count"], ["hungry", "brown"]),
    "sailor": (["harbour", "ship"], ["rope", "sail", "anchor", "net"], ["mend", "pull", "hoist"], ["wet", "torn"]),
    "baker": (["bakery", "oven"], ["cake", "roll", "loaf", "pie"], ["bake", "knead", "slice"], ["sweet", "warm"]),
    "smith": (["forge", "mine"], ["nail", "sword", "hammer", "blade"], ["heat", "bend", "sharpen"], ["iron", "heavy"]),
    "gardener": (["garden", "orchard"], ["rose", "lily", "pear", "plum"], ["water", "plant", "pick"], ["ripe", "red"]),
    "tailor": (["shop", "fair"], ["coat", "shirt", "button", "ribbon"], ["sew", "measure", "fold"], ["silken", "long"]),
    "teacher": (["school", "library"], ["book", "letter", "map", "poem"], ["read", "write", "copy"], ["old", "short"]),
    "hunter": (["forest", "hill"], ["deer", "hare", "fox", "wolf"], ["follow", "hear", "trap"], ["shy", "grey"]),
}  # fmt: skip
OTHERS = [".", "a", "again", "and", "at", "goes", "in", "no", "on", "the", "then", "to", *NAMES]


def words() -> list[str]:
    """Every word of the grammar once, and the ending of plurals and verbs as a piece of its own."""
    of_trades = [word for parts in TRADES.values() for part in parts for word in part]
    names = [name for them in NAMES.values() for name in them]
    return [*sorted({*DAYS, *names, *NUMBERS, *TRADES, *of_trades, *OTHERS}), f"{PREFIX}s"]


def tale(generator: torch.Generator) -> list[str]:
    """5 to 12 sentences about one person of one trade, each of the day after."""
    drawn: Iterator[int] = iter(torch.randint(2**31, (100,), generator=generator).tolist())

    def one_of(choices: Any) -> Any:
        return list(choices)[next(drawn) % len(choices)]

    trade, pronoun = one_of(TRADES), one_of(NAMES)
    places, things, verbs, qualities = TRADES[trade]
    name, day = one_of(NAMES[pronoun]), next(drawn)
    sentences = []
    for number in range(5 + next(drawn) % 8):
        who = one_of([name, f"{name} the {trade}", f"the {trade}"]) if number else f"{name} the {trade}"
        when, count = DAYS[(day + number) % len(DAYS)], one_of(NUMBERS)
        thing = one_of(things) + ("" if count == "one" else "s")
        kind = next(drawn) % 3
        if kind == 0:
            does = f"{who} {one_of(verbs)}s {count} {thing}"
        elif kind == 1:
            does = f"{who} goes to the {one_of(places)} and {pronoun} {one_of(verbs)}s {count} {thing}"
        else:
            does = f"{who} {one_of(verbs)}s a {one_of(qualities)} {one_of(things)} in the {one_of(places)}"
        sentences.append(f"on {when} {does} .")
    return sentences


class TalesDataModule(PretrainingDataModule):
    """Documents of a grammar. Document i is a function of (data_seed, i), and so is its test's or training's share.

    What there is to learn: the words of a trade stand together, a pronoun is that of its name, numbers above one have a
    plural, and a day follows the day before, so that the next sentence of a document can be told from another's.

    Args:
        documents: how many are made; a few are held out (``test_size``, ``val_size``).
        data_seed: decides them; its own key, so that runs that differ in ``seed`` see the same ones.
        pretraining: see ``PretrainingDataModule``.
    """

    name = "tales"

    def __init__(self, *, documents: int = 3000, data_seed: int = 0, **pretraining: Any) -> None:
        super().__init__(**pretraining)
        if documents < 1:
            raise UserError(f"datamodule.documents is {documents}: give a number of documents, 1 or more.")
        self.documents, self.data_seed = documents, data_seed
        self.tokenizer = WordPiece.of_pieces([*SPECIAL, *words()], self.name)

    def load_corpus(self) -> Corpus:
        tales = [tale(keyed_generator(self.data_seed, "tales", number)) for number in range(self.documents)]
        ids = iter(self.tokenizer.ids_of([sentence for it in tales for sentence in it]))
        return Corpus.of([[next(ids) for _ in it] for it in tales])
