"""MNIST in black and white, the fixed set that published likelihoods are of (Salakhutdinov & Murray 2008)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError

SOURCE = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist"
FILES = {split: f"binarized_mnist_{name}.amat" for split, name in
         {"train": "train", "val": "valid", "test": "test"}.items()}  # fmt: skip


class BinarizedMNISTDataModule(ImageDataModule):
    """50,000 + 10,000 + 10,000 images without labels, in ``<data_dir>/BinarizedMNIST``: text, a line an image.

    No checksums of the files were published, so that nothing is downloaded; a record has the fingerprint of the
    images.

    Args:
        data_dir: the folder of all data sets.
    """

    name = "binarized_mnist"
    image_shape = (1, 28, 28)
    num_classes = None

    def __init__(self, data_dir: str, **splits: Any) -> None:
        splits["binarize"] = None  # they are black and white
        super().__init__(**splits)
        self.folder = Path(data_dir) / "BinarizedMNIST"

    def prepare_data(self) -> None:
        for name in FILES.values():
            if not (self.folder / name).exists():
                raise UserError(
                    f"{self.folder / name} is missing: fetch {SOURCE}/{name} by hand and put it there, or take "
                    "datamodule=mnist datamodule.binarize.seed=0, a binarisation of its own."
                )

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"binarized": "the fixed set"}

    def load(self) -> dict[str, ImageTable]:
        return {split: ImageTable(read_amat(self.folder / name)) for split, name in FILES.items()}


def read_amat(path: Path) -> torch.Tensor:
    """Zeros and ones between blanks -> uint8 [N, 1, 28, 28] of 0 and 255."""
    characters = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    values = characters[characters > ord(" ")] - ord("0")
    if not values.size or values.size % 784 or values.max() > 1:
        raise UserError(f"{path} is no binarised MNIST: it should hold lines of 784 zeros and ones.")
    return torch.from_numpy(values * 255).view(-1, 1, 28, 28)
