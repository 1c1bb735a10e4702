"""What the platform costs a training step: an experiment through the Trainer against bare loops.

    python -m benchmarks.training_step infogan_digits infogan_mnist
    python -m benchmarks.training_step infogan_mnist --iterations 200 --rounds 7 --override trainer=gpu
    python -m benchmarks.training_step infogan_digits --everything

- ``platform``: the experiment's config, DataModule, module, logger and callbacks, as train.py runs them. Validation,
  checkpoints, pictures and the record are left out; ``--everything`` leaves them in.
- ``bare loop``: the same losses, networks, optimisers, batch size and precision in a loop over a tensor in memory, or
  over an epoch's first batches of texts or points.
- ``usual loop``: the method as it is usually written in plain PyTorch (``benchmarks/loops.py``), a detector as
  torchvision has it (``benchmarks/detection.py``).
- ``captured loop``, on a GPU, of what ``trainer.capture`` can take: the bare loop's iteration as one CUDA graph. With
  ``--override trainer.capture=true`` the platform's is one too. ``--rehearse`` has it on a CPU, without a graph.

All take turns in one process, within one fit: after each turn of the Trainer a callback runs the loops. Each experiment
is measured in float32, and in half precision where ``precision: auto`` chooses that. A contestant whose losses
are not finite, or grow, ends the benchmark. On a GPU a last turn of each is profiled: launches of an iteration, the
time of its kernels, and the share of the (unprofiled) iteration in which none of them runs.
Where images are not there, random ones of their shape stand in, which is said; texts have to be there. Nothing is
downloaded.
"""

import argparse
import io
import sys
import tempfile
from contextlib import redirect_stdout
from itertools import islice
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from benchmarks import device_work
from benchmarks.detection import batches_in_memory, stand_ins
from benchmarks.device_work import Watch
from benchmarks.loops import Data, Loop, bare_loop, captured_loop, usual_loop
from benchmarks.losses import Bounds, loss_of
from benchmarks.turns import Turns, table
from datamodules.detection import DetectionDataModule
from datamodules.images import ImageDataModule, ImageTable
from datamodules.svhn_numbers import SVHNNumbersDataModule, patches
from foundation.errors import UserError, told_as_sentences
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import Run, build

PLATFORM, BARE, USUAL, CAPTURED = "platform", "bare loop", "usual loop", "captured loop"
LEFT_OUT = {"checkpoint", "best_checkpoint", "image_grid", "cluster_accuracy", "cluster_information", "run_record",
            "likelihood_bound", "drawing", "mean_average_precision", "detection_grid"}  # fmt: skip
STAND_IN_SIZE = 10_000
BATCHES = 32
"""Of texts or points, which the loops go through again and again."""
TURN_S = 2.0


class InTurns(Callback):
    """Lets the other contestants have their turn after each ``turns.iterations`` of the Trainer's; ends the fit.

    Args:
        watch: what a last round is watched by; None: there is none.
    """

    def __init__(self, turns: Turns, loops: dict[str, Loop], rounds: int, watch: Watch | None = None) -> None:
        self.turns, self.loops, self.rounds, self.watch = turns, loops, rounds, watch
        self.watching = False
        self.bounds = {name: Bounds(f"{turns.title}, {name}") for name in (PLATFORM, *loops)}
        self.losses: list[Tensor] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.turns.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(loss_of(outputs))
        if trainer.global_step % self.turns.iterations:
            return
        if self.watching:
            self._watch_loops()
            trainer.should_stop = True
            return
        self._stop(PLATFORM, self.losses)
        for name, loop in self.loops.items():
            self.turns.start()
            self._stop(name, loop(self.turns.iterations))
        self.losses = []
        timed = len(self.turns.turns[PLATFORM]) > self.rounds
        trainer.should_stop = timed and self.watch is None
        if timed and self.watch is not None:
            self.watching = True
            self.watch.start()
        self.turns.start()

    def _watch_loops(self) -> None:
        assert self.watch is not None
        count, works = self.turns.iterations, self.turns.works
        works[PLATFORM] = self.watch.stop(count)
        for name, loop in self.loops.items():
            with self.watch.during(count, works, name):
                loop(count)

    def _stop(self, contestant: str, losses: list[Tensor]) -> None:
        self.turns.stop(contestant)
        self.bounds[contestant].check(torch.stack(losses).tolist())


def prepared(
    experiment: str, overrides: list[str], folder: str, everything: bool = False, data: list[str] | None = None
) -> Run:
    """An experiment that trains without end. data: overrides that give it data; None: stand-ins where it needs some."""
    words = [f"experiment={experiment}", f"trainer.max_steps={10**9}", "logger=csv"]
    words += [*(stand_ins(compose_job("train", words), folder) if data is None else data), *overrides]
    config = compose_job("train", words if everything else [*words, "trainer.limit_val_batches=0"], folder)
    check_config(config, TrainConfig)
    if not everything:
        config["callbacks"] = {name: it for name, it in config["callbacks"].items() if name not in LEFT_OUT}
        config["trainer"]["enable_checkpointing"] = False  # else Lightning adds a checkpoint of its own each epoch
        config |= {"optimized_metric": None, "paper": None}  # logged by what is left out
    return build(config)


def measure(
    experiment: str, overrides: list[str], iterations: int | None = None, rounds: int = 5, everything: bool = False,
    rehearse: bool = False, watched: Any = None,
) -> Turns:  # fmt: skip
    """Run an experiment and the loops in turns; the first of ``rounds`` + 1 warms up.

    Without ``iterations`` a turn has as many as the bare loop makes in TURN_S. ``watched`` is the device whose work is
    told, a GPU's unless given.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = prepared(experiment, overrides, folder, everything)
        data, device = training_data(run), run.trainer.strategy.root_device
        loops = {BARE: bare_loop(run, data)}
        iterations = iterations or fitting_iterations(loops[BARE], device)
        title = f"{experiment}, {run.trainer.precision}" + (", captured" if run.captured == "on" else "")
        turns = Turns(title, device, iterations, examples_of_batch(run, data))
        if usual := usual_loop(run, data):
            loops[USUAL] = usual
        if (device.type == "cuda" or rehearse) and (captured := captured_loop(run, data)):
            loops[CAPTURED] = captured
        watched = device_work.watched_device(device) if watched is None else watched
        in_turns = InTurns(turns, loops, rounds, None if watched is None else Watch(watched))
        run.trainer.callbacks.append(in_turns)  # pyright: ignore[reportAttributeAccessIssue]
        print(f"{title}: batch {turns.batch_size}, {device.type}", file=sys.stderr)
        with redirect_stdout(io.StringIO()):  # the progress lines
            run.trainer.fit(run.module, datamodule=run.datamodule)
    return turns


def precisions(experiment: str, overrides: list[str]) -> list[str]:
    """float32, and what ``precision: auto`` chooses where that is another; where an override names one, that alone."""
    named = [it.partition("=")[2] for it in overrides if it.startswith("trainer.precision=")]
    if named:
        return named[-1:]
    with tempfile.TemporaryDirectory() as folder:
        chosen = prepared(experiment, [*overrides, "trainer.precision=auto"], folder).trainer.precision
    return list(dict.fromkeys(["32-true", str(chosen)]))


def fitting_iterations(loop: Loop, device: torch.device) -> int:
    tried = Turns("", device, iterations=5, batch_size=1)
    for _ in range(2):
        tried.start()
        loop(tried.iterations)
        tried.stop(BARE)
    return max(round(1000 * TURN_S / tried.milliseconds(BARE)), 1)


def training_data(run: Run) -> Data:
    """On the run's device; where the files are missing, random images, in the run's DataModule too."""
    datamodule = run.datamodule
    if isinstance(datamodule, DetectionDataModule):
        return batches_in_memory(run)
    if not isinstance(datamodule, ImageDataModule):
        return batches_of_loader(run)
    try:
        datamodule.setup("fit")
    except UserError as missing:
        print(f"Random images stand in for {datamodule.name} ({missing})", file=sys.stderr)
        pixels = torch.randint(256, (STAND_IN_SIZE, *datamodule.image_shape), dtype=torch.uint8)
        labels = torch.randint(datamodule.num_classes or 1, (STAND_IN_SIZE,))
        datamodule.tables = dict.fromkeys(("train", "val", "test"), ImageTable(pixels, labels))
        datamodule.prepare_data = lambda: None  # it would download
    table = datamodule.tables["train"]
    if isinstance(datamodule, SVHNNumbersDataModule):  # the loops see the same patch of an image every time
        table = ImageTable(patches(table.images, datamodule.patch).contiguous())
    return table.to(run.trainer.strategy.root_device)


def batches_of_loader(run: Run) -> list[dict[str, Any]]:
    """The first ``BATCHES`` of an epoch, of texts or points, on the run's device."""
    run.datamodule.setup("fit")
    device = run.trainer.strategy.root_device
    taken = islice(run.datamodule.train_dataloader(), BATCHES)
    return [run.module.transfer_batch_to_device(it, device, 0) for it in taken]


def examples_of_batch(run: Run, data: Data) -> int:
    """Their mean, where a batch is cut by something else than a number of examples."""
    if (size := run.datamodule.batch_size) is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return size
    assert isinstance(data, list)
    return round(sum(len(it["index"]) for it in data) / len(data))


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["infogan_digits", "infogan_mnist", "resnet_cifar10"])
    parser.add_argument("--iterations", type=int, help=f"in a turn; {TURN_S:g} s of the bare loop unless given")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each that count")
    parser.add_argument("--everything", action="store_true", help="with validation, checkpoints, pictures and record")
    parser.add_argument(
        "--rehearse", action="store_true", help="also the captured loop's way, on a CPU without a graph"
    )
    parser.add_argument("--override", action="append", default=[], help="a key of train.py, such as trainer=cpu")
    given = parser.parse_args(arguments)
    measured = []
    for experiment in given.experiments:
        for precision in precisions(experiment, given.override):
            overrides = [*given.override, f"trainer.precision={precision}"]
            measured.append(
                measure(experiment, overrides, given.iterations, given.rounds, given.everything, given.rehearse)
            )
    return measured


def report(measured: list[Turns]) -> str:
    lines = [turns.overhead(PLATFORM, BARE) for turns in measured]
    lines += [turns.overhead(PLATFORM, CAPTURED) for turns in measured if CAPTURED in turns.turns]
    works = [
        device_work.row(turns.title, name, turns.milliseconds(name), work)
        for turns in measured for name, work in turns.works.items()
    ]  # fmt: skip
    told = [table([row for turns in measured for row in turns.rows(BARE)]), ""]
    return "\n".join([*told, *([device_work.table(works), ""] if works else []), *lines])


if __name__ == "__main__":
    with told_as_sentences():
        print(report(main()))
