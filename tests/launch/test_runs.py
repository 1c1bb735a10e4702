import pytest

from launch.errors import UserError
from launch.runs import resolve_precision, saved_config


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is not a run: it has no .hydra/config.yaml"):
        saved_config(tmp_path)


def test_precision_is_what_was_asked_or_what_the_hardware_is_made_for():
    assert resolve_precision("64-true", "cpu") == "64-true"
    assert resolve_precision("auto", "cpu") in ("bf16-mixed", "32-true")
