"""The learning rates as they are scheduled."""

from typing import Any

from lightning import Callback, LightningModule, Trainer

from foundation.logged_iterations import is_logged
from foundation.metrics import Directions
from foundation.protocols import said


class LearningRates(Callback):
    """Logs ``train/lr``, or ``train/lr_<name>`` where the module names its optimisers (``optimizer_names``).

    The rate is that with which the iteration was made, of the optimiser's first parameter group. Lightning's
    LearningRateMonitor names keys by classes (``lr-Adam-1``) and refuses a run without a logger.
    """

    for_training_only = True

    def __init__(self) -> None:
        self.rates: list[float] = []

    def metrics(self, module: Any, stage: str) -> Directions:
        return dict.fromkeys(keys_of(module)) if stage == "train" else {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Before the iteration, since schedulers step at its end.
        if is_logged(trainer, trainer.global_step + 1):
            self.rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in trainer.optimizers]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.rates:
            pl_module.log_dict(dict(zip(keys_of(pl_module), self.rates, strict=True)), batch_size=1)
            self.rates = []


def keys_of(module: Any) -> list[str]:
    """In the order of the module's optimisers."""
    return [f"train/lr_{name}" for name in said(module, "optimizer_names")()] or ["train/lr"]
