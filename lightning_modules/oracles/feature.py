"""The features of a trained net as an oracle's: a proxy, declared as such."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.protocols import ClassifiesImages, ClassifiesPoints, said, serves
from lightning_modules.oracles.layers import features_and_logits, layer_named
from lightning_modules.oracles.oracle import Oracle

TRIES = 8  # to come within delta along the way back


class FeatureOracle(Oracle):
    """f2 is what a finished run's classifier takes an input for, d2 the Euclidean distance of its features.

    It is a net and errs as nets do: what is found against it is a difference of two nets, no more.

    Args:
        module: a classifier, such as ``{_target_: launch.runs.load_module, run: ...}``; it learns nothing.
        layer: where its features end, by the module's path, such as ``network.layers.3``; None: at the logits.
        radius: how far in the input's L2 norm neighbours are looked for.
    """

    pseudometric = True
    keeps_label = False

    def __init__(self, module: nn.Module, layer: str | None = None, radius: float = 1.0) -> None:
        if not 0 < radius < float("inf"):
            raise UserError(f"radius of FeatureOracle is {radius}: give a number above 0.")
        self.of_images = serves(module, ClassifiesImages)
        if not self.of_images and not serves(module, ClassifiesPoints):
            raise UserError(
                f"FeatureOracle needs a classifier of images or of points, which {type(module).__name__} is not."
            )
        self.module: Any = module.eval().requires_grad_(False)
        self.layer, self.path, self.radius = layer_named(module, layer, "layer of FeatureOracle"), layer, radius

    def to(self, device: torch.device) -> Self:
        self.module.to(device)
        return super().to(device)

    def refusal(self, shape: Sequence[int]) -> str | None:
        told = tuple(said(self.module, "image_shape")) if self.of_images else (said(self.module, "point_size"),)
        if told == tuple(shape):
            return None
        return f"the net of FeatureOracle reads inputs of shape {told}, and the classifier's are {tuple(shape)}"

    def features_and_logits(self, points: Tensor) -> tuple[Tensor, Tensor]:
        points = points.to(next(self.module.parameters()))
        return features_and_logits(self.module.class_logits, self.layer, points)

    def label(self, points: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return self.features_and_logits(points)[1].argmax(1)

    def distance(self, moved: Tensor, points: Tensor) -> Tensor:
        with torch.no_grad():
            apart = self.features_and_logits(moved)[0] - self.features_and_logits(points)[0]
        return apart.norm(dim=1).to(points)

    def neighbours(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        """In a random direction as far as the radius or delta lets them."""
        direction = drawn / drawn.flatten(1).norm(dim=1).view(-1, *[1] * (drawn.ndim - 1)).clamp_min(1e-12)
        moved = points + self.radius * direction
        return self.project(moved.clamp(0, 1) if self.of_images else moved, points, delta)

    def project(self, moved: Tensor, points: Tensor, delta: float) -> Tensor:
        """On the way from ``moved`` back to the point, where d2 is first found to be at most delta."""
        with torch.no_grad():
            features = self.features_and_logits(points)[0]
            share = torch.ones(len(points), device=points.device, dtype=points.dtype)
            for _ in range(TRIES):
                distance = (self.features_and_logits(between(points, moved, share))[0] - features).norm(dim=1).to(share)
                share = torch.where(distance > delta, share * 0.99 * delta / distance.clamp_min(1e-12), share)
            distance = (self.features_and_logits(between(points, moved, share))[0] - features).norm(dim=1).to(share)
            return between(points, moved, torch.where(distance > delta, 0.0, share))

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"layer": self.path}


def between(points: Tensor, moved: Tensor, share: Tensor) -> Tensor:
    """``share`` of the way, [B], from points to ``moved``, both [B, ...]."""
    return points + share.view(-1, *[1] * (points.ndim - 1)) * (moved - points)
