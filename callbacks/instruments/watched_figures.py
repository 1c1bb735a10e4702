"""Shows schedules that go by what a run has learned (``lightning_modules.schedules.Watching``) what it has."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from foundation.protocols import said
from lightning_modules.schedules import Watching


class WatchedFigures(Callback):
    """Every run has one, before all callbacks that save: a checkpoint of an iteration holds what was seen of it.

    A figure of training is summed over the ranks in each iteration, an exact sum of counts; one of validation is the
    one that was logged, which is the same on all of them.
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for schedule in watching(trainer, "train"):
            total, examples = said(pl_module, "training_figures")()[name_of(schedule)](outputs)
            both = torch.stack([total.double(), total.new_full((), examples, dtype=torch.float64)])
            total, examples = trainer.strategy.reduce(both, reduce_op="sum")  # pyright: ignore[reportGeneralTypeIssues]
            tell(trainer, schedule.saw_iteration(total, examples))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            for schedule in watching(trainer, "val"):
                tell(trainer, schedule.saw_figure(float(trainer.callback_metrics[schedule.monitor])))


def watching(trainer: Trainer, stage: str) -> Iterator[Watching]:
    """The schedules that go by a figure of a stage and are not done with it."""
    for config in trainer.lr_scheduler_configs:
        schedule = config.scheduler
        if isinstance(schedule, Watching) and schedule.monitor.startswith(f"{stage}/") and not schedule.is_done():
            yield schedule


def name_of(schedule: Watching) -> str:
    return schedule.monitor.partition("/")[2]


def tell(trainer: Trainer, what: str | None) -> None:
    if what is not None and trainer.is_global_zero:
        print(f"{what}.", flush=True)
