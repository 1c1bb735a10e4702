"""scikit-learn's 1,797 handwritten digits, 8x8: real data that is there as soon as the platform is."""

import torch

from datamodules.images import ImageDataModule, ImageTable
from foundation.randomness import keyed_generator

TEST_SIZE = 360


class DigitsDataModule(ImageDataModule):
    """UCI optical digits (Alpaydin & Kaynak 1998) as shipped with scikit-learn: 1,437 to train, 360 to test.

    The set has no official split: a permutation that depends on ``split_seed`` alone makes one.
    Its 17 grey levels are spread over 0..255.
    """

    name = "digits"
    image_shape = (1, 8, 8)
    num_classes = 10
    test_decided_by = ("split_seed",)

    def load(self) -> dict[str, ImageTable]:
        from sklearn.datasets import load_digits  # here, since importing it takes a fifth of a second

        digits = load_digits()
        images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)  # pyright: ignore
        labels = torch.from_numpy(digits.target).long()  # pyright: ignore
        order = torch.randperm(len(images), generator=keyed_generator(self.split_seed, "digits test split"))
        test, train = order[:TEST_SIZE].sort().values, order[TEST_SIZE:].sort().values
        table = ImageTable(images, labels)
        return {"train": table.take(train), "test": table.take(test)}
