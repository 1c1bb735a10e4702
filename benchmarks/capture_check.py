"""Does a captured iteration give an eager one's numbers, and how much sooner? One script for a GPU machine.

    python -m benchmarks.capture_check resnet_digits infogan_digits --out capture.jsonl
    python -m benchmarks.capture_check resnet_cifar10 --seconds 60 --override trainer.precision=bf16-mixed

Of each experiment, a line of JSON as soon as it is known:

- ``waits``: the first operation of an eager ``device_step`` for which the host waits for the device; null: none does.
- ``differs``: names of weights, statistics and optimiser state that differ after so many iterations from those of the
  same iterations without a graph (``trainer.capture=rehearse``), and the largest difference; a validation, a
  checkpoint and a resume from it lie in between.
- ``ms``: milliseconds of an iteration through the Trainer, as usual and captured, in turns.
- ``kernels``: launched in an iteration as usual.

Without a GPU it compares a rehearsal with the usual run, so that the script itself is tested.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from benchmarks.training_step import LEFT_OUT, training_data
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import Run, build
from lightning_modules.turns import on_device

ON_GPU = torch.cuda.is_available()
CAPTURED, USUAL = ("true", "rehearse") if ON_GPU else ("rehearse", "false")
CHECKED = 50
"""Iterations after which numbers are compared; the resume begins after three fifths of them."""

EXPERIMENTS = ("resnet_digits", "infogan_digits", "improved_gan_digits", "draw_digits", "wrm_digits", "oracle_digits")


def prepared(experiment: str, capture: str, folder: Path, iterations: int, overrides: list[str]) -> Run:
    words = [f"experiment={experiment}", "logger=csv", f"trainer.max_steps={iterations}", "trainer.max_epochs=null",
             "trainer.deterministic=true", f"trainer.capture={capture}"]  # fmt: skip
    config = compose_job("train", [*words, *overrides], str(folder))
    kept = config["callbacks"].keys() - LEFT_OUT | {"checkpoint"}  # which also holds the generators of layers
    config["callbacks"] = {name: it for name, it in config["callbacks"].items() if name in kept}
    run = build(config | {"optimized_metric": None, "paper": None})
    training_data(run)
    return run


class Meanwhile(Callback):
    """What else a run does: a validation, and a checkpoint in the middle."""

    def __init__(self, checkpoint: Path, iteration: int) -> None:
        self.checkpoint, self.iteration = checkpoint, iteration

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.iteration:
            trainer.save_checkpoint(self.checkpoint)


def fitted(run: Run, *callbacks: Callback, checkpoint: Path | None = None) -> Run:
    run.trainer.callbacks += callbacks  # pyright: ignore[reportAttributeAccessIssue]
    with redirect_stdout(io.StringIO()):
        run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
    return run


def state_of(run: Run) -> dict[str, torch.Tensor]:
    """Weights, statistics and what the optimisers remember."""
    state = dict(run.module.state_dict())
    for number, optimizer in enumerate(run.trainer.optimizers):
        for place, of_parameter in optimizer.state_dict()["state"].items():
            state |= {f"{key} {place} of optimiser {number}": it for key, it in of_parameter.items()}
    return {name: it.detach().cpu().clone() for name, it in state.items() if isinstance(it, torch.Tensor)}


def differences(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, Any]:
    apart = {
        name: float((found[name].double() - it.double()).abs().max())
        for name, it in expected.items()
        if not torch.equal(found[name], it)
    }
    return {"tensors": len(apart), "of": len(expected), "largest": max(apart.values(), default=0.0),
            "first": sorted(apart)[:3]}  # fmt: skip


def compared(experiment: str, overrides: list[str], folder: Path) -> dict[str, Any]:
    middle = CHECKED * 3 // 5
    checkpoint = folder / "middle.ckpt"
    usual = state_of(fitted(prepared(experiment, USUAL, folder / "usual", CHECKED, overrides)))
    captured = prepared(experiment, CAPTURED, folder / "captured", CHECKED, overrides)
    found = state_of(fitted(captured, Meanwhile(checkpoint, middle)))
    resumed = prepared(experiment, CAPTURED, folder / "resumed", CHECKED, overrides)
    again = state_of(fitted(resumed, checkpoint=checkpoint))
    return {"differs": differences(found, usual), "differs_resumed": differences(again, found)}


class Timed(Callback):
    """Milliseconds of an iteration, the first ones left out."""

    def __init__(self, seconds: float, warm_up: int = 20) -> None:
        self.seconds, self.warm_up, self.counted, self.milliseconds = seconds, warm_up, 0, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.counted += 1
        if self.counted <= self.warm_up:
            wait_for_device()
            self.start = time.perf_counter()
        elif self.counted % 20 == 0:
            wait_for_device()
            passed = time.perf_counter() - self.start
            self.milliseconds = 1000 * passed / (self.counted - self.warm_up)
            trainer.should_stop = passed > self.seconds


def wait_for_device() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def timed(experiment: str, overrides: list[str], folder: Path, seconds: float) -> dict[str, Any]:
    found = {}
    for turn in range(2):
        for name, capture in (("usual", "false"), ("captured", CAPTURED)):
            run = prepared(experiment, capture, folder / f"{name}{turn}", 10**9, overrides)
            clock = Timed(seconds)
            fitted(run, clock)
            found.setdefault(name, []).append(round(clock.milliseconds, 3))
    return {"ms": found}


class FirstSteps(Callback):
    """Of a usual run: whether the host waits inside the step, and how many kernels it launches."""

    def __init__(self) -> None:
        self.waits: str | None = None
        self.kernels = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != 5:
            return
        with trainer.strategy.precision_plugin.train_step_context():
            inputs = on_device(pl_module.host_inputs(batch, trainer.global_step), pl_module.device)
            try:
                with errors_where_the_host_waits():
                    pl_module.device_step(inputs)
            except RuntimeError as error:
                self.waits = str(error).splitlines()[0]
            kinds = [ProfilerActivity.CUDA] if ON_GPU else [ProfilerActivity.CPU]
            with profile(activities=kinds) as seen:
                pl_module.device_step(inputs)
                wait_for_device()
        self.kernels = sum(it.count for it in seen.key_averages())


@contextmanager
def errors_where_the_host_waits() -> Iterator[None]:
    if not ON_GPU:
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def watched(experiment: str, overrides: list[str], folder: Path) -> dict[str, Any]:
    steps = FirstSteps()
    fitted(prepared(experiment, "false", folder / "watched", 8, overrides), steps)
    return {"waits": steps.waits, "kernels": steps.kernels}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=list(EXPERIMENTS))
    parser.add_argument("--seconds", type=float, default=5.0, help="of each timing")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py")
    parser.add_argument("--out", type=Path, help="a file that each line is added to")
    given = parser.parse_args(arguments)
    overrides = ["trainer=gpu" if ON_GPU else "trainer=cpu", *given.override]
    for experiment in given.experiments:
        for part in (watched, compared, timed):
            line: dict[str, Any] = {"experiment": experiment, "overrides": given.override}
            with tempfile.TemporaryDirectory() as folder:
                more = (given.seconds,) if part is timed else ()
                try:
                    line |= part(experiment, overrides, Path(folder), *more)
                except (RuntimeError, UserError) as error:  # one that fails leaves time for the others
                    line |= {"failed": f"{part.__name__}: {str(error).splitlines()[0]}"}
            told = json.dumps(line)
            print(told, flush=True)
            if given.out:
                with given.out.open("a") as file:
                    file.write(f"{told}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
