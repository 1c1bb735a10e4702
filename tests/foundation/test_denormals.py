import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from foundation.denormals import are_flushed, flush_denormals, flush_in_worker

ROOT = Path(__file__).resolve().parents[2]
PLACES = {"here", "a pool of threads", "backward", "backward in a thread", "a rank that is forked",
          "a worker that is forked", "a worker that is spawned", "a rank that is spawned"}  # fmt: skip
needs_a_processor_that_can = pytest.mark.skipif(
    not torch.set_flush_denormal(False), reason="this processor does not flush denormals"
)


@pytest.fixture(autouse=True)
def as_before():
    before = are_flushed()
    yield
    torch.set_flush_denormal(before)


@needs_a_processor_that_can
def test_a_thread_is_as_it_was_asked_to_be():
    for flush in (True, False):
        flush_denormals(flush)
        assert are_flushed() is flush
    flush_in_worker(True, 3)
    assert are_flushed()


@needs_a_processor_that_can
@pytest.mark.parametrize("flush", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_every_thread_worker_and_rank_is_so(flush):
    done = subprocess.run(
        [sys.executable, "-m", "tests.foundation.denormals_everywhere", str(flush).lower()],
        cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() == PLACES
    assert {place for place, product in found.items() if (product == 0) != flush} == set()
