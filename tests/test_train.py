"""A run's life as train.py leads it, in this process: how long it is, made longer, killed, gone on with."""

import csv
import json
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf

from callbacks.checkpoint import Checkpoint, Interrupted
from callbacks.instruments import run_clock
from callbacks.run_record import mark_failed
from foundation.checkpoints import WholeCheckpoints
from foundation.errors import UserError
from foundation.security import trusting
from launch.command_line import compose_job
from launch.resume import holding_after, prepare
from lightning_modules.resnet import ResNet
from tests.lightning_modules.test_resnet import TINY
from train import train

BEGIN = ["experiment=resnet_digits", "trainer=cpu", "logger=csv", "callbacks=[checkpoint,run_record]", "trainer.log_every_n_steps=1",
         "optimized_metric=null", "paper=null", *TINY["resnet_digits"], "datamodule.batch_size=512"]  # fmt: skip
EPOCHS = ["trainer.max_steps=-1", "trainer.max_epochs=2"]


@pytest.fixture(autouse=True)
def command_line(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])


def begin(folder: Path, *words: str) -> dict:
    """Two iterations are an epoch. As Hydra leaves a folder; returns the record."""
    overrides = [*BEGIN, *words]
    config = compose_job("train", overrides, str(folder))
    for name, content in {"config": config, "overrides": overrides}.items():
        (folder / ".hydra").mkdir(parents=True, exist_ok=True)
        OmegaConf.save(OmegaConf.create(content), folder / ".hydra" / f"{name}.yaml")
    train(config)
    return record(folder)


def resume(folder: Path, *words: str) -> dict:
    with trusting(["torch.optim.lr_scheduler.CosineAnnealingLR"]):
        train(*prepare(str(folder), list(words)))
    return record(folder)


def record(folder: Path) -> dict:
    return json.loads((folder / "record.json").read_text())


def checkpoint(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def assert_same_end(folder: Path, other: Path) -> None:
    found, expected = checkpoint(folder), checkpoint(other)
    for name, value in expected["state_dict"].items():
        assert torch.equal(found["state_dict"][name], value), name
    torch.testing.assert_close(found["optimizer_states"], expected["optimizer_states"], rtol=0, atol=0)
    for key in ("status", "iterations", "epochs", "asked"):
        assert record(folder)[key] == record(other)[key]


@pytest.fixture
def stop_after(monkeypatch):
    """Have the runs that follow stop after an iteration as if by Ctrl-C; None: no more."""

    def ask(iteration: int | None) -> None:
        monkeypatch.setattr(
            Checkpoint, "_signal_on_any_rank", lambda self, trainer: 2 * (trainer.global_step == iteration)
        )

    return ask


@pytest.fixture
def slow_clock(monkeypatch):
    """A clock by which an iteration takes a second, and nothing else takes time."""
    iterations, step = [], ResNet.training_step
    monkeypatch.setattr(ResNet, "training_step", lambda *given: iterations.append(1) or step(*given))
    monkeypatch.setattr(run_clock, "time", SimpleNamespace(monotonic=lambda: len(iterations)))


@pytest.mark.parametrize(
    ("words", "said", "asked"),
    [
        (["trainer.max_steps=3"], "3 iterations", "after 3 iterations: set trainer.max_steps above 3."),
        (EPOCHS, "2 epochs", "after 2 epochs (4 iterations): set trainer.max_epochs above 2."),
        (["trainer.max_steps=3", "trainer.max_epochs=2"], "3 iterations or 2 epochs, whichever ends first",
         "after 3 iterations: set trainer.max_steps above 3."),
        (["trainer.max_steps=9", "trainer.max_epochs=1"], "9 iterations or 1 epoch, whichever ends first",
         "after 1 epoch (2 iterations): set trainer.max_epochs above 1."),
        (["trainer.max_steps=-1", "trainer.max_time=00:00:00:03"], "00:00:00:03 of training",
         "after 00:00:00:03 of training (3 iterations): set trainer.max_time above 00:00:00:03."),
    ],
)  # fmt: skip
def test_a_run_is_told_its_length_ends_by_it_and_is_refused_after(tmp_path, capsys, slow_clock, words, said, asked):
    found = begin(tmp_path, *words)
    assert f"resnet_digits, seed 0: {said} on 1 x cpu" in capsys.readouterr().out
    assert found["status"] == "finished"
    assert f"({found['iterations']} iterations)" in asked or f"after {found['iterations']} iterations" in asked
    assert found["epochs"] == found["iterations"] / 2
    with pytest.raises(UserError) as refused:
        resume(tmp_path)
    assert str(refused.value) == f"{tmp_path} is finished {asked}"
    assert record(tmp_path) == found


@pytest.mark.parametrize(
    ("words", "longer"),
    [
        (EPOCHS, ["trainer.max_epochs=4"]),
        (EPOCHS, ["trainer.max_epochs=-1", "trainer.max_steps=7"]),
        (["trainer.max_steps=3"], ["trainer.max_epochs=4", "trainer.max_steps=-1"]),
    ],
)
def test_made_longer_killed_and_gone_on_with_it_ends_as_one_run(tmp_path, stop_after, words, longer):
    steady = "lightning_module.scheduler=null"
    begin(tmp_path / "run", steady, *words)
    for stop, given in ((5, longer), (6, [])):
        stop_after(stop)
        with pytest.raises(Interrupted):
            resume(tmp_path / "run", *given)
    stop_after(None)
    resume(tmp_path / "run")
    begin(tmp_path / "whole", steady, *holding_after([words, longer]))
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize("stop", [2, 3])  # at the end of an epoch, before its validation; inside one
def test_no_validation_is_lost(tmp_path, stop_after, stop):
    """What was validated, and what was the best by it, are those of a run that nobody stopped."""
    words = ["datamodule.val_size=413", "callbacks=[checkpoint,run_record,classification,best_checkpoint]",
             "optimized_metric=val/error", "trainer.max_steps=6", "callbacks.checkpoint.every_n_train_steps=4"]  # fmt: skip
    begin(tmp_path / "whole", *words)
    stop_after(stop)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", *words)
    stop_after(None)
    resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    assert (tmp_path / "run" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    best = [torch.load(tmp_path / it / "checkpoints" / "best.ckpt", weights_only=True) for it in ("run", "whole")]
    assert best[0]["global_step"] == best[1]["global_step"]


def test_stopped_in_its_test_it_measures_the_averaged_weights_after_all(tmp_path, monkeypatch):
    words = ["trainer.max_steps=3", "callbacks=[checkpoint,run_record,classification,averaged_weights]",
             "callbacks.averaged_weights.decay=0.5"]  # fmt: skip
    whole = begin(tmp_path / "whole", *words)
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(Trainer, "test", lambda *_, **__: (_ for _ in ()).throw(Interrupted(15, 3)))
        begin(tmp_path / "run", *words)
    assert record(tmp_path / "run")["status"] == "fitted"
    found = resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    assert found["weights"] == "averaged (decay 0.5)"
    assert found["metrics"] == whole["metrics"]


VALIDATED = ["datamodule.val_size=413", "callbacks=[checkpoint,run_record,classification,best_checkpoint,averaged_weights]",
             "optimized_metric=val/error", "trainer.max_steps=6", "datamodule.eval_batch_size=100"]  # fmt: skip


@pytest.mark.parametrize(("stage", "status"), [("validation_step", "interrupted"), ("test_step", "interrupted")])
def test_a_signal_in_an_evaluation_is_answered_within_a_batch_and_loses_nothing(tmp_path, monkeypatch, stage, status):
    whole = begin(tmp_path / "whole", *VALIDATED)
    step, seen = getattr(ResNet, stage), []

    def signalled(self, batch, batch_idx):
        seen.append(batch_idx)
        if batch_idx == 1 and self.trainer.global_step >= 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched, pytest.raises(Interrupted) as stopped:
        patched.setattr(ResNet, stage, signalled)
        begin(tmp_path / "run", *VALIDATED)
    assert stopped.value.code == 143
    assert seen[-1] == 1
    assert record(tmp_path / "run")["status"] == status
    found = resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", tmp_path / "whole")
    assert found["metrics"] == whole["metrics"]
    assert (tmp_path / "run" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()
    best = [torch.load(tmp_path / it / "checkpoints" / "best.ckpt", weights_only=True) for it in ("run", "whole")]
    assert best[0]["global_step"] == best[1]["global_step"]


def test_a_full_disk_is_told_with_the_last_checkpoint_which_goes_on(tmp_path, monkeypatch):
    save = WholeCheckpoints.save_checkpoint

    def full(self, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] == 4:  # every write to it fails as on a full disk
            Path(path).with_name("last.ckpt.unfinished").symlink_to("/dev/full")
        save(self, checkpoint, path, storage_options)

    words = ["trainer.max_steps=6", "callbacks.checkpoint.every_n_train_steps=2"]
    with monkeypatch.context() as patched, pytest.raises(UserError) as told:
        patched.setattr(WholeCheckpoints, "save_checkpoint", full)
        begin(tmp_path, *words)
    assert str(told.value) == (
        f"{tmp_path}/checkpoints/last.ckpt could not be written: no space left on device. The last checkpoint is of "
        f"iteration 2: make room, and go on with python train.py resume={tmp_path}"
    )
    found = record(tmp_path)
    assert (found["status"], found["iterations"]) == ("failed", 4)
    assert "no space left on device" in found["error"]
    assert resume(tmp_path)["status"] == "finished"


def test_where_no_other_file_has_room_the_record_says_failed_all_the_same(tmp_path):
    (tmp_path / "record.json").write_text(json.dumps({"status": "running", "seed": 3}))
    (tmp_path / "record.json.unfinished").symlink_to("/dev/full")
    mark_failed(tmp_path, "the disk is full, which takes more letters than there is room for")
    assert record(tmp_path) == {"status": "failed", "seed": 3}


def test_a_run_by_time_has_what_is_left_of_its_budget(tmp_path, stop_after, slow_clock):
    stop_after(2)
    with pytest.raises(Interrupted):
        begin(tmp_path, "trainer.max_steps=-1", "trainer.max_time=00:00:00:05")
    stop_after(None)
    found = resume(tmp_path)
    assert (found["status"], found["iterations"], found["asked"]) == ("finished", 5, {"seconds": 5.0})
    assert resume(tmp_path, "trainer.max_time=00:00:00:08")["iterations"] == 8


def rates(folder: Path) -> list[float]:
    """The learning rate of each iteration, and what the next would have had."""
    rows = csv.DictReader((folder / "metrics.csv").open(newline=""))
    next_one = checkpoint(folder)["optimizer_states"][0]["param_groups"][0]["lr"]
    return [*(float(row["train/lr"]) for row in rows if row["train/lr"]), next_one]


LOGGED = "callbacks=[checkpoint,run_record,learning_rates]"


def scheduler(node: str) -> list[str]:
    return ["~lightning_module.scheduler", f"+lightning_module.scheduler={{_partial_: true, _target_: {node}}}"]


def cosine(iterations: int) -> list[str]:
    """One of torch's, which goes from one rate to the next."""
    return scheduler(f"torch.optim.lr_scheduler.CosineAnnealingLR, T_max: {iterations}")


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (["trainer.max_steps=4"], ["trainer.max_steps=8"]),
        (["trainer.max_steps=4"], ["trainer.max_steps=8", "lightning_module.optimizer.lr=0.01"]),
        (["trainer.max_steps=4", "lightning_module.scheduler.warmup=2"], ["trainer.max_steps=-1", "trainer.max_epochs=4",
                                                                          "lightning_module.scheduler.warmup=6"]),
        (["trainer.max_steps=4", "lightning_module.scheduler=null"], ["trainer.max_steps=6", "lightning_module.optimizer.lr=0.01"]),
        (["trainer.max_steps=4"], ["trainer.max_steps=6", "lightning_module.scheduler=null"]),
        (["trainer.max_steps=4", *cosine(4)], ["trainer.max_steps=6", *cosine(6)]),
        (["trainer.max_steps=4"], ["trainer.max_steps=6", *scheduler("lightning_modules.schedules.Drops, drops: [2, 5]")]),
    ],
)  # fmt: skip
def test_a_resume_has_the_rates_that_it_is_asked_for(tmp_path, first, then):
    """From its iteration on those of a run that was asked for them from the start."""
    begin(tmp_path / "run", LOGGED, *first)
    resume(tmp_path / "run", *then)
    begin(tmp_path / "whole", LOGGED, *holding_after([first, then]))
    found, expected = rates(tmp_path / "run"), rates(tmp_path / "whole")
    assert found[4:] == expected[4:]
    assert len(set(found)) > 1


def test_a_resume_has_the_optimizer_that_it_is_asked_for_and_its_record_says_since_when(tmp_path):
    adam = "+lightning_module.optimizer={_target_: torch.optim.Adam, _partial_: true, lr: 0.1, betas: [0.9, 0.99]}"
    begin(tmp_path, "~lightning_module.optimizer", adam, "trainer.max_steps=2", "lightning_module.scheduler=null")
    found = resume(tmp_path, "trainer.max_steps=3", "lightning_module.optimizer.betas=[0.5,0.75]",
                   "+lightning_module.optimizer.weight_decay=0.1")  # fmt: skip
    (state,) = checkpoint(tmp_path)["optimizer_states"]
    (group,) = state["param_groups"]
    assert (group["betas"], group["weight_decay"], group["lr"]) == ((0.5, 0.75), 0.1, 0.1)
    assert state["state"][0]["step"] == 3  # what was learned goes on
    (segment,) = found["resumes"]
    assert segment["from_iteration"] == 2
    assert segment["changed"] == {
        "trainer.max_steps": [2, 3],
        "lightning_module.optimizer.betas": [[0.9, 0.99], [0.5, 0.75]],
        "lightning_module.optimizer.weight_decay": [None, 0.1],
    }


@pytest.mark.parametrize("schedule", [cosine(4), ["lightning_module.scheduler.warmup=2"]])
def test_what_was_not_changed_goes_on_bit_for_bit(tmp_path, stop_after, schedule):
    begin(tmp_path / "whole", *schedule, "trainer.max_steps=6")
    stop_after(3)
    with pytest.raises(Interrupted):
        begin(tmp_path / "run", *schedule, "trainer.max_steps=6")
    stop_after(None)
    resume(tmp_path / "run")
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def test_early_stopping_has_the_patience_that_it_is_asked_for(tmp_path):
    words = ["datamodule.val_size=413", "callbacks=[checkpoint,run_record,classification,early_stopping]", "trainer.max_steps=7",
             "optimized_metric=val/error", "+callbacks.early_stopping.min_delta=1", "callbacks.early_stopping.patience=1"]  # fmt: skip
    assert begin(tmp_path, *words)["iterations"] == 4  # the second validation is no better than the first by 1
    with pytest.raises(
        UserError, match=r"callbacks.early_stopping has stopped it. Set callbacks.early_stopping.patience above 1"
    ):
        resume(tmp_path, "trainer.max_steps=8")
    assert resume(tmp_path, "callbacks.early_stopping.patience=2")["iterations"] == 6
    assert resume(tmp_path, "~callbacks.early_stopping")["iterations"] == 7


def test_a_refused_resume_leaves_no_trace(tmp_path):
    found = begin(tmp_path, "trainer.max_steps=2")
    kept = {name: (tmp_path / name).read_text() for name in ("config.yaml", "metrics.csv")}
    for words in (["datamodule.batch_size=256"], ["trainer.limit_test_batches=0.1"], ["lightning_module.optimizer.lr=-1"], ["lightning_module.network.width=8"],
                  ["lightning_module.optimizer._target_=torch.optim.Adam", "~lightning_module.optimizer.momentum",
                   "~lightning_module.optimizer.nesterov"]):  # fmt: skip
        with pytest.raises(UserError):
            resume(tmp_path, "trainer.max_steps=4", *words)
    assert record(tmp_path) == found
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
    assert not (tmp_path / "resumes").exists()
    with pytest.raises(UserError, match="is finished after 2 iterations"):
        resume(tmp_path)
