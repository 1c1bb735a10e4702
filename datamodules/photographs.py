"""Sets of photographs that do not fit in memory: workers decode them, and how many there are changes nothing."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import functional

from datamodules.batches import GlobalBatches
from datamodules.decoding import as_stored, attempt, read
from foundation.denormals import are_flushed, flush_in_worker
from foundation.errors import UserError
from foundation.randomness import keyed_generator

# Principal components of ImageNet's pixels in [0, 1], as in facebookarchive/fb.resnet.torch (datasets/imagenet.lua):
# the eigenvalues, and the eigenvectors as columns over red, green and blue.
EIGENVALUES = torch.tensor([0.2175, 0.0188, 0.0045])
EIGENVECTORS = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
COLOUR_STD = 0.1  # of the weights of the three (Krizhevsky et al. 2012, section 4.1)


@dataclass(frozen=True)
class Views:
    """What is seen of a photograph (He et al. 2016, section 3.4), as torchvision resizes and cuts it.

    Args:
        size: height and width.
        short_sides: least and greatest short side, in pixels, that a training photograph is resized to.
        test_short_side: that of an evaluated one, whose centre is cut out.
    """

    size: int
    short_sides: tuple[int, ...]
    test_short_side: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UserError(f"datamodule.size is {self.size}: give a number of pixels, 1 or more.")
        if len(self.short_sides) != 2 or not self.size <= self.short_sides[0] <= self.short_sides[1]:
            raise UserError(
                f"datamodule.short_sides is {list(self.short_sides)}: give two numbers of pixels, the least and the "
                f"greatest, of datamodule.size={self.size} or more."
            )
        if self.test_short_side < self.size:
            raise UserError(
                f"datamodule.test_short_side is {self.test_short_side}: give datamodule.size={self.size} or more."
            )

    def training(self, image: Image.Image, drawn: list[float]) -> Image.Image:
        """drawn: the first four of ``draw``."""
        low, high = self.short_sides
        share, top, left, flip = drawn
        resized: Any = functional.resize(image, [low + int(share * (high - low + 1))])  # type: ignore
        down, right = int(top * (resized.height - self.size + 1)), int(left * (resized.width - self.size + 1))
        crop = functional.crop(resized, down, right, self.size, self.size)
        return functional.hflip(crop) if flip < 0.5 else crop  # type: ignore

    def test(self, image: Image.Image) -> Image.Image:
        resized = functional.resize(image, [self.test_short_side])  # type: ignore
        return functional.center_crop(resized, [self.size])  # type: ignore


def draw(size: int, seed: int, epoch: int) -> Tensor:
    """For each of ``size`` training examples, [size, 7]: where short side, top, left and flip lie in their ranges,
    uniform in [0, 1), and the weights of three colours. A function of (seed, epoch, example)."""
    generator = keyed_generator(seed, "photographs", epoch)
    uniform = torch.rand(size, 4, generator=generator)
    return torch.cat([uniform, COLOUR_STD * torch.randn(size, 3, generator=generator)], dim=1)


def shift_colours(images: Tensor, weights: Tensor) -> Tensor:
    """Along the principal components of ImageNet's colours, clipped to [0, 1].

    images: [B, 3, H, W] in [0, 1]; weights: [B, 3].
    """
    shift = (weights * EIGENVALUES.to(weights.device)) @ EIGENVECTORS.T.to(weights.device)
    return (images + shift[:, :, None, None].to(images.dtype)).clamp(0, 1)


class Photographs(Dataset[dict[str, Tensor] | UserError]):
    """A split on disk, asked for a whole batch: its positions and, by a loader, the draws of training or None.

    A file that cannot be decoded makes a UserError of a loader's batch, for ``PhotographLoader`` to raise: raised by a
    worker, it would come with that worker's traceback.

    Args:
        names: bytes [N], relative to the folder. As an array: a list would be copied into every worker bit by bit,
            as reference counts change.
        labels: int64 [N].
        bits: see ``datamodules.decoding.read``.
    """

    def __init__(self, folder: Path, names: np.ndarray, labels: Tensor, views: Views, bits: int | None = None) -> None:
        assert len(names) == len(labels)
        self.folder, self.names, self.labels, self.views, self.bits = folder, names, labels, views, bits

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, asked: Tensor | tuple[Tensor, Tensor | None]) -> dict[str, Tensor] | UserError:
        if isinstance(asked, Tensor):
            batch = self[asked, None]
            if isinstance(batch, UserError):
                raise batch
            return batch
        positions, drawn = asked
        size = self.views.size
        images = np.empty((len(positions), 3, size, size), dtype=np.uint8)
        for number, position in enumerate(positions.tolist()):
            path = self.path(position)
            pixels = attempt(partial(self._pixels, None if drawn is None else drawn[number, :4].tolist()), path)
            if isinstance(pixels, str):
                return unreadable_photograph(path, pixels)
            images[number] = pixels
        batch = {"index": positions, "image": torch.from_numpy(images), "label": self.labels[positions]}
        return batch if drawn is None else batch | {"colour": drawn[:, 4:]}

    def contents(self) -> Iterator[Tensor]:
        """Which files these are, in their order, and of which class."""
        yield torch.from_numpy(np.frombuffer(self.names.tobytes(), dtype=np.uint8).copy())
        yield self.labels

    def take(self, positions: Tensor) -> "Photographs":
        """The examples at these positions, as a split of their own."""
        return Photographs(self.folder, self.names[positions.numpy()], self.labels[positions], self.views, self.bits)

    def path(self, position: int) -> Path:
        return self.folder / os.fsdecode(bytes(self.names[position]))

    def image(self, path: Path) -> Image.Image:
        return read(path, turn=as_stored, bits=self.bits)  # nobody's numbers on ImageNet are of turned images

    def _pixels(self, drawn: list[float] | None, path: Path) -> np.ndarray:
        image = self.image(path)
        view = self.views.test(image) if drawn is None else self.views.training(image, drawn)
        return np.asarray(view).transpose(2, 0, 1)


class UnreadablePhotograph(UserError):
    """The first of its set: others may follow."""


def unreadable_photograph(path: Path, reason: str) -> UnreadablePhotograph:
    return UnreadablePhotograph(f"{path} cannot be read ({reason}): repair or remove it; none is left out silently.")


class DrawnBatches(Sampler[tuple[Tensor, Tensor | None]]):
    """Each share of a batch with its draws, which are made here since workers know of no epoch.

    Args:
        draw: (size, seed, epoch) -> for each of ``size`` training examples what is drawn for it.
    """

    def __init__(self, batches: GlobalBatches, draw: Callable[[int, int, int], Tensor] = draw) -> None:
        self.batches, self.draw = batches, draw

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        size, seed, epoch = self.batches.size, self.batches.seed, self.batches.epoch
        drawn = None if seed is None else self.draw(size, seed, epoch)
        for positions in self.batches:
            yield positions, None if drawn is None else drawn[positions]


class PhotographLoader(DataLoader[Any]):
    """Starts its workers when the first batch is wanted: they ask for batches at once, and Lightning calls ``iter()``
    before it has set the epoch and restored its counters."""

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def made_by_workers(
    table: Dataset[Any], batches: DrawnBatches | Sequence[Tensor], num_workers: int, trainer: Trainer | None
) -> PhotographLoader:
    """num_workers: 0: batches are made by the process that asks for them. They take denormals as that one does."""
    pinned = trainer is not None and trainer.strategy.root_device.type == "cuda"
    return PhotographLoader(
        table,
        sampler=batches,  # pyright: ignore[reportArgumentType]
        batch_size=None,
        num_workers=num_workers,
        pin_memory=pinned,
        generator=torch.Generator(),
        worker_init_fn=partial(flush_in_worker, are_flushed()),
    )
