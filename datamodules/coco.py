"""COCO 2017: 118,287 and 5,000 photographs of everyday scenes with 80 kinds of objects (Lin et al. 2014)."""

import gc
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.coco_annotations import AnnotationFile, Rows, worded
from datamodules.coco_files import CocoTable, LeftOut, counted, tabulate
from datamodules.coco_images import Listed, by_id, listed_in
from datamodules.decoding import check_bits
from datamodules.detection import DetectionDataModule
from datamodules.image_files import say
from foundation.errors import UserError
from foundation.randomness import keyed_generator

SOURCE = "https://cocodataset.org/#download"
FOLDERS = {"train": "train2017", "val": "val2017"}
WHOLE = {"train": 118_287, "val": 5_000}


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
        bits: see ``datamodules.decoding.read``.
    """

    tables: dict[str, CocoTable]  # type: ignore
    test_name = "val2017"

    def __init__(
        self,
        folder: str,
        name: str = "coco",
        test_split: Literal["train", "val"] = "val",
        bits: int | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        if test_split not in FOLDERS:
            raise UserError(f"datamodule.test_split is {test_split}: give train or val.")
        check_bits(bits)
        self.folder, self.name, self.test_split, self.bits = Path(folder), name, test_split, bits
        self.test_name, self.whole_test = FOLDERS[test_split], WHOLE[test_split]
        self.tests_on_training_data = test_split == "train"
        self.truths: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}

    @cached_property
    def categories(self) -> Rows:
        """Those of train2017, in the order of their labels, which is that of their ids."""
        return by_id(self._listed["train"].file.categories)

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
        train, val = self._listed["train"], self._listed["val"]
        self._say_what_is_missing()
        images = train.images
        if self.val_size >= len(images):
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
        parts["test"] = parts["train"] if self.test_split == "train" else (val, val.images)
        # Copies: one object that stays keeps the memory around it, in all some 0.9 GB of the whole of COCO.
        self.truths = {split: json.loads(json.dumps(self._truth(split, *parts[split]))) for split in ("val", "test")}
        tables = {}
        for split, (listed, wanted) in parts.items():
            tables[split], left_out = tabulate(listed, wanted, self.category_ids, self.masks, self.bits)
            if split == "train":
                self._say_what_is_left_out(left_out, tables[split])
        del self._listed
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
            for content in (table.names, table.objects.starts, table.objects.boxes, table.objects.labels):
                sha256.update(content.tobytes())
        described = super().describe() | {"classes": self.num_classes, **self.counts}
        return described | {"test_split": self.test_split, "sha256_of_annotations": sha256.hexdigest()}

    @cached_property
    def _listed(self) -> dict[str, Listed]:
        """Both files, read and held against their format before the data is prepared, and kept until then."""
        with no_garbage_collection():
            train = self._read("train")
            val = self._read("val", train.file.categories)
        check_same_categories(train.file, val.file)
        return {"train": train, "val": val}

    def _read(self, split: str, others: Rows | None = None) -> Listed:
        path, folder = self.folder / "annotations" / f"instances_{FOLDERS[split]}.json", self.folder / FOLDERS[split]
        for it in (path, folder):
            if not it.exists():
                raise UserError(f"{it} is missing: {self._how_to_get_it()}")
        listed = listed_in(path, folder, self.masks, others)
        images = listed.file.images
        if not listed.images:
            raise UserError(f"{folder} has none of the {len(images):,} images: {listed.missing()}.")
        self.counts |= {f"{split}_listed": len(images), f"{split}_present": len(listed.images)}
        return listed

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
        for it in self._listed.values():
            if it.unused:
                self._say(f"{self.name}: {len(it.unused):,} images are there and not listed: {it.missing()}.")
            if it.file.unlisted:
                self._say(
                    f"{self.name}: {it.file.unlisted:,} annotations of {it.file.path} are of images that it does not "
                    "list, and are left out."
                )

    def _say(self, line: str) -> None:
        say(line, quiet=self.trainer is not None and self.trainer.global_rank > 0)

    def _how_to_get_it(self) -> str:
        return (
            f"lay {self.folder} out as annotations/instances_{{train,val}}2017.json, train2017/ and val2017/ with the "
            f"images, or set datamodule.folder to a folder that is. COCO 2017 itself is fetched by hand from {SOURCE}."
        )


def check_same_categories(train: AnnotationFile, val: AnnotationFile) -> None:
    """The test may lack some; what it has is called the same."""
    names = {it["id"]: it["name"] for it in train.categories}
    for it in val.categories:
        if names.get(it["id"]) != it["name"]:
            other = f"is {worded(names[it['id']])}" if it["id"] in names else "is not there"
            this = f"{val.path} has category {it['id']}, {worded(it['name'])}, which {other} in {train.path}"
            raise UserError(f"{this}: the two files need the same categories.")


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
