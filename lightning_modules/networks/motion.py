"""Affine motions of a whole batch of images at once, on its device and with gradient."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How far an image is moved: each is drawn uniformly between minus and plus its value, for every image anew.

    Rotation is in degrees, shift in pixels, scale and shear are fractions.
    """

    rotation: float
    shift: float
    scale: float
    shear: float


def transform(images: Tensor, drawn: Tensor, motion: Motion) -> Tensor:
    """Each image moved about its centre, bilinear, black outside.

    images: [B, C, H, W]; drawn: [B, 6] in [-1, 1], the share of its range that each of rotation, two scales, shear
    and two shifts takes.
    """
    return moved(images, matrices(drawn, motion, *images.shape[-2:]))


def matrices(drawn: Tensor, motion: Motion, height: int, width: int) -> Tensor:
    """Where each pixel of a moved image comes from, as ``affine_grid`` reads it: [B, 2, 3]. drawn: of ``transform``."""
    turn, scale_x, scale_y, slant, shift_x, shift_y = drawn.unbind(dim=1)
    angle, shear = turn * math.radians(motion.rotation), slant * motion.shear
    cos, sin = angle.cos(), angle.sin()
    scale_x, scale_y = 1 + scale_x * motion.scale, 1 + scale_y * motion.scale
    rows = (
        torch.stack([cos * scale_x, (shear * cos - sin) * scale_y, shift_x * motion.shift * 2 / width], dim=1),
        torch.stack([sin * scale_x, (shear * sin + cos) * scale_y, shift_y * motion.shift * 2 / height], dim=1),
    )
    return torch.stack(rows, dim=1)


def moved(images: Tensor, origins: Tensor) -> Tensor:
    """images: [B, C, H, W]; origins: of ``matrices``."""
    if not len(images):  # a rank without a share of the batch
        return images
    grid = affine_grid(origins, list(images.shape), align_corners=False)
    return grid_sample(images, grid.to(images.dtype), align_corners=False)
