"""Generators and discriminators of Salimans et al. 2016, as in the authors' code (openai/improved-gan).

Pixels are in [0, 1] on the outside. Weights of convolutions start at N(0, 0.05), those of fully connected
discriminators at N(0, 0.1); the weight-normalised layers are set by the first batch
(``improved_gan_layers.initializing``).
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks.improved_gan_layers import (
    Gather,
    GaussianNoise,
    MinibatchDiscrimination,
    VirtualBatchNorm,
    WeightNormConv2d,
    WeightNormLinear,
    WeightNormUp,
    alone,
)
from lightning_modules.networks.products import Linear

Normalization = Literal["batch", "virtual", "none"]


# --- generators ------------------------------------------------------------------------------------------------


class Generator(nn.Module):
    """What the generators have in common: the reference batch of virtual batch norm goes through with each batch.

    Args:
        input_size: length of the noise.
        normalization: of the hidden layers. batch: batch norm with a shift and no gain.
        references: size of the reference batch.
    """

    layers: nn.Sequential
    image_shape: tuple[int, int, int]
    reference_noise: Tensor

    def __init__(self, input_size: int, normalization: Normalization, references: int) -> None:
        super().__init__()
        if references < 2:
            raise UserError(f"lightning_module.generator.references is {references}: give 2 or more.")
        self.input_size, self.normalization, self.references = input_size, normalization, references
        if normalization == "virtual":
            self.register_buffer("reference_noise", torch.zeros(references, input_size, device="cpu"))

    def normalized(self, features: int, dimensions: Literal[1, 2], eps: float) -> nn.Module:
        if self.normalization == "virtual":
            return VirtualBatchNorm(features, self.references)
        if self.normalization == "none":
            return nn.Identity()
        norm = (nn.BatchNorm1d if dimensions == 1 else nn.BatchNorm2d)(features, eps=eps)
        norm.weight.requires_grad_(False)  # no gain
        return norm

    def pixels(self, outputs: Tensor) -> Tensor:
        """Outputs of the last layer -> [0, 1]."""
        return torch.sigmoid(outputs)

    def forward(self, noise: Tensor) -> Tensor:
        """noise: [B, input_size] -> images [B, C, H, W] in (0, 1)."""
        if self.normalization != "virtual":
            return self.pixels(self.layers(noise))
        outputs = self.layers(torch.cat([self.reference_noise.to(noise), noise]))
        return self.pixels(outputs[self.references :])


class MLPGenerator(Generator):
    """Fully connected: softplus layers, then weight-normalised pixels through a sigmoid. The code's net for MNIST.

    Args:
        hidden: widths of the hidden layers.
        output_init_std: of the pre-activations of pixels in the first batch; None: weights stay as drawn.
        output_weight_std: of the normal that the last layer's weights are drawn from; None: Glorot's uniform, as in the
            code. Their length, which weight norm takes away, decides how fast they turn.
    """

    def __init__(
        self,
        input_size: int,
        hidden: Sequence[int],
        image_shape: Sequence[int],
        normalization: Normalization = "batch",
        references: int = 100,
        output_init_std: float | None = None,
        output_weight_std: float | None = 0.05,
    ) -> None:
        super().__init__(input_size, normalization, references)
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        layers: list[nn.Module] = []
        size = input_size
        for following in hidden:
            linear = Linear(size, following, bias=normalization == "none")
            nn.init.xavier_uniform_(linear.weight)
            layers += [linear, self.normalized(following, 1, eps=1e-6), nn.Softplus()]
            size = following
        pixels, std = math.prod(image_shape), 0.05 if output_weight_std is None else output_weight_std
        last = WeightNormLinear(size, pixels, std, train_gain=True, init_std=output_init_std)
        if output_weight_std is None:
            nn.init.xavier_uniform_(last.weight)
        self.layers = nn.Sequential(*layers, last, nn.Unflatten(1, self.image_shape))


class ConvGenerator(Generator):
    """A fully connected layer, then 5x5 up-convolutions; the last one is weight-normalised, with a tanh.

    Args:
        base: channels, height and width of the first feature map.
        channels: outputs of the up-convolutions, each of which doubles the side; the last ones are the image's.
    """

    def __init__(
        self,
        input_size: int,
        base: Sequence[int],
        channels: Sequence[int],
        normalization: Normalization = "batch",
        references: int = 100,
    ) -> None:
        super().__init__(input_size, normalization, references)
        self.image_shape = (channels[-1], base[1] * 2 ** len(channels), base[2] * 2 ** len(channels))
        biased = normalization == "none"
        size = math.prod(base)
        first = Linear(input_size, size, bias=biased)
        layers: list[nn.Module] = [first, self.normalized(size, 1, eps=1e-6), nn.ReLU(), nn.Unflatten(1, tuple(base))]
        width = base[0]
        for following in channels[:-1]:
            up = nn.ConvTranspose2d(width, following, 5, stride=2, padding=2, output_padding=1, bias=biased)
            layers += [up, self.normalized(following, 2, eps=1e-6), nn.ReLU()]
            width = following
        for layer in layers:
            if isinstance(layer, nn.Linear | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, 0.0, 0.05)
        self.layers = nn.Sequential(*layers, WeightNormUp(width, channels[-1]))

    def pixels(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(2 * outputs)  # (tanh(x) + 1) / 2


# --- discriminators --------------------------------------------------------------------------------------------


class Discriminator(nn.Module):
    """What the discriminators have in common: features, minibatch features, one logit a class.

    A network has K logits for the K + 1 classes: that of "generated" is 0 (section 5).

    Args:
        image_shape: channels, height and width of an image.
        num_classes: K.
        feature_size: length of the features.
        minibatch_discrimination: ``kernels``, ``width`` and ``references`` of ``MinibatchDiscrimination``; None: none.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        feature_size: int,
        minibatch_discrimination: Mapping[str, int] | None,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape, self.num_classes = (channels, height, width), num_classes
        self.minibatch: MinibatchDiscrimination | None = None
        self.outputs = feature_size
        if minibatch_discrimination is not None:
            if unknown := minibatch_discrimination.keys() ^ {"kernels", "width", "references"}:
                raise UserError(
                    "lightning_module.discriminator.minibatch_discrimination takes kernels, width and references; "
                    f"look at {', '.join(sorted(unknown))}."
                )
            for name, size in minibatch_discrimination.items():
                if not isinstance(size, int) or size < 1:
                    raise UserError(
                        f"lightning_module.discriminator.minibatch_discrimination.{name} is {size}: give 1 or more."
                    )
            sizes: Any = minibatch_discrimination
            self.minibatch = MinibatchDiscrimination(feature_size, image_shape=self.image_shape, **sizes)
            self.outputs = self.minibatch.outputs

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> what features are matched on, [B, feature_size]."""

    @abstractmethod
    def classify(self, features: Tensor) -> Tensor:
        """Features, with the minibatch's behind -> [B, K]."""

    def regularized(self, features: Tensor) -> Tensor:
        """What the logits see of the features in training."""
        return features

    def logits(self, features: Tensor, sizes: Sequence[int] | None = None, gather: Gather = alone) -> Tensor:
        """Features [B, feature_size] -> [B, K].

        With minibatch discrimination, in training an example is seen beside the others of its batch: of the ``sizes``
        that follow one another (None: one batch), on all ranks that ``gather`` reaches. In evaluation it is seen
        beside the reference images, so that its logits depend on no other example.
        """
        features = self.regularized(features)
        if self.minibatch is None:
            return self.classify(features)
        if self.training:
            return self.classify(self.minibatch(features, sizes or [len(features)], gather))
        reference = self.features(self.minibatch.reference_images.to(features.dtype))
        return self.classify(self.minibatch.against(features, reference))

    def forward(self, images: Tensor, sizes: Sequence[int] | None = None, gather: Gather = alone) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> logits [B, K]."""
        return self.logits(self.features(images), sizes, gather)


class MLPDiscriminator(Discriminator):
    """Fully connected, weight-normalised, with noise before each layer: the code's net for MNIST.

    Args:
        hidden: widths of the ReLU layers; features are the last one's outputs, before their noise.
        input_noise, hidden_noise: standard deviations.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        hidden: Sequence[int],
        num_classes: int,
        input_noise: float = 0.3,
        hidden_noise: float = 0.5,
        minibatch_discrimination: Mapping[str, int] | None = None,
    ) -> None:
        if not hidden:
            raise UserError("lightning_module.discriminator.hidden is empty: give the width of a layer or more.")
        super().__init__(image_shape, num_classes, hidden[-1], minibatch_discrimination)
        layers: list[nn.Module] = [nn.Flatten()]
        size, noise = math.prod(image_shape), input_noise
        for following in hidden:
            layers += [GaussianNoise(noise), WeightNormLinear(size, following), nn.ReLU()]
            size, noise = following, hidden_noise
        self.trunk = nn.Sequential(*layers)
        self.noise = GaussianNoise(hidden_noise)
        self.head = WeightNormLinear(self.outputs, num_classes, train_gain=True)

    def features(self, images: Tensor) -> Tensor:
        return self.trunk(images)

    def regularized(self, features: Tensor) -> Tensor:
        return self.noise(features)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


class ConvDiscriminator(Discriminator):
    """Convolutional, weight-normalised, leaky: the code's net for CIFAR-10 and SVHN, and with more blocks for 128x128.

    Each block is three 3x3 convolutions, the third of stride 2, and dropout of a half. Then a 3x3 convolution without
    padding, two 1x1 and the mean over space, which are the features.

    Args:
        blocks: widths.
        input_dropout, input_noise: of the pixels; the scripts that match features have the one, those of minibatch
            discrimination the other.
        leak: slope of the leaky ReLU.
        scale: a pixel x in [0, 1] enters as (255 x - 127.5) / scale: 128 on CIFAR-10, 127.5 on SVHN.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        blocks: Sequence[int],
        num_classes: int,
        input_dropout: float = 0.2,
        input_noise: float = 0.0,
        leak: float = 0.2,
        scale: float = 127.5,
        minibatch_discrimination: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(image_shape, num_classes, blocks[-1], minibatch_discrimination)
        self.scale = scale
        layers: list[nn.Module] = [nn.Dropout(input_dropout), GaussianNoise(input_noise)]
        width = self.image_shape[0]
        for following in blocks:
            for stride in (1, 1, 2):
                layers += [WeightNormConv2d(width, following, 3, stride, padding=1), nn.LeakyReLU(leak)]
                width = following
            layers.append(nn.Dropout(0.5))
        for kernel in (3, 1, 1):
            layers += [WeightNormConv2d(width, width, kernel), nn.LeakyReLU(leak)]
        self.trunk = nn.Sequential(*layers)
        self.head = WeightNormLinear(self.outputs, num_classes, 0.05, train_gain=True, init_std=0.1)

    def features(self, images: Tensor) -> Tensor:
        images = images.contiguous(memory_format=torch.channels_last)  # the same numbers, sooner
        return self.trunk(images * (255 / self.scale) - 127.5 / self.scale).mean(dim=(2, 3))

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)
