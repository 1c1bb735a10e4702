"""COCO's annotation files as a few flat arrays.

torchvision's ``CocoDetection`` needs pycocotools and keeps every annotation as Python objects, of which each worker
makes a copy bit by bit. Its decoder is deprecated, and Pillow gives the same pixels.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from datamodules.decoding import as_stored, attempt, read
from datamodules.detection import Example, ObjectTable
from datamodules.photographs import unreadable_photograph
from foundation.errors import UserError

NAMED = 5  # image ids in a sentence
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
        sizes: int64 [N, 2], heights and widths.
    """

    def __init__(self, folder: Path, ids: Tensor, names: np.ndarray, sizes: np.ndarray, objects: Objects) -> None:
        super().__init__(ids, torch.from_numpy(sizes[:, 1] > sizes[:, 0]))
        self.folder, self.names, self.sizes, self.objects = folder, names, sizes, objects

    def example(self, position: int) -> Example:
        objects, (height, width) = self.objects, self.sizes[position].tolist()
        mine = slice(*objects.starts[position : position + 2].tolist())
        path = self.folder / bytes(self.names[position]).decode()
        image = read_image(path)
        if image.shape != (3, height, width):
            raise UserError(
                f"{path} has {image.shape[1]} x {image.shape[2]} pixels (height x width), and the annotations of image "
                f"{self.image_ids[position]} are for {height} x {width}: fetch it again."
            )
        masks = None
        if objects.mask_starts is not None and objects.mask_bytes is not None:
            ends = objects.mask_starts[mine.start : mine.stop + 1].tolist()
            texts = [objects.mask_bytes[start:end].tobytes() for start, end in pairwise(ends)]
            masks = decode_masks(texts, height, width)
        return Example(image, torch.from_numpy(objects.boxes[mine]), torch.from_numpy(objects.labels[mine]), masks)


def read_image(path: Path) -> Tensor:
    """uint8 [3, H, W], not turned as EXIF data say: boxes are of the pixels as they are stored."""
    image = attempt(lambda it: read(it, turn=as_stored), path)
    if isinstance(image, str):
        raise unreadable_photograph(path, image)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def encode_mask(annotation: Mapping[str, Any], height: int, width: int) -> bytes:
    """Polygons, or a run-length encoding as COCO's crowds have it, as a compressed encoding."""
    if not annotation.get("segmentation"):
        raise UserError(
            f"Annotation {annotation['id']} of image {annotation['image_id']} has no segmentation: set "
            "datamodule.masks=false."
        )
    encoded = rle.frPyObjects(annotation["segmentation"], height, width)
    return (rle.merge(encoded) if isinstance(encoded, list) else encoded)["counts"]


def decode_masks(texts: Sequence[bytes], height: int, width: int) -> Tensor:
    """uint8 [N, H, W]."""
    if not texts:
        return torch.empty(0, height, width, dtype=torch.uint8)
    masks = rle.decode([{"size": [height, width], "counts": text} for text in texts])
    return torch.from_numpy(masks).permute(2, 0, 1)


@dataclass
class LeftOut:
    """What is not trained on: for each crowd and each box without area its image's id, and those of empty images."""

    crowds: list[int] = field(default_factory=list)
    without_area: list[int] = field(default_factory=list)
    empty: list[int] = field(default_factory=list)

    def line(self) -> str:
        """How many of each kind there are, and the first images by their ids; empty where there are none."""
        found = []
        for ids, one, several in (
            (self.crowds, "crowd", "crowds"),
            (self.without_area, "box without area", "boxes without area"),
            (self.empty, "image without objects", "images without objects"),
        ):
            if ids:
                images = sorted(set(ids))
                named = ", ".join(map(str, images[:NAMED])) + (", ..." if len(images) > NAMED else "")
                found.append(f"{len(ids):,} {one if len(ids) == 1 else several} (image {named})")
        return "; ".join(found)


def tabulate(
    content: Mapping[str, Any], images: Sequence[Mapping[str, Any]], folder: Path, with_masks: bool
) -> tuple[CocoTable, LeftOut]:
    """What a COCO file says of these images, which lie in ``folder``. A UserError for an annotation without sense."""
    kept, left_out = targets(content, {it["id"]: (it["height"], it["width"]) for it in images}, with_masks)
    rows = [row for it in images for row in kept.get(it["id"], [])]
    starts = np.array([0, *(len(kept.get(it["id"], [])) for it in images)]).cumsum()
    boxes = np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4)
    labels = np.array([row[1] for row in rows], dtype=np.int64)
    mask_starts, mask_bytes = None, None
    if with_masks:
        mask_starts = np.array([0, *(len(row[2]) for row in rows)]).cumsum()
        mask_bytes = np.frombuffer(b"".join(row[2] for row in rows), dtype=np.uint8)
    ids = torch.tensor([it["id"] for it in images], dtype=torch.int64)
    names = np.array([it["file_name"].encode() for it in images], dtype=np.bytes_)
    sizes = np.array([[it["height"], it["width"]] for it in images], dtype=np.int64).reshape(-1, 2)
    return CocoTable(folder, ids, names, sizes, Objects(starts, boxes, labels, mask_starts, mask_bytes)), left_out


def targets(
    content: Mapping[str, Any], sizes: Mapping[int, tuple[int, int]], with_masks: bool
) -> tuple[dict[int, list[Target]], LeftOut]:
    """By image id; sizes: of the images that are asked for."""
    labels = {it["id"]: label for label, it in enumerate(by_id(content["categories"]), start=1)}
    kept: dict[int, list[Target]] = defaultdict(list)
    left_out = LeftOut()
    for it in content["annotations"]:
        image = it["image_id"]
        if image not in sizes:
            continue
        if it["category_id"] not in labels:
            raise UserError(
                f"Annotation {it['id']} of image {image} is of category {it['category_id']}, which its file does not "
                "list: fetch the annotations again."
            )
        left, top, right, bottom = clipped(it["bbox"], *sizes[image])
        if it.get("iscrowd", 0):
            left_out.crowds.append(image)
        elif not (right - left > THINNEST and bottom - top > THINNEST):  # also what is no number
            left_out.without_area.append(image)
        else:
            mask = encode_mask(it, *sizes[image]) if with_masks else b""
            kept[image].append(((left, top, right, bottom), labels[it["category_id"]], mask))
    left_out.empty = [it for it in sizes if it not in kept]
    return dict(kept), left_out


def by_id(rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Categories in the order of the labels 1, 2, ..., and images in that of their split."""
    return sorted(rows, key=lambda it: it["id"])


def clipped(box: Sequence[float], height: int, width: int) -> tuple[float, float, float, float]:
    """Left, top, width, height as left, top, right, bottom within the image."""
    left, top, box_width, box_height = box
    right, bottom = min(left + box_width, width), min(top + box_height, height)
    return max(left, 0), max(top, 0), right, bottom


def truth_of(content: Mapping[str, Any], images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The part of a COCO file that is about these images."""
    ids = {it["id"] for it in images}
    return {
        "images": list(images),
        "annotations": [it for it in content["annotations"] if it["image_id"] in ids],
        "categories": content["categories"],
    }
