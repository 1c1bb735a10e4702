"""Does a captured iteration give an eager one's numbers, and how much sooner? One script for a GPU machine.

    python -m benchmarks.capture_check --out capture.jsonl                     # every family, in 4.5 minutes at most
    python -m benchmarks.capture_check infogan "draw, no attention"            # some of them, or any experiment
    python -m benchmarks.capture_check resnet_cifar10 --seconds 60 --override trainer.precision=bf16-mixed

On one GPU the whole of it is meant to take some 4 minutes, which no GPU has measured; nothing begins after
``--minutes``, and what was left out says so. Data are made or come with a library: nothing is downloaded. First come
the numbers of all, then the times. Of each, a line of JSON as soon as it is known:

- ``waits``: the first operation of an eager ``device_step`` for which the host waits for the device; null: none does.
- ``kernels``: launched in an iteration as usual.
- ``differs``: names of weights, statistics, optimiser state and the layers' generator that differ after so many
  iterations from those of the same iterations without a graph (``trainer.capture=rehearse``), and the largest
  difference; a validation, a checkpoint and a resume from it lie in between.
- ``ms``: milliseconds of an iteration through the Trainer, as usual and captured, in turns.

Where something fails on a GPU, the rest goes on in another process, since a recording that has failed leaves the first
one's device in no state to go on. Without a GPU a rehearsal is compared with the usual run, so that the script itself
is tested.
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
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

OF_ONE_SHAPE = ["datamodule.pad_to_max_length=true", "lightning_module.network.padding_free=false"]
CASES: dict[str, list[str]] = {
    "resnet": ["resnet_digits"],
    "densenet": ["densenet_digits"],
    "infogan": ["infogan_digits"],
    "infogan, Q by itself": ["infogan_digits", "lightning_module.q_optimizer=own", "lightning_module.real_images=null"],
    "improved_gan": ["improved_gan_digits"],
    "improved_gan, techniques": ["improved_gan_digits", "lightning_module.historical_averaging=0.1",
                                 "lightning_module.generator_steps=2"],
    "draw": ["draw_digits"],
    "draw, no attention": ["draw_digits", "lightning_module.network.read_size=null",
                           "lightning_module.network.write_size=null"],
    "wrm": ["wrm_digits"],
    "wrm, points": ["wrm_synthetic"],
    "oracle, worst neighbours": ["oracle_digits", "lightning_module.training=worst"],
    "oracle, points": ["oracle_synthetic"],
    "bert": ["bert_tiny_text", *OF_ONE_SHAPE],
    "language_model": ["language_model_tales", *OF_ONE_SHAPE],
}  # fmt: skip
"""An experiment of each family, and more of its words."""


def prepared(experiment: str, capture: str, folder: Path, iterations: int, overrides: list[str]) -> Run:
    # ``warn``: an operator without a deterministic kernel shows in what differs, and ends no comparison.
    words = [f"experiment={experiment}", "logger=csv", f"trainer.max_steps={iterations}", "trainer.max_epochs=null",
             "trainer.deterministic=warn", f"trainer.capture={capture}"]  # fmt: skip
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
    """Weights, statistics, what the optimisers remember, and how far the generator of noise inside layers is."""
    state = dict(run.module.state_dict())
    if ON_GPU:
        state["the layers' generator"] = torch.cuda.get_rng_state()
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
            kind, device = (
                (ProfilerActivity.CUDA, DeviceType.CUDA) if ON_GPU else (ProfilerActivity.CPU, DeviceType.CPU)
            )
            with profile(activities=[kind]) as seen:
                pl_module.device_step(inputs)
                wait_for_device()
        # Of a GPU also what the host has called is listed, once more for each kernel.
        self.kernels = sum(it.count for it in seen.key_averages() if it.device_type == device)


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


PARTS = {"watched": watched, "compared": compared, "timed": timed}


def jobs_of(words: list[str]) -> list[tuple[str, str]]:
    """Names and parts, the times after all numbers. A word is a case, an experiment, or one of these with ``:part``."""
    pairs = [(name, part) for word in words or CASES for name, _, part in [word.partition(":")]]
    asked = [(name, part) for name, given in pairs for part in PARTS if given in ("", part)]
    return sorted(asked, key=lambda it: it[1] == "timed")


def line_of(name: str, part: str, overrides: list[str], seconds: float) -> dict[str, Any]:
    experiment, *words = CASES.get(name, [name])
    words = ["trainer=gpu" if ON_GPU else "trainer=cpu", *words, *overrides]
    told: dict[str, Any] = {"name": name, "experiment": experiment, "overrides": [*words[1:]]}
    with tempfile.TemporaryDirectory() as folder:
        more = (seconds,) if part == "timed" else ()
        try:
            return told | PARTS[part](experiment, words, Path(folder), *more)
        except (RuntimeError, UserError) as error:  # one that fails leaves time for the others
            return told | {"failed": f"{part}: {str(error).splitlines()[0]}"}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", help=f"of {', '.join(CASES)}, or experiments; all cases where none is given"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing")
    parser.add_argument("--minutes", type=float, default=4.5, help="after which nothing more begins")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py")
    parser.add_argument("--out", type=Path, help="a file that each line is added to")
    given = parser.parse_args(arguments)
    end, jobs = time.monotonic() + 60 * given.minutes, jobs_of(given.names)
    for number, (name, part) in enumerate(jobs, start=1):
        in_time = time.monotonic() < end
        line = line_of(name, part, given.override, given.seconds) if in_time else {"name": name, "left_out": part}
        told = json.dumps(line)
        print(told, flush=True)
        if given.out:
            with given.out.open("a") as file:
                file.write(f"{told}\n")
        if ON_GPU and "failed" in line and number < len(jobs):
            rest = [f"{name}:{part}" for name, part in jobs[number:]]
            minutes = max(end - time.monotonic(), 0) / 60
            options = [f"--override={it}" for it in given.override] + ([f"--out={given.out}"] if given.out else [])
            options += [f"--seconds={given.seconds}", f"--minutes={minutes}"]
            sys.exit(subprocess.run([sys.executable, "-m", "benchmarks.capture_check", *rest, *options]).returncode)


if __name__ == "__main__":
    main(sys.argv[1:])
