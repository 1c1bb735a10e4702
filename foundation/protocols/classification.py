"""What is asked of modules that tell classes or clusters apart."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class AssignsClusters(Protocol):
    """Its validation and test steps return ``index`` [B], ``label`` [B] and ``cluster`` [B, number of categorical
    codes], all int64."""

    num_clusters: list[int]
    """The number of clusters of each categorical code."""


@runtime_checkable
class WeighsClustersOfImages(AssignsClusters, Protocol):
    def assign_clusters(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> [B, number of categorical codes] int64."""
        ...

    def cluster_probabilities(self, images: Tensor) -> list[Tensor]:
        """images: [B, C, H, W] in [0, 1] -> for each categorical code [B, K], rows that sum to one."""
        ...


@runtime_checkable
class Classifies(Protocol):
    """Its training, validation and test steps return ``index`` [B], ``logits`` [B, num_classes] and ``label`` [B]."""

    num_classes: int
    class_names: list[str] | None
    """Of the data that it was trained on, where they are known."""


@runtime_checkable
class ClassifiesImages(Classifies, Protocol):
    image_shape: tuple[int, ...]
    """Channels, height, width."""

    def class_logits(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> [B, num_classes]; a softmax of them is the classes' probabilities."""
        ...


@runtime_checkable
class ClassifiesPoints(Classifies, Protocol):
    point_size: int | None
    """Coordinates of a point."""

    def class_logits(self, points: Tensor) -> Tensor:
        """points: [B, point_size] -> [B, num_classes]."""
        ...


@runtime_checkable
class ClassifiesText(Classifies, Protocol):
    vocabulary_size: int
    """Token ids lie below it."""
    max_length: int | None
    """Tokens of the longest text that it can read; None: any length."""

    def class_logits(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """input_ids: [B, L] int64, row i a text of lengths[i] tokens; lengths: [B] int64 -> [B, num_classes].

        What lies behind a text's end changes nothing. One that ``reads_pairs`` takes ``segment_ids`` [B, L], too."""
        ...


@runtime_checkable
class PenalizesTransport(Protocol):
    """A classifier whose loss under perturbation is measured at a price for how far inputs move."""

    gamma: Any
    """The price, a number or a tensor of one."""
    cost: Any
    """The kind of norm, ``l2`` or ``linf``, whose square the price is of."""
    steps: int
    """Of its own ascent to the worst input."""

    def inputs_of(self, batch: Mapping[str, Any]) -> Tensor:
        """What moves, [B, ...]."""
        ...

    def losses_of(self, label: Tensor) -> Callable[[Tensor], Tensor]:
        """From inputs [B, ...] to each one's loss, [B], for these labels [B]."""
        ...

    knows_curvature_bound: bool

    def curvature_bound(self) -> float | None:
        """An upper bound on the largest eigenvalue of the loss's Hessian by its input, wherever that is; None where
        none is known. It takes seconds, and is another one after each step of training."""
        ...
