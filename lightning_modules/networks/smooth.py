"""Nets whose loss is smooth in the input, so that a penalty can make it concave (Sinha et al. 2018, section 4).

Chains of linear maps and activations: no pooling, no normalisation by the batch.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from foundation.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Activation:
    """How steep it is at most and how fast its slope changes at most (infinitely fast where it has a kink)."""

    layer: type[nn.Module]
    slope: float
    curvature: float


ACTIVATIONS = {
    "elu": Activation(nn.ELU, 1.0, 1.0),
    "softplus": Activation(nn.Softplus, 1.0, 0.25),
    "tanh": Activation(nn.Tanh, 1.0, 4 / (3 * math.sqrt(3))),
    "relu": Activation(nn.ReLU, 1.0, math.inf),
}


class Chain(nn.Module):
    """Layers in a row, an activation behind each linear one but the last."""

    layers: nn.Sequential
    activation: Activation
    num_classes: int

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, ...] -> logits [B, num_classes]."""
        return self.layers(inputs)


def activation_named(name: str) -> Activation:
    if name not in ACTIVATIONS:
        raise UserError(f"activation is {name}; {did_you_mean(name, ACTIVATIONS)}")
    return ACTIVATIONS[name]


class SmoothPerceptron(Chain):
    """Points [B, sizes[0]] -> logits [B, sizes[-1]]; the paper's for the plane is 2-4-2-2.

    Args:
        sizes: of all layers, the input's first and the number of classes last.
        activation: one of ``ACTIVATIONS``.
    """

    def __init__(self, sizes: Sequence[int] = (2, 4, 2, 2), activation: str = "elu") -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise UserError(f"sizes are {list(sizes)}: give the input's, those of hidden layers and the classes'.")
        self.activation = activation_named(activation)
        self.point_size, self.num_classes = sizes[0], sizes[-1]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), self.activation.layer()]
        self.layers = nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Convolution:
    channels: int
    kernel: int
    stride: int
    padding: int = 0


class HalvingConv2d(nn.Conv2d):
    """A convolution of stride 2 of an image of few channels, computed as one of stride 1 on its 2x2 blocks.

    The same sums; the gradient by the image takes a third of the time that it takes a strided convolution of one
    channel, and the ascent asks for 16 of them a step.
    """

    FEW = 4  # channels

    @classmethod
    def suits(cls, channels: int, sides: Sequence[int], it: Convolution) -> bool:
        even = all(size % 2 == 0 for size in (it.kernel, *(side + 2 * it.padding for side in sides)))
        return it.stride == 2 and channels <= cls.FEW and even

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, out_channels, ...]."""
        up, across = (int(it) for it in self.padding)
        padded = pad(input, (across, across, up, up))
        return conv2d(in_blocks(padded), in_blocks(self.weight), self.bias)


def in_blocks(images: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, 4 C, H / 2, W / 2], channels last; pixel_unshuffle, which fails where B is 0."""
    count, channels, height, width = images.shape
    blocks = images.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    whole = blocks.reshape(count, 4 * channels, height // 2, width // 2)
    return whole.contiguous(memory_format=torch.channels_last)


PAPER_S = (Convolution(64, 8, 2, 3), Convolution(128, 6, 2), Convolution(128, 5, 1))


class SmoothConvolutions(Chain):
    """Images [B, *image_shape] -> logits [B, num_classes]: strided convolutions and one linear layer.

    The paper's net for MNIST, 710,218 parameters, unless other convolutions are given.

    Args:
        convolutions: ``channels``, ``kernel``, ``stride`` and ``padding`` of each.
        activation: one of ``ACTIVATIONS``.
    """

    def __init__(
        self,
        image_shape: Sequence[int] = (1, 28, 28),
        num_classes: int = 10,
        convolutions: Sequence[Convolution | dict[str, int]] = PAPER_S,
        activation: str = "elu",
    ) -> None:
        super().__init__()
        self.activation = activation_named(activation)
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        channels, *sides = image_shape
        layers: list[nn.Module] = []
        for it in (it if isinstance(it, Convolution) else Convolution(**it) for it in convolutions):
            before, sides = sides, [(side + 2 * it.padding - it.kernel) // it.stride + 1 for side in sides]
            if min(sides) < 1:
                raise UserError(
                    f"convolutions leave nothing of images of {tuple(image_shape)}: {it} is too large for what those "
                    "before it have left."
                )
            convolution = HalvingConv2d if HalvingConv2d.suits(channels, before, it) else nn.Conv2d
            layers += [convolution(channels, it.channels, it.kernel, it.stride, it.padding), self.activation.layer()]
            channels = it.channels
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * math.prod(sides), num_classes))
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs.contiguous(memory_format=torch.channels_last))


def operator_norms(network: Chain, input_shape: Sequence[int]) -> list[float]:
    """The largest singular value of each linear layer's map for inputs of this shape, in double precision.

    By Lanczos' method, which comes to the value from below; a thousandth is added. After 200 products from a random
    start it lacks more than that with a probability below 1.7 sqrt(inputs) exp(-17.8), 4e-6 of 12,544 inputs (Kuczynski
    & Wozniakowski 1992); of up to 200 inputs it is exact.
    """
    x, norms = torch.zeros(1, *input_shape, dtype=torch.float64), []
    for layer in deepcopy(network.layers).double().requires_grad_(False):
        shape = x.shape
        x = layer(x)
        if isinstance(layer, nn.Linear | nn.Conv2d):
            norms.append(1.001 * largest_singular_value(layer, shape))
    return norms


def largest_singular_value(layer: nn.Linear | nn.Conv2d, shape: torch.Size, products: int = 200) -> float:
    """Of the layer without its bias, from inputs of this shape: the largest on the space that products reach."""
    linear = deepcopy(layer)
    linear.bias = None  # pyright: ignore[reportAttributeAccessIssue]
    start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).flatten()
    directions = (start / start.norm()).unsqueeze(0)
    images: list[Tensor] = []
    with torch.enable_grad():
        while True:
            direction = directions[-1].view(shape).requires_grad_(True)
            image = linear(direction)
            images.append(image.detach().flatten())
            (product,) = torch.autograd.grad(0.5 * image.square().sum(), direction)
            left = product.flatten()
            for _ in range(2):  # the second time takes away what rounding has left
                left = left - directions.T @ (directions @ left)
            if len(images) == min(products, start.numel()) or left.norm() <= 1e-12 * product.norm():
                return float(torch.linalg.matrix_norm(torch.stack(images), 2))
            directions = torch.cat([directions, (left / left.norm()).unsqueeze(0)])
