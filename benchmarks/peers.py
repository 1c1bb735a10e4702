"""Our training step against other people's code, from clones of their repositories that lie anywhere.

    python -m benchmarks.peers infogan=../InfoGAN-PyTorch resnet=../pytorch_resnet_cifar10
    python -m benchmarks.peers draw=../generative_models --rounds 9 --seconds 4

- ``peer``: networks, losses and steps of the clone in float32, in a process in which nothing of this project's is set:
  no memory is kept, no small number flushed. A second row has the peer's own pictures from PIL where it has a loader.
- ``platform``: the experiment through the Trainer, data and callbacks included, as in ``benchmarks.training_step``; in
  float32, and in half precision where ``precision: auto`` chooses that.

Both see the same images and batch size. Each contestant has a process of its own with one thread; they take turns, and
the others wait. Compared by CPU time, since a machine may have other work; a ratio is the peer's time by ours in the
same round, so above 1 ours is faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import product
from pathlib import Path
from typing import IO

import torch

from benchmarks.losses import Bounds
from benchmarks.peer_loops import PEERS, Peer, found
from benchmarks.training_step import PLATFORM, precisions, prepared, training_data
from benchmarks.turns import Spent, Turns, columns
from datamodules.images import ImageTable
from foundation.errors import UserError, did_you_mean, told_as_sentences

ROOT = Path(__file__).resolve().parent.parent
PEER = "peer"
OF_MALLOC = ("MALLOC_", "LD_PRELOAD", "GLIBC_TUNABLES")


class Contestant:
    """A process that trains when it is told to, for a number of iterations, and says what they took."""

    def __init__(self, name: str, process: subprocess.Popen[str], said: IO[str]) -> None:
        self.name, self.process, self.said, self.bounds = name, process, said, Bounds(name)

    def turn(self, iterations: int) -> Spent:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            self.said.seek(0)
            last = (self.said.read().strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"{self.name} ended with exit code {code}: {last}")
        told = json.loads(line)
        self.bounds.check(told["losses"])
        return Spent(told["wall_s"], told["cpu_s"])


@contextmanager
def contestant(name: str, arguments: list[str]) -> Iterator[Contestant]:
    environment = {key: it for key, it in os.environ.items() if not key.startswith(OF_MALLOC)}
    environment["TQDM_DISABLE"] = "1"
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.peer_process", *arguments]
    said = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed beneath)
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
    )
    try:
        yield Contestant(name, process, said)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()  # no more turns
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        said.close()


def measure(
    peer: Peer, clone: Path, overrides: list[str], rounds: int = 7, seconds: float = 2.0, iterations: int | None = None
) -> Turns:
    """In turns; the first of ``rounds`` + 1 warms up.

    Without ``iterations`` a turn has as many as the fastest makes in ``seconds``.
    """
    overrides = ["trainer=cpu", *peer.overrides, *overrides]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        run = prepared(peer.experiment, overrides, folder)
        batch_size: int = run.datamodule.batch_size  # pyright: ignore[reportAttributeAccessIssue]
        table = training_data(run)
        assert isinstance(table, ImageTable)
        images = Path(folder) / "images.pt"
        torch.save({"image": table.images, "label": table.labels}, images)
        of_peer = [peer.name, str(clone), str(images), str(batch_size)]
        commands = {f"{PEER}, {how}" if how else PEER: ["peer", *of_peer, how] for how in peer.ways}
        for it in precisions(peer.experiment, overrides):
            commands[f"{PLATFORM}, {it}"] = ["ours", peer.experiment, *overrides, f"trainer.precision={it}"]
        taking_part = [stack.enter_context(contestant(*it)) for it in commands.items()]
        size = iterations or 5
        first = [it.turn(size) for it in taking_part]
        size = iterations or max(round(seconds * size / min(it.cpu_s for it in first)), 1)
        turns = Turns(f"{peer.experiment} / {peer.name}", torch.device("cpu"), size, batch_size, "cpu_s")
        for _ in range(rounds + 1):
            for it in taking_part:
                turns.turns.setdefault(it.name, []).append(it.turn(size))
    return turns


HEADINGS = ["experiment / peer", "theirs", "ours", "theirs, ms", "ours, ms", "theirs by ours (min-max)"]


def report(measured: list[Turns]) -> str:
    """A row for each pair of theirs and ours, in CPU time of an iteration."""
    rows = [
        [turns.title, theirs, ours, f"{turns.milliseconds(theirs):.2f}", f"{turns.milliseconds(ours):.2f}",
         turns.ratio_and_range(theirs, ours)]
        for turns in measured
        for theirs, ours in product(turns.turns, turns.turns)
        if theirs.startswith(PEER) and ours.startswith(PLATFORM)
    ]  # fmt: skip
    return columns(HEADINGS, rows)


def named(word: str) -> list[tuple[Peer, Path]]:
    """``infogan=<folder>``: the clone, and whose it is by the files that lie there."""
    method, equals, folder = word.partition("=")
    methods = sorted({it.method for it in PEERS})
    if not equals or method not in methods:
        hint = did_you_mean(method, methods)
        raise UserError(f"{word}: give a method and a clone's folder, as in infogan=<folder>; {hint}")
    clone = Path(folder).expanduser().resolve()
    if not clone.is_dir():
        raise UserError(f"{word}: there is no folder {clone}; clone the peer's repository there.")
    return [(it, clone) for it in found(method, clone)]


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="+", help="METHOD=FOLDER")
    parser.add_argument("--iterations", type=int, help="in a turn")
    parser.add_argument("--seconds", type=float, default=2.0, help="of CPU time of the fastest, in a turn")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each that count")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py for ours")
    given = parser.parse_args(arguments)
    pairs = [pair for it in given.peers for pair in named(it)]  # a wrong folder is said before anything is timed
    return [measure(*it, given.override, given.rounds, given.seconds, given.iterations) for it in pairs]


if __name__ == "__main__":
    with told_as_sentences():
        print(report(main()))
