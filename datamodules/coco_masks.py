"""COCO's segmentations: polygons, and run lengths down the columns as numbers or as a compressed text."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle
from torch import Tensor

from datamodules.coco_annotations import FAR, KINDS, NUMBERS, Mistakes, worded


def unfit_masks(annotations: Iterable[Mapping[str, Any]], sizes: Mapping[int, tuple[int, int]]) -> Mistakes:
    """sizes: heights and widths by image id."""
    for it in annotations:
        kind, reason = unfit_segmentation(it.get("segmentation"), *sizes[it["image_id"]])
        if reason:
            yield kind, f"annotation {worded(it.get('id'))} of image {it['image_id']} {reason}."


def unfit_segmentation(segmentation: Any, height: int, width: int) -> tuple[str, str]:
    """Of which kind the mistake is, and what it is in words; empty where there is none."""
    if not segmentation:
        return "none", "has no segmentation: set datamodule.masks=false for boxes alone"
    if type(segmentation) is list and {*map(type, segmentation)} == {dict}:
        return next((it for part in segmentation if (it := unfit_runs(part, height, width))[1]), ("", ""))
    if type(segmentation) is list:
        return unfit_polygons(segmentation, height, width)
    if type(segmentation) is dict:
        return unfit_runs(segmentation, height, width)
    return "kind", f"has {KINDS[type(segmentation)]} for a segmentation: give polygons or run lengths"


def unfit_polygons(polygons: list[Any], height: int, width: int) -> tuple[str, str]:
    for it in polygons:
        if type(it) is not list:
            return "flat", f"has the polygon {worded(it)}: give a list of polygons, each a list [x1, y1, x2, y2, ...]"
        if not it or not {*map(type, it)} <= {*NUMBERS} or not (-FAR < min(it) <= max(it) < FAR and isfinite(sum(it))):
            return "numbers", f"has the polygon {worded(it)}: give numbers alone, [x1, y1, x2, y2, ...]"
        if len(it) < 6 or len(it) % 2:
            hint = " (a rectangle would be taken for two points)" * (len(it) == 4)
            return "points", (
                f"has a polygon of {len(it)} numbers, {worded(it)}: give x and y of three points or more{hint}"
            )
        xs, ys = it[::2], it[1::2]
        if min(xs) < -width or max(xs) > 2 * width or min(ys) < -height or max(ys) > 2 * height:
            return (
                "far",
                f"has the polygon {worded(it)}, far outside of its image of {height} x {width} (height x width)",
            )
    return "", ""


def unfit_runs(encoded: Mapping[str, Any], height: int, width: int) -> tuple[str, str]:
    size, counts = encoded.get("size"), encoded.get("counts")
    if size != [height, width]:
        return "size", (
            f"has run lengths of size {worded(size)}, and its image is of {[height, width]} (height, width): a mask is "
            "of its image's size"
        )
    runs = runs_in(counts) if type(counts) is str else counts
    if type(runs) is not list or not {*map(type, runs)} <= {int} or min(runs, default=-1) < 0:
        return (
            "counts",
            f"has the counts {worded(counts)}: give run lengths, or the text that COCO's tools make of them",
        )
    if sum(runs) != height * width:
        return "sum", f"has run lengths of {sum(runs):,} pixels in all, and its image has {height * width:,}"
    return "", ""


def runs_in(text: str) -> list[int] | None:
    """The run lengths in COCO's compressed text; None for what is none.

    Digits of 5 bits and a bit for "there are more", the lowest first; from the fourth on, a number is the difference to
    the one before the last.
    """
    if not text.isascii():
        return None
    digits = np.frombuffer(text.encode(), np.uint8).astype(np.int64) - 48
    last = digits & 32 == 0
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or not last[-1]:
        return None
    starts = np.flatnonzero(np.concatenate([[True], last[:-1]]))
    lengths = np.diff(np.append(starts, len(digits)))
    if lengths.max() > 8:  # 40 bits
        return None
    places = np.arange(len(digits)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((digits & 31) << (5 * places), starts)
    numbers -= np.where(digits[last] & 16, 1 << (5 * lengths), 0)  # negative ones
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers.tolist()


def encode_mask(segmentation: Any, height: int, width: int) -> bytes:
    """A segmentation without mistakes as a compressed text."""
    several = isinstance(segmentation, list)
    if several and type(segmentation[0]) is dict:
        texts = [encode_mask(it, height, width) for it in segmentation]
        return rle.merge([{"size": [height, width], "counts": it} for it in texts])["counts"]
    if several:
        parts: Any = rle.frPyObjects(segmentation, height, width)
        return rle.merge(parts)["counts"]
    counts: Any = segmentation["counts"]
    if type(counts) in (bytes, str):
        return counts if type(counts) is bytes else counts.encode()
    encoded: Any = rle.frPyObjects(segmentation, height, width)
    return encoded["counts"]


def is_empty(text: bytes) -> bool:
    """Whether a compressed text has no pixel: a single run, of what is not the object."""
    return len(text) <= 8 and sum((it - 48) & 32 == 0 for it in text) == 1


def decode_masks(texts: Sequence[bytes], height: int, width: int) -> Tensor:
    """uint8 [N, H, W]."""
    if not texts:
        return torch.empty(0, height, width, dtype=torch.uint8)
    masks = rle.decode([{"size": [height, width], "counts": text} for text in texts])
    return torch.from_numpy(masks).permute(2, 0, 1)
