"""The base of sets of annotated image files, whatever layout they come in: splits, targets, ground truth, lines."""

import gc
import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from datamodules.coco_annotations import AnnotationFile, Rows, worded
from datamodules.coco_files import CocoTable, LeftOut, counted, tabulate
from datamodules.coco_images import Listed, by_id
from datamodules.decoding import as_stored, check_bits, read
from datamodules.detection import DetectionDataModule
from datamodules.image_files import look_through, say
from datamodules.photographs import UnreadablePhotograph
from foundation.errors import UserError
from foundation.randomness import keyed_generator

Parts = Mapping[str, tuple[Listed, Rows]]


class AnnotatedFiles(DetectionDataModule):
    """Image files and COCO's rows about them.

    Crowds and boxes that have no area within their image are no targets, and stay in the ground truth of an evaluation;
    a line says which images have them. Images whose objects are none are trained on as such.

    A subclass implements ``training_part``, ``listed`` and ``parts``.

    Args:
        name: what a record calls the data.
        bits: see ``datamodules.decoding.read``.
        cache_dir: see ``datamodules.image_files.look_through``; None: an image is looked at when it is needed.
    """

    tables: dict[str, CocoTable]  # type: ignore
    folder: Any  # a Path; a property where an archive is unpacked first

    def __init__(self, name: str, bits: int | None = None, cache_dir: str | None = None, **loading: Any) -> None:
        super().__init__(**loading)
        check_bits(bits)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.name, self.bits = name, bits
        self.truths: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}

    @abstractmethod
    def training_part(self) -> Listed:
        """What names the classes, read before the data is prepared."""

    @abstractmethod
    def parts(self) -> Parts:
        """Of ``train``, ``val`` (without an image where there is none) and ``test``: what they are chosen from, and
        which images of it they are. Says what there is to say."""

    @abstractmethod
    def listed(self) -> Mapping[str, Listed]:
        """All that ``parts`` chooses from, read before the data is prepared."""

    def prepare_data(self) -> None:
        if not self.tables:
            used = {os.path.relpath(it.folder / name, self.folder) for it in self.listed().values()
                    for name in it.names.values()}  # fmt: skip
            self.look_through(sorted(used))

    def look_through(self, names: Sequence[str]) -> None:
        """A UserError names those of the folder's images that cannot be read."""
        if self.cache_dir is not None:
            read_it = partial(read, turn=as_stored, bits=self.bits)
            look_through(self.name, self.folder, names, read_it, {"bits": self.bits}, self.cache_dir)

    @contextmanager
    def with_all_unreadable(self, names: Callable[[], Sequence[str]]) -> Iterator[None]:
        """An image that cannot be read is told with all others that cannot. names: of all images below the folder."""
        try:
            yield
        except UnreadablePhotograph:
            self.look_through(names())
            raise

    @cached_property
    def categories(self) -> Rows:
        """In the order of their labels, which is that of their ids."""
        return by_id(self.training_part().file.categories)

    @property
    def category_ids(self) -> list[int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [it["id"] for it in self.categories]

    @property
    def class_names(self) -> list[str]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return [it["name"] for it in self.categories]

    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        return self.truths[stage]

    def load(self) -> dict[str, CocoTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        with no_garbage_collection():
            return self._load()

    def _load(self) -> dict[str, CocoTable]:
        parts = self.parts()
        # Copies: one object that stays keeps the memory around it, in all some 0.9 GB of the whole of COCO.
        self.truths = {split: json.loads(json.dumps(self._truth(split, *parts[split]))) for split in ("val", "test")}
        tables = {}
        for split, (listed, wanted) in parts.items():
            tables[split], left_out = tabulate(listed, wanted, self.category_ids, self.masks, self.bits)
            if split == "train":
                self._say_what_is_left_out(left_out, tables[split])
        return tables

    def _truth(self, split: str, listed: Listed, images: Rows) -> dict[str, Any]:
        truth = listed.truth(images) | {"categories": self.categories}
        if images and all(it["iscrowd"] for it in truth["annotations"]):
            cure = "choose another datamodule.val_size or split_seed" if split == "val" else "annotate some"
            none = f"none of the {len(images):,} images of {split} has an object"
            raise UserError(f"{listed.file.path}: {none}, so that nothing could be measured: {cure}.")
        return truth

    def _say_what_is_left_out(self, left_out: LeftOut, table: CocoTable) -> None:
        boxes = len(table.objects.boxes)
        if not boxes:
            raise UserError(
                f"None of the {len(table):,} training images in {table.folder} has an object to train on: "
                f"{left_out.line()}."
            )
        if left_out.line():
            self._say(f"{self.name}: of {len(table):,} training images, not trained on as objects: {left_out.line()}.")
        if out := counted(left_out.clipped, "box", "boxes"):
            doubt = " Is bbox [left, top, width, height]?" if 2 * len(left_out.clipped) > boxes else ""
            how = "reaching more than a pixel out of their image and cut off there"
            self._say(f"{self.name}: of {boxes:,} objects, {how}: {out}.{doubt}")

    def describe(self) -> dict[str, Any]:
        """Also how many images are listed and there, and a fingerprint of all boxes, labels and file names."""
        sha256 = hashlib.sha256()
        for table in self.tables.values():
            sha256.update(self.names_to_tell(table))
            for content in (table.objects.starts, table.objects.boxes, table.objects.labels):
                sha256.update(content.tobytes())
        described = super().describe() | {"classes": self.num_classes, **self.counts}
        return described | {"sha256_of_annotations": sha256.hexdigest()}

    def names_to_tell(self, table: CocoTable) -> bytes:
        """Of the images' names what the fingerprint is of: the same wherever the files lie."""
        return table.names.tobytes()

    def _say(self, line: str) -> None:
        say(line, quiet=self.trainer is not None and self.trainer.global_rank > 0)


def check_same_categories(train: AnnotationFile, val: AnnotationFile) -> None:
    """The test may lack some; what it has is called the same."""
    names = {it["id"]: it["name"] for it in train.categories}
    for it in val.categories:
        if names.get(it["id"]) != it["name"]:
            other = f"is {worded(names[it['id']])}" if it["id"] in names else "is not there"
            this = f"{val.path} has category {it['id']}, {worded(it['name'])}, which {other} in {train.path}"
            raise UserError(f"{this}: the two files need the same categories.")


def set_aside(images: Rows, count: int, seed: int, stream: str) -> tuple[Rows, Rows]:
    """Those that stay and those that do not, each in their order; which is a function of (seed, stream, how many)."""
    shuffled = torch.randperm(len(images), generator=keyed_generator(seed, stream))
    aside = set(shuffled[:count].tolist())
    kept = [it for place, it in enumerate(images) if place not in aside]
    return kept, [it for place, it in enumerate(images) if place in aside]


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Reading millions of small objects is four times as fast: nothing of them can be garbage yet."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
