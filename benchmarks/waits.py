"""How often the host waits for a GPU in a detector's training iteration, and where: counted without one.

    python -m benchmarks.waits --before 3032eac
    python -m benchmarks.waits --images 2 --override lightning_module.network.rpn.ignore_cross_border=true

A tiny run trains on a CPU the way that a GPU takes. Of its third iteration, from the batch on the device to the
optimiser's step, every operation is looked at for which a GPU's host waits: it reads a value, it asks how many there
are of something (boolean indices, ``where`` of one argument, NMS), or it copies numbers that were made on the host, out
of memory that is not pinned. Each waits for all that was asked for before, and the GPU has nothing to do for as long as
the host then needs for the next launches.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.same_numbers import tree_of
from foundation.errors import UserError, told_as_sentences

READS = {"aten::_local_scalar_dense", "aten::equal"}
ASKS_HOW_MANY = {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::unique_dim"}
INDEXES = {"aten::index", "aten::index_put_", "aten::index_put"}
MADE_ON_THE_HOST = {torch.tensor, torch.as_tensor, torch.from_numpy, torch.randperm, torch.arange, torch.empty,
                    torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint}  # fmt: skip


class Waits:
    """Counts, by place and kind, for as long as it is entered. What is on the host and what on the device is followed
    by storage: numbers that are made without a device are the host's, and so is what is computed of them alone."""

    def __init__(self, tree: Path) -> None:
        self.tree, self.found = str(tree), Counter[tuple[str, str]]()
        self.of_host: dict[int, Tensor] = {}
        self.making = False  # a tensor of the host
        self.modes = (Called(self), Dispatched(self))

    def __enter__(self) -> "Waits":
        for it in self.modes:
            it.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for it in reversed(self.modes):
            it.__exit__(*error)

    def on_host(self, it: Tensor) -> bool:
        return it.untyped_storage().data_ptr() in self.of_host if it.numel() else False

    def keep_on_host(self, values: Any) -> None:
        for it in tree_leaves(values):
            if isinstance(it, Tensor):
                self.of_host[it.untyped_storage().data_ptr()] = it  # kept, so that no other gets its place

    def moved(self, values: Any) -> None:
        for it in tree_leaves(values):
            if isinstance(it, Tensor):
                self.of_host.pop(it.untyped_storage().data_ptr(), None)

    def count(self, kind: str) -> None:
        self.found[self.place(), kind] += 1

    def place(self) -> str:
        frame = sys._getframe()
        while frame is not None:
            file = frame.f_code.co_filename
            if file.startswith(self.tree) and not file.startswith((f"{self.tree}/benchmarks/", f"{self.tree}/.venv/")):
                return f"{Path(file).stem}.{frame.f_code.co_name}"
            if "/torchvision/" in file:
                return f"torchvision {Path(file).stem}.{frame.f_code.co_name}"
            frame = frame.f_back
        return "elsewhere"


class Called(TorchFunctionMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits, kwargs = self.waits, kwargs or {}
        if func in (Tensor.tolist, Tensor.cpu, Tensor.numpy) and not waits.on_host(args[0]):
            waits.count("reads")
        waits.making = func in MADE_ON_THE_HOST and kwargs.get("device") is None
        try:
            made = func(*args, **kwargs)
        finally:
            was_made, waits.making = waits.making, False
        if was_made:
            waits.keep_on_host(made)
        elif func is Tensor.to and waits.on_host(args[0]) and goes_elsewhere(waits, args[1:], kwargs):
            waits.count("copies")
            waits.moved(made)
        return made


def goes_elsewhere(waits: Waits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether ``to`` names a device, or a tensor that lies on it."""
    named = [*args, *kwargs.values()]
    others = [it for it in named if isinstance(it, Tensor)]
    return any(isinstance(it, torch.device | str) for it in named) or any(not waits.on_host(it) for it in others)


class Dispatched(TorchDispatchMode):
    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits, name = self.waits, func._schema.name
        tensors = [it for it in tree_leaves((args, kwargs)) if isinstance(it, Tensor)]
        all_on_host = waits.making or (bool(tensors) and all(map(waits.on_host, tensors)))
        if not all_on_host:
            self.look_at(name, args)
        made = func(*args, **(kwargs or {}))
        if all_on_host:
            waits.keep_on_host(made)
        return made

    def look_at(self, name: str, args: Any) -> None:
        indices = [it for it in args[1] if it is not None] if name in INDEXES else []
        if name in READS or name == "aten::repeat_interleave":  # of counts, whose sum it reads
            self.waits.count("reads")
        elif name == "torchvision::nms":
            self.waits.count("NMS")
        elif name in ASKS_HOW_MANY or any(it.dtype == torch.bool for it in indices):
            self.waits.count("asks how many")
        elif name == "aten::lift_fresh" or any(map(self.waits.on_host, indices)):
            self.waits.count("copies")


# Run inside either tree, of which the older one has no such file: it is read from the newer.
COUNTS = """
import importlib.util, json, sys, tempfile
from pathlib import Path
import torch
from lightning import Callback
from torchvision.ops import MultiScaleRoIAlign, boxes
from launch.command_line import compose_job
from launch.runs import build
from lightning_modules.networks.region_pooling import RegionAlign
from tests.lightning_modules.test_faster_rcnn import TINY

torch.set_num_threads(1)
file, numbers, experiment, *more = sys.argv[1:]
spec = importlib.util.spec_from_file_location("waits", file)
waits = importlib.util.module_from_spec(spec)
spec.loader.exec_module(waits)

# The way of a GPU, where it is another than a CPU's.
boxes._batched_nms_vanilla = boxes._batched_nms_coordinate_trick
if hasattr(RegionAlign, "by_kernels"):
    RegionAlign.by_products = RegionAlign.by_kernels
else:
    RegionAlign.forward = MultiScaleRoIAlign.forward


class Third(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            counted.__exit__(None, None, None)


for number in json.loads(numbers):
    tiny = [it for it in TINY[experiment] if not it.startswith(("datamodule.batch_size", "datamodule.train_size"))]
    words = ["experiment=" + experiment, *tiny, *more, "trainer=cpu", "logger=none", f"datamodule.batch_size={number}",
             f"datamodule.train_size={3 * number}", "trainer.max_steps=3", "trainer.max_epochs=null",
             "trainer.log_every_n_steps=100"]
    with tempfile.TemporaryDirectory() as folder:
        config = compose_job("train", words, folder)
        run = build(config | {"callbacks": {}, "optimized_metric": None, "paper": None})
        module, datamodule = run.module, run.datamodule
        if hasattr(module, "keys"):
            module.draws = module.keys
        counted, unpacked = waits.Waits(Path.cwd()), datamodule.on_after_batch_transfer

        def watched(batch, number):
            if run.trainer.global_step == 2:
                counted.__enter__()
            return unpacked(batch, number)

        datamodule.on_after_batch_transfer = watched
        run.trainer.callbacks.append(Third())
        run.trainer.limit_val_batches = 0
        run.trainer.fit(module, datamodule=datamodule)
    print("FOUND", json.dumps([number, [[*key, it] for key, it in counted.found.items()]]), flush=True)
"""

Found = dict[int, dict[tuple[str, str], int]]
"""By the number of images: how many waits of a kind at a place."""


def counted_in(tree: Path, experiment: str, images: list[int], overrides: list[str]) -> Found:
    command = [sys.executable, "-c", COUNTS, str(Path(__file__).resolve()), json.dumps(images), experiment, *overrides]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tree)})
    lines = [json.loads(it.removeprefix("FOUND ")) for it in done.stdout.splitlines() if it.startswith("FOUND ")]
    if done.returncode:
        raise UserError(f"{experiment} cannot be counted in {tree}: {done.stderr.strip().splitlines()[-1]}")
    return {number: {(place, kind): it for place, kind, it in found} for number, found in lines}


def table(sides: dict[str, Found], images: list[int]) -> str:
    """Where and of which kind, most first; the last row is the sum. sides: by what stands before the numbers."""
    columns = [(side, number) for side in sides for number in images]
    heads = [f"{side}{number} image{'s' * (number > 1)}" for side, number in columns]
    lines = [f"| where | kind | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    keys = {key: None for found in sides.values() for of_number in found.values() for key in of_number}
    numbers = {key: [sides[side][number].get(key, 0) for side, number in columns] for key in keys}
    for place, kind in sorted(numbers, key=lambda key: (-max(numbers[key]), key)):
        lines.append(f"| `{place}` | {kind} | {' | '.join(map(str, numbers[place, kind]))} |")
    sums = [str(sum(sides[side][number].values())) for side, number in columns]
    return "\n".join([*lines, f"| all | | {' | '.join(sums)} |"])


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", nargs="?", default="faster_rcnn_shapes", help="one on scenes of digits")
    parser.add_argument("--before", help="a commit to stand beside")
    parser.add_argument("--images", type=int, nargs="+", default=[1, 2, 16], help="of a batch")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py")
    given = parser.parse_args(arguments)
    asked = (given.experiment, given.images, given.override)
    sides: dict[str, Found] = {}
    if given.before is not None:
        with tree_of(given.before) as tree:
            sides["before, "] = counted_in(tree, *asked)
    with tree_of(None) as tree:
        sides["now, " if sides else ""] = counted_in(tree, *asked)
    return table(sides, given.images)


if __name__ == "__main__":
    with told_as_sentences():
        print(main())
