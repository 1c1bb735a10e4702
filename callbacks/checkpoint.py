"""One checkpoint that a run can go on from or be measured with."""

from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``: every ``every_n_train_steps`` iterations and at the end of training.

    For the best checkpoint by a validation metric, add ``best_checkpoint`` to the experiment's callbacks.
    """

    def __init__(self, folder: str, every_n_train_steps: int = 1000) -> None:
        super().__init__(
            dirpath=folder,
            filename="last",
            every_n_train_steps=every_n_train_steps,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        # After the last iteration, but before Lightning closes the epoch: a longer run can go on inside it.
        if trainer.global_step == trainer.max_steps:
            self._save_unless_saved(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if trainer.global_step != trainer.max_steps:
            self._save_unless_saved(trainer)

    def _save_unless_saved(self, trainer: Trainer) -> None:
        if trainer.global_step % self._every_n_train_steps:
            assert self.dirpath is not None
            trainer.save_checkpoint(Path(self.dirpath) / "last.ckpt")
