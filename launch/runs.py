"""A run from its config: the parts of a new one, and a finished one loaded from its folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from lightning import Callback, Fabric, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from callbacks.instruments.shared_statistics import SharedStatistics
from foundation.checkpoints import (
    WholeCheckpoints,
    category_ids_in,
    check_fits,
    checkpoint_path,
    class_names_in,
    fingerprint,
    read_checkpoint,
    weights_in,
)
from foundation.errors import UserError
from foundation.former_names import with_names_of_today
from foundation.protocols import Classifies, DetectsObjects, serves
from foundation.security import check_foreign
from launch.config_check import OWN_PACKAGES, TrainConfig, check_config, plain
from launch.machine import hush, keep_freed_memory, resolve_precision, spare_driver_queries
from launch.parts_check import check_run

# Callbacks that make a run, not a measurement.
NOT_FOR_MEASURING = {"checkpoint", "best_checkpoint", "run_record", "throughput", "learning_rates", "nan_guard",
                     "early_stopping", "averaged_weights"}  # fmt: skip


@dataclass
class Run:
    """The built parts of a job."""

    config: dict[str, Any]
    module: LightningModule
    datamodule: LightningDataModule
    callbacks: list[Callback]
    trainer: Trainer


def build(config: dict[str, Any], trains: bool = True) -> Run:
    """Build every part of a checked, plain config and see that they fit. Seeds the global generators."""
    hush()
    spare_driver_queries()
    if not torch.cuda.is_available():
        keep_freed_memory()
    seed_everything(config["seed"], workers=True, verbose=False)
    module = instantiate(config["lightning_module"])
    datamodule = instantiate(config["datamodule"])
    callbacks = [instantiate(node) for node in config["callbacks"].values()]
    loggers = [instantiate(node) for node in (config["logger"] or {}).values()]
    trainer = build_trainer(config["trainer"], module, callbacks, loggers)
    check_run(config, module, datamodule, callbacks, trainer, trains)
    return Run(config, module, datamodule, callbacks, trainer)


def build_trainer(node: dict[str, Any], module: Any, callbacks: list[Callback], loggers: list[Logger]) -> Trainer:
    node = node | {"precision": resolve_precision(node["precision"], node["accelerator"])}
    strategy = node["strategy"]
    if isinstance(strategy, dict) and strategy.get("find_unused_parameters", False) is None:
        needed = getattr(module, "needs_find_unused_parameters", False)
        node["strategy"] = strategy | {"find_unused_parameters": needed}
    callbacks = [*callbacks, SharedStatistics()]  # last: after averaged weights have taken their place
    return instantiate(node, callbacks=callbacks, logger=loggers or False, plugins=[WholeCheckpoints()])


def instantiate(node: dict[str, Any], **arguments: Any) -> Any:
    """hydra.utils.instantiate with plain values; a user's mistake keeps its sentence."""
    try:
        return hydra.utils.instantiate(OmegaConf.create(node), _convert_="all", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        foreign = node["_target_"].partition(".")[0] not in OWN_PACKAGES
        if foreign and isinstance(error.__cause__, MisconfigurationException | ValueError | TypeError):
            raise UserError(f"{node['_target_']}: {error.__cause__}") from None  # such as trainer=gpu without a GPU
        raise


def run_config(folder: str | Path, run_dir: str | Path | None = None) -> DictConfig:
    """The config a run was started with, as saved before anything was resolved. Check what is made of it.

    Args:
        run_dir: where the callbacks of a new measurement write; the run's folder unless given.
    """
    path = Path(folder) / ".hydra" / "config.yaml"
    if not path.exists():
        raise UserError(f"{folder} is not a run: it has no .hydra/config.yaml. Give the folder that train.py printed.")
    try:
        config = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    if not isinstance(config, DictConfig) or not isinstance(config.get("paths"), DictConfig):
        raise UserError(f"{path} is no config of a training run: it has no paths.")
    config = DictConfig(with_names_of_today(OmegaConf.to_container(config, resolve=False)))
    config.paths.run_dir = str(run_dir or folder)
    return config


def saved_config(folder: str | Path, run_dir: str | Path | None = None) -> dict[str, Any]:
    """The same as plain values, checked; places such as DATA_DIR are this machine's."""
    config = plain(run_config(folder, run_dir))
    check_foreign(config, str(folder))
    check_config(config, TrainConfig)
    return config


def load_weights(module: LightningModule, folder: str | Path, checkpoint: str = "last") -> Path:
    """Load a run's weights into a module built from its config; returns the checkpoint's path."""
    path = checkpoint_path(folder, checkpoint)
    content = read_checkpoint(path)
    check_fits(module, content["state_dict"], path)
    module.load_state_dict(content["state_dict"])
    if serves(module, Classifies) or serves(module, DetectsObjects):
        module.class_names = class_names_in(content, module.num_classes, path)  # pyright: ignore
    if serves(module, DetectsObjects):
        module.category_ids = category_ids_in(content, module.num_classes, path)  # pyright: ignore
    return path


def load_run(
    folder: str | Path, checkpoint: str = "last"
) -> tuple[LightningModule, dict[str, Any], LightningDataModule]:
    """A finished run: its module with trained weights, in evaluation mode; its config; its DataModule, not set up."""
    config = saved_config(folder)
    module = instantiate(config["lightning_module"])
    load_weights(module, folder, checkpoint)
    return module.eval(), config, instantiate(config["datamodule"])


def load_module(folder: str | Path, checkpoint: str = "last") -> tuple[LightningModule, dict[str, Any]]:
    """A finished run that is an input of another: its module as of ``load_run``, and what a record says of it.

    The global random state stays as it is, so that the run that asks goes the same way without its input.
    """
    config = saved_config(folder)
    with torch.random.fork_rng():
        module = instantiate(config["lightning_module"])
    path = load_weights(module, folder, checkpoint)
    origin = {
        "run": str(folder),
        "experiment": config["name"],
        "checkpoint": path.name,
        "iteration": read_checkpoint(path)["global_step"],
        "weights": weights_in(path),
        "weights_sha256": fingerprint(module.state_dict()),
    }
    return module.eval(), origin


def load_on_device(
    folder: str | Path, checkpoint: str, accelerator: str
) -> tuple[LightningModule, dict[str, Any], Path]:
    """A finished run to be used: its module as of ``load_run``, on the device; its config; its checkpoint's path."""
    hush()
    config = saved_config(folder)
    module = instantiate(config["lightning_module"])
    path = load_weights(module, folder, checkpoint)
    try:
        device = Fabric(accelerator=accelerator, devices=1).device
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(f"accelerator={accelerator}: {str(error).splitlines()[0]}") from None
    return module.eval().to(device), config, path
