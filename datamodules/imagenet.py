"""ImageNet: 1,281,167 and 50,000 photographs of 1,000 classes (Russakovsky et al. 2015), or any set laid out so."""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding import ENDINGS, as_stored, check_bits, read
from datamodules.folder_layout import counts_in_words, split_of
from datamodules.image_files import look_through, say, some
from datamodules.images import ImageDataModule
from datamodules.listing import is_system, listing_of
from datamodules.photographs import DrawnBatches, PhotographLoader, Photographs, Views, made_by_workers, shift_colours
from datamodules.views import ViewedPhotographs
from datamodules.views import Views as ViewsOfTest
from foundation.errors import UserError
from foundation.randomness import keyed_generator

SOURCE = "https://image-net.org/download-images.php"


class ImageNetDataModule(ImageDataModule):
    """``<folder>/train/<class>/`` and ``<folder>/val/<class>/``, which is the test; nothing is decoded in advance.

    Classes are numbered in the order of their names; ImageNet's are WordNet's ids. Training sees the recipe of He et
    al. 2016, drawn anew for each (seed, epoch, example), so that neither ranks nor workers nor interruptions matter;
    validation, of images set aside from ``train``, and the test see the centre.

    Args:
        folder: the images.
        name: what a record calls the data.
        size, short_sides, test_short_side: see ``Views``.
        pca_colour: shift each training image along the principal components of ImageNet's colours.
        num_workers: processes that decode, on each rank; 0: none but the one that trains.
        bits: see ``datamodules.decoding.read``.
        cache_dir: see ``datamodules.image_files.look_through``; None: an image is looked at when it is needed.
    """

    tables: dict[str, Photographs]  # type: ignore
    test_name, whole_test = "val", 50_000

    def __init__(
        self,
        folder: str,
        name: str = "imagenet",
        size: int = 224,
        short_sides: Sequence[int] = (256, 480),
        test_short_side: int = 256,
        pca_colour: bool = True,
        num_workers: int = 8,
        bits: int | None = None,
        cache_dir: str | None = None,
        **splits: Any,
    ) -> None:
        super().__init__(**splits)
        if num_workers < 0:
            raise UserError(f"datamodule.num_workers is {num_workers}: give a number of processes, 0 or more.")
        if self.augment is not None:
            raise UserError("datamodule.augment is for images in memory: set datamodule.short_sides and pca_colour.")
        if self.binarize is not None:
            raise UserError("datamodule.binarize is for images in memory: leave it null.")
        self.folder, self.name, self.pca_colour, self.num_workers = Path(folder), name, pca_colour, num_workers
        check_bits(bits)
        self.bits, self.views = bits, Views(size, tuple(short_sides), test_short_side)
        self.image_shape = (3, size, size)
        self.cache_dir = None if cache_dir is None else Path(cache_dir)

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """In the order of their numbers."""
        with os.scandir(self._top("train")) as entries:
            classes = sorted(entry.name for entry in entries if entry.is_dir() and not is_system(entry.name))
        if not classes:
            raise UserError(f"{self.folder}/train holds no folder of a class: {self._how_to_get_it()}")
        if all(map(split_of, classes)):
            raise UserError(
                f"{self.folder}/train holds {some(classes)}, which are splits and no classes: move them up."
            )
        return tuple(classes)

    @property
    def num_classes(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.class_names)

    def load(self) -> dict[str, Photographs]:  # pyright: ignore[reportIncompatibleMethodOverride]
        tables = {"train": self._split("train"), "test": self._split("val")}
        if self.cache_dir is not None:
            names = [os.fsdecode(name) for table in tables.values() for name in table.names.tolist()]
            read_it = partial(read, turn=as_stored, bits=self.bits)
            look_through(self.name, self.folder, names, read_it, {"bits": self.bits}, self.cache_dir)
        return tables

    def describe(self) -> dict[str, Any]:
        """Name, sizes, and a fingerprint of the files' names: to read them all would take an hour."""
        sha256 = hashlib.sha256()
        for table in self.tables.values():
            sha256.update(b"\n".join(table.names.tolist()) + b"\n\n")
        how = {"classes": self.num_classes, **self.labelling()}
        return {**self.tested_on(), **self.sizes(), **how, "sha256_of_names": sha256.hexdigest()}

    def scaled(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        batch = super().scaled(batch)
        weights = batch.pop("colour", None)
        if weights is not None and self.pca_colour:
            batch["image"] = shift_colours(batch["image"], weights)
        return batch

    def some_images(self, count: int) -> Tensor:
        table = self.tables["train"]
        order = torch.randperm(len(table), generator=keyed_generator(self.seed, "some images"))
        return table[order[torch.arange(count) % len(order)]]["image"].float() / 255  # pyright: ignore

    def viewed(self, split: str, views: ViewsOfTest, batches: Sequence[Tensor]) -> PhotographLoader:
        return made_by_workers(ViewedPhotographs(self.tables[split], views), batches, self.num_workers, self.trainer)

    def unfit_views(self, views: ViewsOfTest) -> str | None:
        return None

    def _loader(self, split: str, batch_size: int, seed: int | None) -> PhotographLoader:
        drawn = DrawnBatches(self._batches(split, batch_size, seed))
        return made_by_workers(self.tables[split], drawn, self.num_workers, self.trainer)

    def _split(self, top: str) -> Photographs:
        listing = listing_of(self._top(top))
        paths, left_out = listing.images, listing.left_out()
        if not paths:
            raise UserError(
                f"{self.folder}/{top} holds no image: looked for {', '.join(ENDINGS)} at every depth. "
                f"It holds {left_out or 'nothing'}."
            )
        numbers = {name: number for number, name in enumerate(self.class_names)}
        folders = [path.partition("/")[0] for path in paths]
        if unknown := next((path for path, name in zip(paths, folders, strict=True) if name not in numbers), None):
            raise UserError(
                f"{self.folder}/{top} holds {unknown}, which lies in no folder of a class of train: sort the images "
                "into a folder for each class, with the same names as in train."
            )
        self._say(f"{top} {len(paths):,} images ({counts_in_words(folders, self.class_names)}).")
        if left_out:
            self._say(f"{top}: left out: {left_out}.")
        names = np.array([os.fsencode(f"{top}/{path}") for path in paths])
        return Photographs(self.folder, names, torch.tensor([numbers[it] for it in folders]), self.views, self.bits)

    def _say(self, line: str) -> None:
        say(f"{self.name}: {line}", quiet=self.trainer is not None and self.trainer.global_rank > 0)

    def _top(self, top: str) -> Path:
        folder = self.folder / top
        if not folder.is_dir():
            there = some(sorted(os.listdir(self.folder))) if self.folder.is_dir() else ""
            beside = f" ({self.folder} holds {there})" if there else ""
            raise UserError(f"{folder} is missing{beside}: {self._how_to_get_it()}")
        return folder

    def _how_to_get_it(self) -> str:
        return (
            f"lay {self.folder} out as train/<class>/*.JPEG and val/<class>/*.JPEG, or set datamodule.folder to a "
            f"folder that is. ILSVRC 2012 itself is fetched by hand from {SOURCE} (with an account)."
        )
