"""How long a module takes for an image as it is measured."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from foundation.metrics import Directions
from foundation.published import key_for


class SecondsPerImage(Callback):
    """Logs ``test/image_s``, seconds from a batch of images on the device to what is said of them, by their number: one
    process's, averaged over those that measure. The first batch, which warms up, is left out where there are others.

    Whatever comes with the images, such as proposals from a file, took its time before.
    """

    def metrics(self, module: Any, stage: str) -> Directions:
        return {"test/image_s": "min"} if stage == "test" else {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.batches: list[tuple[float, int]] = []

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        wait_for(pl_module)
        self.started = time.perf_counter()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        wait_for(pl_module)
        self.batches.append((time.perf_counter() - self.started, len(batch["index"])))

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        counted = self.batches[1:] or self.batches
        sums = torch.tensor([sum(it[number] for it in counted) for number in (0, 1)], dtype=torch.float64)
        seconds, images = trainer.strategy.reduce(sums.to(pl_module.device), reduce_op="sum").tolist()
        datamodule = getattr(trainer, "datamodule", None)
        pl_module.log(key_for("test/image_s", datamodule), seconds / images if images else float("nan"))


def wait_for(module: LightningModule) -> None:
    """Until a GPU has done what it was asked for."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
