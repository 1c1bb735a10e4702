"""Lightning's loops, which go on from a checkpoint exactly where it was saved.

A checkpoint lies behind a batch, or behind the validation that follows it (``callbacks/checkpoint.py``). Lightning then
leaves out that validation, and the end of the epoch with its hooks where it was due; of a run that is counted in epochs
it starts the next one without counting it; a run that is at its end it leaves without a word to its callbacks. Here
what is left of the iteration is made up for, and a training that has nothing left to do still starts and ends: so one
that was interrupted in its test has its averaged weights in place, its pictures and its record again.
"""

from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


def go_on_exactly(trainer: Trainer) -> None:
    trainer.fit_loop.__class__ = FitLoop
    trainer.fit_loop.epoch_loop.__class__ = EpochLoop


class FitLoop(_FitLoop):
    epoch_loop: "EpochLoop"

    @_Loop.restarting.setter
    def restarting(self, restarting: bool) -> None:
        """Only inside an epoch is there something to make up for, however the run is counted."""
        epoch: Any = self.epoch_progress.current
        _Loop.restarting.fset(self, restarting and epoch.processed < epoch.started)  # pyright: ignore

    @property
    def skip(self) -> bool:
        return False

    @property
    def done(self) -> bool:
        return super().done and not (self.restarting and self.epoch_loop.restarted_on_train_batch_end)

    def reset(self) -> None:
        torch.set_grad_enabled(True)
        self.update_restart_stage()
        if self.resumed_on_epoch_end:
            self.epoch_progress.increment_completed()


class EpochLoop(_TrainingEpochLoop):
    def reset(self) -> None:
        if not self.restarting:
            super().reset()
            return
        if self.restarted_on_train_batch_end:
            self.batch_progress.increment_completed()
        for progress in (self.batch_progress, self.scheduler_progress, self.automatic_optimization.optim_progress):
            progress.reset_on_restart()

    def advance(self, data_fetcher: Any) -> None:
        if not self.restarting:
            super().advance(data_fetcher)
            return
        self.val_loop.restarting = False
        self._skip_next_val = not self.restarted_on_train_batch_end
