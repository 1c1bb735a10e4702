"""The residual nets of He et al. 2016 (arXiv:1512.03385) for ImageNet, table 1, and the plain nets beside them.

Parts are named as torchvision names them, so that published weights can be taken.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import relu

from foundation.errors import UserError, did_you_mean
from lightning_modules.networks.resnet import start, without_parameters

Shortcut = Literal["A", "B", "C", "none"]
SHORTCUTS = ("A", "B", "C", "none")
HALVES_IN = ("1x1", "3x3")
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
WITH_BOTTLENECKS = 50  # layers from which on blocks have them
WIDTHS = (64, 128, 256, 512)  # of the 3x3 convolutions of a stage


class Shortened(nn.Module):
    """relu(shortcut(x) + F(x)), where an heir has F as ``residual`` (eq. 1 and 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.stride, self.added, self.shortcut = stride, outputs - inputs, shortcut
        changes = stride > 1 or outputs != inputs
        self.downsample = None
        if shortcut == "C" or (shortcut == "B" and changes):
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def residual(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x)
        if self.shortcut != "none":
            skip = without_parameters(x, self.stride, self.added) if self.downsample is None else self.downsample(x)
            residual = residual.add_(skip)
        return relu(residual, inplace=True)


class Basic(Shortened):
    """Two 3x3 convolutions, the first of which halves the image (figure 5 left)."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut, halves_in: str) -> None:
        super().__init__(inputs, width, stride, shortcut)
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(relu(self.bn1(self.conv1(x)), inplace=True)))


class Bottleneck(Shortened):
    """Convolutions of 1x1, 3x3 and 1x1, the last of which has four times the channels (figure 5 right)."""

    def __init__(self, inputs: int, width: int, stride: int, shortcut: Shortcut, halves_in: str) -> None:
        super().__init__(inputs, 4 * width, stride, shortcut)
        strides = (stride, 1) if halves_in == "1x1" else (1, stride)
        self.conv1 = nn.Conv2d(inputs, width, 1, strides[0], bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, strides[1], padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)

    def residual(self, x: Tensor) -> Tensor:
        narrow = relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn3(self.conv3(relu(self.bn2(self.conv2(narrow)), inplace=True)))


class ImageNetResNet(nn.Module):
    """A 7x7 convolution and a max-pool, both halving the image, four stages of blocks of which the later ones begin by
    halving it, and a linear layer on the global average (table 1).

    images: [B, C, H, W] of any size -> logits [B, num_classes].

    Args:
        depth: 18 or 34; with bottlenecks 50, 101 or 152.
        shortcut: where a block changes the shape, A adds zeros and B projects; C projects in every block; none makes
            the plain net.
        halves_in: which convolution of a bottleneck halves the image: the first ``1x1``, as in the paper, or the
            ``3x3``, as in torchvision's nets.
    """

    def __init__(
        self,
        depth: int = 50,
        shortcut: Shortcut = "B",
        halves_in: Literal["1x1", "3x3"] = "1x1",
        image_shape: Sequence[int] = (3, 224, 224),
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise UserError(f"network.depth is {depth}: give one of {', '.join(map(str, BLOCKS))}.")
        for key, value, known in (("shortcut", shortcut, SHORTCUTS), ("halves_in", halves_in, HALVES_IN)):
            if value not in known:
                raise UserError(f"network.{key} is {value!r}; {did_you_mean(str(value), known)}")
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        self.depth, self.halves_in = depth, halves_in
        block, factor = (Bottleneck, 4) if depth >= WITH_BOTTLENECKS else (Basic, 1)
        self.conv1 = nn.Conv2d(image_shape[0], 64, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        inputs = 64
        for stage, (width, blocks) in enumerate(zip(WIDTHS, BLOCKS[depth], strict=True)):
            parts = []
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                parts.append(block(inputs, width, stride, shortcut, halves_in))
                inputs = factor * width
            self.add_module(f"layer{stage + 1}", nn.Sequential(*parts))
        self.fc = nn.Linear(inputs, num_classes)
        start(self)

    @property
    def has_bottlenecks(self) -> bool:
        return self.depth >= WITH_BOTTLENECKS

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(relu(self.bn1(self.conv1(images)), inplace=True))
        for stage in range(len(WIDTHS)):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.fc(x.mean(dim=(2, 3)))
