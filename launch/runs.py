"""A run from its config: the parts of a new one, and a finished one loaded from its folder."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.errors import InstantiationException
from hydra.utils import get_object
from lightning import Callback, Fabric, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from torch import nn

from callbacks.checkpoint import Checkpoint
from callbacks.instruments.chosen_precision import ChosenPrecision
from callbacks.instruments.denormals import Denormals
from callbacks.instruments.metrics_so_far import MetricsSoFar
from callbacks.instruments.run_clock import RunClock
from callbacks.instruments.settings_of_now import SettingsOfNow
from callbacks.instruments.shared_statistics import SharedStatistics
from callbacks.instruments.signals import AnsweredAtOnce
from callbacks.instruments.watched_figures import WatchedFigures
from callbacks.run_record import RunRecord
from datamodules.proposals import Proposals
from datamodules.splits import SplitDataModule
from foundation.checkpoints import (
    WholeCheckpoints,
    category_ids_in,
    check_finite,
    check_fits,
    checkpoint_path,
    class_names_in,
    read_checkpoint,
)
from foundation.denormals import flush_denormals
from foundation.errors import UNFIT_VALUES, UserError, in_one_line
from foundation.former_names import name_of_today
from foundation.length import NO_LIMIT, Length
from foundation.protocols import Classifies, DetectsObjects, TagsTokens, said, serves
from foundation.randomness import seeded_for_a_while
from launch.capture import CapturingStrategy, strategy_of
from launch.composition import OF_INSTANTIATE
from launch.fit_loop import go_on_exactly
from launch.initial_weights import InitialWeights
from launch.inputs import file_of_proposals, inputs_of, no_such_part, origin_of_metric, trained_run
from launch.length_check import LastCheck, monitors_of_validation
from launch.machine import hush, keep_freed_memory, spare_driver_queries
from launch.metrics_file import MetricsFile, RowsSoFar
from launch.parts_check import check_run
from launch.precision import resolve_precision
from launch.saved_config import saved_config

CACHE = "data/cache"  # of runs from before a config named it
LOADING: ContextVar[tuple[Path, ...]] = ContextVar("LOADING", default=())  # inputs that are being loaded, outer first


@dataclass
class Run:
    """The built parts of a job."""

    config: dict[str, Any]
    module: LightningModule
    datamodule: LightningDataModule
    callbacks: list[Callback]
    trainer: Trainer
    captured: str
    """Whether iterations are taken whole, see ``launch/capture.py``."""
    inputs: dict[str, Any]
    """Origins of the finished runs that the config asks for, by the keys of their nodes."""


def build(config: dict[str, Any], trains: bool = True, resumes: bool = False) -> Run:
    """Build every part of a checked, plain config and see that they fit. Seeds the global generators.

    Args:
        trains: else it is measured.
        resumes: training goes on from a checkpoint, which brings the weights.
    """
    flush_denormals(config.get("flush_denormals", False))  # before any pool of threads starts
    hush()
    spare_driver_queries()
    if not torch.cuda.is_available():
        keep_freed_memory()
    inputs = inputs_of(config)
    seed_everything(config["seed"], workers=True, verbose=False)
    datamodule = instantiate(config["datamodule"])
    if leaves_classes_open(config["lightning_module"]):
        count = said(datamodule, "num_classes") or None
        config = config | {"lightning_module": with_classes(config["lightning_module"], count)}
    module = instantiate(config["lightning_module"])
    callbacks = [instantiate(node) for node in config["callbacks"].values()]
    loggers = [instantiate(node) for node in (config["logger"] or {}).values()]
    begins: list[Callback] = []
    if trains:
        begins += [LastCheck(monitors_of_validation(config, callbacks))]
        begins += [RowsSoFar([it for it in loggers if isinstance(it, MetricsFile)])]
        begins += [] if resumes else [InitialWeights(config.get("init_from"), module, inputs)]
    asked = config["trainer"]["precision"]
    chosen = resolve_precision(asked, config["trainer"]["accelerator"], Path(config["paths"].get("cache_dir", CACHE)))
    begins += [Denormals(config.get("flush_denormals", False)), ChosenPrecision(asked, chosen.milliseconds)]
    node = config["trainer"] | {"precision": chosen.precision}
    asked = node.pop("capture", False)  # runs from before there was the key have none
    strategy, captured = strategy_of(asked if trains else False, node, module, datamodule, callbacks)
    for it in callbacks:
        if isinstance(it, RunRecord):
            it.inputs, it.captured = inputs, captured
    trainer = build_trainer(node, module, [*begins, *callbacks], loggers, strategy)
    check_run(config, module, datamodule, callbacks, trainer, trains)
    return Run(config, module, datamodule, callbacks, trainer, captured, inputs)


def build_trainer(
    node: dict[str, Any],
    module: Any,
    callbacks: list[Callback],
    loggers: list[Logger],
    capturing: CapturingStrategy | None = None,
) -> Trainer:
    strategy = node["strategy"]
    if isinstance(strategy, dict) and strategy.get("find_unused_parameters", False) is None:
        needed = said(module, "needs_find_unused_parameters")
        node = node | {"strategy": strategy | {"find_unused_parameters": needed}}
    length = Length.of(node)
    # Lightning has its own clock, and takes an unsaid number of epochs for 1,000.
    iterations, epochs = (NO_LIMIT if it is None else it for it in (length.iterations, length.epochs))
    node |= {"max_steps": iterations, "max_epochs": epochs, "max_time": None}
    # Settings and clock first, since others go by them; statistics last, after averaged weights have taken their place.
    # The checkpoint a run goes on from comes behind the best one, which it holds the value of.
    callbacks = sorted(callbacks, key=lambda it: isinstance(it, Checkpoint))
    own = [AnsweredAtOnce(), SettingsOfNow(), RunClock(length), WatchedFigures(), MetricsSoFar()]
    callbacks = [*own, *callbacks, SharedStatistics()]
    plugins: list[Any] = [WholeCheckpoints()]
    if SLURMEnvironment.detect():  # callbacks/instruments/signals.py puts a job back, with the run's own checkpoint
        plugins.append(SLURMEnvironment(auto_requeue=False))
    chosen = {} if capturing is None else {"strategy": capturing}
    trainer = instantiate(node, callbacks=callbacks, logger=loggers or False, plugins=plugins, **chosen)
    go_on_exactly(trainer)
    return trainer


def instantiate(node: dict[str, Any], **arguments: Any) -> Any:
    """hydra.utils.instantiate with plain values; a user's mistake keeps its sentence, and one that a constructor trips
    over gets one, since values are what it was given."""
    try:
        return hydra.utils.instantiate(OmegaConf.create(node), _convert_="all", **OF_INSTANTIATE, **arguments)
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, UserError):
            raise cause from None
        if (
            not isinstance(cause, (*UNFIT_VALUES, MisconfigurationException))
            or os.environ.get("HYDRA_FULL_ERROR") == "1"
        ):
            raise
        reason = str(cause) if isinstance(cause, MisconfigurationException) else in_one_line(cause)
        raise UserError(f"{place_of(error, node)}: {reason}") from None


def place_of(error: InstantiationException, node: dict[str, Any]) -> str:
    """The class that could not be built, and the key below ``node`` where it is a part of something else."""
    key = re.search(r"full_key: (\S+)", str(error))
    below: Any = OmegaConf.select(OmegaConf.create(node), key[1]) if key else None
    target = below.get("_target_") if isinstance(below, DictConfig) else None
    return f"{target} ({key[1]} of {node['_target_']})" if key and target else node["_target_"]


def leaves_classes_open(node: Any) -> bool:
    """Whether a module's node has a ``num_classes`` of null, which is for the data to say."""
    if not isinstance(node, Mapping):
        return False
    return any(below is None if key == "num_classes" else leaves_classes_open(below) for key, below in node.items())


def with_classes(node: Any, count: int | None) -> Any:
    """The node with each such ``num_classes`` filled."""
    if not isinstance(node, Mapping):
        return node
    return {
        key: count if key == "num_classes" and below is None else with_classes(below, count)
        for key, below in node.items()
    }


def for_training_only(callback: dict[str, Any]) -> bool:
    """Whether a callback's node is of one that makes a run and measures nothing, which its class says."""
    return said(get_object(name_of_today(callback["_target_"])), "for_training_only")


def load_checkpoint(
    module: LightningModule, folder: str | Path, checkpoint: str = "last", datamodule: LightningDataModule | None = None
) -> Path:
    """Load what a run left into parts that were built from its config; returns the checkpoint's path."""
    path = checkpoint_path(folder, checkpoint)
    content = read_checkpoint(path)
    check_fits(module, content["state_dict"], path)
    check_finite(module, content["state_dict"], path)
    module.load_state_dict(content["state_dict"])
    if any(serves(module, it) for it in (Classifies, DetectsObjects, TagsTokens)):
        module.class_names = class_names_in(content, module.num_classes, path)  # pyright: ignore
    if serves(module, DetectsObjects):
        module.category_ids = category_ids_in(content, module.num_classes, path)  # pyright: ignore
    if datamodule is not None:
        restore_data(datamodule, content)
    return path


def restore_data(datamodule: LightningDataModule, content: Mapping[str, Any]) -> None:
    """Give a DataModule the state that a checkpoint holds of it; its tables are as that says once it is set up."""
    state = content.get(type(datamodule).__qualname__)  # where Lightning keeps it
    if state is None:
        return
    if isinstance(datamodule, SplitDataModule):
        datamodule.restore(state)
    else:
        datamodule.load_state_dict(state)


def built_as_trained(config: Mapping[str, Any], folder: str | Path, checkpoint: str) -> tuple[LightningModule, Path]:
    """The module of a run's config with its trained weights, in evaluation mode, and its checkpoint's path.

    The global random state stays as it is, so that a run that asks goes the same way without its input.
    """
    node = config["lightning_module"]
    if leaves_classes_open(node):
        names = read_checkpoint(checkpoint_path(folder, checkpoint)).get("class_names")
        node = with_classes(node, len(names) if isinstance(names, list) else None)
    with seeded_for_a_while(config["seed"]):
        module = instantiate(node)
    return module.eval(), load_checkpoint(module, folder, checkpoint)


def built_as_left(config: Mapping[str, Any], path: Path) -> LightningDataModule:
    """The DataModule of a run's config with the state that a checkpoint holds of it, not set up."""
    with seeded_for_a_while(config["seed"]):
        datamodule = instantiate(config["datamodule"])
    restore_data(datamodule, read_checkpoint(path))
    return datamodule


def load_run(
    folder: str | Path, checkpoint: str = "last"
) -> tuple[LightningModule, dict[str, Any], LightningDataModule]:
    """A finished run: its module, in evaluation mode; its config; its DataModule, not set up; both as it left them."""
    config = saved_config(folder)
    module, path = built_as_trained(config, folder, checkpoint)
    return module, config, built_as_left(config, path)


# --- a finished run as an input of another: nodes of a config, see launch/inputs.py ------------------------------


def load_module(run: str | None, part: str | None = None, checkpoint: str = "last") -> nn.Module:
    """The module of a finished run, or a part of it, with its trained weights.

    In evaluation mode on the CPU; the global random state stays as it is. Whether it learns on is for the asker to
    say: parameters are as their module has them, so one that is to stay needs ``requires_grad_(False)``.

    Args:
        run: the run's folder.
        part: of its LightningModule, by the dotted name of the attribute such as ``generator`` or ``network.trunk``;
            None: the LightningModule itself.
        checkpoint: a file of its ``checkpoints/`` without .ckpt.
    """
    folder = trained_run(run)
    with as_input(folder):
        module, _ = built_as_trained(saved_config(folder), folder, checkpoint)
    parts = dict(module.named_modules(remove_duplicate=False))
    if part is not None and part not in parts:
        raise UserError(no_such_part(part, parts, f"{type(module).__name__} of the run {folder}"))
    return module if part is None else parts[part]


def load_modules(runs: Sequence[str], checkpoint: str = "last") -> dict[str, nn.Module]:
    """The modules of several finished runs, by their folders. checkpoint: of ``load_module``."""
    return {str(run): load_module(run, checkpoint=checkpoint) for run in runs}


def load_datamodule(run: str | None, checkpoint: str = "last") -> LightningDataModule:
    """The DataModule of a finished run with the state that it had there, not set up. Arguments: of ``load_module``."""
    folder = trained_run(run)
    with as_input(folder):
        return built_as_left(saved_config(folder), checkpoint_path(folder, checkpoint))


def load_metric(run: str | None, metric: str) -> float:
    """A final metric of a finished run, as its record has it, such as ``test/error``."""
    return origin_of_metric(run, metric)["value"]


def load_proposals(run: str | None = None, file: str | None = None, most: Sequence[int] = (2000, 1000)) -> Proposals:
    """What a finished run has proposed in its images, for the ``proposals`` of a DataModule of the same data.

    Args:
        run: the run's folder, in which ``callbacks.saved_proposals`` has left a file.
        file: or the path of such a file (``datamodules/proposals.py`` says its format).
        most: of an image, in training and after it.
    """
    return Proposals(file_of_proposals(run, file), most)


@contextmanager
def as_input(folder: Path) -> Iterator[None]:
    """A run's own config may name inputs, which are loaded as it is; one that would be its own input is refused."""
    place = folder.resolve()
    if place in LOADING.get():
        raise UserError(f"the run {folder} is an input of itself: its config names its own folder.")
    token = LOADING.set((*LOADING.get(), place))
    try:
        yield
    finally:
        LOADING.reset(token)


@dataclass
class Finished:
    """A finished run to be used."""

    config: dict[str, Any]
    module: LightningModule
    """In evaluation mode, on the device."""
    checkpoint: Path

    @cached_property
    def datamodule(self) -> Any:
        """Not set up: its data need not be here."""
        return built_as_left(self.config, self.checkpoint)


def load_on_device(folder: str | Path, checkpoint: str, accelerator: str) -> Finished:
    hush()
    config = saved_config(folder)
    flush_denormals(config.get("flush_denormals", False))
    module, path = built_as_trained(config, folder, checkpoint)
    return Finished(config, module.to(device_of(accelerator)), path)


def device_of(accelerator: str) -> torch.device:
    """The first of its kind; ``auto``: a GPU where there is one."""
    try:
        return Fabric(accelerator=accelerator, devices=1).device
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(f"accelerator={accelerator}: {str(error).splitlines()[0]}") from None
