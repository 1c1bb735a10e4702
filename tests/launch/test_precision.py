import json
from pathlib import Path
from typing import Any

import pytest
import torch

from launch import precision
from launch.precision import HALF, SINGLE, choose, describe_processor, resolve_precision

FAST = {"linear": {SINGLE: 2.0, HALF: 1.0}, "convolution": {SINGLE: 2.0, HALF: 1.0}}
SLOW = {"linear": {SINGLE: 2.0, HALF: 1.0}, "convolution": {SINGLE: 2.0, HALF: 1.9}}


@pytest.fixture
def figures(monkeypatch):
    """What is measured next; counts how often."""
    asked: dict[str, Any] = {"found": FAST, "times": 0}

    def measure() -> Any:
        asked["times"] += 1
        return asked["found"]

    monkeypatch.setattr(precision, "measure", measure)
    return asked


def test_what_was_asked_for_is_not_measured(tmp_path, figures):
    assert resolve_precision("64-true", "cpu", tmp_path).precision == "64-true"
    assert figures["times"] == 0


def test_half_precision_has_to_be_clearly_faster_in_every_layer():
    assert choose(FAST).precision == HALF
    assert choose(SLOW).precision == SINGLE
    assert choose({"linear": SLOW["linear"], "convolution": {SINGLE: 2.0, HALF: 4.0}}).precision == SINGLE


def test_a_processor_is_measured_once_with_a_version_of_torch(tmp_path, figures, monkeypatch):
    first = resolve_precision("auto", "cpu", tmp_path / "cache")
    figures["found"] = SLOW
    assert resolve_precision("auto", "cpu", tmp_path / "cache") == first
    assert (first.precision, first.milliseconds, figures["times"]) == (HALF, FAST, 1)
    monkeypatch.setattr(torch, "__version__", "9.9")
    assert resolve_precision("auto", "cpu", tmp_path / "cache").precision == SINGLE
    assert len(json.loads((tmp_path / "cache" / "precision.json").read_text())) == 2


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"HERE": 3}', '{"HERE": {}}', '{"HERE": {"precision": "16-true"}}', '{"HERE": {"other": 1}}',
     "\xff"],
)  # fmt: skip
def test_a_damaged_file_costs_another_measurement(tmp_path, figures, content):
    file = tmp_path / "precision.json"
    file.write_text(content.replace("HERE", describe_processor()), encoding="latin-1")
    for _ in range(2):
        assert resolve_precision("auto", "cpu", tmp_path).precision == HALF
    assert figures["times"] == 1


def test_a_folder_that_cannot_be_written_costs_another_measurement(tmp_path, figures):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", Path("/proc/none")):
        assert resolve_precision("auto", "cpu", place).precision == HALF
    assert figures["times"] == 2


def test_other_ranks_wait_for_the_first_one_s_choice(tmp_path, figures, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_precision("auto", "cpu", tmp_path).precision == SINGLE
    assert figures["times"] == 0


def test_measuring_is_short_and_leaves_no_trace():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    found = precision.measure()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert found.keys() == FAST.keys()
    assert all(time > 0 for layer in found.values() for time in layer.values())
