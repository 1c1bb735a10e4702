"""The base of the classifiers of images: pixels come in from 0 to 1 and are normalised here."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.protocols import ClassifiesImages
from lightning_modules.classifier import Classifier
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import Batch


class ImageClassifier(Classifier):
    """A classifier of ``image`` [B, C, H, W] in [0, 1].

    Args:
        network: images [B, C, H, W], normalised -> logits [B, num_classes]; has ``image_shape`` and ``num_classes``.
        mean, std: of the channels, for pixels in [0, 1]; one value for all channels or one for each.
        channels_last: the layout in which a network's convolutions are fastest in half precision.
        classifier: see ``Classifier``.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        channels_last: bool = False,
        **classifier: Any,
    ) -> None:
        super().__init__(network, **classifier)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.image_shape: tuple[int, ...] = tuple(network.image_shape)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self._check(mean, std)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(std).view(-1, 1, 1).reciprocal(), persistent=False)

    def capabilities(self) -> set[type]:
        return {ClassifiesImages}

    def class_logits(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> [B, num_classes] float32 (or double)."""
        normalized = (images - self.mean) * self.scale
        logits = self.network(normalized.contiguous(memory_format=self.memory_format))
        return at_least_single(logits)

    forward = class_logits

    def logits(self, batch: Batch) -> Tensor:
        return self.class_logits(batch["image"])

    def setup(self, stage: str) -> None:
        self.network.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue, reportArgumentType]
        super().setup(stage)

    def _check(self, mean: Sequence[float], std: Sequence[float]) -> None:
        channels = self.image_shape[0]
        for key, values in {"mean": mean, "std": std}.items():
            if len(values) not in (1, channels):
                raise UserError(
                    f"lightning_module.{key} has {len(values)} values for images of {channels} channel(s): give one, "
                    "or one a channel."
                )
        if min(std) <= 0:
            raise UserError(f"lightning_module.std is {list(std)}: give numbers above 0.")
