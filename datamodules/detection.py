"""The base of the detection sets: images of any size with boxes, and masks where they are asked for."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional

from datamodules.batches import AspectBatches, GlobalBatches
from datamodules.photographs import DrawnBatches, PhotographLoader, made_by_workers
from datamodules.proposals import GivenProposals, Proposals, apart
from datamodules.splits import SplitDataModule
from foundation.errors import UserError
from foundation.randomness import keyed_generator


@dataclass(frozen=True)
class Example:
    """An image with its objects.

    Args:
        image: uint8 [3, H, W].
        boxes: float32 [N, 4]: left, top, right, bottom in pixels.
        labels: int64 [N], from 1 on; 0 is the background.
        masks: uint8 [N, H, W]; None where they are not asked for.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor | None = None


class ObjectTable(Dataset[dict[str, Any] | UserError]):
    """A split, asked for a whole batch: its positions and, in training, which of them are flipped.

    Args:
        image_ids: int64 [N], the data set's numbers of the images.
        sizes: int64 [N, 2], their heights and widths.
    """

    proposals: GivenProposals | None = None
    """Of its images, where the data are given some."""

    def __init__(self, image_ids: Tensor, sizes: np.ndarray) -> None:
        assert sizes.shape == (len(image_ids), 2)
        self.image_ids, self.sizes = image_ids, sizes

    @property
    def wide(self) -> Tensor:
        """bool [N], which images are wider than high."""
        return torch.from_numpy(self.sizes[:, 1] > self.sizes[:, 0])

    @abstractmethod
    def example(self, position: int) -> Example:
        """A UserError where it cannot be read; ``PhotographLoader`` raises it outside of the worker."""

    def __len__(self) -> int:
        return len(self.image_ids)

    def contents(self) -> Iterator[Tensor]:
        """Which images these are, in their order."""
        yield self.image_ids

    def __getitem__(self, asked: tuple[Tensor, Tensor | None]) -> dict[str, Any] | UserError:
        positions, flips = asked
        try:
            examples = [self.example(position) for position in positions.tolist()]
        except UserError as mistake:
            return mistake
        return {
            "index": positions,
            "image_id": self.image_ids[positions],
            **pack(examples),
            "flips": None if flips is None else flips.tolist(),
            "proposals": None if self.proposals is None else self.proposals.at(positions),
        }


def pack(examples: Sequence[Example]) -> dict[str, Any]:
    """All images in one tensor, and all boxes, labels and masks: a worker sends each tensor by a file of its own, of
    which a process may have but a thousand open."""
    masks = [it.masks.flatten() for it in examples if it.masks is not None]
    return {
        "pixels": torch.cat([torch.empty(0, dtype=torch.uint8), *(it.image.flatten() for it in examples)]),
        "sizes": [tuple(it.image.shape[1:]) for it in examples],
        "boxes": torch.cat([torch.empty(0, 4), *(it.boxes for it in examples)]),
        "labels": torch.cat([torch.empty(0, dtype=torch.int64), *(it.labels for it in examples)]),
        "counts": [len(it.labels) for it in examples],
        "masks": torch.cat(masks) if masks else None,
    }


def unpack(packed: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """A batch as ``DetectionDataModule`` describes it, flipped where that was drawn."""
    sizes, counts = packed["sizes"], packed["counts"]
    flat = packed["pixels"].to(dtype).div_(255).split([3 * height * width for height, width in sizes])
    images = [pixels.view(3, *size) for pixels, size in zip(flat, sizes, strict=True)]
    pairs = zip(packed["boxes"].split(counts), packed["labels"].split(counts), strict=True)
    targets = [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]
    if packed["masks"] is not None:
        areas = [count * height * width for count, (height, width) in zip(counts, sizes, strict=True)]
        for target, pixels, count, size in zip(targets, packed["masks"].split(areas), counts, sizes, strict=True):
            target["masks"] = pixels.view(count, *size)
    given = packed["proposals"]
    proposals = None if given is None else [*apart(given, dtype)]
    for position, flipped in enumerate(packed["flips"] or []):
        if flipped:
            images[position] = functional.horizontal_flip_image(images[position])
            targets[position] = flip_target(targets[position], sizes[position])
            if proposals is not None:
                proposals[position] = flip_target(proposals[position], sizes[position])
    batch = {"index": packed["index"], "image_id": packed["image_id"], "image": images, "target": targets}
    return batch if proposals is None else batch | {"proposals": proposals}


def flip_target(target: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
    left, top, right, bottom = target["boxes"].unbind(1)
    boxes = torch.stack([size[1] - right, top, size[1] - left, bottom], dim=1)
    masks = {"masks": functional.horizontal_flip_mask(target["masks"])} if "masks" in target else {}
    return target | {"boxes": boxes} | masks


def draw_flips(size: int, seed: int, epoch: int) -> Tensor:
    """Which of ``size`` training examples are flipped, bool [size]: a function of (seed, epoch, example)."""
    return torch.randint(2, (size,), generator=keyed_generator(seed, "flips", epoch)).bool()


class DetectionDataModule(SplitDataModule):
    """Images with boxes, given to the module in their own sizes.

    A batch holds ``index`` [B] int64 (positions in the split), ``image_id`` [B] int64 (the data set's numbers),
    ``image``, B float tensors [3, H, W] in [0, 1], and ``target``, B dicts of ``boxes`` [N, 4] float32 (left, top,
    right, bottom in pixels), ``labels`` [N] int64 in 1..num_classes and, where they were asked for, ``masks`` [N, H, W]
    uint8. Targets hold no crowd and no box without area; an image without objects has N = 0. Evaluation sees the
    images as they are on disk. Where it is given proposals, ``proposals`` are B dicts of ``boxes`` [P, 4] float32, the
    best first, in the same pixels, and their ``scores`` [P].

    A subclass says its classes and implements ``load`` and ``coco_ground_truth``.

    Args:
        masks: give the objects' masks, too.
        flip: flip half of the training images left to right, drawn for each (seed, epoch, example).
        group_by_aspect: a training batch holds images that are wider than high, or others, alone.
        num_workers: processes that make batches, on each rank; 0: none but the one that trains.
        proposals: where objects may be in every image, which goes with the images.
        splits: see ``SplitDataModule``.
    """

    image_shape = None
    category_ids: Sequence[int]
    """The data set's numbers of the classes, in the order of the labels 1, 2, ...; they may have gaps."""
    class_names: Sequence[str]

    tables: dict[str, ObjectTable]  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        *,
        eval_batch_size: int = 8,
        masks: bool = False,
        flip: bool = False,
        group_by_aspect: bool = False,
        num_workers: int = 0,
        proposals: Proposals | None = None,
        **splits: Any,
    ) -> None:
        super().__init__(eval_batch_size=eval_batch_size, **splits)
        if num_workers < 0:
            raise UserError(f"datamodule.num_workers is {num_workers}: give a number of processes, 0 or more.")
        self.masks, self.flip, self.group_by_aspect, self.num_workers = masks, flip, group_by_aspect, num_workers
        self.proposals = proposals

    @property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Without the background."""
        return len(self.category_ids)

    @abstractmethod
    def load(self) -> dict[str, ObjectTable]:
        """``train``, ``val`` (empty where ``val_size`` is 0) and ``test``."""

    @abstractmethod
    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        """See ``foundation.protocols.AnnotatesObjects``."""

    def cut(self, loaded: dict[str, ObjectTable]) -> dict[str, ObjectTable]:
        if self.proposals is not None:
            for split, table in loaded.items():
                if len(table):
                    table.proposals = self.proposals.of(split, table.image_ids, table.sizes)
        return loaded

    def in_order(self, split: str) -> Iterator[dict[str, Any]]:
        """See ``foundation.protocols.GoesThroughImages``."""
        assert self.trainer is not None
        for batch in self._loader(split, self.eval_batch_size, seed=None):
            yield self.trainer.strategy.batch_to_device(batch)

    def describe(self) -> dict[str, Any]:
        """Name and sizes: what a record says of its data."""
        return {**self.tested_on(), **self.sizes()}

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32
        assert isinstance(dtype, torch.dtype)
        return unpack(batch, torch.promote_types(dtype, torch.float32))

    def _loader(self, split: str, batch_size: int, seed: int | None) -> PhotographLoader:
        batches = self._batches(split, batch_size, seed)
        drawn = DrawnBatches(batches, draw_flips if self.flip else draw_none)
        return made_by_workers(self.tables[split], drawn, self.num_workers, self.trainer)

    def _batches(self, split: str, batch_size: int, seed: int | None) -> GlobalBatches:
        if seed is None or not self.group_by_aspect:
            return super()._batches(split, batch_size, seed)
        return AspectBatches(self.tables[split].wide, batch_size, seed=seed, **self._shares(seed))


def draw_none(size: int, seed: int, epoch: int) -> Tensor:
    return torch.zeros(size, dtype=torch.bool)
