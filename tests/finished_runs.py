"""A finished run's folder, trained in this process: starting Python with torch takes seconds."""

from pathlib import Path

from omegaconf import OmegaConf

from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import build


def finished_run(folder: Path, *overrides: str) -> Path:
    """The config as saved before anything is resolved, the last checkpoint, and what callbacks have left."""
    config = compose_job("train", ["trainer=cpu", "trainer.max_steps=2", "logger=none", *overrides], str(folder))
    check_config(config, TrainConfig)
    built = build(config)
    built.trainer.fit(built.module, datamodule=built.datamodule)
    (folder / ".hydra").mkdir()
    saved = OmegaConf.to_yaml(OmegaConf.create(config)).replace(str(folder), "${paths.run_dir}")
    (folder / ".hydra" / "config.yaml").write_text(saved)
    return folder
