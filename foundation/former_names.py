"""What classes and functions that a config names were called before, so that run folders of before still load.

The one table of them: ``launch.runs`` reads a saved config through it, and ``foundation.security`` judges a target by
its name of today. A former name leads to nothing else, and is never imported.
"""

from collections.abc import Mapping
from typing import Any

FORMER_NAMES = {
    "callbacks.inception.Inception2015": "callbacks.instruments.inception.Inception2015",
    "callbacks.inception.TorchvisionInception": "callbacks.instruments.inception.TorchvisionInception",
    "callbacks.judges.ClassifierRun": "launch.runs.load_module",
    "callbacks.instruments.judges.ClassifierRun": "launch.runs.load_module",
    "lightning.pytorch.callbacks.EarlyStopping": "callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.ModelCheckpoint": "callbacks.best_checkpoint.BestCheckpoint",
    "launch.loggers.wandb_logger": "launch.loggers.WandbRun",
    "lightning_modules.faster_rcnn.WarmUpAndDrops": "lightning_modules.schedules.WarmUpAndDrops",
    "lightning_modules.improved_gan.ConstantThenLinear": "lightning_modules.schedules.ConstantThenLinear",
    "lightning_modules.resnet.Drops": "lightning_modules.schedules.Drops",
    "lightning_modules.resnet.Triangle": "lightning_modules.schedules.Triangle",
}


def name_of_today(target: Any) -> Any:
    return FORMER_NAMES.get(target, target) if isinstance(target, str) else target


def with_names_of_today(node: Any) -> Any:
    """A plain config, resolved or not, whose targets have their names of today."""
    if isinstance(node, Mapping):
        today = {key: with_names_of_today(value) for key, value in node.items()}
        return today | ({"_target_": name_of_today(node["_target_"])} if "_target_" in node else {})
    return [with_names_of_today(it) for it in node] if isinstance(node, list) else node
