"""A network that normalises its pixels by itself, for modules that look at them as they are."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError


class Normalized(nn.Module):
    """images: [B, C, H, W] in [0, 1] -> logits [B, num_classes] of the network of their normalised pixels.

    Args:
        network: has ``image_shape`` and ``num_classes``.
        mean, std: of the channels, for pixels in [0, 1]; one value for all channels or one for each.
    """

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        has: Any = network
        self.image_shape, self.num_classes = tuple(has.image_shape), int(has.num_classes)
        for key, values in {"mean": mean, "std": std}.items():
            if len(values) not in (1, self.image_shape[0]):
                raise UserError(
                    f"network.{key} has {len(values)} values for images of {self.image_shape[0]} channel(s): give one, "
                    "or one a channel."
                )
        if min(std) <= 0:
            raise UserError(f"network.std is {list(std)}: give numbers above 0.")
        self.network = network
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(std).view(-1, 1, 1).reciprocal(), persistent=False)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, images: Tensor) -> Tensor:
        normalized = (images - self.mean) * self.scale
        return self.network(normalized.contiguous(memory_format=torch.channels_last))
