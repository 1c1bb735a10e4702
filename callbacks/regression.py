"""How well numbers are estimated: correlations and errors."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from scipy.stats import pearsonr, spearmanr
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from callbacks.instruments.rows_of_ranks import rows_of
from foundation.metrics import Directions, in_stage
from foundation.protocols import EstimatesNumbers


class RegressionMetric(Metric):
    """Keeps all estimates by their examples, in whose order it computes: the same figures on any number of ranks."""

    full_state_update = False
    index: list[Tensor]
    estimates: list[Tensor]
    labels: list[Tensor]

    def __init__(self, **metric: Any) -> None:
        super().__init__(**metric)
        for name in ("index", "estimates", "labels"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, index: Tensor, estimate: Tensor, label: Tensor) -> None:
        """[B] each."""
        self.index.append(index)
        self.estimates.append(estimate.double())
        self.labels.append(label.double())

    def compute(self) -> dict[str, float]:
        """Not a number where the estimates or the labels are all the same, or fewer than two: nothing correlates."""
        index, told, are = (rows_of(it) for it in (self.index, self.estimates, self.labels))
        if index is None or told is None or are is None:
            return {"pearson": math.nan, "spearman": math.nan, "squared_error": math.nan}
        order = index.argsort()
        told, are = (it[order].cpu().numpy() for it in (told, are))
        varies = len(told) > 1 and np.ptp(told) > 0 and np.ptp(are) > 0
        return {
            "pearson": correlation(pearsonr, told, are) if varies else math.nan,
            "spearman": correlation(spearmanr, told, are) if varies else math.nan,
            "squared_error": float(((told - are) ** 2).mean()),
        }


def correlation(kind: Callable[..., Any], told: np.ndarray, are: np.ndarray) -> float:
    """By one of scipy's functions."""
    return float(kind(told, are).statistic)


class Regression(Measurement):
    """Logs ``<stage>/pearson`` and ``spearman``, the correlations of estimates with labels (GLUE's STS-B has both), and
    ``squared_error``."""

    metric: RegressionMetric
    requires = EstimatesNumbers
    needs_labels = True

    def metrics(self, module: Any, stage: str) -> Directions:
        names: Directions = {"pearson": "max", "spearman": "max", "squared_error": "min"}
        return {} if stage == "train" else in_stage(stage, names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.metric = RegressionMetric().to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["index"], outputs["estimate"], outputs["label"])
