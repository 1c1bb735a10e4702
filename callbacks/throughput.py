"""How fast a run trains, and how long it waits for data."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from foundation.logged_iterations import is_logged
from foundation.metrics import Directions, in_stage


class Throughput(Callback):
    """Logs ``train/images_per_s``, ``train/step_s`` and ``train/data_wait_s`` of the iterations since the last logging.

    A step is what lies between a batch's arrival and the end of its iteration; the wait is from there to the next
    batch's arrival on the device. Of the waits the median counts, so that validation, pictures and checkpoints
    between two iterations do not look like slow data. Images are those of the global batch.
    """

    for_training_only = True

    def metrics(self, module: Any, stage: str) -> Directions:
        names: Directions = {"images_per_s": "max", "step_s": "min", "data_wait_s": "min"}
        return in_stage(stage, names) if stage == "train" else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin()
        self.ended = time.perf_counter()

    def _begin(self) -> None:
        self.images, self.in_steps, self.waits = 0, 0.0, list[float]()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.arrived = time.perf_counter()
        self.waits.append(self.arrived - self.ended)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images += examples_in(batch) * trainer.world_size
        logs = is_logged(trainer, trainer.global_step)
        if logs and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # what was asked of the GPU is done; logging waits for it anyway
        self.ended = time.perf_counter()
        self.in_steps += self.ended - self.arrived
        if logs:
            self._log(pl_module)

    def _log(self, module: LightningModule) -> None:
        step, wait = self.in_steps / len(self.waits), median(self.waits)
        rate = self.images / (len(self.waits) * (step + wait))
        module.log_dict({"train/images_per_s": rate, "train/step_s": step, "train/data_wait_s": wait}, batch_size=1)
        self._begin()


def examples_in(batch: Any) -> int:
    """The examples of a batch, or of all batches where it is a dict of several."""
    if not isinstance(batch, Mapping):
        return 0
    return len(batch["index"]) if "index" in batch else sum(examples_in(it) for it in batch.values())
