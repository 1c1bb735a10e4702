"""How fast a run trains, and how long it waits for data."""

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from foundation.logged_iterations import is_logged
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import said


class Throughput(Callback):
    """Logs ``train/examples_per_s``, ``train/step_s`` and ``train/data_wait_s`` of the iterations since the last
    logging, and ``train/tokens_per_s`` where the module reads token ids.

    A step is what lies between a batch's arrival and the end of its iteration; the wait is from there to the next
    batch's arrival on the device. Of the waits the median counts, so that validation, pictures and checkpoints
    between two iterations do not look like slow data. Examples and tokens are those of the global batch, and padding
    is no token.
    """

    for_training_only = True

    def metrics(self, module: Any, stage: str) -> Directions:
        names: dict[str, Direction] = {"examples_per_s": "max", "step_s": "min", "data_wait_s": "min"}
        if reads_tokens(module):
            names["tokens_per_s"] = "max"
        return in_stage(stage, names) if stage == "train" else {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.iteration = trainer.global_step
        self._begin(pl_module)
        self.ended = time.perf_counter()

    def _begin(self, module: LightningModule) -> None:
        self.examples, self.in_steps, self.waits, self.waited = 0, 0.0, list[float](), 0.0
        self.tokens = torch.zeros((), dtype=torch.int64, device=module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.arrived = time.perf_counter()
        self.waited += self.arrived - self.ended

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.examples += examples_in(batch) * trainer.world_size
        if reads_tokens(pl_module):
            self.tokens += tokens_in(batch)
        ends = trainer.global_step != self.iteration  # several batches may make an iteration
        logs = ends and is_logged(trainer, trainer.global_step)
        if logs and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # what was asked of the GPU is done; logging waits for it anyway
        self.ended = time.perf_counter()
        self.in_steps += self.ended - self.arrived
        if ends:
            self.waits.append(self.waited)
            self.iteration, self.waited = trainer.global_step, 0.0
        if logs:
            self._log(trainer, pl_module)

    def _log(self, trainer: Trainer, module: LightningModule) -> None:
        step, wait = self.in_steps / len(self.waits), median(self.waits)
        seconds = len(self.waits) * (step + wait)
        values = {"examples_per_s": self.examples / seconds, "step_s": step, "data_wait_s": wait}
        if reads_tokens(module):
            tokens = trainer.strategy.reduce(self.tokens, reduce_op="sum")  # texts of ranks differ in length
            values["tokens_per_s"] = float(tokens) / seconds
        module.log_dict({f"train/{name}": value for name, value in values.items()}, batch_size=1)
        self._begin(module)


def reads_tokens(module: Any) -> bool:
    return bool(said(module, "vocabulary_size"))


def examples_in(batch: Any) -> int:
    """The examples of a batch, or of all batches where it is a dict of several."""
    if not isinstance(batch, Mapping):
        return 0
    return len(batch["index"]) if "index" in batch else sum(examples_in(it) for it in batch.values())


def tokens_in(batch: Any) -> Tensor | int:
    """The tokens of a batch without its padding, where it says the lengths of its texts; else all of its ids."""
    if not isinstance(batch, Mapping):
        return 0
    if "lengths" in batch:
        return batch["lengths"].sum()
    return batch["input_ids"].numel() if "input_ids" in batch else sum(tokens_in(it) for it in batch.values())
