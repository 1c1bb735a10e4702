"""SVHN: 73,257 and 26,032 house-number digits cropped from street photographs, 32x32 (Netzer et al. 2011)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import SVHN

from datamodules.downloads import Published
from datamodules.images import ImageDataModule, ImageTable

CHECKSUMS: dict[str, str] = {split: md5 for split, (_, _, md5) in SVHN.split_list.items()}


class SVHNDataModule(ImageDataModule):
    """Format 2 of the original: ``train_32x32.mat`` and ``test_32x32.mat``, in which digit 0 has label 10; here 0.

    They are looked for in ``<data_dir>/SVHN`` (the root to give to torchvision's class), checked against
    torchvision's md5 sums, and downloaded where they are missing (0.25 GB).

    Args:
        data_dir: the folder of all data sets.
        extra: append the 531,131 easier digits of ``extra_32x32.mat`` to training (1.3 GB to download, 1.6 GB of
            memory, twice that while they are read).
    """

    name = "svhn"
    image_shape = (3, 32, 32)
    num_classes = 10

    def __init__(self, data_dir: str, extra: bool = False, **splits: Any) -> None:
        super().__init__(**splits)
        self.data_dir, self.extra = Path(data_dir), extra

    def prepare_data(self) -> None:
        for split in ["train", "test", "extra"][: 3 if self.extra else 2]:
            matrix(split).fetch(self.data_dir)

    def load(self) -> dict[str, ImageTable]:
        train, test = self._split("train"), self._split("test")
        if self.extra:
            more = self._split("extra")
            assert train.labels is not None
            assert more.labels is not None
            train = ImageTable(torch.cat([train.images, more.images]), torch.cat([train.labels, more.labels]))
        return {"train": train, "test": test}

    def _split(self, split: str) -> ImageTable:
        from scipy.io import loadmat  # here, since nothing else needs it

        content = loadmat(matrix(split).checked(self.data_dir))
        images = np.ascontiguousarray(content["X"].transpose(3, 2, 0, 1))  # from H x W x C x N
        return ImageTable(torch.from_numpy(images), torch.from_numpy(content["y"].astype(np.int64).ravel() % 10))


def matrix(split: str) -> Published:
    url, name, _ = SVHN.split_list[split]
    return Published(name, CHECKSUMS[split], "SVHN", (url,))
