"""Scenes made of MNIST's digits on the fly: two digits on a larger canvas, or one among clutter."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datamodules.images import ImageTable
from datamodules.mnist import MNISTDataModule
from datamodules.splits import sent
from foundation.errors import UserError
from foundation.randomness import keyed_generator


@dataclass(frozen=True)
class Parts:
    """Squares that are cut out of images and laid into scenes."""

    side: int
    places: Tensor
    """int32 [scenes, parts, 5]: number of the image, top and left in it, top and left in the scene."""

    def take(self, positions: Tensor) -> "Parts":
        return Parts(self.side, self.places[positions])

    def to(self, device: torch.device) -> "Parts":
        return Parts(self.side, self.places.to(device))


def compose(images: Tensor, groups: list[Parts], size: int) -> Tensor:
    """Scenes uint8 [B, 1, size, size]: parts added up, clipped at white. images: uint8 [N, 1, H, W]."""
    height, width = images.shape[2:]
    scenes = torch.zeros(len(groups[0].places), size * size, dtype=torch.int32, device=images.device)
    for group in groups:
        image, top, left, scene_top, scene_left = group.places.long().unsqueeze(3).unsqueeze(4).unbind(2)
        rows = torch.arange(group.side, device=images.device)
        columns, rows = rows, rows.unsqueeze(1)
        pixels = (image * height + top + rows) * width + left + columns
        targets = (scene_top + rows) * size + scene_left + columns
        scenes.scatter_add_(1, targets.flatten(1), images.flatten()[pixels].flatten(1).to(torch.int32))
    return scenes.clamp_(max=255).to(torch.uint8).view(-1, 1, size, size)


class SceneTable(ImageTable):
    """Scenes of a split's digits; one exists only while it is in a batch.

    Args:
        images, labels: of the digits. A scene has the label of its first part's.
        chosen: whether these are scenes taken out of a split; the whole of one is known by its digits.
    """

    def __init__(
        self, images: Tensor, labels: Tensor | None, groups: list[Parts], size: int, chosen: bool = False
    ) -> None:
        super().__init__(images, labels)
        self.groups, self.size, self.chosen = groups, size, chosen

    def __len__(self) -> int:
        return len(self.groups[0].places)

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        positions = sent(positions, self.device)
        groups = [group.take(positions) for group in self.groups]
        batch = {"index": positions, "image": compose(self.images, groups, self.size)}
        return batch if self.labels is None else batch | {"label": self.labels[groups[0].places[:, 0, 0].long()]}

    def take(self, positions: Tensor) -> "SceneTable":
        groups = [group.take(positions) for group in self.groups]
        return SceneTable(self.images, self.labels, groups, self.size, chosen=True)

    def to(self, device: torch.device) -> "SceneTable":
        labels, groups = None if self.labels is None else self.labels.to(device), [it.to(device) for it in self.groups]
        return SceneTable(self.images.to(device), labels, groups, self.size, self.chosen)

    def contents(self) -> Iterator[Tensor]:
        yield from super().contents()
        yield from (group.places for group in self.groups if self.chosen)


class MNISTScenes(MNISTDataModule):
    """The base of the scenes; the layout of scene i is a function of (split_seed, split, how many there are, i).

    Args:
        size: height and width of a scene.
        per_digit: training scenes of each training digit; the other splits have one of each.
    """

    def __init__(self, data_dir: str, size: int, per_digit: int = 1, **splits: Any) -> None:
        super().__init__(data_dir, **splits)
        if size < 28:
            raise UserError(f"datamodule.size is {size}: give a digit's 28 pixels or more.")
        if per_digit < 1:
            raise UserError(f"datamodule.per_digit is {per_digit}: give 1 or more.")
        self.size, self.per_digit = size, per_digit
        self.image_shape = (1, size, size)

    @abstractmethod
    def layout(self, digits: int, scenes: int, generator: torch.Generator) -> list[Parts]:
        """Draw the parts of ``scenes`` scenes of a split that has ``digits`` digits."""

    def cut(self, loaded: dict[str, Any]) -> dict[str, Any]:
        return {split: self._scenes(split, table) for split, table in super().cut(loaded).items()}

    def _scenes(self, split: str, table: ImageTable) -> SceneTable:
        digits = len(table)
        scenes = digits * (self.per_digit if split == "train" else 1)
        groups = self.layout(digits, scenes, keyed_generator(self.split_seed, f"scenes {split}"))
        return SceneTable(table.images, None if self.num_classes is None else table.labels, groups, self.size)

    def describe(self) -> dict[str, Any]:
        """Also how the scenes were made; the fingerprint is that of the digits."""
        how = {"size": self.size, "per_digit": self.per_digit, "scenes_seed": self.split_seed}
        return super().describe() | how

    def anywhere(self, side: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Top and left of squares that lie within a scene, uniform: [*shape, 2]."""
        return torch.randint(self.size - side + 1, (*shape, 2), generator=generator)


class TwoDigits(MNISTScenes):
    """Two digits at random places, which may overlap; no labels."""

    name = "two_digits"
    num_classes = None

    def layout(self, digits: int, scenes: int, generator: torch.Generator) -> list[Parts]:
        first = torch.arange(scenes) % max(digits, 1)
        second = torch.randint(max(digits, 1), (scenes,), generator=generator)
        number = torch.stack([first, second], dim=1).unsqueeze(2)
        places = [number, torch.zeros(scenes, 2, 2, dtype=torch.int64), self.anywhere(28, (scenes, 2), generator)]
        return [Parts(28, torch.cat(places, dim=2).to(torch.int32))]


class ClutteredDigits(MNISTScenes):
    """A digit at a random place among pieces cut out of other digits (Mnih et al. 2014, arXiv:1406.6247).

    Args:
        pieces: how many.
        piece_size: their height and width.
    """

    name = "cluttered"

    def __init__(self, data_dir: str, size: int, pieces: int = 8, piece_size: int = 8, **scenes: Any) -> None:
        super().__init__(data_dir, size, **scenes)
        if pieces < 0:
            raise UserError(f"datamodule.pieces is {pieces}: give 0 or more.")
        if not 1 <= piece_size <= 28:
            raise UserError(f"datamodule.piece_size is {piece_size}: give 1 to 28 pixels.")
        self.pieces, self.piece_size = pieces, piece_size

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"pieces": self.pieces, "piece_size": self.piece_size}

    def layout(self, digits: int, scenes: int, generator: torch.Generator) -> list[Parts]:
        digit = (torch.arange(scenes) % max(digits, 1)).view(-1, 1, 1)
        corner = torch.zeros(scenes, 1, 2, dtype=torch.int64)
        whole = torch.cat([digit, corner, self.anywhere(28, (scenes, 1), generator)], dim=2)
        shape = (scenes, self.pieces)
        source = torch.randint(max(digits, 1), (*shape, 1), generator=generator)
        cut = torch.randint(28 - self.piece_size + 1, (*shape, 2), generator=generator)
        pieces = torch.cat([source, cut, self.anywhere(self.piece_size, shape, generator)], dim=2)
        return [Parts(28, whole.to(torch.int32)), Parts(self.piece_size, pieces.to(torch.int32))]
