"""Images of any sizes brought to one, boxes with them, as torchvision's detectors do it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.transform import GeneralizedRCNNTransform, _resize_image_and_masks

Size = tuple[int, int]
"""Height and width."""


class Resize(GeneralizedRCNNTransform):
    """torchvision's, whose numbers do not go to the device anew for each image: a GPU's host would wait for each."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._colours: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def normalize(self, image: Tensor) -> Tensor:
        key = image.device, image.dtype
        if key not in self._colours:
            with torch.inference_mode(False):  # they may be kept for a gradient later
                given: Any = {"device": image.device, "dtype": image.dtype}
                mean, std = (torch.tensor(it, **given)[:, None, None] for it in (self.image_mean, self.image_std))
            self._colours[key] = mean, std
        mean, std = self._colours[key]
        return (image - mean) / std

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """torchvision's, for images and for targets with boxes and masks."""
        if target is None:
            return super().resize(image)
        sides: Any = self.min_size  # one to draw from, by torch's global generator as torchvision draws it
        before, side = size_of(image), self.torch_choice(sides) if self.training else sides[-1]
        image, resized = _resize_image_and_masks(image, side, self.max_size, target, self.fixed_size)
        assert resized is not None
        return image, resized | {"boxes": resized_boxes(resized["boxes"], before, size_of(image))}


def size_of(image: Tensor) -> Size:
    return image.shape[-2], image.shape[-1]


def resized_boxes(boxes: Tensor, before: Size, now: Size) -> Tensor:
    """torchvision's ``resize_boxes``, number by number, without a copy to the device. boxes: [N, 4]."""
    tall, wide = (float(np.float32(new / old)) for new, old in zip(now, before, strict=True))
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([left * wide, top * tall, right * wide, bottom * tall], dim=1)
