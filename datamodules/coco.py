"""COCO 2017: 118,287 and 5,000 photographs of everyday scenes with 80 kinds of objects (Lin et al. 2014)."""

import gc
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from datamodules.coco_files import CocoTable, by_id, tabulate, truth_of
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
    """

    tables: dict[str, CocoTable]  # type: ignore
    test_name = "val2017"

    def __init__(
        self, folder: str, name: str = "coco", test_split: Literal["train", "val"] = "val", **loading: Any
    ) -> None:
        super().__init__(**loading)
        if test_split not in FOLDERS:
            raise UserError(f"datamodule.test_split is {test_split}: give train or val.")
        self.folder, self.name, self.test_split = Path(folder), name, test_split
        self.test_name, self.whole_test = FOLDERS[test_split], WHOLE[test_split]
        self.tests_on_training_data = test_split == "train"
        self.truths: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}

    @cached_property
    def categories(self) -> list[dict[str, Any]]:
        """In the order of their labels, which is that of their ids."""
        return by_id(self._val_file["categories"])

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
        train, val = self._read("train"), self._val_file
        if by_id(train["categories"]) != self.categories:
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
        # Copies: one object that stays keeps the memory around it, in all some 0.9 GB of the whole of COCO.
        self.truths = {split: json.loads(json.dumps(truth_of(*parts[split]))) for split in ("val", "test")}
        tables = {}
        for split, (content, wanted) in parts.items():
            folder = self.folder / FOLDERS["val" if content is val else "train"]
            tables[split], left_out = tabulate(content, wanted, folder, self.masks)
            if split == "train" and left_out.line():
                self._say(f"{self.name}: of {len(wanted):,} training images, not trained on as objects: "
                          f"{left_out.line()}.")  # fmt: skip
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
        images = by_id([it for it in content["images"] if it["file_name"] in there])
        if not images:
            raise UserError(f"{folder} has none of the {len(content['images'])} images: {self._how_to_get_it()}")
        self.counts |= {f"{split}_listed": len(content["images"]), f"{split}_present": len(images)}
        return images

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
        say(line, quiet=self.trainer is not None and self.trainer.local_rank > 0)

    def _how_to_get_it(self) -> str:
        return (
            f"fetch COCO by hand from {SOURCE} (2017 Train images, Val images, Train/Val annotations) and lay "
            f"{self.folder} out as annotations/instances_{{train,val}}2017.json, train2017/*.jpg and val2017/*.jpg, or "
            "set datamodule.folder to a folder that is."
        )


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
