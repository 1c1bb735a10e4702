"""How a training step would scale to many GPUs: a prediction from one device's step and the size of its gradients.

    python -m benchmarks.scaling resnet_cifar10 bert_base_pretrain --step-ms 15 --step-ms 180
    python -m benchmarks.scaling infogan_mnist --override trainer=gpu --between-gb-s 25 --gpus-per-node 4
    python -m benchmarks.scaling --all
    python -m benchmarks.scaling --check

Nothing here was measured on several GPUs. Each device keeps the share of the batch that one has, so that the ideal step
is as long as one device's (weak scaling). To that comes what the all-reduce of the gradients takes beyond what it hides
behind the backward pass:

    t(n) = t(1) + max(0, r(n) - overlap t(1)),    efficiency = t(1) / t(n)
    r(n) = base + (s - x) l + x l' + (s / n) bytes / bandwidth

of a ring of n devices on k nodes: s = 2 (n - 1) steps, x = 2 (k - 1) of them between nodes, l and l' the latencies of a
step within and between nodes, and the bandwidth of the slowest link. It is NCCL's own model of a ring with its
``simple`` protocol (NVIDIA/nccl, src/graph/tuning.cc), whose latencies are the defaults. Bandwidths are NVLink's of an
H100 by its data sheet (900 GB/s, both directions together) and a network of 100 Gbit/s a node.

``--all`` has the large experiments of all methods: with a step that was measured on an H100 where one was, else with
one from arithmetic (``benchmarks/step_arithmetic.py``), as ``--arithmetic`` has it for any experiment.

``--check`` holds the form against all-reduces that are measured here, on 2 and 3 processes with gloo: latency and
bandwidth are taken from those of 2, and those of 3 are predicted. It wants three cores that nothing else uses.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.step_arithmetic import MEASURED, Device, add_arguments, calibrated, device_of, step_s, work_of
from foundation.errors import UserError, told_as_sentences
from launch.command_line import compose_job
from launch.runs import instantiate

DEVICES = (2, 4, 8, 16, 32, 64)
SIZES = (2**10, 2**16, 2**20, 2**22, 2**24)  # bytes of the all-reduces of --check


@dataclass(frozen=True)
class Links:
    """Microseconds, and 10^9 bytes a second in a direction."""

    base_us: float = 8.4
    within_us: float = 3.4
    between_us: float = 9.6
    within_gb_s: float = 450.0
    between_gb_s: float = 12.5
    gpus_per_node: int = 8

    def seconds(self, bytes_: int, devices: int) -> float:
        """Of the all-reduce of so many bytes."""
        if devices == 1:
            return 0.0
        nodes = -(-devices // self.gpus_per_node)
        steps, between = 2 * (devices - 1), 2 * (nodes - 1)
        bandwidth = self.within_gb_s if nodes == 1 else min(self.within_gb_s, self.between_gb_s)
        latency_us = self.base_us + (steps - between) * self.within_us + between * self.between_us
        return latency_us * 1e-6 + steps / devices * bytes_ / (bandwidth * 1e9)


def efficiency(step_s: float, bytes_: int, devices: int, links: Links, overlap: float) -> float:
    """The share of the ideal speed of so many devices.

    overlap: the share of a step behind which an all-reduce hides, 0 (none) to 1.
    """
    shown = max(0.0, links.seconds(bytes_, devices) - overlap * step_s)
    return step_s / (step_s + shown)


@dataclass(frozen=True)
class Large:
    """How a method's large experiment is counted where no step of it was measured."""

    overrides: tuple[str, ...] = ()
    times: float = 1.0
    """Its batch, by that of ``overrides``."""


LARGE = {
    "resnet_cifar10": Large(),
    "resnet_imagenet": Large(),
    "infogan_mnist": Large(),
    "infogan_celeba": Large(),
    "improved_gan_cifar10": Large(),
    "draw_mnist": Large(),
    "faster_rcnn_coco": Large(
        ("datamodule.batch_size=1", "++datamodule.size=800", "lightning_module.network.min_size=800",
         "lightning_module.network.max_size=1333"), times=16),
    "wrm_mnist": Large(),
    "oracle_cifar10": Large(),
    "bert_base_pretrain": Large(("datamodule.pad_to_max_length=true", "lightning_module.network.padding_free=false")),
    "raml_multi30k": Large(),
    "filtering_hellaswag_strong": Large(("datamodule.batch_size=2",), times=8),
}  # fmt: skip


def gradients_and_batch(experiment: str, overrides: Sequence[str] = ()) -> tuple[int, str]:
    """Bytes of all trained parameters in float32, whatever the precision, as DDP exchanges them; what a batch holds."""
    config = compose_job("train", [f"experiment={experiment}", *overrides])
    with torch.device("meta"):
        module = instantiate(config["lightning_module"])
    size = config["datamodule"].get("batch_size")
    batch = f"{size:,}" if size else f"{config['datamodule']['batch_tokens']:,} tokens"
    return sum(4 * it.numel() for it in module.parameters() if it.requires_grad), batch


def measured_here(experiment: str, overrides: Sequence[str]) -> float:
    """Seconds of an iteration through the Trainer."""
    from benchmarks.training_step import PLATFORM, measure

    return measure(experiment, list(overrides), rounds=3).milliseconds(PLATFORM) / 1000


def steps_of_large(device: Device) -> dict[str, tuple[float, str]]:
    """Seconds, and where they are from."""
    device = calibrated(device)
    return {
        name: (MEASURED[name].ms / 1000, "measured")
        if name in MEASURED
        else (step_s(work_of(name, it.overrides).times(it.times), device), "from arithmetic")
        for name, it in LARGE.items()
    }


def prediction(
    experiment: str, step: tuple[float, str], gradients: int, batch: str, links: Links, overlap: float
) -> list[str]:
    """A row of a table. step: seconds, and where they are from."""
    shares = [f"{efficiency(step[0], gradients, it, links, overlap):.0%}" for it in DEVICES]
    return [experiment, batch, f"{1000 * step[0]:.3g} ms", step[1], f"{gradients / 1e6:.1f} MB", *shares]


def table(rows: list[list[str]]) -> str:
    heading = ["experiment", "batch a GPU", "step", "the step is", "gradients", *(f"{it} GPUs" for it in DEVICES)]
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# --- the form, against all-reduces of this machine -------------------------------------------------------------------


def measure_all_reduces(rank: int, devices: int, meeting: str, out: str, sizes: Sequence[int], rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=devices)
    found = []
    for size in sizes:
        values, seconds = torch.ones(size // 4), []
        for _ in range(rounds):
            dist.barrier()
            begun = time.perf_counter()
            dist.all_reduce(values)
            values.fill_(1.0)
            seconds.append(time.perf_counter() - begun)
        found.append(median(seconds))
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


def measured(devices: int, rounds: int) -> list[float]:
    """Seconds of an all-reduce of each of ``SIZES``."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "seconds.pt")
        arguments: Any = (devices, str(Path(folder) / "meeting"), out, SIZES, rounds)
        spawn(measure_all_reduces, arguments, nprocs=devices)
        return torch.load(out, weights_only=True)


def fitted(seconds: Sequence[float]) -> Links:
    """Of two processes: what the smallest takes is latency, and what the largest takes beyond it is bandwidth."""
    moved = 2 * (2 - 1) / 2 * SIZES[-1]
    latency_us = 1e6 * seconds[0]
    gb_s = moved / max(seconds[-1] - seconds[0], 1e-9) / 1e9
    return Links(0.0, latency_us / 2, latency_us / 2, gb_s, gb_s)


def check(rounds: int = 50) -> str:
    of_two, of_three = measured(2, rounds), measured(3, rounds)
    links = fitted(of_two)
    lines = [
        "| bytes | 2 processes | of the model | 3 processes | predicted | measured / predicted |",
        "|---|---|---|---|---|---|",
    ]
    for size, two, three in zip(SIZES, of_two, of_three, strict=True):
        told = [two, links.seconds(size, 2), three, links.seconds(size, 3)]
        cells = [f"{1000 * it:.3f} ms" for it in told]
        lines.append(f"| {size:,} | {' | '.join(cells)} | {three / told[3]:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*")
    of_each = "of each experiment, in their order; measured here unless given"
    parser.add_argument("--step-ms", type=float, action="append", default=[], help=of_each)
    parser.add_argument("--override", action="append", default=[], help="a key of train.py")
    for name, value in vars(Links()).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=type(value), default=value, help=f"{value:g} unless given"
        )
    parser.add_argument(
        "--overlap", type=float, default=0.0, help="the share of a step behind which it hides; 0 unless given"
    )
    parser.add_argument("--arithmetic", action="store_true", help="steps from arithmetic in place of measured ones")
    parser.add_argument("--all", action="store_true", help="the large experiments of all methods")
    parser.add_argument("--check", action="store_true", help="hold the form against processes of this machine")
    add_arguments(parser)
    given = parser.parse_args(arguments)
    if given.check:
        return check()
    device = device_of(given)
    if bool(given.experiments) == given.all:
        raise UserError("Name experiments, such as resnet_cifar10, or give --all or --check.")
    if given.step_ms and len(given.step_ms) != len(given.experiments):
        raise UserError(f"--step-ms is given {len(given.step_ms)} times for {len(given.experiments)} experiments.")
    if not 0 <= given.overlap <= 1 or min(given.step_ms, default=1) <= 0:
        raise UserError("--overlap is a share from 0 to 1, and --step-ms a number above 0.")
    links = replace(Links(), **{name: getattr(given, name) for name in vars(Links())})
    if min(vars(links).values()) < 0 or min(links.within_gb_s, links.between_gb_s, links.gpus_per_node) <= 0:
        raise UserError("Latencies are 0 or more; bandwidths and --gpus-per-node are above 0.")
    steps: dict[str, tuple[float, str]]
    if given.all:
        steps = steps_of_large(device)
    elif given.step_ms:
        steps = {it: (ms / 1000, "given") for it, ms in zip(given.experiments, given.step_ms, strict=True)}
    elif given.arithmetic:
        device = calibrated(device)
        steps = {it: (step_s(work_of(it, given.override), device), "from arithmetic") for it in given.experiments}
    else:
        steps = {it: (measured_here(it, given.override), "measured here") for it in given.experiments}
    rows = [
        prediction(it, step, *gradients_and_batch(it, given.override), links, given.overlap)
        for it, step in steps.items()
    ]
    return f"A prediction, not a measurement: not run on several GPUs.\n\n{table(rows)}"


if __name__ == "__main__":
    with told_as_sentences():
        print(main(sys.argv[1:]))
