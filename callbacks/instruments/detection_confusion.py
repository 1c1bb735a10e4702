"""Which classes a detector takes for which, what it misses, and what it finds on the ground."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from callbacks.instruments.coco_evaluation import Packed

LEAST_OVERLAP = 0.5


def confusion_of(found: Packed, truth: Mapping[str, Any], min_score: float) -> Tensor:
    """Counts, int64 [K + 1, K + 1]: of objects of a class (rows) how many are detected as which (columns).

    The last row holds detections of what is no object, the last column objects that nothing is detected at. Classes are
    in the order of their ids. In an image the best detection takes first: of the objects that are left, of whatever
    class, that which it overlaps most, by an intersection over union of 0.5 or more. One that does so with a crowd
    alone (by its own area, as in COCO's evaluation) counts for nothing, as does one below ``min_score``.
    """
    places = {number: place for place, number in enumerate(sorted(it["id"] for it in truth["categories"]))}
    counts = torch.zeros(len(places) + 1, len(places) + 1, dtype=torch.int64)
    seen = set(found.images[:, 0].tolist())
    annotated: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for it in truth["annotations"]:
        if it["image_id"] in seen:
            annotated[it["image_id"]].append(it)
    detected: dict[int, list[np.ndarray]] = defaultdict(list)
    for image, row in zip(found.image_ids.tolist(), found.detections, strict=True):
        if row[4] >= min_score and int(row[5]) in places:
            detected[image].append(row)
    for image in seen:
        count_image(counts, detected[image], annotated[image], places)
    return counts


def count_image(
    counts: Tensor, detections: list[np.ndarray], objects: list[Mapping[str, Any]], places: Mapping[int, int]
) -> None:
    """detections: [6] each, as of ``Packed``."""
    nothing, free = len(places), [not it.get("iscrowd", 0) for it in objects]
    rows = sorted(detections, key=lambda it: -it[4])
    overlaps = np.zeros((len(rows), len(objects)))
    if rows and objects:
        boxes = np.array([[left, top, right - left, bottom - top] for left, top, right, bottom, *_ in rows])
        crowds = [int(it.get("iscrowd", 0)) for it in objects]
        others = np.array([it["bbox"] for it in objects], dtype=np.float64)
        overlaps = np.asarray(rle.iou(boxes, others, crowds))
    for row, overlap in zip(rows, overlaps, strict=True):
        taken = np.where(free, overlap, 0)
        best = int(taken.argmax()) if len(taken) else -1
        if best >= 0 and taken[best] >= LEAST_OVERLAP:
            free[best] = False
            counts[places[objects[best]["category_id"]], places[int(row[5])]] += 1
        elif not any(it.get("iscrowd", 0) and by >= LEAST_OVERLAP for it, by in zip(objects, overlap, strict=True)):
            counts[nothing, places[int(row[5])]] += 1
    for it, left in zip(objects, free, strict=True):
        if left:
            counts[places[it["category_id"]], nothing] += 1
