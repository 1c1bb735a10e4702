"""Convolutional generator and discriminator in the manner of DCGAN, as InfoGAN's tables list them.

Widths and sizes are arguments, so one class serves every table of the paper. Weights start at N(0, 0.02),
batch-norm scales at N(1, 0.02), everything else at 0 (openai/InfoGAN).
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn


class Generator(nn.Module):
    """Fully connected layers, a reshape, then up-convolutions that each double the side.

    Batch norm and ReLU follow every layer but the last, which a sigmoid ends. As in the original, batch norm
    after a fully connected layer is over its features: ``base`` is normalised feature by feature, not by channel.

    Args:
        input_size: length of the vector of noise and codes.
        hidden: widths of the fully connected layers before the reshape.
        base: channels, height and width of the first feature map.
        channels: output channels of the up-convolutions (4x4, stride 2), the last ones being the image's.
    """

    def __init__(self, input_size: int, hidden: Sequence[int], base: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        self.input_size = input_size
        layers: list[nn.Module] = []
        width = input_size
        for size in [*hidden, math.prod(base)]:
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.ReLU(inplace=True)]
            width = size
        layers.append(nn.Unflatten(1, tuple(base)))
        width = base[0]
        for size in channels:
            layers += [nn.ConvTranspose2d(width, size, 4, stride=2, padding=1), nn.BatchNorm2d(size), nn.ReLU(True)]
            width = size
        layers[-2:] = [nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)
        side = 2 ** len(channels)
        self.image_shape = (channels[-1], base[1] * side, base[2] * side)
        initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: [B, input_size] -> images [B, C, H, W] in (0, 1)."""
        return self.layers(inputs)


class Discriminator(nn.Module):
    """A trunk shared by D and Q, D's real-or-fake head and Q's posterior head.

    Args:
        image_shape: channels, height and width of an image in [0, 1].
        channels: output channels of the trunk's convolutions (4x4, stride 2); all but the first have batch norm.
        hidden: widths of the trunk's fully connected layers.
        posterior_hidden: width of Q's hidden layer.
        posterior_size: outputs of Q.
        leak: slope of the leaky ReLU.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        hidden: Sequence[int],
        posterior_hidden: int,
        posterior_size: int,
        leak: float = 0.1,
    ) -> None:
        super().__init__()
        self.image_shape, self.posterior_size = tuple(image_shape), posterior_size
        width, height, breadth = image_shape
        layers: list[nn.Module] = []
        for depth, size in enumerate(channels):
            layers.append(nn.Conv2d(width, size, 4, stride=2, padding=1))
            layers += [nn.BatchNorm2d(size)] if depth else []
            layers.append(nn.LeakyReLU(leak, inplace=True))
            width, height, breadth = size, height // 2, breadth // 2
        layers.append(nn.Flatten())
        width *= height * breadth
        for size in hidden:
            layers += [nn.Linear(width, size), nn.BatchNorm1d(size), nn.LeakyReLU(leak, inplace=True)]
            width = size
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, 1)
        self.posterior = nn.Sequential(
            nn.Linear(width, posterior_hidden),
            nn.BatchNorm1d(posterior_hidden),
            nn.LeakyReLU(leak, inplace=True),
            nn.Linear(posterior_hidden, posterior_size),
        )
        initialize(self)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: [B, C, H, W] in [0, 1] -> D's logit [B] (positive: real) and Q's outputs [B, posterior_size]."""
        features = self.trunk(images)
        return self.head(features).squeeze(1), self.posterior(features)

    def real_logit(self, images: Tensor) -> Tensor:
        """D's logit alone, [B]."""
        return self.head(self.trunk(images)).squeeze(1)

    def code_posterior(self, images: Tensor) -> Tensor:
        """Q's outputs alone, [B, posterior_size]."""
        return self.posterior(self.trunk(images))


def initialize(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        assert module.bias is not None
        nn.init.zeros_(module.bias)
