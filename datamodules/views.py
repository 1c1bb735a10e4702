"""Several views of an evaluated image, whose class probabilities are then averaged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import functional

from datamodules.decoding import attempt
from datamodules.photographs import Photographs, unreadable_photograph
from foundation.errors import UserError

Kind = Literal["single", "mirrored", "ten_crops", "scales"]
KINDS = ("single", "mirrored", "ten_crops", "scales")
Groups = list[tuple[Tensor, Tensor]]
"""Views of one shape: at which places of their batch their images stand, [V] int64, and what is seen, uint8
[V, C, H, W]."""


@dataclass(frozen=True)
class Views:
    """What is seen of an image beside its mirror image, which whoever asks makes.

    Args:
        kind: the test's own view alone (``single``, or ``mirrored`` where its mirror image is wanted, too);
            ``ten_crops``: the four corners and the centre of the image in the size to which a test resizes it
            (Krizhevsky et al. 2012, section 4.1); ``scales``: the whole image in several sizes.
        scales: short sides in pixels.
    """

    kind: Kind
    scales: Sequence[int] = ()

    def of_photograph(self, image: Image.Image, size: int, short_side: int) -> list[np.ndarray]:
        """Each uint8 [3, H, W]. size: of a crop; short_side: of a test."""
        sides = self.scales if self.kind == "scales" else (short_side,)
        resized: list[Any] = [functional.resize(image, [side]) for side in sides]  # type: ignore
        if self.kind == "ten_crops":
            resized = list(functional.five_crop(resized[0], [size]))
        elif self.kind != "scales":
            resized = [functional.center_crop(resized[0], [size])]
        return [np.asarray(it).transpose(2, 0, 1) for it in resized]

    def of_table(self, images: Tensor) -> Groups:
        """Of images that a table holds in the size of a crop, uint8 [B, C, H, W]."""
        assert self.kind != "ten_crops"
        everyone = torch.arange(len(images))
        if self.kind != "scales":
            return [(everyone, images)]
        return [(everyone, functional.resize(images, [side], antialias=True)) for side in self.scales]


def grouped(views: Sequence[Sequence[np.ndarray]]) -> Groups:
    """views: those of each image."""
    by_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for place, of_image in enumerate(views):
        for view in of_image:
            by_shape.setdefault(view.shape, []).append((place, view))
    return [
        (torch.tensor([place for place, _ in group]), torch.from_numpy(np.stack([view for _, view in group])))
        for group in by_shape.values()
    ]


class ViewedPhotographs(Dataset[dict[str, Any] | UserError]):
    """Photographs asked for a batch by its positions: ``index``, ``label`` and the ``groups`` of their views."""

    def __init__(self, table: Photographs, views: Views) -> None:
        self.table, self.views = table, views

    def __getitem__(self, positions: Tensor) -> dict[str, Any] | UserError:
        seen = []
        for position in positions.tolist():
            path = self.table.path(position)
            views = attempt(partial(self._views), path)
            if isinstance(views, str):
                return unreadable_photograph(path, views)
            seen.append(views)
        return {"index": positions, "label": self.table.labels[positions], "groups": grouped(seen)}

    def _views(self, path: Any) -> list[np.ndarray]:
        of = self.table.views
        return self.views.of_photograph(self.table.image(path), of.size, of.test_short_side)


def views_of_table(table: Any, views: Views, batches: Sequence[Tensor]) -> Iterator[dict[str, Any]]:
    """The same of a table in memory."""
    for positions in batches:
        batch = table[positions]
        yield {"index": batch["index"], "label": batch["label"], "groups": views.of_table(batch["image"])}
