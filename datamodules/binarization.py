"""Grey images made black and white at random, once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.randomness import keyed_generator

BLOCK = 1000  # images that share a generator


@dataclass(frozen=True)
class Binarize:
    """Each pixel is white with its grey value as probability, and stays so: a fixed binarisation, as Salakhutdinov &
    Murray (2008) made of MNIST. Bounds of likelihood hold for such images; of grey ones they are none.

    Theirs has other draws: ``datamodule=binarized_mnist`` reads it.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"datamodule.binarize.seed is {self.seed}: give 0 or more.")

    def apply(self, images: Tensor, split: str) -> Tensor:
        """images: uint8 [N, ...] -> uint8 of 0 and 255; pixels of image i are a function of (seed, split, i)."""
        blocks = []
        for number, block in enumerate(images.split(BLOCK)):
            generator = keyed_generator(self.seed, f"binarize {split}", number)
            # Value v is above v of the 255 that can be drawn; the draws of an image do not depend on those after it.
            blocks.append(block > torch.randint(255, block.shape, dtype=torch.uint8, generator=generator))
        return torch.cat(blocks).to(torch.uint8) * 255
