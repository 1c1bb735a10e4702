"""Detectors for the benchmark of a training step: data and weights that need no file, and torchvision's own model.

Two scenes of 320 pixels, as of ``datamodule=shapes``, stand in for two photographs, random weights for a
classifier's: what is computed and how long it takes is the same.
"""

import json
from collections.abc import Callable
from copy import deepcopy
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.optim.lr_scheduler import LinearLR
from torchvision.models import detection, get_model
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone

from datamodules.detection import DetectionDataModule, unpack
from launch.command_line import compose_job
from launch.runs import Run
from lightning_modules.faster_rcnn import FasterRCNN

SCENES = ["datamodule=shapes", "datamodule.size=320", "datamodule.digit_sizes=[32,200]", "datamodule.batch_size=2",
          "datamodule.train_size=64", "lightning_module.network.heads.num_classes=10",
          "lightning_module.network.min_size=320", "lightning_module.network.max_size=640"]  # fmt: skip
BATCHES = 8


def stand_ins(config: dict[str, Any], folder: str) -> list[str]:
    """Overrides for an experiment on COCO; none for others."""
    if not config["datamodule"]["_target_"].startswith("datamodules.coco."):
        return []
    if config["init_from"] is None:
        return SCENES
    path = Path(folder) / "classifier.pt"
    torch.save(random_classifier(config["lightning_module"]["network"]["backbone"].get("name", "vgg16")), path)
    return [*SCENES, f"init_from={path}"]


def sides_of(side: int, number: int = 10) -> list[int]:
    """Long sides of photographs whose short one that is, from a square's to 5 by 3."""
    return [side + round(side * 2 / 3 * it / (number - 1)) for it in range(number)]


def drawn_boxes(height: int, width: int, generator: torch.Generator, count: int = 7) -> Tensor:
    """Some objects of an image, [count, 4] left, top, right, bottom, from a tenth to a half of its sides."""
    size = torch.tensor([width, height])
    sides = (torch.rand(count, 2, generator=generator) * 0.4 + 0.1) * size
    corners = torch.rand(count, 2, generator=generator) * (size - sides)
    return torch.cat([corners, corners + sides], dim=1)


def write_photographs(folder: Path, count: int, side: int) -> Path:
    """As many JPEG files in COCO's layout, blurred noise with boxes, every other one upright; the folder."""
    generator, categories = torch.Generator().manual_seed(0), [{"id": it, "name": str(it)} for it in range(1, 81)]
    (folder / "annotations").mkdir(parents=True)
    for split, number in (("train2017", count), ("val2017", 1)):
        (folder / split).mkdir()
        images: list[Any] = []
        objects: list[Any] = []
        for image in range(1, number + 1):
            height, width = (side, sides_of(side)[image // 2 % 10])[:: 1 if image % 2 else -1]
            noise = torch.rand(1, 3, 1 + height // 8, 1 + width // 8, generator=generator) * 255
            pixels = interpolate(noise, (height, width), mode="bilinear")[0].permute(1, 2, 0).byte().numpy()
            Image.fromarray(pixels).save(folder / split / f"{image}.jpg", quality=90)
            images.append({"id": image, "file_name": f"{image}.jpg", "height": height, "width": width})
            for left, top, right, bottom in drawn_boxes(height, width, generator).tolist():
                box = [left, top, right - left, bottom - top]
                objects.append({"id": len(objects) + 1, "image_id": image, "category_id": 1 + len(objects) % 80,
                                "bbox": box, "area": box[2] * box[3], "iscrowd": 0})  # fmt: skip
        listed = {"images": images, "annotations": objects, "categories": categories}
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(listed))
    return folder


def on_photographs(experiment: str, photographs: Path, folder: Path, batch: int, side: int, workers: int) -> list[str]:
    """Overrides for an experiment on COCO: files of COCO's layout, and random weights where it begins with some."""
    path = folder / "classifier.pt"
    config = compose_job("train", [f"experiment={experiment}"])
    name = config["lightning_module"]["network"]["backbone"].get("name", "vgg16")
    begins = config["init_from"] is not None
    if begins and not path.exists():
        torch.save(random_classifier(name), path)
    return [
        f"datamodule.folder={photographs.absolute()}", f"datamodule.cache_dir={folder / 'cache'}",
        f"datamodule.batch_size={batch}", f"datamodule.num_workers={workers}",
        f"lightning_module.network.min_size={side}", f"lightning_module.network.max_size={side * 5 // 3}",
        *([f"init_from={path}"] if begins else []),
    ]  # fmt: skip


def random_classifier(name: str) -> dict[str, Any]:
    """Random weights whose batch norms have seen noise, so that frozen ones keep activations in bounds."""
    model = get_model(name, weights=None).train()
    norms = [it for it in model.modules() if isinstance(it, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # the mean of all that was seen
    with torch.no_grad():
        model(torch.randn(4, 3, 96, 96))
    for norm in norms:
        assert norm.running_var is not None
        norm.running_var.clamp_(min=0.01)  # a channel that noise leaves alone would blow up what does not
    return model.state_dict()


def batches_in_memory(run: Run) -> list[dict[str, Any]]:
    datamodule = run.datamodule
    assert isinstance(datamodule, DetectionDataModule)
    datamodule.setup("fit")
    table, size = datamodule.tables["train"], datamodule.batch_size
    assert size is not None
    device, none = run.trainer.strategy.root_device, torch.zeros(size, dtype=torch.bool)
    parts = torch.arange(len(table)).split(size)[:BATCHES]
    batches = [unpack(table[it, none], torch.float32) for it in parts if len(it) == size]  # pyright: ignore
    return [run.module.transfer_batch_to_device(it, device, 0) for it in batches]


def usual_detector(module: FasterRCNN) -> nn.Module:
    """torchvision's detector with the same layers, norms and weights; refuses one that it does not have."""
    network = module.network
    assert network.published is not None, "torchvision has no such detector"
    backbone: Any = network.backbone
    resize: Any = network.transform
    model = getattr(detection, network.published)(
        weights=None, weights_backbone=None, num_classes=network.num_classes + 1,
        min_size=resize.min_size[0], max_size=resize.max_size,
    )  # fmt: skip
    if backbone.norm == "frozen":  # which torchvision's builder gives to pretrained backbones alone
        options: Any = {"backbone_name": backbone.name, "weights": None, "trainable_layers": 3}
        small = backbone.name == "mobilenet_v3_large"
        model.backbone = mobilenet_backbone(fpn=True, **options) if small else resnet_fpn_backbone(**options)
    model.load_state_dict(network.state_dict())
    return model.train()


def usual_detector_loop(module: FasterRCNN, batches: list[dict[str, Any]]) -> Callable[[int], list[Tensor]]:
    """In float32, torch's SGD as it is by default, images one after the other as torchvision takes them.

    The rate rises over the first 1,000 iterations as in torchvision's own recipe; without, the losses diverge.
    """
    model, following = usual_detector(module).to(module.device), cycle(batches)
    optimizer = torch.optim.SGD([it for it in model.parameters() if it.requires_grad], 0.0025, 0.9, weight_decay=1e-4)
    schedule = LinearLR(optimizer, start_factor=1e-3, total_iters=1000)

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            batch = next(following)
            loss: Any = sum(model(batch["image"], deepcopy(batch["target"])).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        return losses

    return loop
