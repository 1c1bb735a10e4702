"""What tests/test_resume.py runs in a process of its own: runs on small data that are killed and resumed.

Each run is a fork, so that torch is imported once. Weights at the end are saved for the pytest process to compare.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from launch.command_line import compose_job
from launch.runs import build
from tests.lightning_modules import test_bert, test_draw, test_infogan, test_raml, test_resnet, test_wrm

STEPS, SAVED_EVERY = 12, 4
TINY = test_infogan.TINY | test_resnet.TINY | test_draw.TINY | test_wrm.TINY | test_raml.TINY
TINY |= test_bert.TINY
BATCH_SIZE = {"bert_tiny_text": 48}  # five or six batches an epoch, as of digits


class SignalAt(Callback):
    """Sends this process a signal in the middle of an iteration: before player ``turn`` (0: D, 1: G) moves."""

    def __init__(self, iteration: int, turn: int, signum: int) -> None:
        self.iteration, self.turn, self.signum = iteration, turn, signum

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if trainer.global_step == self.iteration and optimizer is trainer.optimizers[self.turn]:
            os.kill(os.getpid(), self.signum)


def train(experiment: str, folder: Path, final: Path, checkpoint: Path | None = None, *callbacks: Callback) -> None:
    overrides = [f"experiment={experiment}", "trainer=cpu", "logger=none", f"trainer.max_steps={STEPS}",
                 *TINY[experiment], "trainer.log_every_n_steps=4", f"callbacks.checkpoint.every_n_train_steps={SAVED_EVERY}"]  # fmt: skip
    overrides += (
        [f"datamodule.batch_size={BATCH_SIZE.get(experiment, 256)}"] if experiment not in test_raml.TINY else []
    )
    run = build(compose_job("train", overrides, str(folder)))
    run.trainer.callbacks.extend(callbacks)  # type: ignore
    run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
    optimizers = [optimizer.state_dict() for optimizer in run.trainer.optimizers]
    error = run.trainer.callback_metrics.get("train/error", torch.zeros(()))  # counted since the last logging
    weights = run.module.state_dict() | {"train/error": error}
    torch.save({"weights": weights, "optimizers": optimizers, "next": torch.rand(3)}, final)


def in_a_fork(function: Any, *arguments: Any) -> int:
    """The exit status of a process that calls the function: negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            function(*arguments)
        except SystemExit as stopped:
            os._exit(int(stopped.code or 0))
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, experiment: str, cases: list[str]) -> None:
    torch.set_num_threads(1)
    assert in_a_fork(train, experiment, folder / "whole", folder / "whole.pt") == 0
    assert in_a_fork(train, experiment, folder / "again", folder / "again.pt") == 0
    for case in cases:
        name, iteration, turn = case.split("-")
        run, step, signum = folder / case, int(iteration), getattr(signal, name)
        status = in_a_fork(train, experiment, run, folder / "never.pt", None, SignalAt(step, int(turn), signum))
        assert status == (-9 if name == "SIGKILL" else 128 + signum), status
        checkpoint = run / "checkpoints" / "last.ckpt"
        start = checkpoint if checkpoint.exists() else None
        saved = torch.load(checkpoint, weights_only=True)["global_step"] if start else 0
        assert saved == (step // SAVED_EVERY * SAVED_EVERY if name == "SIGKILL" else step + 1)
        assert in_a_fork(train, experiment, run, folder / f"{case}.pt", start) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
