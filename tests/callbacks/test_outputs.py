"""BLEU as sacrebleu has it and error rates by hand, of any cut into batches, and the picture of edits."""

import csv
import math
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch

from callbacks.edit_distribution import EditDistribution
from callbacks.error_rate import ErrorRate, edits_between, nearest
from callbacks.instruments.outputs import OutputsMeasurement
from callbacks.translation import Translation
from datamodules.text.words import Words
from foundation.errors import UserError
from foundation.protocols import EditsTargets
from foundation.run_files import read_table

OUTPUTS = ["the cat sat on the mat .", "a dog runs !", "", "two men , one boat .", "it is red ."]
REFERENCES = [("The cat sat on a mat.",), ("a dog runs!", "A dog is running!"), ("nothing",),
              ("Two men, one boat.",), ("It was red.",)]  # fmt: skip
VOCABULARY = Words.of_texts(OUTPUTS)


class Data:
    """What callbacks ask of a DataModule."""

    tables = {}
    target_vocabulary_size = len(VOCABULARY)

    def sources(self, split: str) -> list[str]:
        return [f"source {number}" for number in range(len(OUTPUTS))]

    def references(self, split: str) -> Any:
        return REFERENCES

    def decode(self, ids: Any) -> str:
        return VOCABULARY.text_of(ids)


def shown(callback: OutputsMeasurement, *batches: list[int]) -> dict[str, float]:
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device="cpu"), datamodule=Data(), testing=True, loggers=[]
    )
    callback.setup(trainer, None, "test")  # pyright: ignore
    for rows in batches:
        ids = VOCABULARY.ids_of([OUTPUTS[it] for it in rows])
        padded = torch.tensor([[*it, *[0] * (9 - len(it))] for it in ids], dtype=torch.int64).view(-1, 9)
        outputs = {"index": torch.tensor(rows, dtype=torch.int64), "output_ids": padded,
                   "output_lengths": torch.tensor([len(it) for it in ids], dtype=torch.int64)}  # fmt: skip
        callback.update(trainer, None, outputs, {})
    found = callback.figures()
    callback.write(trainer, None)
    return found


def test_bleu_is_sacrebleu_s_on_text_as_it_is_read(tmp_path):
    callback = Translation(str(tmp_path), lowercase=True, shown=2)
    found = shown(callback, [3, 0], [], [4, 1, 2])
    read = ["the cat sat on the mat.", "a dog runs!", "", "two men, one boat.", "it is red."]
    others = [them[1] if len(them) > 1 else None for them in REFERENCES]
    streams: Any = [[it[0] for it in REFERENCES], others]
    wanted = sacrebleu.corpus_bleu(read, streams, lowercase=True)
    assert found["bleu"] == wanted.score
    assert 20 < found["bleu"] < 90
    assert found["chrf"] == sacrebleu.CHRF(lowercase=True).corpus_score(read, streams).score
    told = callback.describe_for_record()["sacrebleu"]["bleu"]
    assert told.startswith("nrefs:var|case:lc|eff:no|tok:13a|smooth:exp|version:")
    assert (tmp_path / "outputs.txt").read_text().split("\n") == [*read, ""]
    heading, rows = read_table(tmp_path / "outputs.csv")
    assert heading == ["source", "reference", "output"]
    assert rows[0] == ["source 0", "The cat sat on a mat.", read[0]]
    assert len(rows) == 2
    assert found == shown(Translation(str(tmp_path), lowercase=True), [0, 1, 2, 3, 4])


def test_an_error_rate_is_edits_by_units_of_the_nearest_reference(tmp_path):
    found = shown(ErrorRate(str(tmp_path)), [4, 3], [0, 1, 2])
    pairs = [("the cat sat on the mat.", 2, 6), ("a dog runs!", 0, 3), ("", 1, 1), ("two men, one boat.", 1, 4),
             ("it is red.", 2, 3)]  # fmt: skip
    assert found["error_rate"] == sum(edits for _, edits, _ in pairs) / sum(units for _, _, units in pairs)
    assert found["sequence_error"] == 4 / 5
    assert math.isnan(shown(ErrorRate(str(tmp_path)), [])["error_rate"])
    with (tmp_path / "outputs.csv").open() as file:
        assert len(list(csv.reader(file))) == 1


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("abc", "", 3), ("abc", "abc", 0), ("ab", "ba", 2), ("abcd", "bcda", 2)],
)
def test_edits_are_the_fewest(one, other, edits):
    assert edits_between(one, other) == edits


def test_the_nearest_reference_counts_of_several_the_shortest():
    assert nearest("ab", ["abc", "b", "xyz"]) == (1, 1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Translation("", tokenize="13b"), "callbacks.translation.tokenize is '13b': did you mean '13a'?"),
        pytest.param(
            lambda: Translation("", tokenize="ko-mecab"),
            "callbacks.translation.tokenize=ko-mecab cannot be used: ",
            marks=pytest.mark.skipif(find_spec("mecab_ko") is not None, reason="it can be used"),
        ),
        (lambda: Translation("", shown=0), "callbacks.translation.shown is 0"),
        (lambda: ErrorRate("", units="phones"), "callbacks.error_rate.units is 'phones'"),
    ],
)
def test_mistakes_are_named(make, sentence):
    with pytest.raises(UserError) as told:
        make()
    assert sentence in str(told.value)


class Edits:
    tau = 0.85
    target_vocabulary_size = 100

    def capabilities(self) -> set[type]:
        return {EditsTargets}

    def edit_probabilities(self, longest: int) -> np.ndarray:
        whole = np.exp(-np.arange(longest + 1.0)) * (np.arange(longest + 1) <= np.arange(longest + 1)[:, None])
        return whole / whole.sum(1, keepdims=True)


def test_edits_are_drawn_before_training_and_the_share_that_stays_is_told(tmp_path, capsys):
    lengths = torch.tensor([0, 4, 9, 9])
    tables = {"train": SimpleNamespace(target=SimpleNamespace(known_lengths=lengths))}
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(tables=tables), loggers=[])
    module: Any = Edits()
    EditDistribution(str(tmp_path)).on_train_start(trainer, module)
    share = np.mean([1 / np.exp(-np.arange(length + 1.0)).sum() for length in lengths.tolist()])
    assert f"tau 0.85: {share:.1%} of the targets of training stay as they are" in capsys.readouterr().out
    assert (tmp_path / "edits.png").read_bytes().startswith(b"\x89PNG")
    module.capabilities = set
    EditDistribution(str(tmp_path / "none")).on_train_start(trainer, module)
    assert capsys.readouterr().out == ""
