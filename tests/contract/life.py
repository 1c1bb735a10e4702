"""The life of a run in the process of the tests: trained, killed, stopped, gone on with, measured."""

import csv
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from evaluate import evaluate
from foundation import security
from launch import resume
from launch.command_line import compose_job
from train import train

TIMED = ("_s", "_s_mean")  # endings of keys that no two runs share


@contextmanager
def own_parts_allowed() -> Iterator[None]:
    """Saved configs may name the methods of these tests."""
    with pytest.MonkeyPatch.context() as patch:
        allowed = security.is_allowed
        patch.setattr(security, "is_allowed", lambda it: allowed(it) or str(it).startswith("tests."))
        yield


def composed(folder: Path, nodes: dict[str, Any], *overrides: str) -> dict[str, Any]:
    """The config of a job of ``resnet_digits`` with its parts replaced, saved as Hydra saves it."""
    fixed = ["experiment=resnet_digits", "trainer=cpu", "logger=csv", "trainer.precision=32-true", "~callbacks.progress",
             "+trainer.enable_progress_bar=false", "trainer.log_every_n_steps=1"]  # fmt: skip
    config = compose_job("train", [*fixed, *overrides], str(folder)) | nodes
    (folder / ".hydra").mkdir(parents=True)
    saved = OmegaConf.to_yaml(OmegaConf.create(config)).replace(str(folder), "${paths.run_dir}")
    (folder / ".hydra" / "config.yaml").write_text(saved)
    (folder / ".hydra" / "overrides.yaml").write_text(OmegaConf.to_yaml([*fixed, *overrides]))
    return config


def gone_on_with(folder: Path, *overrides: str) -> None:
    """python train.py resume=<folder>"""
    with own_parts_allowed(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train.py", f"resume={folder}", *overrides])
        train(*resume.prepare(str(folder), list(overrides)))


def measured(folder: Path, *overrides: str) -> tuple[dict[str, float], dict[str, Any]]:
    """What python evaluate.py run=<folder> finds, and its record."""
    again = folder / "evaluations" / "again"
    with own_parts_allowed():
        config = compose_job("evaluate", [f"run={folder}", "trainer=cpu", *overrides], str(again))
        found = evaluate(config, again)
    return found, json.loads((again / "record.json").read_text())


class Killed(BaseException):
    """Nothing in a run answers it with a checkpoint, as nothing does where a process is killed."""


def kill() -> None:
    raise Killed


def ask_to_stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def happening(method: type, hook: str, iteration: int, what: Callable[[], None]) -> Iterator[None]:
    """Something happens in a hook of a method's runs once they have made so many iterations, but in that of a resume.

    In ``on_train_batch_end`` it is after the callbacks have saved.
    """
    own = getattr(method, hook)

    def wrapped(self: Any, *arguments: Any) -> Any:
        if self.trainer.global_step == iteration:
            what()
        return own(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(method, hook, wrapped)
        yield


def checkpoint_of(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "record.json").read_text())


def figures(folder: Path) -> dict[str, float]:
    """All final metrics but times."""
    return {key: value for key, value in record_of(folder)["metrics"].items() if not key.endswith(TIMED)}


def logged(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without times."""
    with open(folder / "metrics.csv", newline="") as file:
        return [{key: value for key, value in row.items() if not key.endswith(TIMED)} for row in csv.DictReader(file)]


def assert_the_same(folder: Path, whole: Path) -> None:
    """Weights, optimisers, the DataModule, final metrics and what the record says of the data."""
    found, expected = checkpoint_of(folder), checkpoint_of(whole)
    assert torch.equal(found["random_states"][0]["torch"], expected["random_states"][0]["torch"])
    for key in ("state_dict", "optimizer_states", "global_step", "epoch"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)
    assert figures(folder) == figures(whole)
    for key in ("data", "data_at_start"):
        assert record_of(folder).get(key) == record_of(whole).get(key)
    assert not any("data_before" in it for it in record_of(folder).get("resumes", []))
