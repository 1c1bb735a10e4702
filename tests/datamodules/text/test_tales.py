import re
from itertools import pairwise

import pytest

from datamodules.text.tales import DAYS, NAMES, TRADES, TalesDataModule, tale, words
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from foundation.randomness import keyed_generator


def ready(**settings) -> TalesDataModule:
    datamodule = TalesDataModule(**{"batch_size": 8, "max_length": 64, "documents": 200} | settings)
    datamodule.setup()
    return datamodule


TALES = [tale(keyed_generator(0, "tales", number)) for number in range(100)]


def test_every_word_is_known_and_endings_are_pieces():
    datamodule = ready()
    assert datamodule.tokenizer.pieces == [*SPECIAL, *words()]
    assert datamodule.tokenizer.unknown not in datamodule.corpus.token_ids
    assert datamodule.tokenizer.decode(datamodule.encode(["Anna feeds two cows ."])[0][1:-1]) == [
        "anna", "feed", "##s", "two", "cow", "##s", "."
    ]  # fmt: skip


def test_a_day_follows_the_other_and_one_person_of_one_trade_is_told_of():
    for sentences in TALES:
        assert 5 <= len(sentences) <= 12
        days = [DAYS.index(it.split()[1]) for it in sentences]
        assert all((later - day) % 7 == 1 for day, later in pairwise(days))
        text = " ".join(sentences)
        assert len({it for it in TRADES if f" {it} " in text}) == 1
        (named,) = {(pronoun, it) for pronoun, names in NAMES.items() for it in names if f" {it} " in text}
        assert {it for it in NAMES if f" {it} " in text} <= {named[0]}


def test_more_than_one_has_a_plural():
    nouns = {it for _, things, _, _ in TRADES.values() for it in things}
    for number, noun in re.findall(r"(one|two|three|four|five) (\w+)", " ".join(sum(TALES, []))):
        assert (noun in nouns) == (number == "one")
        assert noun in nouns or noun.removesuffix("s") in nouns


def test_the_documents_depend_on_their_own_seed_alone():
    assert ready(seed=1).corpus.sha256 == ready(seed=2, split_seed=3).corpus.sha256
    assert ready(data_seed=1).corpus.sha256 != ready().corpus.sha256
    assert ready().describe()["documents"] == 200
    with pytest.raises(UserError, match="datamodule.documents is 0"):
        ready(documents=0)
