"""The dense nets of Huang et al. 2017 (arXiv:1608.06993) for small images, and the plain ones beside them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, dropout, relu

from foundation.errors import UserError
from lightning_modules.networks.resnet import start

BOTTLENECK = 4  # times the growth rate: channels between the two convolutions of a layer


class DenseLayer(nn.Module):
    """BN-relu-conv 3x3 to ``growth`` channels, which are put behind those that came in (eq. 2); with a bottleneck
    BN-relu-conv 1x1 before it (section 3)."""

    def __init__(self, inputs: int, growth: int, bottleneck: bool, dropped: float) -> None:
        super().__init__()
        self.dropped, self.bottleneck = dropped, bottleneck
        narrow = BOTTLENECK * growth
        if bottleneck:
            self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, narrow, 1, bias=False)
        into = narrow if bottleneck else inputs
        self.bn2, self.conv2 = nn.BatchNorm2d(into), nn.Conv2d(into, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        new = x
        if self.bottleneck:
            new = self._dropped(self.conv1(relu(self.bn1(new), inplace=True)))
        new = self._dropped(self.conv2(relu(self.bn2(new), inplace=True)))
        return torch.cat([x, new], dim=1)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropped, self.training) if self.dropped else x


class Transition(nn.Module):
    """BN-relu-conv 1x1, then the mean of each 2x2 pixels."""

    def __init__(self, inputs: int, outputs: int, dropped: float) -> None:
        super().__init__()
        self.dropped = dropped
        self.bn, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(relu(self.bn(x), inplace=True))
        return avg_pool2d(dropout(x, self.dropped, self.training) if self.dropped else x, 2)


class CifarDenseNet(nn.Module):
    """A 3x3 convolution, three blocks of equally many dense layers at full, half and quarter size with a transition
    between two of them, and a linear layer on the global average (section 3, "Implementation details").

    images: [B, C, H, W] -> logits [B, num_classes].

    Args:
        depth: 40, 100, 190 and 250 are the paper's; any 3n + 4 is built, with bottlenecks any 6n + 4.
        growth: channels that a layer adds; k.
        bottleneck: B: a 1x1 convolution before each 3x3 one.
        compression: C: the share of channels that a transition keeps; below 1 the first convolution has 2k channels
            instead of 16.
        dropout: after each convolution but the first; the paper's 0.2 where images are not augmented.
    """

    def __init__(
        self,
        depth: int = 100,
        growth: int = 12,
        bottleneck: bool = True,
        compression: float = 0.5,
        dropout: float = 0.0,
        image_shape: Sequence[int] = (3, 32, 32),
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        step = 6 if bottleneck else 3
        layers, rest = divmod(depth - 4, step)
        if layers < 1 or rest:
            near = step * max(round((depth - 4) / step), 1) + 4
            what = "with bottlenecks" if bottleneck else "without bottlenecks"
            raise UserError(f"network.depth is {depth}: {what} these nets have {step}n + 4 layers, such as {near}.")
        if growth < 1:
            raise UserError(f"network.growth is {growth}: give a number of channels, 1 or more.")
        if not 0 < compression <= 1:
            raise UserError(f"network.compression is {compression}: give a share above 0, up to 1 for no compression.")
        if not 0 <= dropout < 1:
            raise UserError(f"network.dropout is {dropout}: give a share from 0 to below 1.")
        channels = 2 * growth if bottleneck and compression < 1 else 16
        parts: list[nn.Module] = [nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False)]
        for block in range(3):
            if block:
                kept = int(channels * compression)
                parts.append(Transition(channels, kept, dropout))
                channels = kept
            for _ in range(layers):
                parts.append(DenseLayer(channels, growth, bottleneck, dropout))
                channels += growth
        self.features = nn.Sequential(*parts)
        self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, num_classes)
        start(self)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(relu(self.bn(self.features(images)), inplace=True).mean(dim=(2, 3)))
