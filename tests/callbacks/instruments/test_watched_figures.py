"""Schedules that go by what a run has learned: resumed, on several ranks, and refused where nobody measures it."""

import json

import pytest
import torch

from foundation.errors import UserError
from launch.runs import build
from tests.callbacks.instruments.schedules_on_ranks import config_of, fitted
from tests.forks import run_in_fork


@pytest.mark.parametrize("scheduler", [{"monitor": "train/error", "over": 3}, {"monitor": "train/loss", "over": 2},
                                       {"monitor": "val/error"}])  # fmt: skip
def test_interrupted_and_gone_on_with_is_uninterrupted(scheduler, tmp_path):
    whole = fitted(config_of(tmp_path / "whole", scheduler))
    assert len(set(whole["rates"])) > 1, "the rate has never dropped"
    for iteration in (4, 7):  # behind a validation, and in the midst of an error's iterations
        first = tmp_path / f"first{iteration}"
        begun = fitted(config_of(first, scheduler, f"trainer.max_steps={iteration}"))
        rest = fitted(config_of(tmp_path / f"rest{iteration}", scheduler), first / "checkpoints" / "last.ckpt")
        assert begun["rates"] + rest["rates"] == whole["rates"]
        assert rest["seen"] == whole["seen"]
        assert all(torch.equal(it, rest["weights"][name]) for name, it in whole["weights"].items())


def test_ranks_go_by_one_error(tmp_path):
    done = run_in_fork("-m", "tests.callbacks.instruments.schedules_on_ranks", tmp_path)
    assert done.returncode == 0, done.stderr
    alone, two = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert alone == two
    assert alone[0]["dropped_at"]


@pytest.mark.parametrize(
    ("scheduler", "overrides", "message"),
    [
        ({"monitor": "val/eror"}, [], "monitor is val/eror, by which no schedule of this run can go: did you mean 'val/error'"),
        ({"monitor": "train/accuracy"}, [], "monitor is train/accuracy, by which no schedule of this run can go"),
        ({"monitor": "test/error"}, [], "monitor is test/error, by which no schedule of this run can go"),
        ({"monitor": "val/error"}, ["datamodule.val_size=0"], "can go: set datamodule.val_size above 0, or name one of train/"),
        ({"monitor": "val/error"}, ["trainer.limit_val_batches=0"], "limit_val_batches=0 leaves no validation"),
        ({"monitor": "val/accuracy"}, [], "monitor is val/accuracy, of which smaller is not better: name one of which it is"),
    ],
)  # fmt: skip
def test_what_nobody_measures_is_refused(scheduler, overrides, message, tmp_path):
    with pytest.raises(UserError, match=message):
        build(config_of(tmp_path, scheduler, *overrides))
