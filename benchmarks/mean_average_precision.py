"""COCO's mean average precision on two ranks: the platform's against torchmetrics' and against one process.

    python -m benchmarks.mean_average_precision
    python -m benchmarks.mean_average_precision --images 500 --detections 20 --rounds 3

Two processes (gloo) hold half of the images each. Two things are measured, in turns:

- ``mAP, exchange``: until the first rank has the detections of both (``platform``), or both ranks the states of both
  (``torchmetrics``);
- ``mAP, whole``: until both ranks have the figures. ``torchmetrics`` evaluates with its default backend, and
  ``faster_coco_eval`` is that package alone in one process, from its result rows in memory.

A turn is one measurement; the first of each, which warms up, is of 20 images.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from faster_coco_eval import COCO, COCOeval_faster
from torch.multiprocessing.spawn import start_processes
from torchmetrics.detection import MeanAveragePrecision

from benchmarks.turns import Spent, Turns, table
from callbacks.instruments.coco_evaluation import gather_on_first, merge, results
from callbacks.mean_average_precision import MeanAveragePrecisionMetric
from foundation.errors import UserError, told_as_sentences

PLATFORM, TORCHMETRICS, ALONE = "platform", "torchmetrics", "faster_coco_eval"
EXCHANGE, WHOLE = "mAP, exchange", "mAP, whole"
WORLD_SIZE, CLASSES, OBJECTS, SIDE = 2, 80, 7, 640
WARM_UP = 20


def boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    """Random ones, [count, 4] left, top, right, bottom in pixels."""
    corners = torch.rand(count, 2, generator=generator) * SIDE * 0.7
    return torch.cat([corners, corners + 8 + torch.rand(count, 2, generator=generator) * SIDE * 0.3], dim=1)


def image(number: int, detections: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Its objects and what is detected: most detections near an object, the others anywhere."""
    generator = torch.Generator().manual_seed(number)
    objects, labels = boxes(OBJECTS, generator), torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
    of = torch.randint(OBJECTS, (detections,), generator=generator)
    near = objects[of] + 5 * torch.randn(detections, 4, generator=generator)
    anywhere, guesses = boxes(detections, generator), torch.randint(1, CLASSES + 1, (detections,), generator=generator)
    hit = torch.rand(detections, generator=generator) < 0.6
    found = {
        "boxes": torch.where(hit[:, None], near, anywhere),
        "scores": torch.rand(detections, generator=generator),
        "labels": torch.where(hit, labels[of], guesses),
    }
    return {"boxes": objects, "labels": labels}, found


class Contest:
    """What the contestants have seen on this rank when they begin."""

    def __init__(self, images: int, detections: int, rank: int) -> None:
        made = [image(number, detections) for number in range(images)]
        self.truth = coco_truth([objects for objects, _ in made])
        self.platform = MeanAveragePrecisionMetric(self.truth)
        self.torchmetrics = MeanAveragePrecision()
        self.torchmetrics.warn_on_many_detections = False
        for number in range(rank, images, WORLD_SIZE):
            objects, found = made[number]
            self.platform.update(torch.tensor([number + 1]), [found])
            self.torchmetrics.update([found], [objects])
        whole = MeanAveragePrecisionMetric(self.truth)
        if rank == 0:
            whole.update(torch.arange(1, images + 1), [found for _, found in made])
        self.rows = results(whole.packed(), "boxes")

    def exchange(self) -> None:
        shares = gather_on_first(self.platform.packed())
        if shares is not None:
            merge(shares)

    def torchmetrics_exchange(self) -> None:
        self.torchmetrics.sync()
        self.torchmetrics.unsync()

    def alone(self) -> None:
        if dist.get_rank() == 0:
            truth = COCO(self.truth, use_deepcopy=True)
            COCOeval_faster(truth, truth.loadRes([dict(it) for it in self.rows]), "bbox").run()

    def contestants(self) -> dict[str, dict[str, Callable[[], Any]]]:
        return {
            EXCHANGE: {PLATFORM: self.exchange, TORCHMETRICS: self.torchmetrics_exchange},
            WHOLE: {PLATFORM: self.platform.compute, ALONE: self.alone, TORCHMETRICS: self.torchmetrics.compute},
        }


def coco_truth(made: list[dict[str, Any]]) -> dict[str, Any]:
    annotations = [
        {"image_id": number, "category_id": label, "bbox": [left, top, right - left, bottom - top], "iscrowd": 0,
         "area": (right - left) * (bottom - top)}
        for number, objects in enumerate(made, start=1)
        for (left, top, right, bottom), label in zip(objects["boxes"].tolist(), objects["labels"].tolist(), strict=True)
    ]  # fmt: skip
    return {
        "images": [{"id": number, "height": SIDE, "width": SIDE} for number in range(1, len(made) + 1)],
        "annotations": [it | {"id": number} for number, it in enumerate(annotations, start=1)],
        "categories": [{"id": label, "name": str(label)} for label in range(1, CLASSES + 1)],
    }


def take_turns(rank: int, folder: str, images: int, detections: int, rounds: int) -> None:
    """On one rank; the first one writes down the times."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD_SIZE)
    turns = {title: Turns(title, torch.device("cpu"), 1, images) for title in (EXCHANGE, WHOLE)}
    for size in [min(WARM_UP, images), *[images] * rounds]:
        for title, contestants in Contest(size, detections, rank).contestants().items():
            for name, turn in contestants.items():
                dist.barrier()
                turns[title].start()
                turn()
                dist.barrier()
                turns[title].stop(name)
    if rank == 0:
        spent = {title: {name: [(it.wall_s, it.cpu_s) for it in them] for name, them in of.turns.items()}
                 for title, of in turns.items()}  # fmt: skip
        (Path(folder) / "spent.json").write_text(json.dumps(spent))
    dist.destroy_process_group()


def measure(images: int = 2000, detections: int = 100, rounds: int = 1, start_method: str = "spawn") -> list[Turns]:
    """``images`` must be even: torchmetrics cannot gather from ranks with different numbers.

    ``fork`` starts the ranks at once, and fails where a GPU exists and this process has run a backward pass.
    """
    assert images % WORLD_SIZE == 0
    with tempfile.TemporaryDirectory() as folder:
        arguments = (folder, images, detections, rounds)
        start_processes(take_turns, arguments, WORLD_SIZE, start_method=start_method)
        spent = json.loads((Path(folder) / "spent.json").read_text())
    measured = []
    for title, of in spent.items():
        turns = Turns(title, torch.device("cpu"), 1, images)
        turns.turns = {name: [Spent(*it) for it in them] for name, them in of.items()}
        measured.append(turns)
    return measured


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000, help="an even number, over both ranks")
    parser.add_argument("--detections", type=int, default=100, help="in an image")
    parser.add_argument("--rounds", type=int, default=1, help="measurements of each that count")
    given = parser.parse_args(arguments)
    if given.images < WORLD_SIZE or given.images % WORLD_SIZE:
        raise UserError(f"--images is {given.images}: give an even number, 2 or more.")
    return measure(given.images, given.detections, given.rounds)


def report(measured: list[Turns]) -> str:
    return table([row for turns in measured for row in turns.rows(PLATFORM)])


if __name__ == "__main__":
    with told_as_sentences():
        print(report(main()))
