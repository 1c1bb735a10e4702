"""What classes, functions and keys that a config names were called before, so that run folders of before still load.

The one table of them: ``launch.saved_config`` reads a saved config through it, and ``foundation.security`` judges a
target by its name of today. A former name leads to nothing else, and is never imported.
"""

from collections.abc import Iterator, Mapping
from typing import Any

FORMER_NAMES = {
    "callbacks.inception.Inception2015": "callbacks.instruments.inception.Inception2015",
    "callbacks.inception.TorchvisionInception": "callbacks.instruments.inception.TorchvisionInception",
    "callbacks.judges.ClassifierRun": "launch.runs.load_module",
    "callbacks.instruments.judges.ClassifierRun": "launch.runs.load_module",
    "lightning.pytorch.callbacks.EarlyStopping": "callbacks.early_stopping.EarlyStopping",
    "lightning.pytorch.callbacks.ModelCheckpoint": "callbacks.best_checkpoint.BestCheckpoint",
    "launch.loggers.MetricsFile": "launch.metrics_file.MetricsFile",
    "launch.loggers.WandbRun": "launch.wandb_run.WandbRun",
    "launch.loggers.wandb_logger": "launch.wandb_run.WandbRun",
    "lightning_modules.faster_rcnn.WarmUpAndDrops": "lightning_modules.schedules.WarmUpAndDrops",
    "lightning_modules.improved_gan.ConstantThenLinear": "lightning_modules.schedules.ConstantThenLinear",
    "lightning_modules.resnet.Drops": "lightning_modules.schedules.Drops",
    "lightning_modules.resnet.Triangle": "lightning_modules.schedules.Triangle",
}

# Networks named what they begin with by a key ``weights``, which is the config's ``init_from`` now.
BEGAN = (
    "lightning_modules.networks.resnet.TorchvisionResNet",
    "lightning_modules.networks.detection_backbones.Pyramid",
    "lightning_modules.networks.detection_backbones.VGG16",
    "lightning_modules.networks.faster_rcnn.DetectionNetwork",
)
FORMER_OVERRIDES = ("lightning_module.network.weights", "lightning_module.network.backbone.weights")


def config_of_today(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved config, resolved or not and whatever it may hold, with the names and keys of today."""
    config = with_names_of_today(config)
    module = mapping(config.get("lightning_module"))
    initial = next(initial_weights_of(module), None)
    keep_epsilon(module)
    today = without_weights(config)
    return today | ({"init_from": initial} if initial and not config.get("init_from") else {})


def mapping(node: Any) -> dict[str, Any]:
    return node if isinstance(node, dict) else {}


def hint_of_former_key(target: Any, key: str) -> str | None:
    """Where it is said today; None where there was no such key."""
    if key != "weights" or target not in BEGAN:
        return None
    return "weights to begin with are named by init_from now, such as init_from=torchvision:resnet50/IMAGENET1K_V1."


def initial_weights_of(node: Any) -> Iterator[str]:
    """``init_from`` for each key ``weights`` of a module's config, the outermost first."""
    if not isinstance(node, dict):
        return
    weights = node.get("weights")
    if isinstance(weights, str) and node.get("_target_") in BEGAN:
        yield weights if "/" in weights or "." in weights else f"torchvision:{model_of(node)}/{weights}"
    for below in node.values():
        yield from initial_weights_of(below)


def model_of(node: Mapping[str, Any]) -> str:
    """What torchvision calls the model that a network's published weights are of."""
    heads = mapping(node.get("heads"))
    if not heads:
        return str(node.get("name", "vgg16"))
    if heads.get("masks"):
        return "maskrcnn_resnet50_fpn"
    if heads.get("head") == "convolutions":
        return "fasterrcnn_resnet50_fpn_v2"
    mobile = mapping(node.get("backbone")).get("name") == "mobilenet_v3_large"
    return "fasterrcnn_mobilenet_v3_large_320_fpn" if mobile else "fasterrcnn_resnet50_fpn"


def keep_epsilon(module: dict[str, Any]) -> None:
    """A detector that named COCO_V1 had frozen norms without an epsilon, as these weights were trained."""
    network = mapping(module.get("network"))
    backbone = mapping(network.get("backbone"))
    if network.get("weights") == "COCO_V1" and (backbone.get("name"), backbone.get("norm")) == ("resnet50", "frozen"):
        backbone["frozen_eps"] = 0.0


def without_weights(node: Any) -> Any:
    if isinstance(node, dict):
        left = {"weights"} if node.get("_target_") in BEGAN else set()
        return {key: without_weights(it) for key, it in node.items() if key not in left}
    return [without_weights(it) for it in node] if isinstance(node, list) else node


def name_of_today(target: Any) -> Any:
    return FORMER_NAMES.get(target, target) if isinstance(target, str) else target


def with_names_of_today(node: Any) -> Any:
    """A plain config, resolved or not, whose targets have their names of today."""
    if isinstance(node, Mapping):
        today = {key: with_names_of_today(value) for key, value in node.items()}
        return today | ({"_target_": name_of_today(node["_target_"])} if "_target_" in node else {})
    return [with_names_of_today(it) for it in node] if isinstance(node, list) else node
