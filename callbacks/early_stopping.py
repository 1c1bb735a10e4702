"""The end of a training whose validation metric no longer becomes better, whichever direction of it that is."""

from typing import Any, Literal

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping

from callbacks.instruments.monitored import direction_of


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, which waits for a better value by the direction that the metric declares.

    Args:
        monitor: the metric, measured in validation.
        mode: max or min, which must be the metric's own direction; None follows it.
        lightning: what Lightning's takes.
    """

    for_training_only = True

    def __init__(self, monitor: str, mode: Literal["max", "min"] | None = None, **lightning: Any) -> None:
        # Where the metric is measured, and where a checkpoint lies that a longer run can go on from.
        self.lightning = {"monitor": monitor, "check_on_train_epoch_end": False, **lightning}
        super().__init__(**self.lightning, mode=mode or "min")
        self.mode = mode  # pyright: ignore[reportAttributeAccessIssue]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self.mode is None:  # Lightning decides by it as it is made
            super().__init__(**self.lightning, mode=direction_of(self.lightning["monitor"], trainer, pl_module))
        super().setup(trainer, pl_module, stage)
