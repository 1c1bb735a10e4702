"""An oracle whose label, distance and blind spots are known exactly: of points of which it reads a few coordinates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from foundation.errors import UserError
from lightning_modules.attacks.norms import SMALLEST, into_ball, size
from lightning_modules.oracles.oracle import Oracle

INSIDE = 1e-3  # how far from the oracle's boundary a point stays whose label must not change


class SyntheticOracle(Oracle):
    """f2 = [x_1 + ... + x_k > 0] and d2 the Euclidean norm of the first k coordinates; the others are not seen.

    Points [B, k + u], as ``datamodules/features.py`` makes them.

    Args:
        necessary, unnecessary: k and u.
    """

    exact = True
    pseudometric = True

    def __init__(self, necessary: int = 4, unnecessary: int = 60) -> None:
        for key, count in {"necessary": necessary, "unnecessary": unnecessary}.items():
            if count < 1:
                raise UserError(f"{key} of SyntheticOracle is {count}: give a number of coordinates, 1 or more.")
        self.necessary, self.unnecessary = necessary, unnecessary
        self.null_dims = torch.arange(necessary, necessary + unnecessary)

    def refusal(self, shape: Sequence[int]) -> str | None:
        told = self.necessary + self.unnecessary
        if tuple(shape) == (told,):
            return None
        size = "x".join(map(str, shape))
        return f"SyntheticOracle knows points of {told} coordinates, and the network reads {size}"

    def label(self, points: Tensor, labels: Tensor) -> Tensor:
        return label_of(points[:, : self.necessary])

    def distance(self, moved: Tensor, points: Tensor) -> Tensor:
        return size((moved - points)[:, : self.necessary], "l2")

    def neighbours(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        """Unnecessary coordinates are drawn anew, standard normal; the necessary ones move within the ball."""
        k = self.necessary
        moved = torch.cat([points[:, :k] + delta * in_unit_ball(drawn[:, :k]), drawn[:, k:]], dim=1)
        return self.project(moved, points, delta)

    def project(self, moved: Tensor, points: Tensor, delta: float) -> Tensor:
        k = self.necessary
        limit = torch.full((len(points),), delta, device=points.device, dtype=points.dtype)
        seen = points[:, :k] + into_ball(moved[:, :k] - points[:, :k], "l2", limit)
        seen = on_the_side_of(seen, points[:, :k])
        # The diagonal may lead farther in L-infinity than ``moved`` has gone: then part of the way from the point.
        seen = points[:, :k] + into_cube(seen - points[:, :k], size(moved - points, "linf"))
        near, back = torch.cat([seen, moved[:, k:]], dim=1), torch.cat([points[:, :k], moved[:, k:]], dim=1)
        kept = label_of(near[:, :k]) == label_of(back[:, :k])  # of a sum near 0 rounding decides
        return torch.where(kept.unsqueeze(1), near, back)

    def along(self, gradient: Tensor, delta: float) -> Tensor:
        if delta > 0:
            return gradient
        k = self.necessary
        return torch.cat([torch.zeros_like(gradient[:, :k]), gradient[:, k:]], dim=1)


def label_of(necessary: Tensor) -> Tensor:
    """[B, k] -> [B] int64, 1 where the sum is above 0."""
    return (necessary.sum(1) > 0).long()


def on_the_side_of(moved: Tensor, points: Tensor) -> Tensor:
    """``moved`` brought back over the plane on which the sum is 0, where it has crossed it. Both: [B, k].

    That comes nearer to ``points``, on whose side it then lies.
    """
    total = points.sum(1)
    side = torch.where(total > 0, 1.0, -1.0).to(total)
    least = (side * total / 2).clamp_max(INSIDE)
    lack = (least - side * moved.sum(1)).clamp_min(0) / points.shape[1]
    return moved + (side * lack).unsqueeze(1)


def into_cube(perturbation: Tensor, limit: Tensor) -> Tensor:
    """Shortened, in its direction, to an L-infinity norm of at most ``limit``, [B]. [B, k] -> [B, k]."""
    return perturbation * (limit / size(perturbation, "linf").clamp_min(SMALLEST)).clamp_max(1).unsqueeze(1)


def in_unit_ball(normal: Tensor) -> Tensor:
    """Standard normal [B, k] -> uniform in the ball: their norm's rank to the k-th root is the radius."""
    k = normal.shape[1]
    norm = normal.norm(dim=1, keepdim=True).clamp_min(1e-12)
    share = torch.special.gammainc(torch.full_like(norm, k / 2), norm.square() / 2)
    return normal / norm * share ** (1 / k)
