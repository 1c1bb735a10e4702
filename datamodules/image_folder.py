"""Anybody's own images: a folder of files or an archive of one, with a folder for each class or without."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.archives import ENDINGS as ARCHIVES
from datamodules.archives import is_archive, unpacked
from datamodules.image_files import ENDINGS, ImageFiles, Pixels
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError
from foundation.randomness import keyed_generator

SPLITS = ("train", "val", "test")


class ImageFolderDataModule(ImageDataModule):
    """Every image below a folder, at whatever depth; files and folders whose name begins with a dot are left out.

    A class is a folder: of an image's path the first part, whatever follows (``<chair>/renders/<view>.png``). Classes
    are numbered in the order of their names. Images that lie in no folder, or all in one, have no labels.
    ``train`` and ``test`` (and ``val``) at the top are the splits; without them a permutation that depends on
    ``split_seed`` alone sets test images aside.

    Args:
        folder: the images; or an archive of them (tar, tar.gz, tar.xz, zip), which is unpacked once into ``cache_dir``.
            A single folder around all that an archive holds is no class.
        cache_dir: where the decoded images are kept.
        name: what a record calls the data.
        size, channels, crop: see ``Pixels``.
        test_size: how many images are set aside for the test; None: a tenth, or the folder's own ``test``.
    """

    def __init__(
        self,
        folder: str,
        cache_dir: str,
        size: int,
        name: str = "image_folder",
        channels: int = 3,
        crop: int | None = None,
        test_size: int | None = None,
        **splits: Any,
    ) -> None:
        super().__init__(**splits)
        if test_size is not None and test_size < 1:
            raise UserError(f"datamodule.test_size is {test_size}: give a number of images, or null for a tenth.")
        self.name, self.source, self.cache_dir, self.test_size = name, Path(folder), Path(cache_dir), test_size
        self.pixels = Pixels(size, channels, crop)
        self.image_shape = self.pixels.shape
        self.decoded: Tensor | None = None

    @cached_property
    def folder(self) -> Path:
        """Where the images lie: the folder that was given, or the one that the archive was unpacked into."""
        if self.source.is_dir():
            return self.source
        if not (self.source.is_file() and is_archive(self.source)):
            raise UserError(
                f"{self.source} is no folder and no archive: set datamodule.folder to the folder of the images, or to "
                f"a file that ends in {', '.join(ARCHIVES)}."
            )
        folder = unpacked(self.source, self.cache_dir)
        tops = [it for it in folder.iterdir() if not it.name.startswith((".", "__MACOSX"))]
        around = len(tops) == 1 and tops[0].is_dir() and tops[0].name not in SPLITS
        return tops[0] if around else folder

    @cached_property
    def paths(self) -> list[str]:
        """The images, relative to the folder, in an order that no file system has a say in."""
        paths = sorted(images_below(self.folder))
        if not paths:
            raise UserError(f"{self.folder} holds no image: looked for {', '.join(ENDINGS)} at every depth.")
        return paths

    @cached_property
    def official(self) -> bool:
        """Whether the folder comes with its splits."""
        tops = {path.partition("/")[0] for path in self.paths if "/" in path}
        flat = any("/" not in path for path in self.paths)
        if {"train", "test"} <= tops:
            if beside := sorted(tops - set(SPLITS)) + ["images of its own"] * flat:
                raise UserError(
                    f"{self.folder} holds train and test, and beside them {', '.join(beside)}: move that away."
                )
            if self.test_size is not None:
                raise UserError(f"{self.folder} has its own test images: leave datamodule.test_size=null.")
            return True
        if tops and tops <= set(SPLITS):  # with other folders beside it, "train" is a class
            raise UserError(
                f"{self.folder} holds {' and '.join(sorted(tops))} alone: splits are train, test and, where there "
                "is one, val; for a split made here, set datamodule.folder to the folder of all images."
            )
        return False

    @cached_property
    def class_of_each(self) -> list[str | None]:
        """Each image's class; None throughout where there are none."""
        inner = [path.partition("/")[2] if self.official else path for path in self.paths]
        classes = [path.partition("/")[0] if "/" in path else None for path in inner]
        if None in classes and any(classes):
            raise UserError(
                f"{self.folder} holds images both in folders of classes and outside of them, such as "
                f"{self.paths[classes.index(None)]}: give each image a class, or none."
            )
        if self.official:
            known = {it for it, path in zip(classes, self.paths, strict=True) if path.startswith("train/")}
            if new := sorted(set(filter(None, classes)) - known):
                raise UserError(f"{self.folder}: val or test holds classes that train does not: {', '.join(new)}.")
        return classes if len(set(classes)) > 1 else [None] * len(classes)

    @property
    def class_names(self) -> list[str] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return sorted(set(filter(None, self.class_of_each))) or None

    @property
    def num_classes(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.class_names or []) or None

    def prepare_data(self) -> None:
        if not self.tables and self.decoded is None:
            self.decoded = self._image_files().load()

    def load(self) -> dict[str, ImageTable]:
        positions = self._split()
        if self.decoded is None:  # this process was not the one to prepare, or nobody was
            quiet = self.trainer is not None and self.trainer.local_rank > 0
            self.decoded = self._image_files().load(quiet)
        whole, self.decoded = ImageTable(self.decoded, self._labels()), None
        return {split: whole.take(chosen) for split, chosen in positions.items()}

    def _image_files(self) -> ImageFiles:
        return ImageFiles(self.name, self.folder, self.paths, self.pixels, self.cache_dir)

    def _labels(self) -> Tensor | None:
        if self.class_names is None:
            return None
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return torch.tensor([numbers[name] for name in self.class_of_each if name])

    def _split(self) -> dict[str, Tensor]:
        if self.official:
            tops = [path.partition("/")[0] for path in self.paths]
            return {
                split: torch.tensor([position for position, top in enumerate(tops) if top == split])
                for split in SPLITS
                if split in tops
            }
        total = len(self.paths)
        test_size = max(total // 10, 1) if self.test_size is None else self.test_size
        if test_size >= total:
            raise UserError(
                f"{self.folder} holds {total} images, of which {test_size} for the test leave nothing to train on: "
                "set datamodule.test_size to a smaller number."
            )
        order = torch.randperm(total, generator=keyed_generator(self.split_seed, "image folder test split"))
        return {"train": order[test_size:].sort().values, "test": order[:test_size].sort().values}


def images_below(root: Path) -> list[str]:
    """Paths of image files relative to ``root``, with slashes; links are followed, each folder is seen once."""
    found, seen = [], set()
    for here, folders, files in os.walk(root, followlinks=True):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(here).relative_to(root)
        found += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return found
