"""COCO's annotations as a few flat arrays.

torchvision's ``CocoDetection`` needs pycocotools and keeps every annotation as Python objects, of which each worker
makes a copy bit by bit. Its decoder is deprecated, and Pillow gives the same pixels.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.coco_annotations import Rows
from datamodules.coco_images import Listed, of_another_size, sizes_of
from datamodules.coco_masks import decode_masks, encode_mask, is_empty
from datamodules.decoding import attempt, read, turned
from datamodules.detection import Example, ObjectTable
from datamodules.image_files import some
from datamodules.photographs import unreadable_photograph

THINNEST = 1e-3  # pixels; what is thinner may have no area in float32, which ends torchvision's training

Target = tuple[tuple[float, float, float, float], int, bytes]  # box, label, encoded mask


@dataclass(frozen=True)
class Objects:
    """What is trained on, image by image.

    Args:
        starts: int64 [images + 1], where each image's objects begin.
        boxes: float32 [N, 4], left, top, right, bottom.
        labels: int64 [N], from 1 on.
        mask_starts, mask_bytes: their run-length encodings one after the other; None without masks.
    """

    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    mask_starts: np.ndarray | None
    mask_bytes: np.ndarray | None


class CocoTable(ObjectTable):
    """Some images of a folder. As arrays: lists would be copied into every worker as reference counts change.

    Args:
        names: bytes [N], relative to the folder.
        bits: see ``datamodules.decoding.read``.
    """

    def __init__(
        self,
        folder: Path,
        ids: Tensor,
        names: np.ndarray,
        sizes: np.ndarray,
        objects: Objects,
        bits: int | None,
    ) -> None:
        super().__init__(ids, sizes)
        self.folder, self.names, self.objects, self.bits = folder, names, objects, bits

    def example(self, position: int) -> Example:
        objects, (height, width) = self.objects, self.sizes[position].tolist()
        mine = slice(*objects.starts[position : position + 2].tolist())
        path = self.folder / os.fsdecode(bytes(self.names[position]))
        image = read_image(path, height, width, self.bits)
        if image.shape != (3, height, width):
            raise of_another_size(path, image.shape[1:], int(self.image_ids[position]), (height, width))
        masks = None
        if objects.mask_starts is not None and objects.mask_bytes is not None:
            ends = objects.mask_starts[mine.start : mine.stop + 1].tolist()
            texts = [objects.mask_bytes[start:end].tobytes() for start, end in pairwise(ends)]
            masks = decode_masks(texts, height, width)
        return Example(image, torch.from_numpy(objects.boxes[mine]), torch.from_numpy(objects.labels[mine]), masks)


def read_image(path: Path, height: int, width: int, bits: int | None) -> Tensor:
    """uint8 [3, H, W]; turned as EXIF data say where that gives the size that boxes and masks are of."""

    def fitting(image: Image.Image) -> Image.Image:
        upright = turned(image)
        return upright if upright.size == (width, height) else image

    image = attempt(lambda it: read(it, turn=fitting, bits=bits), path)
    if isinstance(image, str):
        raise unreadable_photograph(path, image)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@dataclass
class LeftOut:
    """What is not trained on, or not as it is given: of each such object its image's id, and those of empty images."""

    crowds: list[int] = field(default_factory=list)
    difficult: list[int] = field(default_factory=list)
    without_area: list[int] = field(default_factory=list)
    without_pixels: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)
    clipped: list[int] = field(default_factory=list)

    def line(self) -> str:
        """How many of each kind are left out, and the first images by their ids; empty where there are none."""
        found = [
            counted(self.crowds, "crowd", "crowds"),
            counted(self.difficult, "difficult object", "difficult objects"),
            counted(self.without_area, "box without area", "boxes without area"),
            counted(self.without_pixels, "mask without a pixel", "masks without a pixel"),
            counted(self.empty, "image without objects", "images without objects"),
        ]
        return "; ".join(filter(None, found))


def counted(images: Sequence[int], one: str, several: str) -> str:
    if not images:
        return ""
    return f"{len(images):,} {one if len(images) == 1 else several} (image {some([*map(str, sorted(set(images)))])})"


def tabulate(
    listed: Listed, images: Rows, category_ids: Sequence[int], with_masks: bool, bits: int | None
) -> tuple[CocoTable, LeftOut]:
    """Some of the images that are there, with their objects. category_ids: in the order of the labels 1, 2, ..."""
    sizes = sizes_of(images)
    labels_of = {number: label for label, number in enumerate(category_ids, start=1)}
    kept, left_out = targets(listed.file.annotations, labels_of, sizes, with_masks)
    rows = [row for it in images for row in kept.get(it["id"], [])]
    starts = np.array([0, *(len(kept.get(it["id"], [])) for it in images)]).cumsum()
    boxes = np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4)
    labels = np.array([row[1] for row in rows], dtype=np.int64)
    mask_starts, mask_bytes = None, None
    if with_masks:
        mask_starts = np.array([0, *(len(row[2]) for row in rows)]).cumsum()
        mask_bytes = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.uint8)
    names = np.array([os.fsencode(listed.names[it["id"]]) for it in images], dtype=bytes)
    shape = np.array(list(sizes.values()), dtype=np.int64).reshape(-1, 2)
    objects = Objects(starts, boxes, labels, mask_starts, mask_bytes)
    ids = torch.tensor([it["id"] for it in images], dtype=torch.int64)
    return CocoTable(listed.folder, ids, names, shape, objects, bits), left_out


def targets(
    annotations: Rows, labels: Mapping[int, int], sizes: Mapping[int, tuple[int, int]], with_masks: bool
) -> tuple[dict[int, list[Target]], LeftOut]:
    """By image id. labels: by category id; sizes: of the images that are asked for."""
    kept: dict[int, list[Target]] = defaultdict(list)
    left_out = LeftOut()
    for it in annotations:
        image = it["image_id"]
        if image not in sizes:
            continue
        height, width = sizes[image]
        left, top, right, bottom = clipped(it["bbox"], height, width)
        if it["iscrowd"]:
            (left_out.difficult if it.get("difficult") else left_out.crowds).append(image)
            continue
        if right - left <= THINNEST or bottom - top <= THINNEST:
            left_out.without_area.append(image)
            continue
        mask = encode_mask(it["segmentation"], height, width) if with_masks else b""
        if with_masks and is_empty(mask):
            left_out.without_pixels.append(image)
            continue
        if reaches_out(it["bbox"], height, width):
            left_out.clipped.append(image)
        kept[image].append(((left, top, right, bottom), labels[it["category_id"]], mask))
    left_out.empty = [it for it in sizes if it not in kept]
    return dict(kept), left_out


def clipped(box: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, width, height as left, top, right, bottom within the image."""
    left, top, box_width, box_height = box
    right, bottom = min(left + box_width, width), min(top + box_height, height)
    return max(left, 0), max(top, 0), right, bottom


def reaches_out(box: Sequence[float], height: int, width: int) -> bool:
    """By more than a pixel."""
    left, top, box_width, box_height = box
    return min(left, top, width - left - box_width, height - top - box_height) < -1
