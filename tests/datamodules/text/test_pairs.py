import pytest
import torch

from datamodules.text.letters import LettersDataModule
from datamodules.text.words import BEGIN, END, FIRST, PADDING, UNKNOWN, Words, joined_words, vocabulary_of, words_of
from foundation.errors import UserError
from foundation.protocols import HoldsReferences


def letters(**settings) -> LettersDataModule:
    return LettersDataModule(**{"rows": 400, "batch_tokens": 100, "test_size": 50, "val_size": 30} | settings)


def ready(**settings) -> LettersDataModule:
    datamodule = letters(**settings)
    datamodule.setup()
    return datamodule


def test_a_batch_has_both_texts_and_says_what_it_is_held_against():
    datamodule = ready(rule="reverse")
    assert isinstance(datamodule, HoldsReferences)
    batch = datamodule.tables["test"][torch.tensor([4, 11])]
    assert batch["index"].tolist() == [4, 11]
    for row, number in enumerate([4, 11]):
        source = datamodule.sources("test")[number]
        ids, length = batch["input_ids"][row].tolist(), int(batch["lengths"][row])
        assert ids[:length] == datamodule.encode([source])[0]
        assert set(ids[length:]) <= {PADDING}
        made = datamodule.decode(batch["target_ids"][row, : batch["target_lengths"][row]].tolist())
        assert (made,) == datamodule.references("test")[number]
        assert made == source[::-1]
    assert batch["target_ids"].dtype == batch["target_lengths"].dtype == torch.int64


def test_splits_share_no_row_and_depend_on_their_own_seeds():
    datamodule = ready()
    sources = {split: datamodule.sources(split) for split in ("train", "val", "test")}
    assert [len(sources[it]) for it in ("val", "test")] == [30, 50]
    assert len(set().union(*sources.values())) == sum(map(len, sources.values()))
    assert ready(seed=3).describe() == datamodule.describe()
    assert ready(split_seed=3).describe()["sha256"] != datamodule.describe()["sha256"]
    fewer = ready(train_size=40)
    assert len(fewer.sources("train")) == 40
    assert set(fewer.sources("train")) < set(sources["train"])
    assert fewer.sources("test") == sources["test"]


def test_long_pairs_are_left_out_of_training_alone_and_counted(capsys):
    datamodule = ready(max_length=6)
    assert int(datamodule.tables["train"].both_lengths.max()) == 7  # with its end
    assert int(datamodule.tables["test"].both_lengths.max()) == 9
    assert "of 319 pairs longer than datamodule.max_length=6 are left out of training." in capsys.readouterr().err
    batch = datamodule.tables["train"][torch.arange(3)]
    assert [len(it.split()) for it in datamodule.sources("train")[:3]] == batch["lengths"].tolist()
    with pytest.raises(UserError, match="max_length=2 leaves nothing to train on"):
        ready(max_length=2)


def test_batches_are_of_nearly_one_length():
    datamodule = ready()
    batches = list(datamodule.train_dataloader())
    assert len(batches) == len(datamodule.train_dataloader())
    assert all(len(it["index"]) * (it["target_ids"].shape[1] + 1) <= 100 for it in batches)
    seen = torch.cat([it["index"] for it in batches])
    assert seen.sort().values.tolist() == list(range(len(datamodule.tables["train"])))
    evaluated = torch.cat([it["index"] for it in datamodule.val_dataloader()])
    assert evaluated.sort().values.tolist() == list(range(30))
    lengths = datamodule.tables["val"].both_lengths[evaluated, 0]
    assert lengths.tolist() == sorted(lengths.tolist(), reverse=True)


def test_a_run_s_vocabularies_come_with_it():
    datamodule, other = ready(letters=5), letters(letters=9)
    other.restore(datamodule.state_dict())
    assert other.vocabulary_size == other.target_vocabulary_size == FIRST + 5
    assert other.encode(["a e f"]) == [[FIRST, FIRST + 4, UNKNOWN]]
    with pytest.raises(UserError, match="another than the run was trained on"):
        ready(letters=9).load_state_dict(datamodule.state_dict())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rule": "copies"}, "datamodule.rule is 'copies': did you mean 'copy'?"),
        ({"batch_tokens": 0}, "datamodule.batch_tokens is 0: give a number of tokens, 1 or more."),
        ({"batch_size": 8}, "datamodule.batch_size=8: batches of letters have as many tokens, and not examples: set"),
        ({"test_size": 390}, "leave nothing to train on"),
    ],
)
def test_mistakes_are_named(settings, sentence):
    with pytest.raises(UserError) as told:
        ready(**settings)
    assert sentence in str(told.value)


SENTENCES = [
    "It's 3.5 km, isn't it?",
    'He said "no (really)": well-known.',
    "Sie ruft: „Hallo!“",
    "a - b",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_words_are_found_by_rule_and_stand_again_as_they_stood(sentence):
    assert joined_words(words_of(sentence)) == sentence


def test_words_keep_signs_by_themselves_and_numbers_whole():
    assert words_of("It's 1,000.5 (really).") == ["It's", "1,000.5", "(", "really", ")", "."]


def test_a_vocabulary_has_the_most_frequent_words_first_and_comes_back_from_what_it_tells():
    texts = ["B a a", "a b c"]
    words = Words.of_texts(texts, lowercase=True, min_count=2)
    assert words.words == ["a", "b"]
    assert (PADDING, UNKNOWN, BEGIN, END, FIRST) == (0, 1, 2, 3, 4)
    assert words.ids_of(["A b c <s>"]) == [[4, 5, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]]
    assert words.text_of([4, UNKNOWN]) == words.text_of([4, 6]) == "a <unk>"
    again = vocabulary_of(words.told())
    assert again.told() == words.told()
    assert Words.of_texts(["ab", "b"], by="characters").ids_of(["ba"]) == [[4, 5]]
