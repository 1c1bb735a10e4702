"""Callbacks for tests to add on the command line: one fails on one rank, one notes what a rank trains with."""

import json
import os
from pathlib import Path

import torch
from lightning import Callback

from foundation.denormals import are_flushed


class FailOnRank(Callback):
    """Raises on a rank, in an iteration of training or at the very end."""

    def __init__(self, rank: int, iteration: int | None = None) -> None:
        self.rank, self.iteration = rank, iteration

    def on_train_batch_start(self, trainer, *arguments) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.iteration:
            raise ArithmeticError("this rank was told to fail")

    def on_test_end(self, trainer, pl_module) -> None:
        if trainer.global_rank == self.rank and self.iteration is None:
            raise ArithmeticError("this rank was told to fail")


class NoteRank(Callback):
    """Leaves ``rank<n>.json`` in a folder as the training starts."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer, pl_module) -> None:
        note = {"seed": trainer.datamodule.seed, "lr": pl_module.optimizer_g.keywords["lr"], "pid": os.getpid(),
                "threads": torch.get_num_threads(), "port": os.environ.get("MASTER_PORT"),
                "denormals_are_flushed": are_flushed(), "precision": trainer.precision}  # fmt: skip
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(note))
