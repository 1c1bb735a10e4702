"""COCO 2017: 118,287 and 5,000 photographs of everyday scenes with 80 kinds of objects (Lin et al. 2014)."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from datamodules.annotated_files import AnnotatedFiles, Parts, check_same_categories, no_garbage_collection, set_aside
from datamodules.coco_annotations import Rows
from datamodules.coco_images import Listed, listed_in
from datamodules.listing import listing_of
from foundation.errors import UserError

SOURCE = "https://cocodataset.org/#download"
FOLDERS = {"train": "train2017", "val": "val2017"}
WHOLE = {"train": 118_287, "val": 5_000}


class CocoDataModule(AnnotatedFiles):
    """``<folder>/annotations/instances_{train,val}2017.json``, ``<folder>/train2017/`` and ``<folder>/val2017/``.

    Nothing is chosen by val2017, so it is the test; validation is set aside from the training images. A partial copy is
    used as far as it goes: images that are listed and there.

    Args:
        folder: COCO, or another set laid out so.
        test_split: ``train`` measures on the images that are trained on, to see whether they can be learnt at all.
        annotated: see ``AnnotatedFiles``.
    """

    test_name = "val2017"

    def __init__(
        self,
        folder: str,
        name: str = "coco",
        test_split: Literal["train", "val"] = "val",
        **annotated: Any,
    ) -> None:
        super().__init__(name, **annotated)
        if test_split not in FOLDERS:
            raise UserError(f"datamodule.test_split is {test_split}: give train or val.")
        self.folder, self.test_split = Path(folder), test_split
        self.test_name, self.whole_test = FOLDERS[test_split], WHOLE[test_split]
        self.tests_on_training_data = test_split == "train"

    def training_part(self) -> Listed:
        return self._listed["train"]

    def listed(self) -> dict[str, Listed]:
        return self._listed

    def parts(self) -> Parts:
        train, val = self._listed["train"], self._listed["val"]
        self._say_what_is_missing()
        images = train.images
        if self.val_size >= len(images):
            raise UserError(
                f"datamodule.val_size={self.val_size} leaves nothing to train on: {self.name} has {len(images)} "
                "training images here. Choose 0 (no validation) or a smaller number."
            )
        kept, aside = set_aside(images, self.val_size, self.split_seed, "split")
        parts = {"train": (train, kept), "val": (train, aside)}
        parts["test"] = parts["train"] if self.test_split == "train" else (val, val.images)
        del self._listed
        return parts

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"test_split": self.test_split}

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
        with self.with_all_unreadable(lambda: listing_of(self.folder).images):
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

    def _how_to_get_it(self) -> str:
        return (
            f"lay {self.folder} out as annotations/instances_{{train,val}}2017.json, train2017/ and val2017/ with the "
            f"images, or set datamodule.folder to a folder that is. COCO 2017 itself is fetched by hand from {SOURCE}."
        )
