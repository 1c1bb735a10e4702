"""Proposals in a file: boxes where objects may be, made by one run and looked at by another.

A file of safetensors, in which nothing can be executed. For each split, such as ``train``, of N images and P proposals:

    <split>.image_ids   int64 [N], the data set's numbers of the images
    <split>.sizes       int64 [N, 2], their heights and widths
    <split>.counts      int64 [N], how many proposals each has
    <split>.boxes       float32 [P, 4], image by image, the best first: left, top, right, bottom in pixels
    <split>.scores      float32 [P], which do not rise within an image; all the same where there are none

and in its metadata ``format`` is ``proposals 1``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from foundation.errors import UserError, in_one_line
from foundation.whole_files import whole

PROPOSALS = "proposals.safetensors"  # in a run folder
FORMAT = "proposals 1"
KINDS = {"image_ids": "I64", "sizes": "I64", "counts": "I64", "boxes": "F32", "scores": "F32"}
AT_ONCE = 4096  # images that are checked together
BEYOND = 1.0  # pixels that a box may reach out of its image, as rounding makes it


@dataclass(frozen=True)
class ProposedSplit:
    """The proposals in the images of a split: tensors as the file has them."""

    image_ids: Tensor
    sizes: Tensor
    counts: Tensor
    boxes: Tensor
    scores: Tensor


def write_proposals(path: Path, splits: Mapping[str, ProposedSplit]) -> None:
    """The same bytes of the same proposals: metadata of more than one key have no order."""
    tensors = {f"{split}.{kind}": getattr(it, kind).contiguous() for split, it in splits.items() for kind in KINDS}
    with whole(path) as unfinished:
        # Its save_file would make a file for its owner alone, and have words of its own for a full disk.
        unfinished.write_bytes(save(tensors, {"format": FORMAT}))


class Proposals:
    """The proposals of a file, which stays on the disk; a UserError says what is wrong with one.

    Args:
        most: of an image, in training and after it; the best ones.
    """

    def __init__(self, path: Path, most: Sequence[int] = (2000, 1000)) -> None:
        if len(most) != 2 or min(most) < 1:
            raise UserError(f"most is {list(most)}: give two numbers of proposals, for training and after it.")
        self.path, self.most = path, tuple(most)
        self._file: Any = None
        self.listed: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for split in self._splits():
            self._check_layout(split)
            ids, sizes, counts = (self._slice(split, kind)[:] for kind in ("image_ids", "sizes", "counts"))
            starts = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
            self._check_rows(split, ids, sizes, counts, int(starts[-1]))
            self.listed[split] = ids, sizes, starts
            for begin in range(0, len(ids), AT_ONCE):
                self._check_boxes(split, begin, min(begin + AT_ONCE, len(ids)))

    def of(self, split: str, image_ids: Tensor, sizes: np.ndarray) -> "GivenProposals":
        """Those of images in their order; a UserError where one is missing or has another size.

        image_ids: int64 [N]; sizes: int64 [N, 2], heights and widths.
        """
        if split not in self.listed:
            raise UserError(f"{self.path} has no proposals of {split}: it has those of {', '.join(self.listed)}.")
        ids, own_sizes, _ = self.listed[split]
        order = ids.argsort()
        places = order[torch.searchsorted(ids[order], image_ids).clamp(max=len(ids) - 1)]
        if len(missing := image_ids[ids[places] != image_ids]):
            raise UserError(
                f"{self.path} lacks {len(missing):,} of the {len(image_ids):,} images of {split}, the first of them "
                f"image {int(missing[0])}: make the proposals with the same data, datamodule.val_size and split_seed."
            )
        differ = (own_sizes[places] != torch.from_numpy(sizes)).any(1)
        if differ.any():
            first = int(differ.nonzero()[0])
            (height, width), (here_height, here_width) = own_sizes[places[first]].tolist(), sizes[first].tolist()
            raise UserError(
                f"{self.path}: image {int(image_ids[first])} of {split} has {width} x {height} pixels there and "
                f"{here_width} x {here_height} here: make the proposals with the same data."
            )
        return GivenProposals(self, split, places, self.most[split != "train"])

    def rows(self, split: str, place: int, most: int) -> tuple[Tensor, Tensor]:
        """Boxes and scores of the image at a place in the file."""
        begin, end = self.listed[split][2][place : place + 2].tolist()
        asked = slice(begin, min(end, begin + most))
        return self._slice(split, "boxes")[asked], self._slice(split, "scores")[asked]

    def __getstate__(self) -> dict[str, Any]:
        """A worker opens the file itself."""
        return self.__dict__ | {"_file": None}

    def _opened(self) -> Any:
        if self._file is None:
            if not self.path.is_file():
                raise UserError(f"there is no file of proposals {self.path}: give the path of one.")
            try:
                self._file = safe_open(self.path, framework="pt")
            except (SafetensorError, OSError) as reason:
                raise UserError(
                    f"{self.path} cannot be read as safetensors ({in_one_line(reason)}): give a file that "
                    "callbacks.saved_proposals has written."
                ) from None
        return self._file

    def _slice(self, split: str, kind: str) -> Any:
        return self._opened().get_slice(f"{split}.{kind}")

    def _splits(self) -> list[str]:
        file = self._opened()
        found = sorted({name.partition(".")[0] for name in file.keys()})  # noqa: SIM118 (no mapping)
        if (file.metadata() or {}).get("format") != FORMAT or not found:
            raise UserError(
                f"{self.path} holds no proposals, or in another format than '{FORMAT}': give a file that "
                "callbacks.saved_proposals has written."
            )
        return found

    def _check_layout(self, split: str) -> None:
        names = set(self._opened().keys())
        for kind, dtype in KINDS.items():
            if f"{split}.{kind}" not in names:
                raise UserError(f"{self.path} has no {split}.{kind}: a split has {', '.join(KINDS)}.")
            if (found := self._slice(split, kind).get_dtype()) != dtype:
                raise UserError(f"{self.path}: {split}.{kind} is {found}, and has to be {dtype}.")

    def _check_rows(self, split: str, ids: Tensor, sizes: Tensor, counts: Tensor, total: int) -> None:
        shapes = {kind: self._slice(split, kind).get_shape() for kind in KINDS}
        images = [len(ids)] if ids.ndim == 1 else []
        expected = {"image_ids": images, "sizes": [*images, 2], "counts": images, "boxes": [total, 4],
                    "scores": [total]}  # fmt: skip
        for kind, shape in expected.items():
            if shapes[kind] != shape:
                raise UserError(f"{self.path}: {split}.{kind} has the shape {shapes[kind]}, and others say {shape}.")
        if len(counts) and int(counts.min()) < 0:
            raise UserError(f"{self.path}: {split}.counts has a number below 0.")
        if len(ids.unique()) != len(ids):
            raise UserError(f"{self.path}: {split}.image_ids has an image more than once.")

    def _check_boxes(self, split: str, begin: int, end: int) -> None:
        """Of the images from one place to another."""
        ids, sizes, starts = self.listed[split]
        asked, counts = slice(int(starts[begin]), int(starts[end])), starts[begin : end + 1].diff()
        boxes, scores = self._slice(split, "boxes")[asked], self._slice(split, "scores")[asked]
        image = torch.arange(begin, end).repeat_interleave(counts)
        height, width = sizes[image].unbind(1)
        rises = torch.zeros(len(scores), dtype=torch.bool)
        rises[1:] = (scores[1:] > scores[:-1]) & (image[1:] == image[:-1])
        left, top, right, bottom = boxes.unbind(1)
        wrong = {
            "that is not finite": ~boxes.isfinite().all(1) | ~scores.isfinite(),
            "whose right or bottom lies before its left or top": (right < left) | (bottom < top),
            "that reaches out of the image": (left < -BEYOND) | (top < -BEYOND) | (right > width + BEYOND)
            | (bottom > height + BEYOND),
            "that scores higher than the one before it": rises,
        }  # fmt: skip
        for what, where in wrong.items():
            if where.any():
                first = int(where.nonzero()[0])
                raise UserError(
                    f"{self.path}: image {int(ids[image[first]])} of {split} has a proposal {what}, "
                    f"{[round(it, 2) for it in boxes[first].tolist()]} with the score {float(scores[first]):g}."
                )


@dataclass(frozen=True)
class GivenProposals:
    """Those of a table's images, by their positions there.

    Args:
        places: int64 [N], where each image stands in the file.
        most: of an image, the best ones.
    """

    source: Proposals
    split: str
    places: Tensor
    most: int

    def at(self, positions: Tensor) -> dict[str, Any]:
        """``boxes`` [P, 4] and ``scores`` [P] of these images one after the other, and how many each has."""
        found = [self.source.rows(self.split, place, self.most) for place in self.places[positions].tolist()]
        boxes, scores = ([torch.empty(0, 4), *(it for it, _ in found)], [torch.empty(0), *(it for _, it in found)])
        return {"boxes": torch.cat(boxes), "scores": torch.cat(scores), "counts": [len(it) for _, it in found]}


def apart(packed: Mapping[str, Any], dtype: torch.dtype) -> Iterator[dict[str, Tensor]]:
    """Image by image, of what ``GivenProposals.at`` has put together."""
    counts = packed["counts"]
    pairs = zip(packed["boxes"].to(dtype).split(counts), packed["scores"].split(counts), strict=True)
    return ({"boxes": boxes, "scores": scores} for boxes, scores in pairs)
