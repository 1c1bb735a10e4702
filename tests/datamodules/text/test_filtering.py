"""What is assigned, to whom it is shown, and that no text has two parts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.text.filtering import PoolDataModule
from datamodules.text.planted import ending
from datamodules.text.tales import TRADES, words
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from foundation.randomness import keyed_uniforms


def pooled(number: int, candidates: int = 12) -> dict[str, Any]:
    trade = list(TRADES)[number % len(TRADES)]
    draws = keyed_uniforms(0, "tiny pool", number, rows=torch.arange(4 * candidates).numpy(), columns=7)
    endings = list(dict.fromkeys(ending(trade, row) for row in draws))[: candidates + 1]
    nats = {"context": 9.0, "ending": [1.0, 2.0, 0.5], "candidates": [[3.0, 4.0, it] for it in range(candidates)]}
    return {"item": number, "group": trade, "context": f"the {trade} goes to the fair .", "ending": endings[0],
            "candidates": endings[1:], "generator": "grammar", "nats": nats}  # fmt: skip


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    """Two pools and a vocabulary, where the shipped configs look."""
    (data_dir / "text" / "pools").mkdir(parents=True)
    (data_dir / "text" / "vocab").mkdir()
    pieces = "".join(f"{piece}\n" for piece in [*SPECIAL, *words()])
    (data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt").write_text(pieces)
    for name in ("lstm", "transformer"):
        lines = "".join(json.dumps(pooled(number)) + "\n" for number in range(40))
        (data_dir / "text" / "pools" / f"hellaswag_{name}.jsonl").write_text(lines)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    write_tiny(tmp_path / "data")
    return tmp_path / "data"


def made(data_dir: Path, **settings: Any) -> PoolDataModule:
    files: dict[str, Any] = {"pool": str(data_dir / "text/pools/hellaswag_lstm.jsonl"),
             "vocabulary": str(data_dir / "text/vocab/bert-base-uncased-vocab.txt")}  # fmt: skip
    datamodule = PoolDataModule(**(files | {"batch_size": 4, "val_size": 5, "filtered": 0.25} | settings))
    datamodule.setup()
    return datamodule


def test_no_text_has_two_parts_and_each_round_draws_others(data_dir):
    datamodule = made(data_dir)
    parts = []
    for number in range(3):
        datamodule.round = number
        found = datamodule.parts_of_round()
        assert {name: len(it) for name, it in found.items()} == {"test": 10, "val": 5, "train": 25}
        assert torch.equal(torch.cat([*found.values()]).sort().values, torch.arange(40))
        parts.append(found["test"].tolist())
    assert len({tuple(it) for it in parts}) == 3


def test_parts_and_what_is_assigned_are_functions_of_the_seed(data_dir):
    one, again, other = (made(data_dir, seed=it) for it in (1, 1, 2))
    assert torch.equal(one.assignment, again.assignment)
    assert torch.equal(one.filtered, again.filtered)
    assert not torch.equal(one.assignment, other.assignment)
    assert not torch.equal(one.filtered, other.filtered)


def test_a_batch_has_the_right_ending_at_its_label_and_the_shown_negatives(data_dir):
    datamodule = made(data_dir, negatives=5, shown=2, start="first")
    table = datamodule.tables["test"]
    batch = table[torch.arange(10)]
    labels = batch["label"].tolist()
    assert len(set(labels)) > 1
    assert batch["features"].shape == (10, 3, 6)
    for row, (item, label) in enumerate(zip(batch["item"].tolist(), labels, strict=True)):
        it = datamodule.pool[item]
        shown = it.candidates[:2]
        shown.insert(0, it.ending)
        shown[0], shown[label] = shown[label], shown[0]
        for choice, text in enumerate(shown):
            (first, second) = datamodule.tokenizer.ids_of([it.context, text])
            length = int(batch["lengths"][row, choice])
            assert batch["input_ids"][row, choice, :length].tolist() == [2, *first, 3, *second, 3]
        assert next(told for told in datamodule.outcome() if told["ind"] == it.item)["endings"] == shown


def test_training_is_shown_others_of_the_negatives_in_each_epoch(data_dir):
    datamodule = made(data_dir, negatives=6, shown=2)
    first, test = datamodule.tables["train"].columns["rows"], datamodule.tables["test"]
    datamodule.begin_epoch(1)
    assert not torch.equal(datamodule.tables["train"].columns["rows"], first)
    assert datamodule.tables["test"] is test
    left = datamodule.state_dict()
    again = made(data_dir, negatives=6, shown=2)
    again.load_state_dict(left)
    assert torch.equal(again.tables["train"].columns["rows"], datamodule.tables["train"].columns["rows"])


def test_every_ending_of_a_text_is_scored_and_none_twice(data_dir):
    datamodule = made(data_dir, most=9)
    items = torch.tensor([7, 3])
    ends = datamodule.ends_of(items)
    assert ends.places.tolist() == [*range(10), *range(10)]
    text = datamodule.row_of(ends.rows[10:11])
    length = int(text["lengths"])
    (first, second) = datamodule.tokenizer.ids_of([datamodule.pool[3].context, datamodule.pool[3].ending])
    assert text["input_ids"][0, :length].tolist() == [2, *first, 3, *second, 3]
    parts = list(datamodule.parts(ends.rows, torch.arange(20), 60))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(20))
    lengths = datamodule.ends.known_lengths[ends.rows]
    assert all(len(it) == 1 or int(lengths[it].max()) * len(it) <= 60 for it in parts)


def test_what_is_assigned_is_the_state(data_dir):
    datamodule = made(data_dir)
    items = torch.tensor([1, 2])
    came = torch.tensor([[True, False, False], [False, False, False]])
    other = datamodule.assignment[items].clone()
    other[0, 0] = next(it for it in range(12) if it not in other[0].tolist())
    before = datamodule.assignment.clone()
    datamodule.assign(items, other, came, {"round": 0})
    datamodule.begin_round(1)
    changed = (datamodule.assignment != before).nonzero().tolist()
    assert changed == [[1, 0]] == (datamodule.since == 1).nonzero().tolist()
    again = made(data_dir)
    again.load_state_dict(datamodule.state_dict())
    for split in ("train", "val", "test"):
        assert torch.equal(again.tables[split].columns["rows"], datamodule.tables[split].columns["rows"])
    assert again.history == [{"round": 0}]
    with pytest.raises(UserError, match="is another pool than the run's: it has 40 texts with 4 negatives, and the"):
        made(data_dir, negatives=4).load_state_dict(datamodule.state_dict())


BAD = [
    ({"negatives": 2}, "datamodule.negatives=2 and datamodule.shown=3: show 1 or more of the negatives"),
    ({"start": "last"}, "datamodule.start is 'last'"),
    ({"least": 2}, "datamodule.least=2 and datamodule.most=None are no numbers of candidates for"),
    ({"filtered": 1.0}, "datamodule.filtered is 1.0"),
    ({"least": 13}, "pool: 0 of 40 texts have 13 candidates or more; with datamodule.filtered=0.25"),
    ({"val_size": 30}, "pool: 40 of 40 texts have 4 candidates or more; with datamodule.filtered=0.25 and"),
]


@pytest.mark.parametrize(("settings", "told"), BAD)
def test_what_cannot_be_is_told(data_dir, settings, told):
    with pytest.raises(UserError, match=told):
        made(data_dir, **settings)


def test_texts_with_too_few_candidates_are_counted_aloud(data_dir, capsys):
    path = data_dir / "text/pools/hellaswag_lstm.jsonl"
    short = pooled(40, 12)
    path.write_text(path.read_text() + json.dumps({key: short[key] for key in ("context", "ending")} | {
        "item": 40, "candidates": short["candidates"][:3]}) + "\n")  # fmt: skip
    assert len(made(data_dir).pool) == 40
    assert (
        "pool: 1 of 41 texts have fewer than 4 candidates (datamodule.least) and are left out"
        in capsys.readouterr().err
    )
