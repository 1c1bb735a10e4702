"""The largest batch whose training step fits in memory, and the learning rates that go with it.

    make batch-size EXPERIMENT=resnet_cifar10 ARGS="trainer=cpu memory=4"
    python -m launch.batch_size experiment=resnet_cifar10 trainer=gpu

The sizes tried are the experiment's own times powers of two, from small to large: two iterations each, of which the
second has the optimizers' state. What counts is the bytes of tensors that are alive at once, which are the same on
every machine and in every try; what libraries take beside them is not seen, so a fifth of a GPU is left to it.
"""

import math
import shlex
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from foundation.errors import UserError, told_as_sentences
from foundation.security import trusting_as_typed
from launch.command_line import check_command_line, readable
from launch.runs import build

GIB = 2**30
OF_A_GPU = 0.8  # the share that tensors may have
KEYS = ("batch_size", "batch_tokens")
SMALLEST = 16  # examples that are tried first, where the experiment's batch is larger
MOST = 64  # times the experiment's own batch
RULES = {
    "SGD": ("linear", "Goyal et al. 2017, arXiv:1706.02677"),
    "others": ("square root", "Malladi et al. 2022, arXiv:2205.10287"),
}


class TooMuch(Exception):
    """More bytes are alive than may be."""


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, from the first operation on.

    Raises:
        TooMuch: more than ``limit`` at once.
    """

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.limit, self.now, self.peak = limit, 0, 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for it in tree_leaves((args, kwargs, made)):  # arguments: parameters that were there before
            if isinstance(it, Tensor) and it.layout == torch.strided:
                self._count(it.untyped_storage())
        if self.now > self.limit:
            raise TooMuch
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage not in self.seen:
            self.seen.add(storage)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, size).atexit = False

    def _forget(self, size: int) -> None:
        self.now -= size


@dataclass
class Found:
    """What was tried. key: of the DataModule; own: the experiment's batch; limit: bytes."""

    key: str
    own: int
    limit: float
    peaks: dict[int, int] = field(default_factory=dict)
    ended: str = ""
    """Why no larger batch was tried."""

    @property
    def size(self) -> int:
        return max(self.peaks)


def find(config: dict[str, Any], limit: float) -> Found:
    """Config: of a checked training job. A UserError where not even the smallest batch fits."""
    key = next((it for it in KEYS if isinstance(config["datamodule"].get(it), int)), None)
    if key is None:
        raise UserError("datamodule has neither batch_size nor batch_tokens here: there is nothing to find.")
    found = Found(key, config["datamodule"][key], limit)
    refused: UserError | None = None
    for size in sizes(found.own, small=key == "batch_size"):
        try:
            peak = peak_of(config, key, size, limit)
        except UserError as error:  # of a size that the method or the data cannot have
            refused = error
            if found.peaks:
                found.ended = f"{key}={size} is refused ({str(error).rstrip('.')})"
                return found
            continue
        if peak is None:
            found.ended = f"{key}={size} needs more"
            break
        found.peaks[size] = peak
        print(f"{key}={size}: {told(peak)}", flush=True)
    if not found.peaks:
        cure = "give more, or set lightning_module.micro_batch_size"
        raise refused or UserError(f"{found.ended} than {told(limit)}, and no smaller batch is tried: {cure}.")
    found.ended = found.ended or f"more than {MOST} times the experiment's own batch is not tried"
    return found


def sizes(own: int, small: bool) -> Iterator[int]:
    """The experiment's own times powers of two, the smallest first."""
    size = own
    while small and size > SMALLEST and size % 2 == 0:
        size //= 2
    while size <= own * MOST:
        yield size
        size *= 2


def peak_of(config: dict[str, Any], key: str, size: int, limit: float) -> int | None:
    """The most bytes of tensors that are alive in two iterations; None where they are more than ``limit``."""
    with tempfile.TemporaryDirectory() as folder:
        run = build(trial_of(config, key, size, Path(folder)))
        try:
            with Living(limit) as living:
                run.trainer.fit(run.module, datamodule=run.datamodule)
        except (TooMuch, torch.OutOfMemoryError):
            return None
    return living.peak


def trial_of(config: dict[str, Any], key: str, size: int, folder: Path) -> dict[str, Any]:
    """Two iterations that leave nothing behind."""
    data = config["datamodule"] | {key: size}
    data |= {"num_workers": 0} if "num_workers" in data else {}
    trainer = config["trainer"] | {
        "max_steps": 2, "max_epochs": None, "max_time": None, "limit_val_batches": 0, "num_sanity_val_steps": 0,
        "enable_progress_bar": False, "enable_checkpointing": False, "capture": False, "default_root_dir": str(folder),
    }  # fmt: skip
    return config | {
        "datamodule": data, "trainer": trainer, "callbacks": {}, "logger": None, "optimized_metric": None,
        "paper": None, "init_from": None, "paths": config["paths"] | {"run_dir": str(folder)},
    }  # fmt: skip


# --- learning rates --------------------------------------------------------------------------------------------


def rates(node: Any, factor: float, above: str = "lightning_module") -> Iterator[tuple[str, float, float, str]]:
    """Of each optimizer: the key of its rate, what it was, what goes with ``factor`` times the batch, and its class."""
    if not isinstance(node, Mapping):
        return
    module, _, name = str(node.get("_target_", "")).rpartition(".")
    if module.startswith("torch.optim") and isinstance(node.get("lr"), int | float):
        yield f"{above}.lr", node["lr"], rounded(node["lr"] * (factor if name == "SGD" else math.sqrt(factor))), name
    for key, below in node.items():
        yield from rates(below, factor, f"{above}.{key}")


def rounded(rate: float) -> float:
    return float(f"{rate:.3g}")


# --- the command -------------------------------------------------------------------------------------------------


def limit_of(config: Mapping[str, Any], asked: float | None) -> float:
    """Bytes."""
    trainer = config["trainer"]
    if trainer.get("devices") not in (1, "1") or trainer.get("num_nodes") != 1:
        raise UserError("trainer: name one process, by trainer=cpu or trainer=gpu; N of them take N times its batch.")
    if asked is not None:
        return asked * GIB
    if trainer["accelerator"] == "cpu" or not torch.cuda.is_available():
        raise UserError(
            "A CPU's memory is for all that runs there: say by memory=8 how many GiB the tensors of a step may take."
        )
    return torch.cuda.get_device_properties(0).total_memory * OF_A_GPU


def told(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size >= GIB else f"{size / 2**20:.1f} MiB"


def report(found: Found, config: Mapping[str, Any], words: list[str]) -> list[str]:
    """What was found, and what to type: so that the run's record, which keeps its command, tells it too."""
    factor = found.size / found.own
    lines = [
        f"datamodule.{found.key}={found.size} fits in {told(found.limit)}, with {told(found.peaks[found.size])} of "
        f"tensors at once; {found.ended}."
    ]
    changes = [f"datamodule.{found.key}={found.size}"]
    for key, before, now, name in rates(config["lightning_module"], factor):
        rule, source = RULES.get(name, RULES["others"])
        why = f"{factor:g} times the batch by the {rule} rule of {name} ({source})"
        lines.append(f"{key}: {before:g} becomes {now:g}, {why}.")
        changes.append(f"{key}={now:g}")
    if factor != 1:
        lines.append(
            f"Nothing else is changed: an iteration sees {factor:g} times the examples, and so do lengths and warm-ups "
            "that are counted in iterations."
        )
    kept = [it for it in words if it.partition("=")[0] not in {it.partition("=")[0] for it in changes}]
    is_clone = Path(__file__).parent.with_name("Makefile").exists()  # else an installed package
    lines.append(f"{'python train.py' if is_clone else 'relight train'} {shlex.join([*kept, *changes])}")
    return lines


def number_in(words: list[str], key: str) -> float | None:
    """Takes ``key=...`` out of the words."""
    named = [it for it in words if it.startswith(f"{key}=")]
    for it in named:
        words.remove(it)
    try:
        value = float(named[-1].partition("=")[2]) if named else None
    except ValueError:
        value = math.nan
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{named[-1]}: give a number of GiB.")
    return value


def main(arguments: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if arguments is None else arguments)
    asked = number_in(words, "memory")
    words = readable("train", words)
    (config, *others) = check_command_line("train", words)
    if others:
        raise UserError("One job is asked for: leave out -m and values with commas.")
    limit = limit_of(config, asked)
    print(*report(find(config, limit), config, words), sep="\n")


if __name__ == "__main__":
    with trusting_as_typed(), told_as_sentences():
        main()
