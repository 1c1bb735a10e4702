"""MNIST: 60,000 and 10,000 handwritten digits, 28x28 (LeCun, Cortes & Burges 1998)."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import MNIST

from datamodules.downloads import Published
from datamodules.images import ImageDataModule, ImageTable

CHECKSUMS: dict[str, str] = dict(MNIST.resources)


class MNISTDataModule(ImageDataModule):
    """The four original archives, read as they are: nothing is unpacked beside them.

    They are looked for in ``<data_dir>/MNIST/raw`` (where torchvision puts them), checked against
    torchvision's md5 sums, and downloaded from torchvision's mirrors where they are missing.

    Args:
        data_dir: the folder of all data sets.
    """

    name = "mnist"
    image_shape = (1, 28, 28)
    num_classes = 10

    def __init__(self, data_dir: str, **splits: Any) -> None:
        super().__init__(**splits)
        self.data_dir = Path(data_dir)

    def prepare_data(self) -> None:
        for name in CHECKSUMS:
            archive(name).fetch(self.data_dir)

    def load(self) -> dict[str, ImageTable]:
        return {"train": self._split("train"), "test": self._split("t10k")}

    def _split(self, prefix: str) -> ImageTable:
        images = self._read(f"{prefix}-images-idx3-ubyte.gz").unsqueeze(1)
        return ImageTable(images, self._read(f"{prefix}-labels-idx1-ubyte.gz").long())

    def _read(self, name: str) -> Tensor:
        return read_idx(archive(name).checked(self.data_dir))


def archive(name: str) -> Published:
    return Published(name, CHECKSUMS[name], "MNIST/raw", tuple(mirror + name for mirror in MNIST.mirrors))


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of unsigned bytes: magic number 0x08 and rank, big-endian sizes, the values."""
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, dtype=">i4", count=rank, offset=4).astype(int)
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape).copy())
