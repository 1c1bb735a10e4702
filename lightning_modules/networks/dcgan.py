"""Convolutional generator and discriminator in the manner of DCGAN, as InfoGAN's tables list them.

Widths and sizes are arguments, so one class serves every table of the paper. Weights start at N(0, 0.02),
batch-norm scales at N(1, 0.02), everything else at 0 (openai/InfoGAN, which cuts the discriminator's convolutions off
at two deviations: ``truncated``).
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks.products import Linear

T = TypeVar("T")


class Generator(nn.Module):
    """Fully connected layers, a reshape, then up-convolutions.

    ReLU follows every layer but the last, which a sigmoid ends. As in the original, batch norm after a fully
    connected layer is over its features: ``base`` is normalised feature by feature, not by channel.

    Args:
        input_size: length of the vector of noise and codes.
        hidden: widths of the fully connected layers before the reshape.
        base: channels, height and width of the first feature map.
        channels: output channels of the up-convolutions (4x4), the last ones being the image's.
        strides: by how much each up-convolution multiplies the side, 1 or 2.
        batch_norm: whether each up-convolution but the last has batch norm.
        signed: the last layer is a tanh brought to [0, 1] instead of a sigmoid; the gradient at 0 is twice as large.
    """

    def __init__(
        self,
        input_size: int,
        hidden: Sequence[int],
        base: Sequence[int],
        channels: Sequence[int],
        strides: int | Sequence[int] = 2,
        batch_norm: bool | Sequence[bool] = True,
        signed: bool = False,
    ) -> None:
        super().__init__()
        self.input_size, self.signed = input_size, signed
        strides = one_for_each("strides", strides, len(channels))
        batch_norm = [*one_for_each("batch_norm", batch_norm, len(channels) - 1), False]
        layers: list[nn.Module] = []
        width = input_size
        for size in [*hidden, math.prod(base)]:
            layers += [Linear(width, size), nn.BatchNorm1d(size), nn.ReLU(inplace=True)]
            width = size
        layers.append(Unflatten(1, tuple(base)))
        width = base[0]
        for size, stride, normalized in zip(channels, strides, batch_norm, strict=True):
            layers += up_convolution(width, size, stride)
            layers += [nn.BatchNorm2d(size)] if normalized else []
            layers.append(nn.ReLU(inplace=True))
            width = size
        self.layers = nn.Sequential(*layers[:-1])
        side = math.prod(strides)
        self.image_shape = (channels[-1], base[1] * side, base[2] * side)
        initialize(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: [B, input_size] -> images [B, C, H, W] in (0, 1)."""
        pixels = self.layers(inputs)
        return torch.sigmoid(2 * pixels if self.signed else pixels)  # (tanh(x) + 1) / 2 = sigmoid(2 x)


class Discriminator(nn.Module):
    """A trunk shared by D and Q, D's real-or-fake head and Q's posterior head.

    Args:
        image_shape: channels, height and width of an image in [0, 1].
        channels: output channels of the trunk's convolutions (4x4); all but the first have batch norm.
        hidden: widths of the trunk's fully connected layers.
        posterior_hidden: width of Q's hidden layer; None leaves Q one linear layer on the trunk.
        posterior_size: outputs of Q.
        leak: slope of the leaky ReLU.
        strides: by how much each convolution divides the side, 1 or 2.
        signed: the trunk sees pixels as [-1, 1], so that its zero padding is grey and not black.
        hidden_batch_norm: whether the trunk's fully connected layers have batch norm.
        truncated: weights of convolutions that begin beyond two deviations are drawn again, which leaves a deviation of
            0.0176, as in the authors' code.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        channels: Sequence[int],
        hidden: Sequence[int],
        posterior_hidden: int | None,
        posterior_size: int,
        leak: float = 0.1,
        strides: int | Sequence[int] = 2,
        signed: bool = False,
        hidden_batch_norm: bool = True,
        truncated: bool = False,
    ) -> None:
        super().__init__()
        self.image_shape, self.posterior_size, self.signed = tuple(image_shape), posterior_size, signed
        strides = one_for_each("strides", strides, len(channels))
        width, height, breadth = image_shape
        layers: list[nn.Module] = []
        for depth, (size, stride) in enumerate(zip(channels, strides, strict=True)):
            layers += convolution(width, size, stride)
            layers += [nn.BatchNorm2d(size)] if depth else []
            layers.append(nn.LeakyReLU(leak, inplace=True))
            width, height, breadth = size, height // stride, breadth // stride
        layers.append(nn.Flatten())
        width *= height * breadth
        for size in hidden:
            layers.append(Linear(width, size))
            layers += [nn.BatchNorm1d(size)] if hidden_batch_norm else []
            layers.append(nn.LeakyReLU(leak, inplace=True))
            width = size
        self.trunk = nn.Sequential(*layers)
        self.head = nn.Linear(width, 1)
        posterior: list[nn.Module] = []
        if posterior_hidden is not None:
            posterior += [Linear(width, posterior_hidden), nn.BatchNorm1d(posterior_hidden)]
            posterior.append(nn.LeakyReLU(leak, inplace=True))
            width = posterior_hidden
        self.posterior = nn.Sequential(*posterior, nn.Linear(width, posterior_size))
        initialize(self, truncated)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: [B, C, H, W] in [0, 1] -> D's logit [B] (positive: real) and Q's outputs [B, posterior_size]."""
        features = self.features(images)
        return self.head(features).squeeze(1), self.posterior(features)

    def real_logit(self, images: Tensor) -> Tensor:
        """D's logit alone, [B]."""
        return self.head(self.features(images)).squeeze(1)

    def code_posterior(self, images: Tensor) -> Tensor:
        """Q's outputs alone, [B, posterior_size]."""
        return self.posterior(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """What D and Q share, [B, width]."""
        images = self.prepare(images)
        return self.trunk(channels_last(images) if self.training else images)

    def prepare(self, images: Tensor) -> Tensor:
        return images * 2 - 1 if self.signed else images


class Unflatten(nn.Unflatten):
    """Features to maps, in training ``channels_last``."""

    def forward(self, input: Tensor) -> Tensor:
        maps = super().forward(input)
        return channels_last(maps) if self.training else maps


def channels_last(maps: Tensor) -> Tensor:
    """The same numbers, on a CPU in the order in which its convolutions and batch norms are faster.

    maps: [B, C, H, W]. Of one channel the order in memory is the same either way, and only the strides say it.
    """
    if not maps.is_cpu or torch.compiler.is_compiling():
        return maps
    by_pixel = maps.permute(0, 2, 3, 1)
    return by_pixel.flatten(1).unflatten(1, by_pixel.shape[1:]).permute(0, 3, 1, 2)


def convolution(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    """A 4x4 convolution with TensorFlow's SAME padding: at stride 1 the even kernel reaches one pixel further after."""
    if stride == 2:
        return [nn.Conv2d(channels_in, channels_out, 4, stride=2, padding=1)]
    return [nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(channels_in, channels_out, 4)]


def up_convolution(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    """The transpose of ``convolution``."""
    if stride == 2:
        return [nn.ConvTranspose2d(channels_in, channels_out, 4, stride=2, padding=1)]
    return [nn.ConvTranspose2d(channels_in, channels_out, 4, padding=1), nn.ZeroPad2d((0, -1, 0, -1))]


def one_for_each(name: str, value: T | Sequence[T], count: int) -> Sequence[T]:
    """One value for every layer, or a list that must have one for each."""
    if not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise UserError(f"{name} has {len(value)} entries for {count} layers: give one for each, or one for all.")
    return value


def initialize(network: nn.Module, truncated: bool = False) -> None:
    """truncated: weights of convolutions within two deviations."""
    for module in network.modules():
        if truncated and isinstance(module, nn.Conv2d):
            nn.init.trunc_normal_(module.weight, 0.0, 0.02, a=-0.04, b=0.04)
        elif isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
        else:
            continue
        assert module.bias is not None
        nn.init.zeros_(module.bias)
