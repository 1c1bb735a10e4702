"""How often the right one of several endings is chosen, by the two figures that are told of SWAG and HellaSwag."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from foundation.metrics import Directions, in_stage
from foundation.protocols import Classifies, OffersEndings


class ChoicesMetric(Metric):
    """Counts, which depend on neither batches nor ranks. Of equal scores the first is chosen."""

    full_state_update = False
    right: Tensor
    right_by_letters: Tensor
    total: Tensor

    def __init__(self, **metric: Any) -> None:
        super().__init__(**metric)
        for name in ("right", "right_by_letters", "total"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, letters: Tensor, label: Tensor) -> None:
        """logits: [B, C] float; letters: [B, C] and label: [B] int64."""
        by_letters = logits.double().log_softmax(1) / letters.clamp(min=1)
        self.right += (logits.argmax(1) == label).sum()
        self.right_by_letters += (by_letters.argmax(1) == label).sum()
        self.total += len(label)

    def compute(self) -> dict[str, float]:
        total = max(int(self.total), 1)
        return {"acc": int(self.right) / total, "acc_norm": int(self.right_by_letters) / total}


class Choices(Measurement):
    """Logs ``<stage>/acc`` and ``<stage>/acc_norm``, which are not to be mixed.

    ``acc`` takes the ending y with the largest log p(y | x, all endings), which is the network's largest score, and
    ``acc_norm`` the one with the largest log p / letters of y, which long endings gain by. As of a language model
    (``finished.choices``), but p is shared out among the endings: such a log p is no sum over letters.
    """

    metric: ChoicesMetric
    requires = Classifies
    requires_data = OffersEndings
    needs_labels = True

    def metrics(self, module: Any, stage: str) -> Directions:
        names: Directions = {"acc": "max", "acc_norm": "max"}
        return {} if stage == "train" else in_stage(stage, names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.metric = ChoicesMetric().to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["logits"], batch["letters"], outputs["label"])
