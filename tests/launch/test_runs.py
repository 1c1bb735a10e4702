import pytest

from foundation.errors import UserError
from launch.saved_config import saved_config


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is not a run: it has no .hydra/config.yaml"):
        saved_config(tmp_path)
