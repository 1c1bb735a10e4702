"""CIFAR-10: 50,000 and 10,000 colour photographs of ten kinds of things, 32x32 (Krizhevsky 2009)."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from datamodules.downloads import Published
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError

ARCHIVE = Published(CIFAR10.filename, CIFAR10.tgz_md5, "", (CIFAR10.url,))
SPLITS: dict[str, list[list[str]]] = {"train": CIFAR10.train_list, "test": CIFAR10.test_list}  # names and md5 sums
# What a pickled numpy array of these files asks for; a dict, a list, a string and a number ask for nothing.
NEEDED = {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}


class CIFAR10DataModule(ImageDataModule):
    """The official Python version, read as it is: nothing is unpacked beside it.

    The batches are looked for in ``<data_dir>/cifar-10-batches-py`` (where torchvision puts them), then inside
    ``<data_dir>/cifar-10-python.tar.gz``, which is downloaded where neither is there (170 MB). They are pickles: each
    is held against torchvision's md5 sum before it is read, and then nothing but arrays of numbers is made of it.

    Args:
        data_dir: the folder of all data sets.
    """

    name = "cifar10"
    image_shape = (3, 32, 32)
    num_classes = 10
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, data_dir: str, **splits: Any) -> None:
        super().__init__(**splits)
        self.data_dir = Path(data_dir)
        self.folder = self.data_dir / CIFAR10.base_folder

    def prepare_data(self) -> None:
        if not self._unpacked():
            ARCHIVE.fetch(self.data_dir)

    def load(self) -> dict[str, ImageTable]:
        source = self.folder if self._unpacked() else ARCHIVE.checked(self.data_dir)
        contents = read_folder(source) if source == self.folder else read_archive(source)
        tables = {}
        for split, batches in SPLITS.items():
            parts = [table(contents.get(name), source / name, md5) for name, md5 in batches]
            images, labels = (torch.cat(column) for column in zip(*parts, strict=True))
            tables[split] = ImageTable(images, labels)
        return tables

    def _unpacked(self) -> bool:
        return all((self.folder / name).exists() for name in batch_names())


def batch_names() -> list[str]:
    return [name for batches in SPLITS.values() for name, _ in batches]


def read_folder(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in batch_names()}


def read_archive(path: Path) -> dict[str, bytes]:
    """The batches of the archive, in one pass: going back in a compressed file means to begin anew."""
    members = {f"{CIFAR10.base_folder}/{name}": name for name in batch_names()}
    with tarfile.open(path) as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive if member.name in members)
        return {members[name]: file.read() for name, file in files if file is not None}


def table(content: bytes | None, place: Path, md5: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch's images, uint8 [N, 3, 32, 32], and labels, int64 [N]; a UserError where its md5 is another."""
    if content is None or hashlib.md5(content).hexdigest() != md5:
        raise UserError(
            f"{place} is corrupt (its md5 is not {md5}) and was not read: delete {place.parent}, and it is downloaded "
            f"again by the next run, or fetch {CIFAR10.url} by hand."
        )
    batch = NumbersAlone(io.BytesIO(content), encoding="latin1").load()  # written by Python 2
    images = np.asarray(batch["data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
    return torch.from_numpy(images.copy()), torch.tensor(batch["labels"])


class NumbersAlone(pickle.Unpickler):
    """Makes arrays and plain values, and refuses whatever else a pickle may ask for."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in NEEDED:
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is no part of an array of numbers")
        return super().find_class(module_name, global_name)
