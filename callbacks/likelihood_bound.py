"""How likely a model finds the data: an upper bound on -log p(x) in nats, its parts, and a tighter estimate."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import log_picture, log_table, save_figure
from callbacks.instruments.tables import write_table
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import BoundsLikelihood, BoundsLikelihoodOfImages


class LikelihoodBoundMetric(Metric):
    """Sums over examples, in double precision: the means depend on neither batches nor ranks, up to their last digits.

    A mean of batches' means, as is usual, weighs the examples of a short last batch too much.
    """

    full_state_update = False
    examples: Tensor
    reconstruction: Tensor
    kl: Tensor
    log_likelihood: Tensor

    def __init__(self, steps: int, importance_samples: int | None = None, **metric: Any) -> None:
        super().__init__(**metric)
        self.importance_samples = importance_samples
        self.add_state("examples", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("reconstruction", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("kl", torch.zeros(steps, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("log_likelihood", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, reconstruction: Tensor, kl: Tensor, log_likelihood: Tensor | None = None) -> None:
        """reconstruction: [B]; kl: [B, steps]; log_likelihood: [B], the importance-weighted one. All in nats."""
        self.examples += len(reconstruction)
        self.reconstruction += reconstruction.double().sum()
        self.kl += kl.double().sum(dim=0)
        if log_likelihood is not None:
            self.log_likelihood += log_likelihood.double().sum()

    def compute(self) -> dict[str, float]:
        total = max(int(self.examples), 1)
        reconstruction, kl = float(self.reconstruction) / total, float(self.kl.sum()) / total
        found = {"nll_bound_nats": reconstruction + kl, "reconstruction_nats": reconstruction, "kl_nats": kl}
        if self.importance_samples is not None:
            found[importance_metric(self.importance_samples)] = -float(self.log_likelihood) / total
        return found

    def kl_of_steps(self) -> list[float]:
        """The mean divergence of each time step, in nats."""
        return (self.kl / self.examples.clamp(min=1)).tolist()


def importance_metric(samples: int) -> str:
    """Named by its samples: figures of different numbers of them do not stand in one column."""
    return f"nll_importance_{samples}_nats"


class LikelihoodBound(Measurement):
    """Logs ``<stage>/nll_bound_nats`` and its parts ``reconstruction_nats`` and ``kl_nats``; writes ``kl_steps.csv``.

    The table has a row a time step: what its latents cost on the test images; ``kl_steps.png`` shows it.

    Args:
        folder: where the table and its picture go.
        importance_samples: also log ``test/nll_importance_<samples>_nats``, from that many samples of each test
            image's latents, as many passes. It is an upper bound too, on average, and falls to -log p(x) as they
            become more.
    """

    metric: LikelihoodBoundMetric

    def __init__(self, folder: str, importance_samples: int | None = None) -> None:
        if importance_samples is not None and importance_samples < 1:
            raise UserError(
                f"callbacks.likelihood_bound.importance_samples is {importance_samples}: give 1 or more, or null."
            )
        self.folder, self.importance_samples = Path(folder), importance_samples
        self.requires = BoundsLikelihoodOfImages if importance_samples else BoundsLikelihood

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage == "train":
            return {}
        names: dict[str, Direction] = {"nll_bound_nats": "min", "reconstruction_nats": "min", "kl_nats": None}
        if stage == "test" and self.importance_samples:
            names[importance_metric(self.importance_samples)] = "min"
        return in_stage(stage, names)

    def pictures(self, module: Any) -> set[str]:
        return {"test/kl_steps"}

    def tables(self, module: Any) -> set[str]:
        return {"test/kl_steps_table"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, BoundsLikelihood)
        self.metric = LikelihoodBoundMetric(pl_module.steps, self.importance_samples).to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        estimate = None
        if self.importance_samples and trainer.testing:
            with evaluating(module), trainer.precision_plugin.test_step_context():
                estimate = module.importance_weighted_log_likelihood(
                    batch["image"], batch["index"], self.importance_samples
                )
        self.metric.update(outputs["reconstruction_nats"], outputs["kl_nats"], estimate)

    def write(self, trainer: Trainer, module: Any) -> None:
        with self.metric.sync_context():
            self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: Trainer) -> None:
        costs = self.metric.kl_of_steps()
        write_table(self.folder / "kl_steps.csv", [("step", "kl_nats"), *enumerate(costs, start=1)])
        picture = self.folder / "kl_steps.png"
        with save_figure(picture, width=6.5, height=3.5) as axes:
            axes.bar(range(1, len(costs) + 1), costs)
            axes.set(xlabel="time step", ylabel="KL, nats", title="What the latents of each step cost")
        log_picture(trainer, "test/kl_steps", picture)
        log_table(trainer, "test/kl_steps_table", self.folder / "kl_steps.csv")
