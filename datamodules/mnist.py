"""MNIST: 60,000 and 10,000 handwritten digits, 28x28 (LeCun, Cortes & Burges 1998)."""

import gzip
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import MNIST
from torchvision.datasets.utils import check_integrity, download_url

from datamodules.images import ImageDataModule, ImageTable
from launch.errors import UserError

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
        self.folder = Path(data_dir) / "MNIST" / "raw"

    def prepare_data(self) -> None:
        for name, md5 in CHECKSUMS.items():
            if not (self.folder / name).exists():
                download(name, md5, self.folder)

    def load(self) -> tuple[ImageTable, ImageTable]:
        return self._split("train"), self._split("t10k")

    def _split(self, prefix: str) -> ImageTable:
        images = self._read(f"{prefix}-images-idx3-ubyte.gz").unsqueeze(1)
        return ImageTable(images, self._read(f"{prefix}-labels-idx1-ubyte.gz").long())

    def _read(self, name: str) -> Tensor:
        path = self.folder / name
        if not path.exists():
            raise UserError(
                f"{path} is missing: set DATA_DIR or paths.data_dir to the folder that holds MNIST/raw, "
                f"or fetch {MNIST.mirrors[0]}{name} by hand and put it there."
            )
        if not check_integrity(str(path), CHECKSUMS[name]):
            raise UserError(
                f"{path} is corrupt (its md5 is not {CHECKSUMS[name]}): delete it, and it is downloaded again "
                f"by the next run, or fetch {MNIST.mirrors[0]}{name} by hand."
            )
        return read_idx(path)


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of unsigned bytes: magic number 0x08 and rank, big-endian sizes, the values."""
    data = gzip.decompress(path.read_bytes())
    rank = data[3]
    shape = np.frombuffer(data, dtype=">i4", count=rank, offset=4).astype(int)
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank).reshape(shape).copy())


def download(name: str, md5: str, folder: Path) -> None:
    """Fetch one archive whole or not at all: it gets its name only once its checksum is right."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be made ({error}): set DATA_DIR or paths.data_dir to another place."
        ) from None
    reasons = []
    for mirror in MNIST.mirrors:
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            try:
                download_url(mirror + name, unfinished, filename=name, md5=md5)
            except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum a RuntimeError
                reasons.append(f"{mirror}: {error}")
            else:
                os.replace(Path(unfinished) / name, folder / name)
                return
    raise UserError(
        f"{name} is not in {folder} and could not be downloaded ({'; '.join(reasons)}). Fetch it by hand from one of "
        "these places and put it there, or set DATA_DIR or paths.data_dir to a folder that holds MNIST/raw."
    )
