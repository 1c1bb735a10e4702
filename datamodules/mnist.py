"""MNIST: 60,000 and 10,000 handwritten digits, 28x28 (LeCun, Cortes & Burges 1998), and the sets in its format."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import KMNIST, MNIST, FashionMNIST

from datamodules.downloads import Published
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError, did_you_mean

SETS: dict[str, type[MNIST]] = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "kmnist": KMNIST}
CHECKSUMS: dict[str, str] = dict(MNIST.resources)


class MNISTDataModule(ImageDataModule):
    """The four original archives, read as they are: nothing is unpacked beside them.

    They are looked for in ``<data_dir>/MNIST/raw`` (where torchvision puts them), checked against
    torchvision's md5 sums, and downloaded from torchvision's mirrors where they are missing.

    Args:
        data_dir: the folder of all data sets.
        name: ``mnist``, ``fashion_mnist`` (Xiao et al. 2017, ten kinds of clothes, in ``FashionMNIST/raw``) or
            ``kmnist`` (Clanuwat et al. 2018, ten characters of cursive Japanese, in ``KMNIST/raw``); None: MNIST.
    """

    name = "mnist"
    image_shape = (1, 28, 28)
    num_classes = 10

    def __init__(self, data_dir: str, name: str | None = None, **splits: Any) -> None:
        super().__init__(**splits)
        if name is not None and name not in SETS:
            raise UserError(f"datamodule.name is {name!r}, which is no set of these; {did_you_mean(name, SETS)}")
        self.data_dir, self.files = Path(data_dir), name or "mnist"
        if name not in (None, "mnist"):
            self.name, self.class_names = self.files, list(SETS[self.files].classes)

    def prepare_data(self) -> None:
        for file in checksums(self.files):
            archive(file, self.files).fetch(self.data_dir)

    def load(self) -> dict[str, ImageTable]:
        return {"train": self._split("train"), "test": self._split("t10k")}

    def _split(self, prefix: str) -> ImageTable:
        images = self._read(f"{prefix}-images-idx3-ubyte.gz").unsqueeze(1)
        return ImageTable(images, self._read(f"{prefix}-labels-idx1-ubyte.gz").long())

    def _read(self, file: str) -> Tensor:
        return read_idx(archive(file, self.files).checked(self.data_dir))


def checksums(name: str) -> dict[str, str]:
    """md5 sums of a set's files."""
    return CHECKSUMS if name == "mnist" else dict(SETS[name].resources)


def archive(file: str, name: str = "mnist") -> Published:
    of = SETS[name]
    return Published(file, checksums(name)[file], f"{of.__name__}/raw", tuple(it + file for it in of.mirrors))


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of unsigned bytes: magic number 0x08 and rank, big-endian sizes, the values."""
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, dtype=">i4", count=rank, offset=4).astype(int)
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape).copy())
