"""The tales stand in for any corpus; a small masked language model (``masked.py``) lives on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.text.corpus import Corpus
from datamodules.text.pretraining import PretrainingDataModule
from datamodules.text.tales import TalesDataModule
from datamodules.text.wordpiece import SPECIAL, WordPiece
from foundation.errors import UserError
from tests.contract.life import (
    Killed,
    assert_the_same,
    checkpoint_of,
    composed,
    figures,
    gone_on_with,
    happening,
    kill,
    logged,
    measured,
    record_of,
)
from tests.datamodules.text.masked import NODES, WORDS, MaskedWords
from train import train

VOCABULARY = WordPiece.of_pieces([*SPECIAL, *map(str, range(995))], "test")


class Numbered(PretrainingDataModule):
    """Documents of three sentences of four tokens; the tokens of document i are i + 5."""

    name = "numbered"

    def __init__(self, documents: int = 100, **pretraining: Any) -> None:
        super().__init__(**{"batch_size": 4, "max_length": 16} | pretraining)
        self.documents, self.tokenizer = documents, VOCABULARY

    def load_corpus(self) -> Corpus:
        return Corpus.of([[[number + 5] * 4] * 3 for number in range(self.documents)])


def ready(**settings) -> Numbered:
    datamodule = Numbered(**settings)
    datamodule.setup()
    return datamodule


def documents_of(datamodule: PretrainingDataModule, split: str) -> set[int]:
    table = datamodule.tables[split]
    starts = torch.cat([table.columns["a_starts"], table.columns["b_starts"]]).numpy()
    return set(table.corpus.token_ids[starts].tolist())


def everything(table: Any) -> dict[str, list]:
    return {key: it.tolist() for key, it in table[torch.arange(len(table))].items()}


def test_splits_have_documents_of_their_own_and_as_many_instances_as_they_are_asked_for():
    datamodule = ready(val_size=11, test_size=7)
    assert (len(datamodule.tables["val"]), len(datamodule.tables["test"])) == (11, 7)
    train, val, test = (documents_of(datamodule, split) for split in ("train", "val", "test"))
    assert not train & val
    assert not train & test
    assert not val & test
    assert len(train) > 75
    assert len(ready().tables["val"]) == 0
    assert len(documents_of(ready(), "test")) == 5  # a twentieth


def test_each_epoch_has_its_own_instances_and_what_is_measured_on_stays():
    datamodule = ready(val_size=11, test_size=7)
    seen = [{split: everything(it) for split, it in datamodule.tables.items()}]
    sizes = datamodule.describe()
    for epoch in (1, 2, 0):
        datamodule.begin_epoch(epoch)
        seen.append({split: everything(it) for split, it in datamodule.tables.items()})
    assert seen[0] == seen[3]
    assert seen[0]["train"] != seen[1]["train"] != seen[2]["train"]
    assert seen[0]["val"] == seen[1]["val"]
    assert seen[0]["test"] == seen[2]["test"]
    assert datamodule.describe() == sizes
    assert {len(it["train"]["index"]) for it in seen[:3]} != {len(seen[0]["train"]["index"])}


def test_the_seed_decides_training_alone():
    one, other = ready(seed=0, val_size=9, test_size=9), ready(seed=1, val_size=9, test_size=9)
    assert everything(one.tables["train"]) != everything(other.tables["train"])
    for split in ("val", "test"):
        assert everything(one.tables[split]) == everything(other.tables[split])
    assert documents_of(ready(split_seed=1), "test") != documents_of(ready(), "test")


def test_batches_of_training_are_of_the_epoch_and_as_wide_as_they_are_asked_to_be():
    datamodule = ready(pad_to_max_length=True, max_predictions_per_seq=3)
    batches = list(datamodule.train_dataloader())
    assert {tuple(it["input_ids"].shape) for it in batches} == {(4, 16)}
    assert {tuple(it["masked_ids"].shape) for it in batches} == {(4, 3)}
    assert len(batches) == len(datamodule.tables["train"]) // 4


def test_without_next_sentences_a_row_is_one_run():
    batch = next(iter(ready(next_sentence=False).train_dataloader()))
    assert not batch["is_random_next"].any()
    assert not batch["segment_ids"].any()
    assert set(ready(next_sentence=False, short_seq_prob=0).tables["train"].lengths.tolist()) == {14}


def test_it_says_how_its_instances_are_made():
    told = ready(masking="whole_words", next_sentence=False, test_size=7).describe()
    assert told["sha256"] == ready(seed=3).corpus.sha256
    assert (told["documents"], told["sentences"], told["tokens"]) == (100, 300, 1200)
    assert (told["masking"], told["next_sentence"], told["test"]) == ("whole_words", False, 7)
    assert told["vocabulary_sha256"] == VOCABULARY.sha256
    assert told["vocabulary_size"] == 1000
    assert ready().encode(["7 8", "9"]) == [[2, 12, 13, 3], [2, 14, 3]]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"documents": 1}, r"numbered is 1 document, and 4 are the fewest .*: put a blank line between documents\."),
    ({"documents": 1, "next_sentence": False}, r"numbered is 1 document, and 2 are the fewest \(held-out documents\)"),
    ({"documents": 3}, r"3 documents, and 4 .* or set datamodule.next_sentence=false"),
    ({"documents": 5, "val_size": 1}, "5 documents, and 6 are the fewest"),
    ({"test_size": 10**6}, "datamodule.test_size=1000000: numbered has 100 documents, too few"),
    ({"documents": 6, "test_size": 9}, "take so many of the 6 documents of numbered that [01] are left to train on"),
    ({"test_size": 0}, "datamodule.test_size is 0"),
    ({"masking": "word"}, "datamodule.masking is 'word': "),
    ({"masked_lm_prob": 1.5}, "datamodule.masked_lm_prob is 1.5: give a share from 0 to 1"),
    ({"short_seq_prob": -1}, "datamodule.short_seq_prob is -1"),
    ({"max_predictions_per_seq": 0}, "datamodule.max_predictions_per_seq is 0"),
    ({"max_length": 4}, "datamodule.max_length is 4: .* 5 or more"),
]


@pytest.mark.parametrize(("settings", "told"), BAD)
def test_what_cannot_be_is_told(settings, told):
    with pytest.raises(UserError, match=told):
        ready(**settings)


def test_the_smallest_corpora_that_can_be_are_taken():
    assert len(ready(documents=4).tables["train"]) >= 2
    assert len(ready(documents=2, next_sentence=False).tables["train"]) == 1


def test_a_state_of_another_text_is_refused():
    with pytest.raises(UserError, match="numbered is another text than the run was trained on"):
        ready(documents=99).load_state_dict(ready().state_dict())


def test_ranks_share_the_batches_of_one(monkeypatch):
    def batches(world_size: int, rank: int) -> list[dict[str, torch.Tensor]]:
        datamodule = ready(batch_size=6)
        monkeypatch.setattr(datamodule, "_shares", lambda seed: {"rank": rank, "world_size": world_size})
        return list(datamodule.train_dataloader())

    def padded(batch: dict[str, torch.Tensor]) -> list[list[int]]:
        return [row[:length].tolist() for row, length in zip(batch["input_ids"], batch["lengths"], strict=True)]

    whole = batches(1, 0)
    for world_size in (2, 3):
        shares = [batches(world_size, rank) for rank in range(world_size)]
        for number, batch in enumerate(whole):
            of_ranks = [it[number] for it in shares]
            assert sum(map(padded, of_ranks), []) == padded(batch)
            for key in ("index", "masked_positions", "masked_ids", "is_random_next", "lengths"):
                assert torch.equal(torch.cat([it[key] for it in of_ranks]), batch[key])


# --- in a training ---------------------------------------------------------------------------------------------


def job(folder: Path) -> dict[str, Any]:
    return composed(folder, NODES, "callbacks.checkpoint.every_n_train_steps=1", *WORDS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "whole"
    train(job(folder))
    return folder


def sizes_of_epochs() -> list[int]:
    datamodule = TalesDataModule(**{key: it for key, it in NODES["datamodule"].items() if key != "_target_"})
    datamodule.setup()
    sizes = []
    for epoch in range(4):
        datamodule.begin_epoch(epoch)
        sizes.append(len(datamodule.tables["train"]) // datamodule.batch_size)
    return sizes


def test_a_training_goes_through_the_instances_of_each_epoch(whole):
    rows = [row for row in logged(whole) if row.get("train/loss")]
    epochs = [int(row["epoch"]) for row in rows]
    assert [epochs.count(epoch) for epoch in range(4)] == sizes_of_epochs()
    losses = np.array([float(row["train/loss"]) for row in rows])
    assert losses[-5:].mean() < losses[:5].mean() - 0.5
    assert checkpoint_of(whole)["TalesDataModule"]["epoch"] == 3


@pytest.mark.parametrize("where", ["an epoch's first", "inside", "an epoch's last"])
def test_killed_and_gone_on_with_is_uninterrupted(whole, tmp_path, where):
    first, second, *_ = sizes_of_epochs()
    iteration = first + {"an epoch's first": 1, "inside": second // 2, "an epoch's last": second}[where]
    folder = tmp_path / "run"
    with happening(MaskedWords, "on_train_batch_end", iteration, kill), pytest.raises(Killed):
        train(job(folder))
    gone_on_with(folder)
    assert_the_same(folder, whole)


def test_it_is_measured_again_on_the_same_instances(whole):
    found, record = measured(whole)
    assert found == pytest.approx({key: value for key, value in figures(whole).items() if key.startswith("test/")})
    assert record["data"] == record_of(whole)["data"]
    assert "data_at_start" not in record_of(whole)
