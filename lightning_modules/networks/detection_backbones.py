"""Backbones of detectors, on torchvision's nets: normalised images [B, 3, H, W] -> maps by name, fine to coarse.

Each has ``out_channels``, the same in all maps. Names of weights are those of torchvision's detectors.
"""

from collections import OrderedDict
from collections.abc import Callable
from math import gcd
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torchvision.models import mobilenet_v3_large, resnet, vgg16
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d

from foundation.errors import UserError, did_you_mean
from lightning_modules.networks.precision import at_least_single

Norm = Literal["frozen", "batch", "sync", "group"]
NormLayer = Callable[[int], nn.Module]
NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "mobilenet_v3_large", "small")


class FrozenBatchNorm(FrozenBatchNorm2d):
    """Scale and shift by what the weights' batch norm had learned, in the precision of the input.

    torchvision's multiplies by float32 numbers, which makes float32 again of what autocast has computed in half.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor
    for_one_pass: tuple[Tensor, Tensor] | None = None
    """Scale and shift, [C] each, where ``scaled_together`` has made them for the pass that has begun."""

    def forward(self, x: Tensor) -> Tensor:
        made, self.for_one_pass = self.for_one_pass, None
        if made is None:
            made = scale_and_shift(self.weight, self.bias, self.running_mean, self.running_var, self.eps)
        scale, shift = (it.to(x.dtype).view(1, -1, 1, 1) for it in made)
        return torch.addcmul(shift, x, scale)


def scale_and_shift(weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    scale = weight * (var + eps).rsqrt()
    return scale, bias - mean * scale


def scaled_together(part: nn.Module) -> None:
    """All frozen norms of a part get scale and shift at once as a pass begins: on a GPU some ten launches for the 53 of
    a ResNet-50 instead of eight for each. Nothing is kept from one pass to the next that could be out of date."""
    part.register_forward_pre_hook(scale_all)


def scale_all(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    norms = [it for it in part.modules() if isinstance(it, FrozenBatchNorm)]
    if torch.compiler.is_compiling() or len({it.eps for it in norms}) != 1:
        return
    weight, bias, mean, var = (
        torch.cat([getattr(norm, name) for norm in norms]) for name in ("weight", "bias", "running_mean", "running_var")
    )
    made = scale_and_shift(weight, bias, mean, var, norms[0].eps)
    kind = made[0].device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # as convolutions give it
        made = tuple(it.to(torch.get_autocast_dtype(kind)) for it in made)
    channels = [len(it.weight) for it in norms]
    for norm, *of_norm in zip(norms, *(it.split(channels) for it in made), strict=True):
        norm.for_one_pass = tuple(of_norm)


def norm_layer(norm: Norm) -> NormLayer:
    """What makes the norm of so many channels. Groups are 32 where the channels can be cut so."""
    layers: dict[str, NormLayer] = {
        "frozen": FrozenBatchNorm,
        "batch": nn.BatchNorm2d,
        "sync": nn.SyncBatchNorm,
        "group": lambda channels: nn.GroupNorm(gcd(32, channels // 2), channels),
    }
    if norm not in layers:
        raise UserError(f"network.backbone.norm is {norm!r}: give one of {', '.join(layers)}.")
    return layers[norm]


def freeze(stages: list[list[nn.Module]], trainable: int) -> None:
    """All but the last ``trainable`` stages keep their weights."""
    if not 0 <= trainable <= len(stages):
        raise UserError(f"network.backbone.trainable_layers is {trainable}: give 0 to {len(stages)}.")
    for stage in stages[: len(stages) - trainable]:
        for layer in stage:
            layer.requires_grad_(False)


class Pyramid(BackboneWithFPN):
    """A net of torchvision's with a feature pyramid on top (Lin et al. 2017, arXiv:1612.03144), and one more map that
    takes every second pixel of the coarsest.

    Args:
        name: resnet18 to resnet152, mobilenet_v3_large, or small (``SmallResNet``).
        channels: of every map.
        norm: of the net. ``frozen``: as its weights have it; ``sync`` needs GPUs.
        norm_in_pyramid: the same in the pyramid, which else has none.
        trainable_layers: the last ones of the net; the others keep their weights.
        frozen_eps: what a frozen norm adds to a variance. torchvision's COCO_V1 of ResNet-50 were trained with 0.
    """

    def __init__(
        self,
        name: str,
        channels: int = 256,
        norm: Norm = "frozen",
        norm_in_pyramid: bool = False,
        trainable_layers: int = 3,
        frozen_eps: float = 1e-5,
    ) -> None:
        if name not in NAMES:
            raise UserError(f"network.backbone.name is {name!r}; {did_you_mean(name, NAMES)}")
        layer = norm_layer(norm)
        if name == "mobilenet_v3_large":
            net, stages = mobilenet(layer)
            taken = [str(len(net) - 4), str(len(net) - 1)]
        else:
            net: Any = SmallResNet(layer) if name == "small" else getattr(resnet, name)(weights=None, norm_layer=layer)
            taken = [it for it in ("layer1", "layer2", "layer3", "layer4") if hasattr(net, it)]
            stages = [[net.conv1, net.bn1], *([getattr(net, it)] for it in taken)]
        freeze(stages, trainable_layers)
        super().__init__(
            net, {it: str(number) for number, it in enumerate(taken)}, [width(net.get_submodule(it)) for it in taken],
            channels, norm_layer=norm_layer(norm) if norm_in_pyramid else None,
        )  # fmt: skip
        self.name, self.norm, self.frozen_eps, self.maps = name, norm, frozen_eps, len(taken) + 1
        for part in self.modules():
            if isinstance(part, FrozenBatchNorm):
                part.eps = frozen_eps
        scaled_together(self)


def mobilenet(layer: NormLayer) -> tuple[nn.Sequential, list[list[nn.Module]]]:
    """MobileNetV3-Large's layers, and the same cut where they halve the image."""
    net = mobilenet_v3_large(weights=None, norm_layer=layer).features
    starts = [0, *(place for place, it in enumerate(net) if getattr(it, "_is_cn", False)), len(net) - 1]
    return net, [list(net[a:b]) for a, b in zip(starts, [*starts[1:], len(net)], strict=True)]


def width(stage: Any) -> int:
    """Channels of what a stage of a net gives."""
    blocks = list(stage.children())
    if isinstance(blocks[-1], resnet.BasicBlock | resnet.Bottleneck):
        last: Any = blocks[-1]
        return last.conv2.out_channels * last.expansion
    return stage.out_channels


class SmallResNet(nn.Module):
    """Residual blocks of torchvision's at a quarter, an eighth and a sixteenth of the image, for scenes of 128 pixels.

    A ResNet for ImageNet would have most of its channels where such a scene is four pixels wide.
    """

    def __init__(self, layer: NormLayer, width: int = 32) -> None:
        super().__init__()
        self.channels = 4 * width
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.bn1 = layer(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = self._stage(width, width, layer)
        self.layer2 = self._stage(width, 2 * width, layer)
        self.layer3 = self._stage(2 * width, 4 * width, layer)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _stage(self, inputs: int, outputs: int, layer: NormLayer) -> nn.Sequential:
        halved = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), layer(outputs))
        return nn.Sequential(
            resnet.BasicBlock(inputs, outputs, 2, halved, norm_layer=layer),
            resnet.BasicBlock(outputs, outputs, norm_layer=layer),
        )


class Pixels(nn.Module):
    """The image itself for its features: R-CNN's regions are cropped from it, and a net looks at each."""

    name, norm, maps, out_channels = "pixels", None, 1, 3

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Identity()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": self.body(images)}


class VGG16(nn.Module):
    """The 13 convolutions of VGG-16 without the last max-pool: one map of 512 channels at a sixteenth of the image.

    Args:
        trainable_layers: of the five groups of convolutions, the last ones.
    """

    name, norm, maps, out_channels = "vgg16", None, 1, 512

    def __init__(self, trainable_layers: int = 3) -> None:
        super().__init__()
        features: Any = vgg16(weights=None).features
        self.body = features[:-1]
        starts = [0, 5, 10, 17, 24]  # conv1_1, conv2_1, ... conv5_1
        ends = [*starts[1:], len(self.body)]
        freeze([list(self.body[a:b]) for a, b in zip(starts, ends, strict=True)], trainable_layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": self.body(images)}


class ZF(nn.Module):
    """The five convolutions of Zeiler & Fergus's net as the paper's code has them, padded so that there is one map of
    256 channels at a sixteenth of the image. Weights have the names that the code's layers have.

    Args:
        trainable_layers: of the five convolutions, the last ones.
    """

    name, norm, maps, out_channels = "zf", None, 1, 256

    def __init__(self, trainable_layers: int = 5) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        kinds = ((3, 96, 7, 2), (96, 256, 5, 2), (256, 384, 3, 1), (384, 384, 3, 1), (384, 256, 3, 1))
        for number, (inputs, outputs, side, stride) in enumerate(kinds, start=1):
            layers[f"conv{number}"] = nn.Conv2d(inputs, outputs, side, stride, padding=side // 2)
            layers[f"relu{number}"] = nn.ReLU(inplace=True)
            if number <= 2:
                layers[f"norm{number}"] = NormAroundPlaces()
                layers[f"pool{number}"] = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=True)  # Caffe rounds up
        self.body = nn.Sequential(layers)
        freeze([[layers[f"conv{number}"]] for number in range(1, 6)], trainable_layers)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": self.body(images)}


class NormAroundPlaces(nn.Module):
    """Caffe's local response normalisation within a channel: divided by (1 + alpha m)^beta, m being the mean of the
    squares of the 3 x 3 places around, those beyond the map 0."""

    def __init__(self, size: int = 3, alpha: float = 5e-5, beta: float = 0.75) -> None:
        super().__init__()
        self.size, self.alpha, self.beta = size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W], in float32 or finer inside."""
        whole = at_least_single(x)
        mean = avg_pool2d(whole.square(), self.size, stride=1, padding=self.size // 2)
        return (whole * (1 + self.alpha * mean).pow(-self.beta)).to(x.dtype)


class ResNetToLayer3(nn.Module):
    """A ResNet without its last stage, which is the heads' (He et al. 2016, appendix A): one map of 1,024 channels at a
    sixteenth of the image.

    Args:
        name: resnet50, resnet101 or resnet152.
        norm: ``frozen``: as the weights have it.
        trainable_layers: of the first convolution and the three stages, the last ones.
        frozen_eps: what a frozen norm adds to a variance.
    """

    maps, out_channels = 1, 1024

    def __init__(
        self, name: str = "resnet101", norm: Norm = "frozen", trainable_layers: int = 2, frozen_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.name, self.norm, self.frozen_eps = f"{name}_to_layer3", norm, frozen_eps
        net = deep_resnet(name, norm, frozen_eps)
        self.body = nn.Sequential(OrderedDict((it, part) for it, part in net.named_children() if it not in LAST_STAGE))
        stages = [[net.conv1, net.bn1], [net.layer1], [net.layer2], [net.layer3]]
        freeze(stages, trainable_layers)
        scaled_together(self)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"0": self.body(images)}


LAST_STAGE = ("layer4", "avgpool", "fc")


def deep_resnet(name: str, norm: Norm, frozen_eps: float = 1e-5) -> resnet.ResNet:
    """With bottlenecks. A UserError names a wrong name."""
    names = ("resnet50", "resnet101", "resnet152")
    if name not in names:
        raise UserError(f"network.backbone.name is {name!r}: {did_you_mean(name, names)}")
    net = getattr(resnet, name)(weights=None, norm_layer=norm_layer(norm))
    for part in net.modules():
        if isinstance(part, FrozenBatchNorm):
            part.eps = frozen_eps
    return net


def last_stage(norm: Norm, frozen_eps: float = 1e-5) -> nn.Sequential:
    """What ``ResNetToLayer3`` leaves out, the same in all three nets: regions [R, 1024, 14, 14] -> [R, 2048]."""
    stage = deep_resnet("resnet50", norm, frozen_eps).layer4
    whole = nn.Sequential(OrderedDict(layer4=stage, pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten()))
    scaled_together(whole)
    return whole
