"""Commands with values that cannot be meant, and run folders with a damaged file: see ``bad_inputs``, ``damaged_runs``.

Each kind runs in a process of its own, which has imported torch once and forks for each command.
"""

import subprocess
import sys

import pytest

SEED = 2810  # of the default suite's hundred; ``make test-all`` tries others


def outcome(module: str, count: int, seed: int) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", f"tests.contract.{module}", str(count), str(seed)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_a_hundred_bad_inputs_get_a_sentence_or_a_sound_run():
    found = outcome("bad_inputs", 100, SEED)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "100 commands" in found.stdout


def test_damaged_files_of_a_run_get_a_sentence_or_do_no_harm():
    found = outcome("damaged_runs", 12, SEED)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "12 damages" in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("module", "count"), [("bad_inputs", 300), ("damaged_runs", 100)])
def test_many_more(module, count):
    found = outcome(module, count, SEED + 1)
    assert found.returncode == 0, found.stdout + found.stderr
