"""One contestant of ``benchmarks.peers``: trains for as many iterations as each line on standard input says.

It answers with a line of JSON each: what the turn took and its losses. All else that is printed goes to standard error.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Told:
    """The other end of the pipe."""

    def __init__(self) -> None:
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # a peer's progress must not be taken for an answer

    def turns(self) -> Iterator[int]:
        for line in sys.stdin:
            self.started = time.perf_counter(), time.process_time()
            yield int(line)

    def answer(self, losses: list[float]) -> None:
        wall_s, cpu_s = time.perf_counter() - self.started[0], time.process_time() - self.started[1]
        print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "losses": losses}), file=self.answers, flush=True)


def peer(told: Told, name: str, clone: str, images: str, batch_size: str, how: str) -> None:
    from benchmarks.peer_loops import PEERS, Batches

    (known,) = (it for it in PEERS if it.name == name)
    sys.path.insert(0, clone)
    kept = torch.load(images, weights_only=True)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # some write as they train
        loop: Callable[[int], list[float]] = known.loop(Batches(kept["image"], kept["label"], int(batch_size), how))
        for iterations in told.turns():
            told.answer(loop(iterations))


def ours(told: Told, experiment: str, *overrides: str) -> None:
    from lightning import Callback

    from benchmarks.losses import loss_of
    from benchmarks.training_step import prepared, training_data

    class WhenTold(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.following = told.turns()
            self.begin(trainer)

        def begin(self, trainer: Any) -> None:
            self.losses: list[Any] = []
            self.left = next(self.following, 0)
            trainer.should_stop = not self.left

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.losses.append(loss_of(outputs))
            self.left -= 1
            if self.left == 0:
                told.answer(torch.stack(self.losses).tolist())
                self.begin(trainer)

    with tempfile.TemporaryDirectory() as folder:
        run = prepared(experiment, list(overrides), folder)
        training_data(run)  # stands in where there is none
        run.trainer.callbacks.append(WhenTold())  # pyright: ignore[reportAttributeAccessIssue]
        run.trainer.fit(run.module, datamodule=run.datamodule)


if __name__ == "__main__":
    torch.set_num_threads(1)
    side, *arguments = sys.argv[1:]
    {"ours": ours, "peer": peer}[side](Told(), *arguments)
