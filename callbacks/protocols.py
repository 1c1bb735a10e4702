"""What a callback asks of a module, and how it leaves the module afterwards.

What a module can do may depend on its config (InfoGAN on faces has no category), so it answers
``capabilities()`` with the protocols that it serves as configured; ``launch.parts_check`` refuses a callback
whose ``requires`` is not among them before anything starts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@runtime_checkable
class SamplesImages(Protocol):
    def sample(self, indices: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1]; image i depends on the run's seed and indices[i] alone."""
        ...


@runtime_checkable
class TraversesLatents(Protocol):
    def traversals(self, rows: int) -> dict[str, Tensor]:
        """For each code, by name, images [rows, columns, C, H, W] in [0, 1]: in a row only that code varies."""
        ...


@runtime_checkable
class AssignsClusters(Protocol):
    num_clusters: list[int]
    """The number of clusters of each categorical code."""

    def assign_clusters(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> [B, number of categorical codes] int64."""
        ...


@runtime_checkable
class WeighsClusters(AssignsClusters, Protocol):
    def cluster_probabilities(self, images: Tensor) -> list[Tensor]:
        """images: [B, C, H, W] in [0, 1] -> for each categorical code [B, K], rows that sum to one."""
        ...


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; mode and the global random state are afterwards as they were."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
