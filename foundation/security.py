"""What a config that comes from a run folder may name.

A config decides which Python objects are called with which arguments, so a run folder from somebody else could
run anything. Such a config is held to what configs are for; each target is judged by what it is, not by its name.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from hydra.utils import get_object
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import Strategy
from torchmetrics import Metric

from foundation.errors import UserError
from foundation.former_names import name_of_today

ROOTS = ("lightning_modules", "datamodules", "callbacks", "launch", "torch", "torchvision", "torchmetrics", "lightning")
KINDS = (
    torch.nn.Module,
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    LightningModule,
    LightningDataModule,
    Callback,
    Logger,
    Metric,
    Trainer,
    Strategy,
)
ATTACKS = ("lightning_modules.attacks.gradient", "lightning_modules.attacks.auto_pgd")  # plain values in, nothing else
# What a finished run gives to another. They read its config under the same rules, and weights alone of its checkpoint.
FUNCTIONS = ("launch.runs.load_module", "launch.runs.load_datamodule", "launch.runs.load_metric")


def check_targets(config: Mapping[str, Any], source: str) -> None:
    """Raise a UserError that names the first target of the config that may not be called."""
    for key, node in nodes_in(config, ""):
        if not is_allowed(node["_target_"]):
            raise UserError(
                f"{source}: {key}._target_ is {node['_target_']!r}, which a run's config may not name. Allowed are "
                "modules, optimisers, schedulers, DataModules, callbacks, loggers, metrics, trainers and strategies of "
                "this project, torch, torchvision, torchmetrics and lightning, and finished runs as inputs."
            )


PLACES = ("folder", "dirpath", "save_dir", "default_root_dir")


def check_foreign(config: Mapping[str, Any], source: str) -> None:
    """Targets, and places: what a saved config has written lies in the run folder or in that of its measurement."""
    check_targets(config, source)
    run_dir = Path(config["paths"]["run_dir"]).absolute()
    parts = {"trainer": config.get("trainer") or {}}
    for group in ("callbacks", "logger"):
        parts |= {f"{group}.{name}": node or {} for name, node in (config.get(group) or {}).items()}
    for name, node in parts.items():
        for key in PLACES:
            place = os.path.abspath(node.get(key) or run_dir)
            if not Path(place).is_relative_to(os.path.abspath(run_dir)):
                raise UserError(
                    f"{source}: {name}.{key} is {node[key]}, which lies outside the run's folder {run_dir}."
                )


def nodes_in(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings with a ``_target_``, at whatever depth, with their keys."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield path, value
        for key, below in value.items():
            yield from nodes_in(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from nodes_in(below, f"{path}[{position}]")


def is_allowed(target: Any) -> bool:
    """Whether a dotted name means something that a config is for. Nothing outside ROOTS is even imported."""
    if not isinstance(target, str) or target.partition(".")[0] not in ROOTS:
        return False
    target = name_of_today(target)
    if target in FUNCTIONS:
        return True
    try:
        found = get_object(target)
    except (ImportError, AttributeError, ValueError, TypeError):
        return False
    if isinstance(found, type):
        own = found.__module__.partition(".")[0] in ROOTS
        return (own and issubclass(found, KINDS)) or found.__module__ in ATTACKS
    return found in (torchvision.models.get_model_builder(name) for name in torchvision.models.list_models())
