"""The config that a run was started with, as its folder holds it."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from foundation.errors import UserError
from foundation.former_names import config_of_today
from foundation.places import refuse_ways_out_of
from foundation.security import check_foreign, places_alone
from foundation.yaml_files import read_yaml
from launch.config_check import TrainConfig, check_config, plain


def run_config(folder: str | Path, run_dir: str | Path | None = None) -> DictConfig:
    """The config a run was started with, as saved before anything was resolved. Check what is made of it.

    Args:
        run_dir: where the callbacks of a new measurement write; the run's folder unless given.
    """
    path = Path(folder) / ".hydra" / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} is not a run: it has no .hydra/config.yaml. Give the folder that train.py printed.")
    refuse_ways_out_of(Path(folder))
    content = read_yaml(path)
    if not isinstance(content, dict) or not isinstance(content.get("paths"), dict):
        raise UserError(f"{path} is no config of a training run: it has no paths.")
    config = DictConfig(config_of_today(content))
    config.paths.run_dir = str(run_dir or folder)
    return config


def name_in(folder: str | Path) -> Any:
    """The experiment's name; what the rest of the config names is not looked at."""
    with places_alone():
        return plain(run_config(folder)).get("name")


def saved_config(folder: str | Path, run_dir: str | Path | None = None) -> dict[str, Any]:
    """The same as plain values, checked; places such as DATA_DIR are this machine's."""
    with places_alone():
        config = plain(run_config(folder, run_dir))
    check_foreign(config, str(folder))
    check_config(config, TrainConfig)
    return config
