"""Several processes on one machine: a failed rank fails the command, and no rank outlives it.

Lightning starts the other ranks by the command that started this one. It notices a failed rank after seconds, by
killing everything without a word, and not at all where rank 0 has already finished.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

ASKED_TO_STOP = (130, 143)
PATIENCE_S = 60.0
SWEEP = "RELIGHT_SWEEP"  # in the environment of a sweep's job: the process that started it


def is_first_process() -> bool:
    """Whether this process will be rank 0, as far as its launcher has said (torchrun, SLURM, Lightning)."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))


def folder_of_rank_zero_alone(arguments: list[str]) -> list[str]:
    """Hydra arguments with which the other ranks make no run folder of their own.

    Under torchrun and SLURM every process starts by itself and would name a folder by its own clock. Lightning names
    the folder of rank 0 to the ranks that it starts.
    """
    if is_first_process() or any(it.startswith("hydra.run.dir=") for it in arguments):
        return arguments
    return [*arguments, "hydra.run.dir=.", "hydra.output_subdir=null"]


def guard(trainer: Any, on_failure: Callable[[str], None]) -> None:
    """Watch the other ranks from rank 0, and rank 0 from them, and a sweep from its job. Call before the fit starts.

    ``on_failure`` is told in a sentence which rank failed, before this process leaves with exit code 1.
    """
    if trainer.local_rank > 0 or SWEEP in os.environ:
        parent = os.getppid() if trainer.local_rank > 0 else int(os.environ[SWEEP])
        threading.Thread(target=leave_with_parent, args=(parent,), daemon=True).start()
    if trainer.local_rank == 0 and hasattr(trainer.strategy.launcher, "procs"):
        threading.Thread(target=watch, args=(trainer, on_failure), daemon=True).start()


def started_by(trainer: Any) -> list[subprocess.Popen[bytes]]:
    """The other ranks that this process has started; none where torchrun or SLURM did."""
    return getattr(trainer.strategy.launcher, "procs", [])


def warn_of_other_ranks(trainer: Any, before: int) -> None:
    """A run may be resumed on another number of ranks; what that changes is said in one line."""
    if trainer.is_global_zero and before not in (0, trainer.world_size):
        print(
            f"resuming on {trainer.world_size} rank(s) what ran on {before}: the batches stay the same, but batch-norm "
            "statistics and noise inside layers are per rank, so the result is no longer bit for bit that of one run."
        )


def leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def watch(trainer: Any, on_failure: Callable[[str], None]) -> None:
    while True:
        time.sleep(0.3)
        if failed := failure(started_by(trainer)):
            fail(trainer, failed, on_failure)


def failure(processes: list[subprocess.Popen[bytes]]) -> str | None:
    for rank, process in enumerate(processes, start=1):
        if process.poll() and process.returncode not in ASKED_TO_STOP:
            return f"rank {rank} failed with exit code {process.returncode}; what it said stands above."
    return None


def fail(trainer: Any, reason: str, on_failure: Callable[[str], None]) -> None:
    on_failure(reason)
    print(f"error: {reason} The other ranks are ended.", file=sys.stderr, flush=True)
    for process in started_by(trainer):
        process.kill()
    os._exit(1)


def wait_for_ranks(trainer: Any, on_failure: Callable[[str], None]) -> None:
    """At the end of rank 0: the command has succeeded only when every rank has."""
    processes, deadline = started_by(trainer), time.monotonic() + PATIENCE_S
    for rank, process in enumerate(processes, start=1):
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            fail(trainer, f"rank {rank} did not end within {PATIENCE_S:.0f} s of rank 0.", on_failure)
    if failed := failure(processes):
        fail(trainer, failed, on_failure)
