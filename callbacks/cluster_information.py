"""A measure of clusters that needs no label: what an image's category tells of a moved copy's category."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.cluster_accuracy import clusters_of
from callbacks.instruments.measurement import Measurement
from foundation.evaluation import evaluating
from foundation.metrics import Directions
from foundation.protocols import WeighsClustersOfImages
from foundation.randomness import keyed_generator
from lightning_modules.networks.motion import Motion, transform


class ClusterInformationMetric(Metric):
    """I(c; c') in nats between the category c of an image and c' of its moved copy, at most log K.

    The joint distribution is P(c, c') = E[Q(c|x) Q(c'|Tx)], made symmetric (Ji et al. 2019, IIC, arXiv:1807.06653,
    eq. 1-3). The value is large where all categories are used, each image has one, and moving it does not change it.
    Sums are kept as integers, in units of 2^-40, so that neither batches nor ranks nor order change them.
    """

    full_state_update = False
    joint: Tensor

    def __init__(self, num_clusters: int, **metric: Any) -> None:
        super().__init__(**metric)
        zeros = torch.zeros(num_clusters, num_clusters, dtype=torch.int64)
        self.add_state("joint", zeros, dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, moved_probabilities: Tensor) -> None:
        """Both: [B, K], rows that sum to one."""
        pairs = probabilities.double().unsqueeze(2) * moved_probabilities.double().unsqueeze(1)
        self.joint += (pairs * 2**40).round().long().sum(dim=0)

    def compute(self) -> float:
        joint = (self.joint + self.joint.T).double() / (2 * self.joint.sum())
        marginal = joint.sum(dim=1)
        # 0 log 0 = 0, which xlogy keeps.
        entropy = -torch.xlogy(marginal, marginal).sum()
        return float(2 * entropy + torch.xlogy(joint, joint).sum())


class ClusterInformation(Measurement):
    """Logs ``<stage>/cluster_information_nats``, by which runs or seeds can be compared without a label.

    Image i is moved by a draw that depends on i alone, so every run is measured on the same copies.

    Args:
        code: which of the module's categorical codes, counted from 0.
        rotation, shift, scale, shear: how far images are moved, as in ``Motion``.
    """

    metric: ClusterInformationMetric
    requires = WeighsClustersOfImages

    def __init__(self, rotation: float, shift: float, scale: float, shear: float, code: int = 0) -> None:
        self.motion = Motion(rotation=rotation, shift=shift, scale=scale, shear=shear)
        self.code = code

    def metrics(self, module: Any, stage: str) -> Directions:
        return {f"{stage}/cluster_information_nats": "max"} if stage != "train" else {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        clusters = clusters_of(pl_module, self.code, "cluster_information")
        self.metric = ClusterInformationMetric(clusters).to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        images = batch["image"]
        moved = transform(images, moves(batch["index"]).to(images), self.motion)
        with evaluating(module), trainer.precision_plugin.forward_context():
            before, after = (module.cluster_probabilities(it)[self.code] for it in (images, moved))
        self.metric.update(before, after)

    def figures(self) -> dict[str, float]:
        return {"cluster_information_nats": self.metric.compute()}


def moves(indices: Tensor) -> Tensor:
    """Draws in [-1, 1] for ``transform``, [B, 6]; those of image i depend on i alone."""
    drawn = [torch.rand(1, 6, generator=keyed_generator(0, "moved copy", int(index))) for index in indices]
    return torch.cat([torch.empty(0, 6), *drawn]) * 2 - 1
