"""Norms of perturbations, example by example: their size, their balls, and the direction that raises a loss fastest.

A perturbation is [B, ...]; whatever comes after the first dimension is one vector.
"""

from typing import Literal

import torch
from torch import Tensor

Norm = Literal["l2", "linf"]
SMALLEST = 1e-12  # below which a gradient has no direction


def spread(values: Tensor, like: Tensor) -> Tensor:
    """A number for each example, [B] -> [B, 1, ...], to be multiplied with [B, ...]."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def size(perturbation: Tensor, norm: Norm) -> Tensor:
    """[B, ...] -> [B]."""
    flat = perturbation.flatten(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().amax(dim=1)


def into_ball(perturbation: Tensor, norm: Norm, budget: Tensor) -> Tensor:
    """The nearest perturbation (in L2) whose norm is at most its example's budget, [B]."""
    limit = spread(budget, perturbation)
    if norm == "linf":
        return perturbation.clamp(-limit, limit)
    return perturbation * (limit / spread(size(perturbation, "l2"), perturbation).clamp_min(SMALLEST)).clamp_max(1)


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """Of all perturbations of norm 1 the one along which a loss of this gradient rises fastest; 0 where it is flat."""
    if norm == "linf":
        return gradient.sign()
    return gradient / spread(size(gradient, "l2"), gradient).clamp_min(SMALLEST)


def drawn_in_ball(shape: tuple[int, ...], norm: Norm, generator: torch.Generator) -> Tensor:
    """A perturbation of one example, uniform in the ball of budget 1."""
    if norm == "linf":
        return torch.rand(shape, generator=generator) * 2 - 1
    direction = torch.randn(shape, generator=generator)
    radius = torch.rand((), generator=generator) ** (1 / direction.numel())
    return direction * (radius / direction.norm().clamp_min(SMALLEST))


def near_in_linf(vector: Tensor, weight: float) -> Tensor:
    """argmin_u weight/2 ||u||_inf^2 + 1/2 ||u - vector||_2^2, the proximal step of a squared L-infinity cost.

    It cuts what is larger than a threshold tau, where sum_i (|v_i| - tau)_+ = weight tau. With the k largest cut, tau
    is their sum by (k + weight), and of all k the largest such tau is the right one.
    """
    ordered = vector.flatten(1).abs().sort(dim=1, descending=True).values
    counts = torch.arange(1, ordered.shape[1] + 1, device=vector.device, dtype=vector.dtype)
    threshold = spread((ordered.cumsum(1) / (counts + weight)).amax(1), vector)
    return vector.clamp(-threshold, threshold)
