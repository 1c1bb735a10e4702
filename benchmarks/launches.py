"""How many operations an iteration of each method is, in the tree as it stands and at a commit before.

    python -m benchmarks.launches --before 3032eac
    python -m benchmarks.launches --only draw

On a GPU an operation is a launch, nearly always one, and small networks are bound by launches; counting needs no GPU.
Tiny runs of every method train on a CPU, and of one iteration every operation that torch dispatches is counted, those
of the backward pass, of clipping and of optimisers among them. Views, allocations and questions about shapes are none.
What the host draws for the iteration is counted too, where it is drawn on a CPU.
The sizes of layers change no count; how often a recurrence is run does, so that DRAW has its 64 steps.

``as on a GPU`` counts what is done on the device without values, which takes the way of a GPU where that is another
one: copies from the host, draws that are made there, and the step, in which each optimiser's fused one is one
operation. Batches have four examples, texts of one width. There is none for who reads sizes out of a batch
(padding-free texts, detectors), and for torch's LSTM, which is one operation on a GPU and many here.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.same_numbers import tree_of
from foundation.errors import UserError, told_as_sentences

CASES = {
    "resnet": ["resnet_digits"],
    "infogan": ["infogan_digits"],
    "improved_gan": ["improved_gan_digits"],
    "draw, 64 steps": ["draw_digits", "lightning_module.network.steps=64"],
    "draw, its reading half, 8 glimpses": ["draw_cluttered", "lightning_module.network.steps=8"],
    "wrm": ["wrm_digits"],
    "oracle_robustness": ["oracle_digits"],
    "faster_rcnn": ["faster_rcnn_shapes"],
    "bert": ["bert_tiny_text"],
    "bert, texts of one width": [
        "bert_tiny_text", "datamodule.pad_to_max_length=true", "lightning_module.network.padding_free=false",
    ],
    "raml": ["raml_copy"],
    "adversarial_filtering": ["filtering_synthetic"],
}  # fmt: skip
NO_WORK = ("empty", "detach", "promote_types", "unsafe_view", "transpose", "unbind", "local_scalar", "sym_", "prim.")


def is_work(func: Any) -> bool:
    """Whether a device would launch something for an operator."""
    return not (func.is_view or any(part in str(func) for part in NO_WORK))


class Operations(TorchDispatchMode):
    """Counts what is dispatched inside of it.

    Args:
        device: counts what has to do with it alone; None: everything.
    """

    def __init__(self, device: str | None = None) -> None:
        super().__init__()
        self.device, self.total = device, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.total += is_work(func) and (self.device is None or self.device in devices_of([made, *args]))
        return made


def devices_of(values: Any) -> set[str]:
    if isinstance(values, list | tuple):
        return set().union(*map(devices_of, values))
    return {values.device.type} if isinstance(values, Tensor) else set()


# Run inside either tree, of which the older one may not have this file: it is read from the newer.
COUNTS = """
import importlib, importlib.util, json, sys, tempfile
import torch
from lightning import Callback
from launch.command_line import compose_job
from launch.runs import build
from lightning_modules import turns

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("launches", sys.argv[1])
launches = importlib.util.module_from_spec(spec)
spec.loader.exec_module(launches)


class Third(Callback):
    counted = None

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 2:
            self.counted = launches.Operations()
            self.counted.__enter__()

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            self.counted.__exit__(None, None, None)


def tiny_of(experiment):
    method = compose_job("train", ["experiment=" + experiment])["lightning_module"]["_target_"].split(".")[1]
    return importlib.import_module("tests.lightning_modules.test_" + method).TINY[experiment]


def trained(experiment, more):
    said = {it.partition("=")[0] for it in more}
    tiny = [it for it in tiny_of(experiment) if it.partition("=")[0] not in said and not it.startswith("callbacks")]
    words = ["experiment=" + experiment, "trainer=cpu", "logger=none", "trainer.precision=32-true", *tiny, *more,
             "trainer.max_steps=3", "trainer.max_epochs=null", "trainer.log_every_n_steps=100"]
    with tempfile.TemporaryDirectory() as folder:
        config = compose_job("train", words, folder)
        run = build(config | {"callbacks": {}, "optimized_metric": None, "paper": None})
        third = Third()
        run.trainer.callbacks.append(third)
        run.trainer.limit_val_batches = 0
        run.trainer.fit(run.module, datamodule=run.datamodule)
    return third.counted.total


def on_meta(batch):
    return {key: on_meta(it) if isinstance(it, dict) else it.to("meta") for key, it in batch.items()}


def without_values(experiment, more):
    steps = importlib.import_module("tests.lightning_modules.test_device_step")
    if experiment not in steps.EXPERIMENTS:
        return None
    steps.EXTRAS[experiment] = more
    module = steps.made(experiment, torch.device("meta"))
    if any(getattr(part, "padding_free", False) or isinstance(part, torch.nn.RNNBase) for part in module.modules()):
        return None
    module.trainer.strategy.optimizer_step = lambda optimizer, closure: module.on_before_optimizer_step(optimizer)
    batch = on_meta(steps.batch_for(module))
    with launches.Operations("meta") as counted:
        module.device_step(turns.on_device(module.host_inputs(batch, 0), module.device))
    return counted.total + len(module.trainer.optimizers)


for name, (experiment, *more) in json.loads(sys.argv[2]).items():
    print("FOUND", json.dumps([name, trained(experiment, more), without_values(experiment, more)]), flush=True)
"""


def counted_in(tree: Path, cases: dict[str, list[str]]) -> dict[str, tuple[int, int | None]]:
    """On a CPU and as on a GPU, by case."""
    command = [sys.executable, "-c", COUNTS, str(Path(__file__).resolve()), json.dumps(cases)]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tree)})
    lines = [json.loads(it.removeprefix("FOUND ")) for it in done.stdout.splitlines() if it.startswith("FOUND ")]
    if done.returncode:
        missing = list(cases)[len(lines)]
        raise UserError(f"{missing} cannot be counted in {tree}: {done.stderr.strip().splitlines()[-1]}")
    return {name: (on_cpu, without) for name, on_cpu, without in lines}


def table(before: dict[str, tuple[int, int | None]] | None, after: dict[str, tuple[int, int | None]]) -> str:
    heads = ["CPU", "as on a GPU"] if before is None else ["CPU, before", "CPU", "as on a GPU, before", "as on a GPU"]
    lines = [f"| method | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for name, now in after.items():
        pairs = [now] if before is None else [before[name], now]
        numbers = [of[kind] for kind in (0, 1) for of in pairs]
        lines.append(f"| {name} | {' | '.join('-' if it is None else f'{it:,}' for it in numbers)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", help="a commit to stand beside")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    given = parser.parse_args(arguments)
    cases = {name: case for name, case in CASES.items() if given.only in name}
    if not cases:
        raise UserError(f"--only {given.only} is in no case's name: give a part of one of {', '.join(CASES)}.")
    with tree_of(None) as tree:
        after = counted_in(tree, cases)
    before = None
    if given.before is not None:
        with tree_of(given.before) as tree:
            before = counted_in(tree, cases)
    return table(before, after)


if __name__ == "__main__":
    with told_as_sentences():
        print(main())
