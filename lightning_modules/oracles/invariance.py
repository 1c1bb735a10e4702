"""What a picture may do without becoming another: shifts, brightness, the ground's grey."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from foundation.errors import UserError
from lightning_modules.attacks.gradient import Examples, LogitsOf
from lightning_modules.oracles.oracle import Oracle


class InvarianceOracle(Oracle):
    """Images of bright ink on dark ground that are moved, dimmed or put on brighter ground are the same for it.

    d2 is 0 within what the group makes of an image, and what lies outside is not reached: f2 is the data's label there,
    by construction where images are made of ink, ground and place, as synthetic scenes are. An attack's numbers [4] say
    how far each goes, from -1 to 1 times the most that it may: right, down, ``dimming`` and ``ground``; its budgets are
    of their L-infinity norm.

    Args:
        shift: pixels that an image may move, at most.
        dimming: the share of its brightness that an image may lose or gain, at most.
        ground: the grey of the ground, from 0 to 1, at most.
    """

    exact = True
    pseudometric = True

    def __init__(self, shift: float = 2.0, dimming: float = 0.2, ground: float = 0.2) -> None:
        for key, value in {"shift": shift, "dimming": dimming, "ground": ground}.items():
            most = 1 if key != "shift" else float("inf")
            if not 0 <= value < most:
                told = "a number of pixels, 0 or more" if key == "shift" else "a share, 0 to below 1"
                raise UserError(f"{key} of InvarianceOracle is {value}: give {told}.")
        if not shift and not dimming and not ground:
            raise UserError("InvarianceOracle lets images do nothing: set shift, dimming or ground above 0.")
        self.shift, self.dimming, self.ground = shift, dimming, ground

    def refusal(self, shape: Sequence[int]) -> str | None:
        if len(shape) != 3:
            return "InvarianceOracle moves images, and the classifier reads points"
        if self.shift >= min(shape[1:]):
            return (
                f"InvarianceOracle shifts images of {shape[1]}x{shape[2]} by up to {self.shift:g} pixels, out of sight"
            )
        return None

    def moved(self, images: Tensor, numbers: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1]; numbers: [B, 4] from -1 to 1; no ground is darker than it was."""
        height, width = images.shape[-2:]
        right, down, dimmed, ground = numbers.unbind(1)
        zero, one = torch.zeros_like(right), torch.ones_like(right)
        across = torch.stack([one, zero, -2 * self.shift * right / width], 1)
        up = torch.stack([zero, one, -2 * self.shift * down / height], 1)
        matrix = torch.stack([across, up], 1)
        grid = affine_grid(matrix, list(images.shape), align_corners=False)
        seen = grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        grey = (self.ground * ground).clamp_min(0).view(-1, 1, 1, 1)
        ink = (seen * (1 + self.dimming * dimmed.view(-1, 1, 1, 1))).clamp(0, 1)
        done = ink + grey * (1 - ink)
        still = (numbers == 0).all(1).view(-1, 1, 1, 1)
        return torch.where(still, images, done)  # which the grid leaves to rounding

    def label(self, points: Tensor, labels: Tensor) -> Tensor:
        return labels

    def distance(self, moved: Tensor, points: Tensor) -> Tensor:
        """0: nothing else is asked about."""
        return torch.zeros(len(points)).to(points)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        return torch.rand(shape[0], 4, generator=generator) * 2 - 1

    def neighbours(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        return self.moved(points, drawn)

    def start(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        return drawn

    def project(self, moved: Tensor, points: Tensor, delta: float) -> Tensor:
        return moved

    def reachable(self, examples: Examples, delta: float) -> Examples:
        """What moves is four numbers an image."""
        numbers = torch.zeros(len(examples), 4).to(examples.images)
        return replace(examples, images=numbers, box=(-1.0, 1.0), reach=AlongOrbit(self, examples.images))

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"shift": self.shift, "dimming": self.dimming, "ground": self.ground}


@dataclass(frozen=True)
class AlongOrbit:
    """A ``Reach``: numbers that say what is done to an image."""

    oracle: InvarianceOracle
    images: Tensor

    def __getitem__(self, chosen: Tensor) -> "AlongOrbit":
        return AlongOrbit(self.oracle, self.images[chosen])

    def see(self, moved: Tensor) -> Tensor:
        return self.oracle.moved(self.images, moved)

    def logits(self, logits_of: LogitsOf, moved: Tensor, labels: Tensor) -> Tensor:
        return logits_of(self.see(moved))

    def along(self, gradient: Tensor) -> Tensor:
        return gradient

    def project(self, moved: Tensor) -> Tensor:
        return moved
