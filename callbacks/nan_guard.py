"""Stops a training that has diverged, before it costs more and overwrites what was good."""

import math
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer

from callbacks.checkpoint import Checkpoint, weights_are_finite
from foundation.checkpoints import load_plain
from foundation.errors import UserError
from foundation.logged_iterations import is_logged
from foundation.run_files import to_go_on

ANOTHER_RANK_TELLS = 143  # an exit code that rank 0 does not take for a failure of its own (launch.processes)


class Diverged(UserError):
    """A loss or weight is no longer a finite number."""


class NanGuard(Callback):
    """Fails the run in the first logged iteration with a loss that is not finite, on all ranks together.

    Args:
        watch: what a metric begins with to be watched, as logged.
    """

    for_training_only = True

    def __init__(self, watch: str = "train/loss") -> None:
        self.watch = watch

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if is_logged(trainer, trainer.global_step):
            logged = trainer.callback_metrics
            values = {key: float(logged[key]) for key in logged if key.startswith(self.watch)}
            self._refuse(trainer, {key: value for key, value in values.items() if not math.isfinite(value)})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The iterations since the last logging, before a test measures what they have left.
        self._refuse(trainer, {} if weights_are_finite(pl_module) else {"a weight": math.nan})

    def _refuse(self, trainer: Trainer, wrong: dict[str, float]) -> None:
        if not on_any_rank(trainer, bool(wrong)):
            return
        if not trainer.is_global_zero:
            raise SystemExit(ANOTHER_RANK_TELLS)
        what = ", ".join(f"{key} is {value}" for key, value in wrong.items()) or "a loss of another rank is not finite"
        raise Diverged(f"{what} after iteration {trainer.global_step}: the training has diverged. {way_back(trainer)}")


def on_any_rank(trainer: Trainer, found: bool) -> bool:
    """Whether it was found on one of the ranks; all of them ask."""
    if trainer.world_size == 1:
        return found
    flag = torch.tensor(int(found), device=trainer.strategy.root_device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def way_back(trainer: Trainer) -> str:
    """A sentence on the last checkpoint, whose weights are finite (callbacks.checkpoint keeps it so)."""
    paths = [it.path for it in trainer.checkpoint_callbacks if isinstance(it, Checkpoint) and it.path.exists()]
    if not paths:
        return "No checkpoint was saved before; start again with lower learning rates."
    iteration, run = load_plain(paths[0])["global_step"], paths[0].parent.parent
    return (
        f"The last good checkpoint is of iteration {iteration}, {paths[0]}: go on from there with other settings, as "
        f"in {to_go_on(run, 'lightning_module.gradient_clip_norm=1')}"
    )
