"""PASCAL VOC's average precision at an overlap of 0.5, by the rule of the challenge's devkit (VOCevaldet.m).

Detections of a class are gone through from the most certain on, ties in the order of the images and of their rows.
Each is held against the object of its class and image that it overlaps most, the first of several, whether that has
been found before or not. An overlap of 0.5 or more finds it, once; a second detection of it is false, as is one that
overlaps all by less. What overlaps a ``difficult`` object most counts for nothing, and no such object is to be found.

The devkit counts a box's last pixel as inside, so that its widths are xmax - xmin + 1. A box here is its outline, which
begins at xmin - 1 and ends at xmax: the same widths and overlaps. py-faster-rcnn's form of the rule wants more than
0.5.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from callbacks.instruments.coco_evaluation import Packed, slices

LEAST_OVERLAP = 0.5
FIGURES = ("voc07_map", "voc12_map")


@dataclass(frozen=True)
class VocEvaluation:
    """``figures``: the means over the classes that have an object to be found, NaN where none has; ``classes``: a row a
    class; ``found``: what was evaluated."""

    figures: dict[str, float]
    classes: list[dict[str, Any]]
    found: Packed


def evaluate_voc(found: Packed, truth: Mapping[str, Any]) -> VocEvaluation:
    """truth: as ``AnnotatesObjects`` gives it; without a word of ``difficult`` a crowd is one."""
    seen = set(found.images[:, 0].tolist())
    objects = Objects.of([it for it in truth["annotations"] if it["image_id"] in seen])
    best, overlap = most_overlapped(found, objects)
    labels, order = found.detections[:, 5].astype(np.int64), np.argsort(-found.detections[:, 4], kind="stable")
    rows = []
    for category in sorted(truth["categories"], key=lambda it: it["id"]):
        of_class = order[labels[order] == category["id"]]
        to_find, hard = (int((objects.labels[objects.difficult == it] == category["id"]).sum()) for it in (0, 1))
        is_right, is_wrong = judged(best[of_class], overlap[of_class], objects.difficult)
        precision, right = precisions(is_right, is_wrong)
        rows.append({
            "class": category["name"], "objects": to_find, "difficult": hard,
            "voc07_ap": at_eleven_points(precision, right, to_find),
            "voc12_ap": below_the_curve(precision, right, to_find),
        })  # fmt: skip
    means = {f"{year}_map": mean([row[f"{year}_ap"] for row in rows]) for year in ("voc07", "voc12")}
    return VocEvaluation(means, rows, found)


@dataclass(frozen=True)
class Objects:
    """image_ids, labels: int64 [M]; boxes: float64 [M, 4], left, top, right, bottom; difficult: bool [M].

    In the order of images and classes; those of one class in one image as they are annotated.
    """

    image_ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    difficult: np.ndarray

    @classmethod
    def of(cls, annotations: Sequence[Mapping[str, Any]]) -> "Objects":
        image_ids, labels = (np.array([it[key] for it in annotations], np.int64) for key in ("image_id", "category_id"))
        boxes = np.array([it["bbox"] for it in annotations], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        difficult = np.array([bool(it.get("difficult", it.get("iscrowd", 0))) for it in annotations], bool)
        order = np.lexsort((labels, image_ids))
        return cls(image_ids[order], labels[order], boxes[order], difficult[order])


def most_overlapped(found: Packed, objects: Objects) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection the object of its class and image that it overlaps most, int64 [N], and by how much; -1 and 0
    where there is none."""
    image_ids, labels = found.image_ids, found.detections[:, 5].astype(np.int64)
    # One number for every pair of image and class, in the order of the objects.
    pairs = np.stack([np.concatenate([objects.image_ids, image_ids]), np.concatenate([objects.labels, labels])])
    _, numbers = np.unique(pairs, axis=1, return_inverse=True)
    of_objects, of_detections = np.split(numbers.reshape(-1), [len(objects.labels)])
    first = np.searchsorted(of_objects, of_detections, side="left")
    counts = np.searchsorted(of_objects, of_detections, side="right") - first
    best, most = np.full(len(labels), -1), np.zeros(len(labels))
    if not counts.any():
        return best, most
    candidates, of = slices(first, counts), np.repeat(np.arange(len(labels)), counts)
    overlaps = overlap_of(found.detections[of, :4], objects.boxes[candidates])
    with_some = counts > 0
    starts = (counts.cumsum() - counts)[with_some]
    most[with_some] = np.maximum.reduceat(overlaps, starts)
    reached = np.flatnonzero(overlaps == most[of])
    _, first_of = np.unique(of[reached], return_index=True)  # the first of several
    best[with_some] = candidates[reached[first_of]]
    return best, most


def overlap_of(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of pairs, [P]; boxes, others: [P, 4]. 0 for a box that is not finite."""
    with np.errstate(invalid="ignore"):
        sides = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
        common = sides.clip(min=0).prod(axis=1)
        areas = [(it[:, 2:] - it[:, :2]).prod(axis=1) for it in (boxes, others)]
        union = areas[0] + areas[1] - common
        return np.nan_to_num(np.divide(common, union, out=np.zeros_like(common), where=union > 0))


def judged(best: np.ndarray, overlap: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which detections of a class, the most certain first, are right and which wrong, bool [D]; the others are neither.

    best: the objects that they overlap most, -1 for none; overlap: by how much; difficult: of all objects.
    """
    reaches = (best >= 0) & (overlap >= LEAST_OVERLAP)
    counts = np.ones(len(best), bool)
    counts[reaches] = ~difficult[best[reaches]]
    is_right = np.zeros(len(best), bool)
    finds = np.flatnonzero(reaches & counts)
    is_right[finds[np.unique(best[finds], return_index=True)[1]]] = True
    return is_right, counts & ~is_right


def precisions(is_right: np.ndarray, is_wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """After every detection that counts, [C]: the precision, and how many objects are found."""
    counts = is_right | is_wrong
    right = is_right[counts].cumsum()
    return right / np.arange(1, len(right) + 1), right


def at_eleven_points(precision: np.ndarray, right: np.ndarray, to_find: int) -> float:
    """The rule of 2007 to 2009: the mean of the best precisions with a recall of at least 0, 0.1, ... 1.

    Recalls are compared as fractions; in floats 3 of 10 objects would not reach 0.3 (and 0.6 or not by the program).
    """
    if not to_find:
        return math.nan
    reached = [precision[10 * right >= tenths * to_find] for tenths in range(11)]
    return float(sum(it.max() for it in reached if len(it)) / 11)


def below_the_curve(precision: np.ndarray, right: np.ndarray, to_find: int) -> float:
    """The rule since 2010: the area below the curve of the best precision that is had with that recall or more."""
    if not to_find:
        return math.nan
    best = np.maximum.accumulate(precision[::-1])[::-1]
    rises = np.diff(right, prepend=0) > 0
    return float(best[rises].sum() / to_find)


def mean(values: Sequence[float]) -> float:
    known = [it for it in values if not math.isnan(it)]
    return float(np.mean(known)) if known else math.nan
