"""Signals that ask a command to stop: a person's Ctrl-C, SIGTERM, and those by which a scheduler announces its limit.

While it trains, ``callbacks/checkpoint.py`` answers them between two iterations. Everywhere else, in a test or while
pictures are drawn, there is nothing to save that a resume would not make again, and they are answered at once.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lightning import Callback, LightningModule, Trainer

OF_SCHEDULERS = (signal.SIGUSR1, signal.SIGUSR2)  # sbatch --signal=USR1@90; submitit's USR2

Handler = Callable[[int, Any], Any]


class Interrupted(SystemExit):
    """The run was asked to stop, and can go on. The code is the shell's for the signal (130, 143, 138).

    Args:
        iteration: after which it stopped; None where none is trained.
    """

    def __init__(self, signum: int, iteration: int | None = None) -> None:
        super().__init__(128 + signum)
        self.signum, self.iteration = signum, iteration


def watched() -> list[signal.Signals]:
    """Those of a scheduler where there is one, or where somebody listens to them, such as submitit."""
    under_slurm = "SLURM_JOB_ID" in os.environ
    heard = [it for it in OF_SCHEDULERS if under_slurm or callable(signal.getsignal(it))]
    return [signal.SIGINT, signal.SIGTERM, *heard]


def leave(signum: int, frame: Any) -> None:
    raise Interrupted(signum)


@contextmanager
def answered_at_once() -> Iterator[None]:
    """Round a command: a signal ends it with the shell's code for it, and what stands in ``finally`` is done."""
    before = {it: signal.signal(it, leave) for it in watched()}
    asked: int | None = None
    try:
        yield
    except Interrupted as stopped:
        asked = stopped.signum
        raise
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if asked is not None and asked in OF_SCHEDULERS:
            put_back(asked, before[signal.Signals(asked)])


def put_back(signum: int, listener: Any) -> None:
    """Have the job started again: by whoever listened to the signal (submitit), else by SLURM's own command."""
    if callable(listener):
        listener(signum, None)
    elif "SLURM_JOB_ID" in os.environ and os.environ.get("SLURM_PROCID", "0") == "0":
        job = os.environ["SLURM_JOB_ID"]
        try:
            said = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            failed = said.stderr.strip() or f"exit code {said.returncode}" if said.returncode else None
        except OSError as error:
            failed = str(error)
        told = f"could not be put back into the queue ({failed})" if failed else "is put back into the queue"
        print(f"SLURM's job {job} {told}.", file=sys.stderr, flush=True)


class AnsweredAtOnce(Callback):
    """The same where Lightning has put a handler of its own, which lets a test go on. Every run has one.

    Lightning gives back what was there before when a stage has ended.
    """

    def _take(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def leave_with_ranks(signum: int, frame: Any) -> None:
            for process in getattr(trainer.strategy.launcher, "procs", []):  # the ranks that Lightning has started
                process.send_signal(signum)
            raise Interrupted(signum, trainer.global_step)

        for signum in watched():
            signal.signal(signum, leave_with_ranks)

    on_sanity_check_start = on_train_start = on_test_start = _take
