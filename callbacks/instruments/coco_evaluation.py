"""Detections as flat arrays, gathered from all ranks, and COCO's evaluation of them by faster_coco_eval."""

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask as rle
from torch import Tensor

from foundation.errors import UserError

FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large",
           "mar_1", "mar_10", "mar_100", "mar_small", "mar_medium", "mar_large")  # fmt: skip
Share = TypeVar("Share")
IOU_TYPES: Any = {"boxes": "bbox", "masks": "segm"}


@dataclass(frozen=True)
class Packed:
    """Detections in images.

    Args:
        images: int64 [I, 4]: id, number of detections, height and width of the masks (0 without).
        detections: float64 [N, 6], image by image: left, top, right, bottom, score, category id.
        mask_lengths: int64 [N], or [0] without masks: bytes of each mask's run-length encoding.
        mask_bytes: uint8, the encodings one after the other.
    """

    images: np.ndarray
    detections: np.ndarray
    mask_lengths: np.ndarray
    mask_bytes: np.ndarray

    @property
    def image_ids(self) -> np.ndarray:
        """int64 [N], of each detection."""
        return np.repeat(self.images[:, 0], self.images[:, 1])


def gather_on_first(share: Share, group: Any = None) -> list[Share] | None:
    """The shares of all ranks in their order on the first one, None on the others. All must come."""
    if not dist.is_initialized():
        return [share]
    shares: list[Any] | None = [None] * dist.get_world_size(group) if dist.get_rank(group) == 0 else None
    # The sizes and then the bytes: two exchanges, however many arrays and images there are.
    dist.gather_object(share, shares, group=group, group_dst=0)
    return shares


def broadcast_from_first(answer: Any, group: Any = None) -> Any:
    if not dist.is_initialized():
        return answer
    answers = [answer]
    dist.broadcast_object_list(answers, group=group, group_src=0)
    return answers[0]


def merge(shares: Sequence[Packed]) -> Packed:
    """In the order of the images' ids; of an image that is there more than once, the first occurrence."""
    images = np.concatenate([it.images for it in shares])
    starts, first = images[:, 1].cumsum() - images[:, 1], np.unique(images[:, 0], return_index=True)[1]
    rows = slices(starts[first], images[first, 1])
    lengths = np.concatenate([it.mask_lengths for it in shares])
    kept = rows if len(lengths) else rows[:0]
    places = slices((lengths.cumsum() - lengths)[kept], lengths[kept])
    return Packed(
        images[first],
        np.concatenate([it.detections for it in shares])[rows],
        lengths[kept],
        np.concatenate([it.mask_bytes for it in shares])[places],
    )


def slices(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The positions of all slices one after the other."""
    return np.arange(lengths.sum()) + np.repeat(starts - (lengths.cumsum() - lengths), lengths)


def check_images(found: Packed, truth: Mapping[str, Any], whole: bool) -> None:
    """A UserError for an image that is not in the ground truth, and if ``whole`` for one that was left out."""
    known, seen = {it["id"]: it for it in truth["images"]}, set(found.images[:, 0].tolist())
    if unknown := seen - known.keys():
        raise UserError(
            f"There are detections in image {min(unknown)}, which is not one of the {len(known)} images of the ground "
            "truth: image_id must be the data set's id of the image, not its place in the split."
        )
    if whole and (missing := known.keys() - seen):
        image = known[min(missing)]
        raise UserError(
            f"{len(missing)} of the {len(known)} images were not measured, the first of them image {image['id']} "
            f"{image.get('file_name', '')}: the loader must give every image of the split, also those without objects."
        )
    for image, height, width in found.images[:, [0, 2, 3]].tolist():
        if height and (height, width) != (known[image]["height"], known[image]["width"]):
            raise UserError(
                f"The masks in image {image} have {height} x {width} pixels, and the image has "
                f"{known[image]['height']} x {known[image]['width']}: masks must be of the image as it is on disk."
            )


def results(found: Packed, kind: str) -> list[dict[str, Any]]:
    """The detections as COCO's result files have them; with masks instead of boxes for the kind ``masks``."""
    # Never both: COCO's tools take the area of an object that has a box from its box, also where masks are measured.
    key = "bbox" if kind == "boxes" else "segmentation"
    return [
        {"image_id": image, "category_id": label, key: shape, "score": score}
        for image, label, shape, score in zip(*columns(found, kind), strict=True)
    ]


def columns(found: Packed, kind: str) -> tuple[list[int], list[int], list[Any], list[float]]:
    """Image, category, box or mask, and score of each detection."""
    labels, scores = found.detections[:, 5].astype(int).tolist(), found.detections[:, 4].tolist()
    return found.image_ids.tolist(), labels, shapes(found, kind), scores


def encode(masks: Any) -> list[dict[str, Any]]:
    """Masks, [N, H, W] bool or N run-length encodings, as encodings whose counts are bytes."""
    if masks is None:
        raise UserError("The module gives no masks: set callbacks.mean_average_precision.masks=false.")
    if isinstance(masks, Tensor):
        # The encoder goes through a picture column by column.
        columns = np.asfortranarray(masks.cpu().permute(1, 2, 0).to(torch.uint8).numpy())
        masks = rle.encode(columns) if len(masks) else []
    return [it if isinstance(it["counts"], bytes) else it | {"counts": it["counts"].encode()} for it in masks]


def shapes(found: Packed, kind: str) -> list[Any]:
    """Boxes as left, top, width, height, or masks."""
    if kind == "boxes":
        boxes = found.detections[:, :4].copy()
        boxes[:, 2:] -= boxes[:, :2]
        return boxes.tolist()
    ends, text = found.mask_lengths.cumsum(), found.mask_bytes.tobytes().decode("ascii")
    sizes = np.repeat(found.images[:, 2:], found.images[:, 1], axis=0).tolist()
    places = zip(ends.tolist(), found.mask_lengths.tolist(), sizes, strict=True)
    return [{"size": size, "counts": text[end - length : end]} for end, length, size in places]


@dataclass(frozen=True)
class Evaluation:
    """``figures``: COCO's twelve; ``classes``: a row a category; ``found``: what was evaluated. NaN: no object."""

    figures: dict[str, float]
    classes: list[dict[str, Any]]
    found: Packed
    kind: str

    @property
    def results(self) -> list[dict[str, Any]]:
        """Made when they are asked for, since a validation never does."""
        return results(self.found, self.kind)


@contextmanager
def garbage_left_alone() -> Iterator[None]:
    """Python's search for reference cycles goes through all rows again and again while they are made: a third of the
    time for 200,000 of them, which have none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@garbage_left_alone()
def evaluate(found: Packed, truth: Mapping[str, Any], kind: str) -> Evaluation:
    """Precision and recall of the images in ``found`` as pycocotools computes them.

    Crowds count for nothing but take detections up; ``ignore`` has no effect but iscrowd's. Detections of a category
    that the ground truth has not are left out.
    """
    seen, key = set(found.images[:, 0].tolist()), "bbox" if kind == "boxes" else "segmentation"
    images = [it for it in truth["images"] if it["id"] in seen]
    objects = [it for it in truth["annotations"] if it["image_id"] in seen]
    parts: dict[str, Any] = {"images": images, "categories": truth["categories"]}
    # Numbered from 1: the evaluator takes the number 0 for no match.
    keys = ("image_id", "category_id", "bbox", "area", *(["segmentation"] if kind == "masks" else []))
    annotated = [
        {key: it[key] for key in keys} | {"iscrowd": it.get("iscrowd", 0), "id": number}
        for number, it in enumerate(objects, start=1)
    ]
    image_ids, labels, drawn, scores = columns(found, kind)
    rows = zip(image_ids, labels, drawn, scores, areas(found, drawn, kind), strict=True)
    numbered = [
        {"image_id": image, "category_id": label, key: shape, "score": score, "area": area, "iscrowd": 0, "id": number}
        for number, (image, label, shape, score, area) in enumerate(rows, start=1)
    ]
    evaluator = COCOeval_faster(
        COCO(parts | {"annotations": annotated}), COCO(parts | {"annotations": numbered}), IOU_TYPES[kind]
    )
    evaluator.run()
    figures: dict[str, float] = dict(zip(FIGURES, map(measured, evaluator.stats), strict=True))
    return Evaluation(figures, class_rows(evaluator, objects, parts["categories"]), found, kind)


def areas(found: Packed, drawn: list[Any], kind: str) -> list[float]:
    """In square pixels. drawn: the boxes or masks."""
    if kind == "boxes":
        left, top, right, bottom = found.detections[:, :4].T
        return ((right - left) * (bottom - top)).tolist()
    return rle.area(drawn).tolist() if drawn else []


def measured(values: Any) -> float:
    """The mean of those that are: -1 marks what has no object."""
    values = np.asarray(values)
    return float(values[values > -1].mean()) if (values > -1).any() else math.nan


def class_rows(evaluator: COCOeval_faster, objects: Sequence[Any], categories: Sequence[Any]) -> list[dict[str, Any]]:
    # [IoU, recall, category, area, detections] and [IoU, category, area, detections], categories by their ids
    precision, recall = evaluator.eval["precision"][:, :, :, 0, 2], evaluator.eval["recall"][:, :, 0, 2]
    counted = [it["category_id"] for it in objects if not it.get("iscrowd", 0)]
    return [
        {
            "class": category["name"],
            "objects": counted.count(category["id"]),
            "map": measured(precision[:, :, place]),
            "map_50": measured(precision[0, :, place]),
            "mar_100": measured(recall[:, place]),
        }
        for place, category in enumerate(sorted(categories, key=lambda it: it["id"]))
    ]
