"""The base of all methods: optimisers, their schedules, clipped gradients, and losses that are logged."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from foundation.logged_iterations import is_logged
from foundation.metrics import Directions
from foundation.protocols import said

Batch = dict[str, Any]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class Optimized(LightningModule):
    """A method that is trained by one optimiser, or by several with names.

    Args:
        scheduler: makes a schedule out of an optimiser, one for each; stepped every iteration, whatever the number of
            ranks.
        gradient_clip_norm: largest norm of all gradients that an optimiser moves by together; None leaves them alone.
        seed: of what the method draws.
    """

    def __init__(
        self, *, scheduler: SchedulerFactory | None = None, gradient_clip_norm: float | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.scheduler, self.gradient_clip_norm, self.seed = scheduler, gradient_clip_norm, seed

    @abstractmethod
    def make_optimizers(self) -> list[Optimizer]:
        """In the order of their names."""

    def optimizer_names(self) -> list[str]:
        """What losses and learning rates are logged with; none where there is but one."""
        return []

    def metrics(self, stage: str) -> Directions:
        """Of losses against one another none is good when it is small."""
        if stage != "train":
            return {}
        return {f"train/loss_{name}": None for name in self.optimizer_names()} or {"train/loss": "min"}

    def configure_optimizers(self) -> tuple[list[Optimizer], list[Any]]:
        optimizers = self.make_optimizers()
        schedules: list[Any] = [self.scheduler(it) for it in optimizers] if self.scheduler else []
        if self.automatic_optimization:
            schedules = [{"scheduler": it, "interval": "step"} for it in schedules]
        return optimizers, schedules

    def on_train_epoch_start(self) -> None:
        """Whoever overrides it calls this one: data may be others in each epoch."""
        datamodule: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        said(datamodule, "begin_epoch")(self.current_epoch)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Mixed precision has unscaled the gradients when this hook runs; before it, they are too large to clip.
        if self.gradient_clip_norm is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip_norm)

    def log_training(self, iteration: int, values: Mapping[str, Tensor]) -> None:
        """Log ``train/<name>`` of numbers where the trainer logs that iteration, counted from 1."""
        if is_logged(self.trainer, iteration):
            for name, value in values.items():
                self.log(f"train/{name}", value.detach(), batch_size=1, sync_dist=True)
