"""Why does a detector's iteration take seconds on a GPU? The experiment that decides, in under three minutes.

    python -m benchmarks.detection_shapes --override trainer=gpu
    python -m benchmarks.detection_shapes --side 64 --iterations 2 --override trainer=cpu                # a rehearsal

Ten iterations of the experiment's own step, each timed alone, a line for each part as soon as it is known:

- A: on one batch. Where it is slow from the second iteration on too, it is the step itself.
- B: on ten batches of ten sizes, then on the same ones again. Where only the first time is slow, something is made anew
  for each size: cuDNN's plans, or kernels that are compiled.
- C: the ten filled up to one size, which is what ``network.size_divisible`` is for.
- D: as B in float32 without ``channels_last``, other plans and other kernels.
- E: the loader alone, over files.
- F: what the host does in an iteration on a size that was not seen before, by torch.profiler.

Images are noise, weights random; parts for which no time is left (``--seconds``) are said.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.nn.functional import pad
from torch.profiler import ProfilerActivity, profile

from benchmarks.detection import drawn_boxes, on_photographs, sides_of, write_photographs
from benchmarks.loops import one_loss_loop
from benchmarks.training_step import prepared
from foundation.errors import told_as_sentences
from launch.runs import Run

Batch = dict[str, Any]


def batch_of(height: int, width: int, size: int, classes: int, device: torch.device) -> Batch:
    """Noise of one size on the device, as the DataModule gives a batch."""
    generator = torch.Generator().manual_seed(width)
    boxes = [drawn_boxes(height, width, generator) for _ in range(size)]
    labels = [torch.randint(1, classes + 1, (len(it),), generator=generator) for it in boxes]
    return {
        "index": torch.arange(size, device=device),
        "image": [torch.rand(3, height, width, generator=generator).to(device) for _ in range(size)],
        "target": [{"boxes": b.to(device), "labels": it.to(device)} for b, it in zip(boxes, labels, strict=True)],
    }


def filled_up(batch: Batch, width: int) -> Batch:
    return batch | {"image": [pad(it, (0, width - it.shape[2])) for it in batch["image"]]}


def milliseconds(step: Callable[[], Any], device: torch.device) -> float:
    """Of one call, from a device at rest to one at rest."""
    started = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000 * (time.perf_counter() - started)


def told(part: str, times: list[float]) -> str:
    later = f", median of the others {median(times[1:]):.0f}" if len(times) > 1 else ""
    return f"{part}: {' '.join(f'{it:.0f}' for it in times)} ms{later}"


class Experiment:
    """Its parts, each of which gives lines."""

    def __init__(
        self, experiment: str, overrides: list[str], batch: int, side: int, iterations: int, workers: int
    ) -> None:
        self.experiment, self.overrides, self.batch, self.side = experiment, overrides, batch, side
        self.iterations, self.workers = iterations, workers

    def prepare(self, folder: Path) -> None:
        self.folder = folder
        self.photographs = write_photographs(folder / "coco", 2 * self.batch * (self.iterations + 2), self.side)
        self.run = self.built()
        self.device = self.run.trainer.strategy.root_device
        self.batches = self.of_sizes(sides_of(self.side, self.iterations + 1))
        self.new = self.batches.pop()  # the longest, which no part sees before the last

    def built(self, *more: str) -> Run:
        data = on_photographs(self.experiment, self.photographs, self.folder, self.batch, self.side, self.workers)
        with redirect_stdout(io.StringIO()):
            return prepared(self.experiment, [*self.overrides, *more], str(self.folder / "run"), data=data)

    def of_sizes(self, widths: list[int]) -> list[Batch]:
        classes = self.run.module.num_classes
        return [batch_of(self.side, it, self.batch, classes, self.device) for it in widths]  # pyright: ignore

    def timed(self, run: Run, batches: list[Batch], iterations: int | None = None) -> list[float]:
        loop = one_loss_loop(run, cycle(batches).__next__)
        return [milliseconds(lambda: loop(1), self.device) for _ in range(iterations or self.iterations)]

    def one_batch(self) -> list[str]:
        return [told("A, one batch", self.timed(self.run, self.batches[:1]))]

    def ten_sizes(self) -> list[str]:
        times = self.timed(self.run, self.batches, 2 * self.iterations)
        number = self.iterations
        return [told(f"B, {number} sizes", times[:number]), told("B, the same again", times[number:])]

    def one_size(self) -> list[str]:
        widest = max(it["image"][0].shape[2] for it in self.batches)
        batches = [filled_up(it, widest) for it in self.batches]
        return [told("C, filled up to one size", self.timed(self.run, batches))]

    def in_float32(self) -> list[str]:
        run = self.built("trainer.precision=32-true", "lightning_module.channels_last=false")
        return [told("D, as B in float32 without channels_last", self.timed(run, self.batches))]

    def loader_alone(self) -> list[str]:
        datamodule: Any = self.run.datamodule
        datamodule.setup("fit")
        following: Iterator[Any] = iter(datamodule.train_dataloader())
        times = [milliseconds(lambda: next(following), self.device) for _ in range(self.iterations)]
        return [told("E, the loader alone", times)]

    def host(self) -> list[str]:
        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        loop = one_loss_loop(self.run, cycle([self.new]).__next__)
        with profile(activities=kinds) as seen:
            took = milliseconds(lambda: loop(1), self.device)
        rows = seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=20, max_name_column_width=60)
        return [f"F, a new size under the profiler: {took:.0f} ms", rows]


def main(arguments: list[str] | None = None) -> list[str]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="faster_rcnn_coco", help="a detector on COCO")
    parser.add_argument("--batch", type=int, default=2, help="images")
    parser.add_argument("--side", type=int, default=800, help="pixels of the short side")
    parser.add_argument("--iterations", type=int, default=10, help="and sizes")
    parser.add_argument("--workers", type=int, default=8, help="of the loader, as the experiment has them")
    parser.add_argument("--seconds", type=float, default=170, help="no part begins after them")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py, such as trainer=cpu")
    given = parser.parse_args(arguments)
    started, lines = time.monotonic(), []
    whole = Experiment(given.experiment, given.override, given.batch, given.side, given.iterations, given.workers)
    with tempfile.TemporaryDirectory() as folder:
        whole.prepare(Path(folder))
        about = f"{given.experiment}, {whole.run.trainer.precision}, {given.batch} images of {given.side} pixels"
        print(f"{about}, {whole.device}: milliseconds of each iteration", file=sys.stderr)
        parts = (whole.one_batch, whole.ten_sizes, whole.one_size, whole.in_float32, whole.loader_alone, whole.host)
        for part in parts:
            late = time.monotonic() - started > given.seconds
            found = [f"{part.__name__}: left out, {given.seconds:.0f} s are over"] if late else part()
            print(*found, sep="\n", flush=True)
            lines += found
    return lines


if __name__ == "__main__":
    with told_as_sentences():
        main()
