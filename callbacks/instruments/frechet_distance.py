"""How far two sets of images lie apart: the Fréchet distance of Gaussians fitted to a network's features of them."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import torch
from lightning import Trainer
from scipy.linalg.lapack import dpstrf  # pyright: ignore[reportAttributeAccessIssue]
from torch import Tensor
from torchmetrics import Metric

from foundation.whole_files import whole

ROWS, STRIP = 1000, 128
"""Images whose products are taken at once, and rows of the products: what these hold below the diagonal is wasted."""


class Gaussian(NamedTuple):
    """What is kept of a set of images. In double precision."""

    images: int
    mean: np.ndarray
    """[D]"""
    covariance: np.ndarray
    """[D, D], the unbiased one."""


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al. 2017, arXiv:1706.08500, eq. 6).

    The trace of the root is that of (R C2 R')^(1/2), where R' R = C1: the product is symmetric, so its eigenvalues are
    real. R has as many rows as the covariance of fewer images has rank, so no eigenvalue that should be 0 is taken
    for a small one, whose root would not be small.
    """
    few, many = sorted((first, second), key=lambda it: it.images)
    factor = cholesky_factor(few.covariance)
    values = scipy.linalg.eigvalsh(factor @ many.covariance @ factor.T)
    difference = first.mean - second.mean
    traces = np.trace(first.covariance) + np.trace(second.covariance)
    return float(difference @ difference + traces - 2 * np.sqrt(values.clip(min=0)).sum())


def cholesky_factor(covariance: np.ndarray) -> np.ndarray:
    """R, [rank, D], with R' R = covariance, which may be singular."""
    pivoted, pivots, rank, _ = dpstrf(np.asarray_chkfinite(covariance))
    factor = np.empty((rank, len(covariance)))
    factor[:, pivots - 1] = np.triu(pivoted)[:rank]
    return factor


class GaussianMetric(Metric):
    """Mean and covariance of features from sums in double precision.

    Neither batches nor ranks nor order change them beyond their last digits, and no image's features are kept.
    ``products`` is symmetric, so it is summed on the diagonal and above alone, and in place: half the work. Features
    wait until there are ROWS of them; a product of few is mostly threads that wait for each other.
    """

    full_state_update = False
    images: Tensor
    total: Tensor
    products: Tensor

    def __init__(self, features: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(features, features, dtype=torch.float64), dist_reduce_fx="sum")

        self.waiting: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """features: [B, D]."""
        self.waiting.append(features)
        if sum(map(len, self.waiting)) >= ROWS:
            self.add_waiting()

    def forward(self, features: Tensor) -> None:
        self.update(features)  # the base would put the states aside and come back with a batch's own

    def add_waiting(self) -> None:
        if not self.waiting:
            return
        features = torch.cat(self.waiting).double()
        self.waiting.clear()
        self.images += len(features)
        self.total += features.sum(dim=0)
        for left in range(0, features.shape[1], STRIP):
            self.products[left : left + STRIP, left:].addmm_(features[:, left : left + STRIP].T, features[:, left:])

    def sync(self, *arguments: Any, **named: Any) -> None:
        self.add_waiting()
        super().sync(*arguments, **named)

    def reset(self) -> None:
        self.waiting.clear()
        super().reset()

    def compute(self) -> Gaussian:
        self.add_waiting()
        count = int(self.images)
        assert count > 1
        mean = self.total / count
        products = self.products.triu() + self.products.triu(1).T
        covariance = (products - count * torch.outer(mean, mean)) / (count - 1)
        return Gaussian(count, mean.cpu().numpy(), covariance.cpu().numpy())


def kept(path: Path, trainer: Trainer, measure: Callable[[], Gaussian]) -> Gaussian:
    """The Gaussian of a file, measured and written where there is none. Every rank takes part and gets the same."""
    there = trainer.strategy.broadcast(read_gaussian(path) if trainer.is_global_zero else None)
    if there is not None:
        return there
    measured = measure()
    if trainer.is_global_zero:
        with whole(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, **measured._asdict())
    return measured


def read_gaussian(path: Path) -> Gaussian | None:
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as file:
        return Gaussian(int(file["images"]), file["mean"], file["covariance"])


def fingerprint(table: Any) -> str:
    """sha256 of a split's images, in their order."""
    sha256 = hashlib.sha256()
    for index in torch.arange(len(table)).split(1000):
        sha256.update(table[index]["image"].cpu().contiguous().numpy().data)
    return sha256.hexdigest()
