"""A detector's training iteration, from files on disk to the optimiser's step, against torchvision's reference loop.

    python -m benchmarks.detection_loop --batch 2 16 --override trainer=gpu                     # 800 pixels
    python -m benchmarks.detection_loop --side 160 --workers 1 --iterations 2 --rounds 3 --override trainer=cpu

- ``platform``: the experiment through the Trainer with its DataModule, loader and callbacks (``training_step``).
- ``reference``: what torchvision's ``references/detection`` does, with its defaults: a dataset that decodes by PIL,
  flips half of the images and makes float tensors of them one by one, its DataLoader's workers and collate function,
  its own model with the same layers and weights in float32, SGD as torch has it, and all losses read in every
  iteration, which that loop logs. ``--amp`` gives it half precision with a scaler, as its flag of that name does.

Both see the same batches in the same order: those of ``group_by_aspect``, in the place of its GroupedBatchSampler. They
take turns in one process. Photographs are made (blurred noise of ten sizes) unless ``--folder`` names COCO, or a part
of it in its layout. A rate that rises from nearly nothing keeps both from diverging, with weights that are random.
"""

import argparse
import io
import json
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional

from benchmarks.detection import on_photographs, usual_detector, write_photographs
from benchmarks.loops import Loop, untrained_copy
from benchmarks.training_step import InTurns, precisions, prepared
from benchmarks.turns import Turns, table
from datamodules.detection import DetectionDataModule
from foundation.errors import UserError, told_as_sentences
from launch.runs import Run

REFERENCE = "reference"


class AsTheReference(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Photographs of COCO's layout by their numbers: pixels [3, H, W] in [0, 1] and a target, flipped at random."""

    def __init__(self, folder: Path, image_ids: list[int]) -> None:
        listed = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
        self.labels = {it["id"]: label for label, it in enumerate(listed["categories"], start=1)}
        self.paths = {it["id"]: folder / "train2017" / it["file_name"] for it in listed["images"]}
        self.objects: dict[int, list[Any]] = {it: [] for it in image_ids}
        for it in listed["annotations"]:
            if it["image_id"] in self.objects and not it.get("iscrowd"):
                self.objects[it["image_id"]].append(it)
        self.image_ids = image_ids

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, position: int) -> tuple[Tensor, dict[str, Tensor]]:
        number = self.image_ids[position]
        image = Image.open(self.paths[number]).convert("RGB")
        objects = self.objects[number]
        boxes = torch.as_tensor([it["bbox"] for it in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(min=0, max=image.width)
        boxes[:, 1::2].clamp_(min=0, max=image.height)
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        labels = torch.tensor([self.labels[it["category_id"]] for it in objects], dtype=torch.int64)
        if torch.rand(1) < 0.5:
            boxes[:, [0, 2]] = image.width - boxes[:, [2, 0]]
            image = functional.hflip(image)  # type: ignore
        pixels = functional.convert_image_dtype(functional.pil_to_tensor(image), torch.float)  # type: ignore
        return pixels, {"boxes": boxes[kept], "labels": labels[kept], "image_id": torch.tensor(number)}


def together(examples: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*examples, strict=True))


def batches_of_reference(datamodule: DetectionDataModule, folder: Path, workers: int) -> Iterator[tuple[Any, ...]]:
    """Epoch after epoch, of the platform's own batches."""
    size, seed = datamodule.batch_size, datamodule.seed
    assert size is not None
    batches = datamodule._batches("train", size, seed)
    images = AsTheReference(folder, datamodule.tables["train"].image_ids.tolist())
    for epoch in count():
        batches.set_epoch(epoch)
        order: Any = [it.tolist() for it in batches]
        yield from DataLoader(images, batch_sampler=order, num_workers=workers, collate_fn=together)


def reference_loop(run: Run, folder: Path, workers: int, amp: bool = False) -> Loop:
    """Its losses, each a number on the host as they are there, are the sums of every iteration."""
    datamodule: Any = run.datamodule
    datamodule.setup("fit")
    device = run.trainer.strategy.root_device
    module = untrained_copy(run, device)
    module.setup("fit")
    model, following = usual_detector(module).to(device), batches_of_reference(datamodule, folder, workers)
    trained = [it for it in model.parameters() if it.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.00125 * datamodule.batch_size, momentum=0.9, weight_decay=1e-4)
    schedule = LinearLR(optimizer, start_factor=1e-3, total_iters=1000)
    scaler = torch.amp.GradScaler(device.type) if amp else None

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            images, targets = next(following)
            images = [it.to(device) for it in images]
            targets = [{key: it.to(device) for key, it in target.items()} for target in targets]
            with torch.autocast(device.type, torch.float16, enabled=amp):
                parts = model(images, targets)
                loss: Any = sum(parts.values())
            if not math.isfinite(loss.item()):
                raise UserError(f"The reference diverges: its losses are {parts}.")
            optimizer.zero_grad()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            schedule.step()
            told = {name: it.item() for name, it in parts.items()}
            losses.append(torch.tensor(sum(told.values())))
        return losses

    return loop


def measure(
    experiment: str, overrides: list[str], folder: Path, photographs: Path, batch: int, side: int, workers: int,
    iterations: int, rounds: int, amp: bool = False,
) -> Turns:  # fmt: skip
    data = on_photographs(experiment, photographs, folder, batch, side, workers)
    run = prepared(experiment, overrides, str(folder / "run"), data=data)
    title = f"{experiment}, {run.trainer.precision}, {side} pixels, {batch} images"
    turns = Turns(title, run.trainer.strategy.root_device, iterations, batch)
    print(title, file=sys.stderr)
    loops = {REFERENCE: reference_loop(run, photographs, workers, amp)}
    run.trainer.callbacks.append(InTurns(turns, loops, rounds))  # pyright: ignore[reportAttributeAccessIssue]
    with redirect_stdout(io.StringIO()):  # the progress lines
        run.trainer.fit(run.module, datamodule=run.datamodule)
    return turns


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "experiment", nargs="?", default="faster_rcnn_coco", help="one on COCO that torchvision has, too"
    )
    parser.add_argument("--batch", type=int, nargs="+", default=[2], help="images")
    parser.add_argument("--side", type=int, default=800, help="pixels of the short side")
    parser.add_argument("--workers", type=int, default=4, help="of either loader; the reference's default")
    parser.add_argument("--iterations", type=int, default=20, help="in a turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each that count")
    parser.add_argument("--folder", type=Path, help="COCO, or a part of it in its layout")
    parser.add_argument("--photographs", type=int, default=256, help="that are made unless there is a folder")
    parser.add_argument("--amp", action="store_true", help="the reference in half precision")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py, such as trainer=cpu")
    given = parser.parse_args(arguments)
    measured = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photographs = given.folder or write_photographs(folder / "coco", given.photographs, given.side)
        for batch in given.batch:
            for precision in precisions(given.experiment, given.override):
                overrides = [*given.override, f"trainer.precision={precision}"]
                measured.append(
                    measure(given.experiment, overrides, folder, photographs, batch, given.side, given.workers,
                            given.iterations, given.rounds, given.amp)
                )  # fmt: skip
                print(table(measured[-1].rows(REFERENCE)), flush=True)
    return measured


if __name__ == "__main__":
    with told_as_sentences():
        main()
