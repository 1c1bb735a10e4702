"""The residual nets of He et al. 2016 (arXiv:1512.03385) for small images, and the plain nets they are compared with.

Beside them a wide shallow one for training against the clock, and torchvision's nets; those for ImageNet are in
``imagenet_resnet.py``.
A network knows the ``image_shape`` (channels, height, width) that it is meant for and its ``num_classes``.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torchvision
from torch import Tensor, nn
from torch.nn.functional import elu, pad, relu
from torchvision.models import get_model, list_models

from foundation.errors import UserError, did_you_mean

Shortcut = Literal["identity", "none"]
ACTIVATIONS = {"relu": relu, "elu": elu}


def start(network: nn.Module) -> None:
    """Weights as in He et al. 2015: normal, of deviation sqrt(2 / fan-in)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)


class Block(nn.Module):
    """relu(x + conv-BN-relu-conv-BN(x)), two 3x3 convolutions (section 3.1, figure 2 left).

    Where the block halves the image, the shortcut takes every second pixel and fills the new channels with zeros
    (option A of section 3.3): no parameters, so a residual net has just those of its plain net.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut, activation: str = "relu") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added, self.shortcut = stride, outputs - inputs, shortcut
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(self.activation(self.bn1(self.conv1(x)), inplace=True)))
        return self.activation(residual if self.shortcut == "none" else residual.add_(self.skip(x)), inplace=True)

    def skip(self, x: Tensor) -> Tensor:
        return without_parameters(x, self.stride, self.added)


def without_parameters(x: Tensor, stride: int, added: int) -> Tensor:
    """The shortcut of option A: the identity where it fits, else pixels are left out and channels of zeros added.

    x: [B, C, H, W]; added: channels, half of them before and half behind.
    """
    if stride == 1 and not added:
        return x
    return pad(x[:, :, ::stride, ::stride], [0, 0, 0, 0, added // 2, added - added // 2])


class CifarResNet(nn.Module):
    """6n + 2 layers: a 3x3 convolution, three stages of n blocks at full, half and quarter size, a linear layer
    on the global average (section 4.2).

    images: [B, C, H, W] -> logits [B, num_classes].

    Args:
        depth: 20, 32, 44, 56, 110 and 1202 are the paper's; any 6n + 2 is built.
        shortcut: ``none`` makes the plain net.
        width: channels of the first stage; the others have twice and four times as many.
        activation: relu, the paper's, or elu, which has no kink.
    """

    def __init__(
        self,
        depth: int = 20,
        shortcut: Shortcut = "identity",
        width: int = 16,
        image_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
        activation: Literal["relu", "elu"] = "relu",
    ) -> None:
        super().__init__()
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            near = 6 * max(round((depth - 2) / 6), 1) + 2
            raise UserError(f"network.depth is {depth}: these nets have 6n + 2 layers, such as {near}.")
        if shortcut not in ("identity", "none"):
            raise UserError(f"network.shortcut is {shortcut!r}: give identity or none.")
        self.conv = nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        widths = [width] * (blocks + 1) + [2 * width] * blocks + [4 * width] * blocks
        self.blocks = nn.Sequential(
            *(
                Block(inputs, outputs, 1 if inputs == outputs else 2, shortcut, activation)
                for inputs, outputs in pairwise(widths)
            )
        )
        self.activation = ACTIVATIONS[activation]
        self.linear = nn.Linear(4 * width, num_classes)
        start(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.activation(self.bn(self.conv(images)), inplace=True))
        return self.linear(x.mean(dim=(2, 3)))


class ResNet9(nn.Module):
    """Eight convolutions and a linear layer, wide and shallow: the net of "How to train your ResNet" (Page 2018),
    which trains in fewer, larger operations than a deep narrow one.

    images: [B, C, H, W], sides a multiple of 32 -> logits [B, num_classes].

    Args:
        width: channels of the first layer; the last has eight times as many.
        logit_scale: what the linear layer's output is multiplied by.
    """

    def __init__(
        self,
        width: int = 64,
        logit_scale: float = 0.125,
        image_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.image_shape, self.num_classes, self.logit_scale = tuple(image_shape), num_classes, logit_scale
        self.prepare = convolution(image_shape[0], width)
        self.layer1 = nn.Sequential(convolution(width, 2 * width), nn.MaxPool2d(2), Residual(2 * width))
        self.layer2 = nn.Sequential(convolution(2 * width, 4 * width), nn.MaxPool2d(2))
        self.layer3 = nn.Sequential(convolution(4 * width, 8 * width), nn.MaxPool2d(2), Residual(8 * width))
        self.linear = nn.Linear(8 * width, num_classes, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.prepare(images))))
        return self.linear(x.amax(dim=(2, 3))) * self.logit_scale


def convolution(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class Residual(nn.Module):
    """x + F(x), F being two convolutions, each with batch norm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolutions(x)


class TorchvisionResNet(nn.Module):
    """A residual net of torchvision's, wide and grouped ones too, for ImageNet.

    Args:
        name: as ``torchvision.models`` calls it, such as resnet18 or wide_resnet50_2.
    """

    def __init__(
        self,
        name: str,
        image_shape: Sequence[int] = (3, 224, 224),
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        known = list_models(torchvision.models, include="*resne*t*")
        if name not in known:
            raise UserError(f"network.name is {name}, which torchvision has not; {did_you_mean(name, known)}")
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        self.net = get_model(name, weights=None, num_classes=num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)
