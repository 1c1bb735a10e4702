"""Anybody's own images: a folder of files or an archive of one, with a folder for each class or without."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.archives import ENDINGS as ARCHIVES
from datamodules.archives import is_archive, unpacked
from datamodules.decoded_images import ImageFiles
from datamodules.decoding import ENDINGS, Pixels
from datamodules.folder_layout import Layout, split_of
from datamodules.image_files import say
from datamodules.images import ImageDataModule, ImageTable
from datamodules.listing import is_system, listing_of
from foundation.errors import UserError
from foundation.randomness import keyed_generator


class ImageFolderDataModule(ImageDataModule):
    """Every image below a folder, at whatever depth; hidden files and a system's folders are left out.

    A class is a folder: of an image's path the first part, whatever follows (``<chair>/renders/<view>.png``). Classes
    are numbered in the order of their names. Images that lie in no folder, or all in one, have no labels.
    ``train`` and ``test`` (and ``val``) at the top, or names that mean the same, are the splits; without them a
    permutation that depends on ``split_seed`` alone sets test images aside. What was made of the layout is said once.

    Args:
        folder: the images; or an archive of them (tar, tar.gz, tar.xz, zip), which is unpacked once into ``cache_dir``.
            A single folder around all that an archive holds is no class.
        cache_dir: where the decoded images are kept.
        name: what a record calls the data.
        size, channels, crop, bits: see ``Pixels``.
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
        bits: int | None = None,
        **splits: Any,
    ) -> None:
        super().__init__(**splits)
        if test_size is not None and test_size < 1:
            raise UserError(f"datamodule.test_size is {test_size}: give a number of images, or null for a tenth.")
        self.name, self.source, self.cache_dir, self.test_size = name, Path(folder), Path(cache_dir), test_size
        self.pixels = Pixels(size, channels, crop, bits)
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
        tops = [it for it in folder.iterdir() if not is_system(it.name)]
        around = len(tops) == 1 and tops[0].is_dir() and not split_of(tops[0].name)
        return tops[0] if around else folder

    @cached_property
    def layout(self) -> Layout:
        """What its folders mean, in an order that no file system has a say in."""
        listing = listing_of(self.folder)
        if not listing.images:
            raise UserError(
                f"{self.folder} holds no image: looked for {', '.join(ENDINGS)} at every depth. "
                f"It holds {listing.left_out() or 'nothing'}."
            )
        layout = Layout(self.folder, listing)
        if layout.splits and self.test_size is not None:
            raise UserError(f"{self.folder} has its own test images: leave datamodule.test_size=null.")
        return layout

    @property
    def paths(self) -> list[str]:
        """The images, relative to the folder."""
        return self.layout.listing.images

    @property
    def class_names(self) -> list[str] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.layout.class_names or None

    @property
    def num_classes(self) -> int | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.layout.class_names) or None

    @property
    def unlabelled_because(self) -> str | None:
        return self.layout.lack_of_labels

    @property
    def test_decided_by(self) -> tuple[str, ...]:
        return () if self.layout.splits else ("split_seed", "test_size")

    def prepare_data(self) -> None:
        if not self.tables and self.decoded is None:
            for line in self.layout.lines():
                say(f"{self.name}: {line}", quiet=self.trainer is not None and self.trainer.global_rank > 0)
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
        return torch.tensor([numbers[name] for name in self.layout.classes if name])

    def _split(self) -> dict[str, Tensor]:
        if self.layout.splits:
            return {split: torch.tensor(positions) for split, positions in self.layout.splits.items()}
        total = len(self.paths)
        test_size = max(total // 10, 1) if self.test_size is None else self.test_size
        if test_size >= total:
            raise UserError(
                f"{self.folder} holds {total} images, of which {test_size} for the test leave nothing to train on: "
                "set datamodule.test_size to a smaller number."
            )
        order = torch.randperm(total, generator=keyed_generator(self.split_seed, "image folder test split"))
        return {"train": order[test_size:].sort().values, "test": order[:test_size].sort().values}
