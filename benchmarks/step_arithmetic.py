"""How long a step would take on a GPU where none was measured: from what is counted of it, and not from a guess.

    python -m benchmarks.step_arithmetic resnet_imagenet draw_mnist
    python -m benchmarks.step_arithmetic faster_rcnn_coco --override datamodule.batch_size=1 --times 16
    python -m benchmarks.step_arithmetic --check

Of one iteration every operation is counted that torch dispatches (``benchmarks.launches``): its floating-point
operations by torch's own formulas (of products and convolutions, a multiplication and an addition being two), and the
bytes of its inputs and outputs in float32, which half precision halves at best. A fused optimiser is one operation that
reads and writes parameters and moments and reads gradients. Images are made up, texts and points are the first batch of
the data. What ``trainer.capture`` takes is counted at its real size on the device without values, everything else on
the CPU, where ``--times`` has few examples stand for many. Recurrent layers of torch's own are counted step by step.

    step = max(operations x operation_us, the sum over operations of max(flops / (share peak), bytes / (share rate)))

A maximum, since the host asks for kernels without waiting for them: the longer of the two is what passes. On the device
one kernel follows another, which is the sum, and inside of one arithmetic hides loads, which is the inner maximum.

Peak and rate are an H100's by NVIDIA's data sheet (SXM: 989 TFLOP/s of bf16 without sparsity, 3.35 TB/s). ``--share``
is an assumption. ``--operation-us`` is, unless given, what the host took for an operation in the steps of ``MEASURED``:
several times what a launch alone takes, since Python, autograd and the casts of bf16 stand between two operations.
``--check`` has each of those steps predicted by the others.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from random import Random
from statistics import geometric_mean
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.detection import batches_in_memory
from benchmarks.ending_scores import ENDING, TEXT
from benchmarks.launches import is_work
from benchmarks.loops import following_batches, untrained_copy
from benchmarks.training_step import STAND_IN_SIZE, batches_of_loader, prepared
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError, told_as_sentences
from launch.composition import compose_job
from launch.runs import Run
from lightning_modules.faster_rcnn import FasterRCNN
from lightning_modules.turns import on_device

META = torch.device("meta")


@dataclass(frozen=True)
class Measured:
    """A step on an H100, as usual and in bf16: milliseconds, and launches by the profiler where they were counted."""

    ms: float
    launches: int | None
    operations: int | None = None
    """None: as the tree stands has those that were measured."""


MEASURED = {
    "resnet_cifar10": Measured(14.9, 385),
    "infogan_mnist": Measured(20.4, 459, 274),  # as it was then
    "draw_mnist, before its time step was fused": Measured(536, 15_259, 12_310),  # docs/speed.md has the count
    "resnet_cifar10_speed": Measured(12, None),
}
BY_HOST = tuple(name for name, it in MEASURED.items() if it.launches)
"""Those whose kernels take a third of the step or less, so that the host's time is all of it."""
LAUNCH_US = 10.0
"""Of the host for a launch alone, by a microbenchmark's 8 to 13 us."""


@dataclass(frozen=True)
class Device:
    """10^12 operations and bytes a second, and microseconds."""

    peak_tflops: float = 989.0
    rate_tb_s: float = 3.35
    share: float = 0.4
    operation_us: float = 0.0
    """Of the host; 0: as in ``MEASURED``."""


@dataclass(frozen=True)
class Work:
    """Of a step: floating-point operations and bytes of each operation."""

    operations: tuple[tuple[float, float], ...]
    examples: int

    def times(self, more: float) -> "Work":
        """The same operations on so many times the examples."""
        return Work(
            tuple((more * flops, more * moved) for flops, moved in self.operations), round(more * self.examples)
        )

    @property
    def flops(self) -> float:
        return sum(flops for flops, _ in self.operations)

    @property
    def moved(self) -> float:
        return sum(moved for _, moved in self.operations)


class Counted(TorchDispatchMode):
    """Collects the operations that are dispatched inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[float, float]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if is_work(func):
            formula = flop_registry.get(func._overloadpacket)
            flops = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
            tensors = [it for it in tree_leaves((args, kwargs, out)) if isinstance(it, Tensor)]
            self.operations.append((flops, sum(it.numel() * it.element_size() for it in tensors)))
        return out


def of_optimizer(optimizer: Optimizer) -> tuple[float, float]:
    """Of its fused step: parameters and moments are read and written, gradients read."""
    numbers = sum(it.numel() for group in optimizer.param_groups for it in group["params"])
    moments = 2 if "betas" in optimizer.defaults else int(bool(optimizer.defaults.get("momentum")))
    return 0.0, 4.0 * numbers * (3 + 2 * moments)


# --- a step ----------------------------------------------------------------------------------------------------------


def work_of(experiment: str, overrides: Sequence[str] = ()) -> Work:
    """Of an iteration of the experiment: forward, backward, clipping and optimisers."""
    words = ["trainer=cpu", "trainer.precision=32-true", *overrides]
    with tempfile.TemporaryDirectory() as folder:
        target = compose_job("train", [f"experiment={experiment}", *words])["datamodule"]["_target_"]
        if target == "datamodules.imagenet.ImageNetDataModule":
            words.append(f"datamodule.folder={thousand_classes(Path(folder) / 'imagenet')}")
        if target == "datamodules.text.filtering.PoolDataModule":
            words += [f"datamodule.pool={made_up_pool(Path(folder) / 'pool.jsonl')}", "datamodule.val_size=20"]
        run = prepared(experiment, words, folder)
        with without_onednn():
            return detector_s_work(run) if isinstance(run.module, FasterRCNN) else whole_iteration_s_work(run)


@contextmanager
def without_onednn() -> Iterator[None]:
    """Of whose products and recurrent layers there is no formula."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def thousand_classes(folder: Path) -> Path:
    """ImageNet's folders, without an image: as many classes as a network for it has."""
    for number in range(1000):
        for split in ("train", "val"):
            (folder / split / f"{number:03}").mkdir(parents=True)
    return folder


def made_up_pool(file: Path, texts: int = 200, candidates: int = 30) -> Path:
    """Texts and endings of one word of the vocabulary again and again, as long as HellaSwag's."""
    draws, rows = Random(0), []
    for number in range(texts):
        context, *endings = (
            f"{' '.join(['and'] * draws.randint(*between))} {name}"
            for name, between in enumerate([TEXT, *[ENDING] * (1 + candidates)])
        )
        rows.append({"item": number, "context": context, "ending": endings[0], "candidates": endings[1:]})
    file.write_text("".join(f"{json.dumps(it)}\n" for it in rows))
    return file


def whole_iteration_s_work(run: Run) -> Work:
    data = made_up_images(run) if isinstance(run.datamodule, ImageDataModule) else batches_of_loader(run)
    batch, module = following_batches(run, data)(), untrained_copy(run, torch.device("cpu"))
    module.setup("fit")
    if module.not_capturable() is None:
        module = module.to(META)
    module.trainer.strategy.optimizer_step = lambda optimizer, closure: module.on_before_optimizer_step(optimizer)
    module.trainer.optimizers, _ = module.configure_optimizers()
    inputs = on_device(module.host_inputs(batch, 0), module.device)
    with Counted() as counted:
        module.device_step(inputs)
    return Work((*counted.operations, *map(of_optimizer, module.trainer.optimizers)), examples_in(batch))


def made_up_images(run: Run) -> ImageTable:
    """One image of noise again and again, which takes no memory, with labels in turn; the run's data from now on."""
    datamodule: Any = run.datamodule
    image = torch.randint(256, (1, *datamodule.image_shape), dtype=torch.uint8)
    labels = torch.arange(STAND_IN_SIZE) % (datamodule.num_classes or 1)
    table = ImageTable(image.expand(STAND_IN_SIZE, -1, -1, -1), labels)
    datamodule.tables = dict.fromkeys(("train", "val", "test"), table)
    return table


def detector_s_work(run: Run) -> Work:
    batch, module = batches_in_memory(run)[0], untrained_copy(run, torch.device("cpu"))
    module.setup("fit")
    (optimizer,), _ = module.configure_optimizers()
    with Counted() as counted:
        module.training_step(batch, 0).backward()
        module.on_before_optimizer_step(optimizer)
    return Work((*counted.operations, of_optimizer(optimizer)), examples_in(batch))


def examples_in(batch: Mapping[str, Any]) -> int:
    return len(batch["index"]) if "index" in batch else examples_in(next(iter(batch.values())))


# --- how long --------------------------------------------------------------------------------------------------------


def kernels_s(work: Work, device: Device) -> float:
    peak, rate = device.share * device.peak_tflops * 1e12, device.share * device.rate_tb_s * 1e12
    return sum(max(flops / peak, moved / rate) for flops, moved in work.operations)


def host_s(work: Work, device: Device) -> float:
    return 1e-6 * device.operation_us * len(work.operations)


def step_s(work: Work, device: Device) -> float:
    return max(host_s(work, device), kernels_s(work, device))


def operations_of(name: str) -> int:
    counted = MEASURED[name].operations
    return len(work_of(name).operations) if counted is None else counted


def operation_us(counts: Mapping[str, int]) -> float:
    """What the host took for an operation in steps of ``MEASURED``, given their operations: the geometric mean."""
    return geometric_mean([1000 * MEASURED[name].ms / count for name, count in counts.items()])


def calibrated(device: Device) -> Device:
    if device.operation_us:
        return device
    return replace(device, operation_us=operation_us({name: operations_of(name) for name in BY_HOST}))


def held_against_measured(device: Device) -> str:
    """Each measured step beside what the formula makes of it, with the host's time by the others."""
    counts = {name: operations_of(name) for name in BY_HOST}
    lines = ["| step | operations | launches | measured | 10 us a launch | by the others' us an operation | off by |"]
    lines += ["|---" * 7 + "|"]
    for name, it in MEASURED.items():
        of_others = operation_us({other: count for other, count in counts.items() if other != name})
        if name in counts:
            count, found = counts[name], 1e-3 * of_others * counts[name]
        else:
            work = work_of(name)
            count, found = len(work.operations), 1000 * step_s(work, replace(device, operation_us=of_others))
        launches = (
            ["-", "-"] if it.launches is None else [f"{it.launches:,}", f"{1e-3 * LAUNCH_US * it.launches:.1f} ms"]
        )
        cells = [name, f"{count:,}", launches[0], f"{it.ms:g} ms", launches[1], f"{found:.1f} ms ({of_others:.0f} us)"]
        lines.append(f"| {' | '.join(cells)} | {found / it.ms - 1:+.0%} |")
    return "\n".join(lines)


def row(experiment: str, work: Work, device: Device) -> list[str]:
    bound = "host" if host_s(work, device) >= kernels_s(work, device) else "GPU"
    return [experiment, f"{work.examples:,}", f"{len(work.operations):,}", f"{work.flops / 1e9:,.4g}",
            f"{work.moved / 1e9:,.3g}", f"{1000 * host_s(work, device):.3g}", f"{1000 * kernels_s(work, device):.3g}",
            f"{1000 * step_s(work, device):.3g}", bound]  # fmt: skip


HEADING = ["experiment", "examples", "operations", "GFLOP", "GB", "host, ms", "kernels, ms", "step, ms", "bound by"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for field in fields(Device):
        said = f"{field.default:g} unless given" if field.default else "as measured unless given"
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=float, default=field.default, help=said)


def device_of(given: argparse.Namespace) -> Device:
    device = Device(**{it.name: getattr(given, it.name) for it in fields(Device)})
    if min(device.peak_tflops, device.rate_tb_s, device.share) <= 0 or device.share > 1 or device.operation_us < 0:
        raise UserError("--peak-tflops and --rate-tb-s are above 0, --share is above 0 and at most 1.")
    return device


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["resnet_cifar10"])
    parser.add_argument("--override", action="append", default=[], help="a key of train.py")
    parser.add_argument("--times", type=float, default=1.0, help="so many times the examples that are counted")
    parser.add_argument("--check", action="store_true", help="hold the formula against the steps that were measured")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    if given.check:
        return held_against_measured(device_of(given))
    device = calibrated(device_of(given))
    rows = [row(it, work_of(it, given.override).times(given.times), device) for it in given.experiments]
    lines = [HEADING, ["---"] * len(HEADING), *rows]
    told = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"From arithmetic, {device.operation_us:.3g} us an operation, not a measurement:\n\n{told}"


if __name__ == "__main__":
    with told_as_sentences():
        print(main(sys.argv[1:]))
