"""Whether a contestant trains at all: one that diverges, or stands still, is timed at other work than the others."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError

GROWTH = 10.0
"""How many times its first loss, or 1 where that was less, a loss may be."""


def loss_of(told: Mapping[str, Any]) -> Tensor:
    """What an iteration's losses add up to, each without its sign. told: ``loss``, or one of each player's turn."""
    losses = [value.detach().abs() for name, value in told.items() if name.startswith("loss")]
    return torch.stack(losses).sum()


class Bounds:
    """Of one contestant; the first loss that it shows is what the others are held against."""

    def __init__(self, contestant: str) -> None:
        self.contestant = contestant
        self.bound: float | None = None

    def check(self, losses: list[float]) -> None:
        """Those of a turn, in their order, without signs."""
        if self.bound is None:
            self.bound = GROWTH * max(losses[0], 1.0)
        for number, loss in enumerate(losses, start=1):
            if not loss <= self.bound:  # nor is it a number
                raise UserError(
                    f"{self.contestant} diverges: its loss is {loss:.4g} in iteration {number} of a turn and may be "
                    f"{self.bound:.4g}, {GROWTH:g} times its first; how long it takes says nothing."
                )
