"""The usual oracle, made explicit: a label holds as far as a norm of the input reaches."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foundation.errors import UserError, did_you_mean
from lightning_modules.attacks.norms import Norm, drawn_in_ball, into_ball, size
from lightning_modules.oracles.oracle import Oracle


class NormOracle(Oracle):
    """f2 is the data's label, whatever happens within delta; d2 a norm. Nobody has proved that it is so.

    Args:
        norm: ``l2`` or ``linf``.
        box: the least and largest value of a pixel; None for points without bounds.
    """

    def __init__(self, norm: Norm = "l2", box: tuple[float, float] | None = (0.0, 1.0)) -> None:
        if norm not in ("l2", "linf"):
            raise UserError(f"norm of NormOracle is {norm!r}; {did_you_mean(str(norm), ('l2', 'linf'))}")
        if box is not None and (len(box) != 2 or not box[0] < box[1]):
            raise UserError(f"box of NormOracle is {list(box)}: give the least and the largest value, or null.")
        self.norm, self.box = norm, None if box is None else (float(box[0]), float(box[1]))

    def refusal(self, shape: Sequence[int]) -> str | None:
        if len(shape) > 1 or self.box is None:
            return None
        return "NormOracle keeps to pixels within its box, and these are points: set its box to null"

    def label(self, points: Tensor, labels: Tensor) -> Tensor:
        return labels

    def distance(self, moved: Tensor, points: Tensor) -> Tensor:
        assert self.norm is not None
        return size(moved - points, self.norm)

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """Uniform in the ball of radius 1."""
        assert self.norm is not None
        rows = [drawn_in_ball(tuple(shape[1:]), self.norm, generator) for _ in range(shape[0])]
        return torch.stack(rows) if rows else torch.zeros(*shape)

    def neighbours(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        moved = points + delta * drawn
        return moved if self.box is None else moved.clamp(*self.box)

    def project(self, moved: Tensor, points: Tensor, delta: float) -> Tensor:
        assert self.norm is not None
        limit = torch.full((len(points),), delta, device=points.device, dtype=points.dtype)
        inside = points + into_ball(moved - points, self.norm, limit)
        return inside if self.box is None else inside.clamp(*self.box)
