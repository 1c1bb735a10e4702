"""VGG with batch norm for small images (Simonyan & Zisserman 2015, arXiv:1409.1556): what DeepCloak and oracle
robustness were measured on.

The layout for CIFAR-10 that is in wide use: 3x3 convolutions, each with batch norm and ReLU, and one linear layer where
the net for ImageNet has three. Where the image is halved, odd sides keep their last pixel.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks.resnet import convolution, start

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Of each stage, by the depth: the paper's nets A, B, D and E, which are called by the layers of those for ImageNet."""


class CifarVGG(nn.Module):
    """Five stages of convolutions at full, half, quarter, eighth and sixteenth size, and a linear layer on the average.

    images: [B, C, H, W] -> logits [B, num_classes]. ``features`` are what ``linear`` reads, [B, 8 width], 0 or more.

    Args:
        depth: 16 has 13 convolutions. 19 has 16, as the net that DeepCloak's released code seems to load.
        width: channels of the first stage; the others have 2, 4, 8 and 8 times as many.
    """

    def __init__(
        self, depth: int = 16, width: int = 64, image_shape: Sequence[int] = (3, 32, 32), num_classes: int = 10
    ) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise UserError(f"network.depth is {depth}: these nets have 11, 13, 16 or 19 layers.")
        if width < 1:
            raise UserError(f"network.width is {width}: give a number of channels, such as 64.")
        self.image_shape, self.num_classes = tuple(image_shape), num_classes
        stages, inputs = [], self.image_shape[0]
        for number, (count, wider) in enumerate(zip(CONVOLUTIONS[depth], (1, 2, 4, 8, 8), strict=True)):
            stages += [nn.MaxPool2d(2, ceil_mode=True)] if number else []
            for _ in range(count):
                stages.append(convolution(inputs, wider * width))
                inputs = wider * width
        self.convolutions = nn.Sequential(*stages)
        self.linear = nn.Linear(inputs, num_classes)
        start(self)

    def features(self, images: Tensor) -> Tensor:
        return self.convolutions(images).mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))
