"""What test_mean_average_precision.py measures, and, as a process of its own, measures on 1, 2 and 3 ranks.

The shares that the ranks get are made to be uneven: the third of three ranks has no image, and some images are on two.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import multiprocessing
from torch.utils.data import DataLoader

from callbacks.mean_average_precision import MeanAveragePrecision, MeanAveragePrecisionMetric
from callbacks.voc_average_precision import VocAveragePrecision, VocAveragePrecisionMetric
from datamodules.batches import GlobalBatches
from foundation.errors import UserError

CATEGORIES = {1: "person", 3: "car", 17: "cat", 90: "toothbrush"}
SIDE = 128


def scenes(images: int, seed: int = 0) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """A ground truth and detections by image: ids with gaps, crowds, areas below the boxes', ties, images without."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "info": {},
        "images": [{"id": 1000 - 7 * it, "height": SIDE, "width": SIDE} for it in range(images)],
        "categories": [{"id": number, "name": name} for number, name in CATEGORIES.items()],
        "annotations": [],
    }
    detections = {}
    for image in truth["images"]:
        boxes = random_boxes(rng, int(rng.integers(0, 8)))
        labels = rng.choice([1, 3, 17], len(boxes))  # none is a toothbrush
        for (left, top, right, bottom), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            truth["annotations"].append({
                "id": len(truth["annotations"]), "image_id": image["id"], "category_id": label,
                "bbox": [left, top, right - left, bottom - top],
                "area": (right - left) * (bottom - top) * rng.uniform(0.3, 1),
                "segmentation": [[left, top, right, top, right, bottom, left, (top + bottom) / 2]],
                "iscrowd": 0, "ignore": int(rng.random() < 0.1)} | ({"iscrowd": 1} if rng.random() < 0.1 else {}))  # fmt: skip
        near = boxes.repeat(2, axis=0) + rng.normal(0, 3, (2 * len(boxes), 4))
        found = np.concatenate([near, random_boxes(rng, int(rng.integers(0, 12)))])[int(rng.integers(0, 2)) :]
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        guesses = np.concatenate([labels.repeat(2), rng.choice(list(CATEGORIES), len(found))])[: len(found)]
        detections[image["id"]] = {
            "boxes": torch.from_numpy(found),
            "scores": torch.from_numpy(rng.random(len(found)).round(1)),
            "labels": torch.from_numpy(guesses.astype(np.int64)),
        }
    return truth, detections


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """[count, 4] within the image, of all three sizes."""
    corners, sides = rng.uniform(0, SIDE - 8, (count, 2)), rng.uniform(4, SIDE, (count, 2))
    return np.concatenate([corners, np.minimum(corners + sides, SIDE)], axis=1)


def filled(found: dict[str, Any]) -> dict[str, Any]:
    """The same detections with masks, [N, H, W] bool: the lower left triangles of the boxes."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    left, top, right, bottom = (it[:, None, None] for it in found["boxes"].unbind(1))
    down, across = (rows - top) / (bottom - top), (columns - left) / (right - left)
    return found | {"masks": (across >= 0) & (down <= 1) & (across <= down)}


class Scenes(LightningDataModule):
    """An image is a grey one with its number in the split for a brightness."""

    name = "scenes"

    def __init__(self, truth: dict[str, Any]) -> None:
        super().__init__()
        self.truth = truth

    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        return self.truth

    def __len__(self) -> int:
        return len(self.truth["images"])

    def __getitem__(self, positions: torch.Tensor) -> dict[str, Any]:
        ids = torch.tensor([self.truth["images"][it]["id"] for it in positions.tolist()], dtype=torch.int64)
        images = [torch.full((3, SIDE, SIDE), it / len(self)) for it in positions.tolist()]
        return {"index": positions, "image_id": ids, "image": images}

    def test_dataloader(self) -> Any:
        assert self.trainer is not None
        batches = GlobalBatches(
            len(self), 5, seed=None, rank=self.trainer.global_rank, world_size=self.trainer.world_size
        )
        return DataLoader(self, batch_size=None, sampler=batches)  # type: ignore

    val_dataloader = test_dataloader


class Parrot(LightningModule):
    """Says for each image what it was told."""

    num_classes, category_ids, class_names = len(CATEGORIES), list(CATEGORIES), list(CATEGORIES.values())

    def __init__(self, detections: dict[int, dict[str, Any]]) -> None:
        super().__init__()
        self.detections = detections

    def detect_objects(self, images: Any) -> list[dict[str, Any]]:
        raise AssertionError("the callbacks use what the step returned")

    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        found = [self.detections[it] for it in batch["image_id"].tolist()]
        return {"index": batch["index"], "image_id": batch["image_id"], "detections": found}

    validation_step = test_step


def trainer_with(*callbacks: Any, **arguments: Any) -> Trainer:
    return Trainer(accelerator="cpu", callbacks=list(callbacks), logger=False, enable_progress_bar=False,
                   enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False,
                   **arguments)  # fmt: skip


SHARES: dict[str, dict[int, list[list[int]]]] = {
    "even": {1: [[0, 1, 2, 3, 4, 5, 6]], 2: [[0, 2, 4, 6], [1, 3, 5]], 3: [[0, 3, 6], [1, 4], [2, 5]]},
    "one has none": {1: [[6, 5, 4, 3, 2, 1, 0]], 2: [[], [0, 1, 2, 3, 4, 5, 6]], 3: [[3, 4], [0, 1, 2, 5, 6], []]},
    "duplicates": {1: [[0, 1, 2, 3, 4, 5, 6, 0, 3]], 2: [[0, 2, 4, 6], [1, 3, 5, 0]],
                   3: [[0, 3, 6, 1], [1, 4, 0], [2, 5, 5, 0]]},
    "one is missing": {1: [[0, 1, 2, 3, 4, 5]], 2: [[0, 1, 2], [3, 4, 5]], 3: [[0, 1], [2, 3], [4, 5]]},
}  # fmt: skip


def measure_on_rank(rank: int, world_size: int, folder: Path) -> None:
    """Writes what the metric says of each of ``SHARES``, as text: figures that are not numbers equal one another."""
    meeting = f"file://{folder}/meet{world_size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    truth, detections = scenes(7)
    for kind in METRICS:
        found = {}
        for name, shares in SHARES.items():
            found[name] = measured(METRICS[kind](truth), truth, detections, shares[world_size][rank])
        (folder / f"{kind}{world_size}r{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


METRICS: dict[str, Any] = {
    "coco": lambda truth: MeanAveragePrecisionMetric(truth, masks=True),
    "voc": VocAveragePrecisionMetric,
}


def measured(metric: Any, truth: dict[str, Any], detections: dict[int, dict[str, Any]], share: list[int]) -> str:
    ids = [truth["images"][it]["id"] for it in share]
    metric.update(torch.tensor(ids, dtype=torch.int64), [filled(detections[it]) for it in ids])
    try:
        return str(metric.compute())
    except UserError as mistake:
        return f"refused: {mistake}"


def run_under_ddp(world_size: int, folder: Path) -> None:
    """Eleven images in batches of five: on two ranks the last one has one image, and the second rank none of it."""
    truth, detections = scenes(11)
    arguments = {"devices": world_size}
    if world_size > 1:
        arguments["strategy"] = DDPStrategy(process_group_backend="gloo", start_method="fork")
    run = str(folder / f"run{world_size}")
    trainer = trainer_with(MeanAveragePrecision(run), VocAveragePrecision(run), **arguments)
    trainer.test(Parrot(detections), Scenes(truth), verbose=False)
    found = str({key: float(value) for key, value in sorted(trainer.callback_metrics.items())})
    (folder / f"ddp{world_size}.txt").write_text(found)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for world_size in (1, 2, 3):
        multiprocessing.start_processes(measure_on_rank, (world_size, folder), world_size, start_method="fork")
    for world_size in (1, 2):
        run_under_ddp(world_size, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
