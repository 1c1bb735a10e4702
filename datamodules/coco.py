"""COCO 2017: 118,287 and 5,000 photographs of everyday scenes with 80 kinds of objects (Lin et al. 2014).

torchvision decodes and flips; its ``CocoDetection`` is not used since it needs pycocotools to read the annotations,
which here come from the file into a few flat arrays that workers share.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from datamodules.detection import DetectionDataModule, Example, ObjectTable
from datamodules.image_files import say
from launch.errors import UserError
from launch.randomness import keyed_generator

SOURCE = "https://cocodataset.org/#download"
FOLDERS = {"train": "train2017", "val": "val2017"}
WHOLE = {"train": 118_287, "val": 5_000}
NAMED = 5  # image ids in a sentence


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
    try:
        image = decode_image(str(path), ImageReadMode.RGB)
    except RuntimeError:
        image = None
    if image is None or image.dtype != torch.uint8 or image.ndim != 3:
        raise UserError(
            f"{path} cannot be read as a JPEG, PNG or WebP image of 8 bits: fetch it again; none is left out silently."
        )
    return image


def encode_mask(segmentation: Any, height: int, width: int) -> bytes:
    """Polygons, or a run-length encoding as COCO's crowds have it, as a compressed encoding."""
    encoded = rle.frPyObjects(segmentation, height, width)
    return (rle.merge(encoded) if isinstance(encoded, list) else encoded)["counts"]


def decode_masks(texts: Sequence[bytes], height: int, width: int) -> Tensor:
    """uint8 [N, H, W]."""
    if not texts:
        return torch.empty(0, height, width, dtype=torch.uint8)
    masks = rle.decode([{"size": [height, width], "counts": text} for text in texts])
    return torch.from_numpy(np.ascontiguousarray(masks.transpose(2, 0, 1)))


class CocoDataModule(DetectionDataModule):
    """``<folder>/annotations/instances_{train,val}2017.json``, ``<folder>/train2017/`` and ``<folder>/val2017/``.

    Nothing is chosen by val2017, so it is the test; validation is set aside from the training images. Crowds and boxes
    that have no area within their image are no targets, and stay in the ground truth of an evaluation; a line says
    which images have them. Images whose objects are none are trained on as such. A partial copy is used as far as it
    goes: images that are listed and there.

    Args:
        folder: COCO, or another set laid out so.
        name: what a record calls the data.
        test_split: ``train`` measures on the images that are trained on, to see whether they can be learnt at all.
    """

    tables: dict[str, CocoTable]  # type: ignore

    def __init__(
        self, folder: str, name: str = "coco", test_split: Literal["train", "val"] = "val", **loading: Any
    ) -> None:
        super().__init__(**loading)
        if test_split not in FOLDERS:
            raise UserError(f"datamodule.test_split is {test_split}: give train or val.")
        self.folder, self.name, self.test_split = Path(folder), name, test_split
        self.truths: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}

    @cached_property
    def categories(self) -> list[dict[str, Any]]:
        """In the order of their labels, which is that of their ids."""
        return sorted(self._val_file["categories"], key=lambda it: it["id"])

    @property
    def category_ids(self) -> list[int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [it["id"] for it in self.categories]

    @property
    def class_names(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [it["name"] for it in self.categories]

    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        return self.truths[stage]

    def load(self) -> dict[str, CocoTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        train, val = self._read("train"), self._val_file
        if sorted(train["categories"], key=lambda it: it["id"]) != self.categories:
            raise UserError(f"The two files of {self.folder}/annotations have different categories: fetch them again.")
        present = {"train": self._present("train", train), "val": self._present("val", val)}
        self._say_what_is_missing()
        images = present["train"]
        if self.val_size >= max(len(images), 1):
            raise UserError(
                f"datamodule.val_size={self.val_size} leaves nothing to train on: {self.name} has {len(images)} "
                "training images here. Choose 0 (no validation) or a smaller number."
            )
        shuffled = torch.randperm(len(images), generator=keyed_generator(self.split_seed, "split"))
        aside = set(shuffled[: self.val_size].tolist())
        parts = {
            "train": (train, [it for place, it in enumerate(images) if place not in aside]),
            "val": (train, [it for place, it in enumerate(images) if place in aside]),
        }
        parts["test"] = parts["train"] if self.test_split == "train" else (val, present["val"])
        self.truths = {split: truth_of(*parts[split]) for split in ("val", "test")}
        tables = {split: self._table(*part, FOLDERS["val" if part[0] is val else "train"], split)
                  for split, part in parts.items()}  # fmt: skip
        del self._val_file
        return tables

    def describe(self) -> dict[str, Any]:
        """Also how many images are listed and there, and a fingerprint of all boxes, labels and file names."""
        sha256 = hashlib.sha256()
        for table in self.tables.values():
            for content in (table.names, table.objects.starts, table.objects.boxes, table.objects.labels):
                sha256.update(content.tobytes())
        described = super().describe() | {"classes": self.num_classes, **self.counts}
        return described | {"test_split": self.test_split, "sha256_of_annotations": sha256.hexdigest()}

    @cached_property
    def _val_file(self) -> dict[str, Any]:
        """The smaller file is read before the data is prepared, for its categories, and kept until then."""
        return self._read("val")

    def _read(self, split: str) -> dict[str, Any]:
        path = self.folder / "annotations" / f"instances_{FOLDERS[split]}.json"
        if not path.exists():
            raise UserError(f"{path} is missing: {self._how_to_get_it()}")
        try:
            content = json.loads(path.read_bytes())
            return {key: content[key] for key in ("images", "annotations", "categories")}
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path} is no whole file of COCO's annotations ({error}): fetch it again from {SOURCE}."
            ) from error

    def _present(self, split: str, content: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The listed images that are there, in the order of their ids."""
        folder = self.folder / FOLDERS[split]
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        images = sorted((it for it in content["images"] if it["file_name"] in there), key=lambda it: it["id"])
        if not images:
            raise UserError(f"{folder} has none of the {len(content['images'])} images: {self._how_to_get_it()}")
        self.counts |= {f"{split}_listed": len(content["images"]), f"{split}_present": len(images)}
        return images

    def _table(
        self, content: Mapping[str, Any], images: Sequence[Mapping[str, Any]], folder: str, split: str
    ) -> CocoTable:
        kept, left_out = self._targets(content, images)
        if split == "train":
            self._say(left_out_line(self.name, len(images), left_out))
        counts = [len(kept[it["id"]]) for it in images]
        rows = [row for it in images for row in kept[it["id"]]]
        starts, mask_starts, mask_bytes = np.array([0, *counts]).cumsum(), None, None
        if self.masks:
            texts = [row[2] for row in rows]
            mask_starts = np.array([0, *map(len, texts)]).cumsum()
            mask_bytes = np.frombuffer(b"".join(texts), dtype=np.uint8)
        boxes = np.array([row[0] for row in rows], dtype=np.float32).reshape(-1, 4)
        objects = Objects(starts, boxes, np.array([row[1] for row in rows], dtype=np.int64), mask_starts, mask_bytes)
        sizes = np.array([[it["height"], it["width"]] for it in images], dtype=np.int64).reshape(-1, 2)
        ids = torch.tensor([it["id"] for it in images], dtype=torch.int64)
        names = np.array([it["file_name"].encode() for it in images], dtype=np.bytes_)
        return CocoTable(self.folder / folder, ids, names, sizes, objects)

    def _targets(
        self, content: Mapping[str, Any], images: Sequence[Mapping[str, Any]]
    ) -> tuple[dict[int, list[tuple[list[float], int, bytes]]], dict[str, list[int]]]:
        """For each image box, label and mask of what is trained on, and the image ids of what is not."""
        labels = {number: label for label, number in enumerate(self.category_ids, start=1)}
        sizes = {it["id"]: (it["height"], it["width"]) for it in images}
        kept: dict[int, list[tuple[list[float], int, bytes]]] = defaultdict(list)
        left_out: dict[str, list[int]] = {"crowd": [], "box without area": []}
        for it in content["annotations"]:
            image = it["image_id"]
            if image not in sizes:
                continue
            if it["category_id"] not in labels:
                raise UserError(
                    f"Annotation {it['id']} of image {image} is of category {it['category_id']}, which the file does "
                    f"not list: fetch it again from {SOURCE}."
                )
            left, top, right, bottom = clipped(it["bbox"], *sizes[image])
            if it.get("iscrowd", 0):
                left_out["crowd"].append(image)
            elif not (right > left and bottom > top):  # also what is no number
                left_out["box without area"].append(image)
            else:
                mask = self._mask(it, *sizes[image]) if self.masks else b""
                kept[image].append(([left, top, right, bottom], labels[it["category_id"]], mask))
        left_out["image without objects"] = [it for it in sizes if it not in kept]
        return kept, left_out

    def _mask(self, annotation: Mapping[str, Any], height: int, width: int) -> bytes:
        if not annotation.get("segmentation"):
            raise UserError(
                f"Annotation {annotation['id']} of image {annotation['image_id']} has no segmentation: set "
                "datamodule.masks=false."
            )
        return encode_mask(annotation["segmentation"], height, width)

    def _say_what_is_missing(self) -> None:
        here = {split: self.counts[f"{split}_present"] for split in FOLDERS}
        listed = {split: self.counts[f"{split}_listed"] for split in FOLDERS}
        whole = WHOLE if self.name == "coco" else listed
        if here != whole:
            self._say(
                f"{self.name} is partial: {here['train']:,} of {listed['train']:,} listed training images and "
                f"{here['val']:,} of {listed['val']:,} listed validation images are here, and the whole has "
                f"{whole['train']:,} and {whole['val']:,}."
            )

    def _say(self, line: str) -> None:
        say(line, quiet=not line or (self.trainer is not None and self.trainer.local_rank > 0))

    def _how_to_get_it(self) -> str:
        return (
            f"fetch COCO by hand from {SOURCE} (2017 Train images, Val images, Train/Val annotations) and lay "
            f"{self.folder} out as annotations/instances_{{train,val}}2017.json, train2017/*.jpg and val2017/*.jpg, or "
            "set datamodule.folder to a folder that is."
        )


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


def left_out_line(name: str, images: int, left_out: Mapping[str, Sequence[int]]) -> str:
    """How many of each kind there are and in which images, the first ones by their ids; empty where there are none."""
    found = []
    for kind, ids in left_out.items():
        if ids:
            named = ", ".join(map(str, sorted(set(ids))[:NAMED])) + (", ..." if len(set(ids)) > NAMED else "")
            plural = {"crowd": "crowds", "box without area": "boxes without area"}.get(kind, "images without objects")
            found.append(f"{len(ids):,} {kind if len(ids) == 1 else plural} (image {named})")
    return f"{name}: of {images:,} training images, not trained on as objects: {'; '.join(found)}." if found else ""
