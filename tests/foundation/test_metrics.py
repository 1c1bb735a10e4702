import math

import pytest

from foundation.metrics import best, former_keys, in_stage, key_of_today, with_keys_of_today


def test_a_stage_s_names_become_keys():
    assert in_stage("val", {"error": "min", "lr": None}) == {"val/error": "min", "val/lr": None}


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [([0.5, 0.2, 0.9], "min", 0.2), ([0.5, 0.2, 0.9], "max", 0.9), ([0.5], None, None), ([], "max", None),
     ([math.nan, 0.5, math.nan], "min", 0.5), ([math.nan], "max", None)],
)  # fmt: skip
def test_the_best_is_a_number_and_of_nothing_there_is_none(values, direction, expected):
    assert best(values, direction) == expected


def test_what_a_metric_was_called_before_is_read_as_what_it_is_called_today():
    assert key_of_today("train/images_per_s") == "train/examples_per_s"
    assert key_of_today("val/error") == "val/error"
    assert with_keys_of_today({"train/images_per_s": 2.0, "val/error": 0.5}) == {
        "train/examples_per_s": 2.0,
        "val/error": 0.5,
    }
    assert former_keys("train/examples_per_s") == ["train/images_per_s"]
