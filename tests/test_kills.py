"""Killed at any of its writes and resumed, a run leaves what it would have left: see tests/kills.py."""

import json

import pytest

from tests.forks import run_in_fork
from tests.kills import EXPERIMENTS


def killed(folder, experiment: str, every: int, first: int) -> dict:
    done = run_in_fork("-m", "tests.kills", folder, experiment, every, first)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_that_is_killed_at_a_write_goes_on_as_if_nothing_had_happened(tmp_path):
    """Averaged weights, the best by validation, early stopping; four kills, the last in the test."""
    assert killed(tmp_path, "resnet_digits", 9, 6) == {"kills": 4, "wrong": {}}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_a_run_that_is_killed_at_whichever_write(tmp_path, experiment):
    found = killed(tmp_path, experiment, 1, 0)
    assert found["wrong"] == {}
    assert found["kills"] >= 20
