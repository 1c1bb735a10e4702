"""What a run has measured so far goes on with it, from one process to the next."""

from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device

from callbacks.instruments.run_clock import gradient_is_unfinished


class MetricsSoFar(Callback):
    """Has a checkpoint keep the latest metrics, and the row that Lightning logs only after the checkpoint is written.

    Without, the record of a run that is resumed at its end would lack all that training has measured, and
    ``metrics.csv`` the row of the iteration that was saved. Every run has one.
    """

    def __init__(self) -> None:
        self.measured: dict[str, Any] = {}
        self.row: dict[str, Any] | None = None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["metrics"] = move_data_to_device(dict(trainer.callback_metrics), "cpu")
        connector = trainer._logger_connector
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        waits = trainer.training and batches.completed < batches.processed and connector.should_update_logs
        if waits and not gradient_is_unfinished(trainer):
            checkpoint["row"] = {key: float(value) for key, value in connector.metrics["log"].items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.measured, self.row = checkpoint.get("metrics", {}), checkpoint.get("row")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer._logger_connector._callback_metrics.update(self.measured)
        if self.row is not None:
            trainer._logger_connector.log_metrics(self.row)  # Lightning's counts are still those of its iteration
        self.measured, self.row = {}, None
