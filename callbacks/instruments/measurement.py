"""The base of the callbacks that measure: how a metric goes through an evaluation."""

from abc import abstractmethod
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torchmetrics import Metric

from foundation.metrics import Directions
from foundation.published import key_for


class Measurement(Callback):
    """Empties its metric, shows it every batch, computes it once and logs it under ``<stage>/``; not in sanity checks.

    A subclass makes ``metric`` in its ``setup`` or at an epoch's start. The metric exchanges what the ranks have seen
    by itself, so what is logged is the same on each of them and nothing is left to reduce.
    """

    metric: Metric

    @abstractmethod
    def metrics(self, module: Any, stage: str) -> Directions:
        """The keys that are logged in a stage, each with the direction that is better."""

    @abstractmethod
    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        """Show the metric a batch, and what the module's step returned for it."""

    def figures(self) -> dict[str, float]:
        """What the metric says, by the names behind ``<stage>/``; of these the declared ones are logged."""
        return self.metric.compute()

    def write(self, trainer: Trainer, module: Any) -> None:
        """Tables and pictures after the test, called on every rank."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.metric.reset()

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self.update(trainer, pl_module, outputs, batch)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log(trainer, pl_module, "test")
        self.write(trainer, pl_module)

    def _log(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self.figures().items()}
        datamodule, declared = getattr(trainer, "datamodule", None), self.metrics(module, stage)
        module.log_dict({key_for(key, datamodule): value for key, value in values.items() if key in declared})
