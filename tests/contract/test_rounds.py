"""A method with rounds (``rounds.py``) lives in the house: its networks begin anew and its data shrink within one fit,
which is counted in epochs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import predict
from finished.onnx import export
from launch.command_line import compose_job
from launch.runs import load_datamodule, load_run
from tests.contract.life import (
    Killed,
    ask_to_stop,
    assert_the_same,
    checkpoint_of,
    composed,
    figures,
    gone_on_with,
    happening,
    kill,
    logged,
    measured,
    own_parts_allowed,
    record_of,
)
from tests.contract.rounds import EPOCHS, NODES, Rounds
from tests.forks import run_in_fork
from train import train

EXAMPLES, BATCHES = [1237, 866, 607], [4, 4, 3, 3, 2, 2]


def job(folder: Path, *length: str) -> dict[str, Any]:
    return composed(folder, NODES, "callbacks.checkpoint.every_n_train_steps=1", *(length or EPOCHS))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rounds") / "whole"
    train(job(folder))
    return folder


def test_each_round_is_of_its_own_data_and_as_long(whole):
    rows = [row for row in logged(whole) if row["train/loss"]]
    epochs = [int(row["epoch"]) for row in rows]
    assert [epochs.count(epoch) for epoch in range(6)] == BATCHES
    losses = [float(row["train/loss"]) for row in rows]
    assert losses[8] > losses[7] + 0.5  # other weights
    assert checkpoint_of(whole)["global_step"] == sum(BATCHES)
    (steps,) = {int(it["step"]) for it in checkpoint_of(whole)["optimizer_states"][0]["state"].values()}
    assert steps == sum(BATCHES[4:])  # another optimiser state


def test_the_record_has_the_data_as_they_began_and_as_they_ended(whole):
    record = record_of(whole)
    assert (record["data_at_start"]["train"], record["data"]["train"]) == (EXAMPLES[0], EXAMPLES[-1])
    assert record["data_at_start"]["sha256"] != record["data"]["sha256"]
    assert record["data_at_start"]["test"] == record["data"]["test"]
    assert record["epochs"] == 6


@pytest.mark.parametrize("iteration", [4, 8, 13, 17])  # an epoch's last, a round's last, inside
def test_killed_and_gone_on_with_is_uninterrupted(whole, tmp_path, iteration):
    folder = tmp_path / "run"
    with happening(Rounds, "on_train_batch_end", iteration, kill), pytest.raises(Killed):
        train(job(folder))
    gone_on_with(folder)
    assert_the_same(folder, whole)


@pytest.mark.parametrize("iteration", [8, 13])
def test_stopped_and_gone_on_with_is_uninterrupted(whole, tmp_path, iteration):
    folder = tmp_path / "run"
    with happening(Rounds, "training_step", iteration - 1, ask_to_stop), pytest.raises(SystemExit):
        train(job(folder))
    gone_on_with(folder)
    assert_the_same(folder, whole)
    assert logged(folder) == logged(whole)


def test_killed_between_two_rounds_and_gone_on_with_is_uninterrupted(whole, tmp_path):
    """After the data have changed, before the first batch of them."""
    folder = tmp_path / "run"
    with happening(Rounds, "begin_anew", 8, kill), pytest.raises(Killed):
        train(job(folder))
    assert record_of(folder)["data"]["train"] == EXAMPLES[1]
    gone_on_with(folder)
    assert_the_same(folder, whole)


def test_counted_in_iterations_it_is_the_same(whole, tmp_path):
    folder = tmp_path / "run"
    length = [f"trainer.max_steps={sum(BATCHES)}"]
    with happening(Rounds, "on_train_batch_end", 8, kill), pytest.raises(Killed):
        train(job(folder, *length))
    gone_on_with(folder)
    assert_the_same(folder, whole)


def test_what_the_last_epoch_s_end_has_changed_is_what_the_run_ends_with(tmp_path):
    """Measured again it is on those data, and a longer run goes on with them."""
    nodes = NODES | {
        "lightning_module": NODES["lightning_module"] | {"_target_": "tests.contract.rounds.RoundsThatEnd"}
    }
    for name, epochs in (("run", 2), ("whole", 4)):
        train(composed(tmp_path / name, nodes, "trainer.max_steps=-1", f"trainer.max_epochs={epochs}"))
    record = record_of(tmp_path / "run")
    assert (record["data_at_start"]["train"], record["data"]["train"]) == (EXAMPLES[0], EXAMPLES[1])
    assert len(checkpoint_of(tmp_path / "run")["ShrinkingDigits"]["kept"]) == EXAMPLES[1]
    found, again = measured(tmp_path / "run")
    assert found == pytest.approx({key: record["metrics"][key] for key in found})
    assert again["data"] == record["data"]
    gone_on_with(tmp_path / "run", "trainer.max_epochs=4")
    assert_the_same(tmp_path / "run", tmp_path / "whole")


def test_it_is_measured_on_the_data_that_it_ended_with(whole):
    found, record = measured(whole)
    assert found == pytest.approx({key: value for key, value in figures(whole).items() if key.startswith("test/")})
    assert record["data"] == record_of(whole)["data"]
    assert record["data_at_start"] == record_of(whole)["data_at_start"]


def test_who_loads_the_run_has_its_data(whole):
    with own_parts_allowed():
        for datamodule in (load_run(whole)[2], load_datamodule(str(whole))):
            assert datamodule.tables == {}  # type: ignore
            datamodule.setup("fit")
            assert len(datamodule.tables["train"]) == EXAMPLES[-1]  # type: ignore


def test_it_predicts_and_is_exported(whole, tmp_path):
    Image.new("L", (8, 8), 100).save(tmp_path / "grey.png")
    with own_parts_allowed():
        words = [f"run={whole}", f"input={tmp_path}", "accelerator=cpu"]
        folder = predict.predict(compose_job("predict", words))
        export(whole, out=tmp_path / "it.onnx")
    assert json.loads((folder / "predictions.json").read_text())["images"] == 1


def test_several_ranks_change_to_the_same(tmp_path):
    done = run_in_fork("-m", "tests.contract.rounds_on_ranks", tmp_path)
    assert done.returncode == 0, done.stderr
    found = {size: torch.load(tmp_path / f"{size}.pt", weights_only=True) for size in (1, 2)}
    for size in (1, 2):
        assert found[size]["iterations"] == sum(BATCHES)
    torch.testing.assert_close(found[2]["kept"], found[1]["kept"])
    torch.testing.assert_close(found[2]["weights"], found[1]["weights"], rtol=1e-9, atol=1e-9)
    assert "changes its table of train to another on each rank" in (tmp_path / "differing.txt").read_text()
