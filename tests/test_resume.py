"""Interrupted plus resumed equals uninterrupted, bit for bit."""

from pathlib import Path

import pytest
import torch

from launch.command_line import compose_job
from launch.runs import build
from tests.forks import run_in_fork
from tests.lightning_modules.test_infogan import TINY


def interrupted(folder: Path, experiment: str, *cases: str) -> dict[str, dict]:
    """What each run of tests/interruption.py ended with."""
    done = run_in_fork("-m", "tests.interruption", folder, experiment, *cases)
    assert done.returncode == 0, done.stderr
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


def assert_equal(found: dict, expected: dict) -> None:
    assert found["weights"].keys() == expected["weights"].keys()
    assert all(torch.equal(found["weights"][name], expected["weights"][name]) for name in expected["weights"])
    assert torch.equal(found["next"], expected["next"]), "the global generator is not where it was"
    torch.testing.assert_close(found["optimizers"], expected["optimizers"], rtol=0, atol=0)


# signal, iteration, whose turn it is (0: D, 1: G)
CASES = ["SIGKILL-2-0", "SIGKILL-5-1", "SIGKILL-10-1", "SIGINT-6-1", "SIGTERM-7-0"]


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """12 iterations of 5 an epoch, saved every 4; killed in the middle of an iteration, or asked to stop."""
    return interrupted(tmp_path_factory.mktemp("interrupted"), "infogan_digits", *CASES)


def test_two_runs_with_one_seed_are_equal(ends):
    assert_equal(ends["again"], ends["whole"])


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_as_if_nothing_had_happened(ends, case):
    assert_equal(ends[case], ends["whole"])


def test_a_classifier_goes_on_as_if_nothing_had_happened(tmp_path):
    """Its schedule and the errors counted since the last logging, too."""
    cases = ["SIGKILL-6-0", "SIGINT-5-0"]
    ends = interrupted(tmp_path, "resnet_digits", *cases)
    for case in cases:
        assert_equal(ends[case], ends["whole"])


def test_drawing_goes_on_as_if_nothing_had_happened(tmp_path):
    ends = interrupted(tmp_path, "draw_digits", "SIGKILL-6-0")
    assert_equal(ends["SIGKILL-6-0"], ends["whole"])


def test_training_on_moved_examples_goes_on_as_if_nothing_had_happened(tmp_path):
    ends = interrupted(tmp_path, "wrm_digits", "SIGKILL-6-0")
    assert_equal(ends["SIGKILL-6-0"], ends["whole"])


def test_sampled_targets_go_on_as_if_nothing_had_happened(tmp_path):
    """Within an epoch of batches that differ in size."""
    ends = interrupted(tmp_path, "raml_copy", "SIGKILL-6-0")
    assert_equal(ends["SIGKILL-6-0"], ends["whole"])


def test_pretraining_goes_on_as_if_nothing_had_happened(tmp_path):
    """In the middle of the second epoch, whose instances are others and of another number than the first one's."""
    ends = interrupted(tmp_path, "bert_tiny_text", "SIGKILL-10-0")
    assert_equal(ends["SIGKILL-10-0"], ends["whole"])


@pytest.mark.slow
def test_killed_before_each_turn_of_each_iteration(tmp_path):
    """Twenty-four kills, and a Ctrl-C in each iteration but the last."""
    cases = [f"SIGKILL-{step}-{turn}" for step in range(12) for turn in range(2)]
    cases += [f"SIGINT-{step}-0" for step in range(11)]
    ends = interrupted(tmp_path, "infogan_digits", *cases)
    for case in cases:
        assert_equal(ends[case], ends["whole"])


def test_a_finished_run_can_be_made_longer(tmp_path):
    """Its last checkpoint lies inside an epoch."""

    def trained(folder, max_steps, checkpoint=None):
        overrides = ["trainer=cpu", "logger=none", f"trainer.max_steps={max_steps}", *TINY["infogan_digits"]]
        run = build(compose_job("train", [*overrides, "datamodule.batch_size=512"], str(folder)))
        run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
        assert run.trainer.global_step == max_steps
        return run.module.state_dict()

    whole = trained(tmp_path / "whole", 7)
    trained(tmp_path / "first", 3)
    longer = trained(tmp_path / "second", 7, tmp_path / "first" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(whole[name], longer[name]) for name in whole)
