"""Test examples that are training examples are no test."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.images import ImageDataModule, ImageTable
from datamodules.overlap import trained_on
from datamodules.splits import Table
from foundation.errors import UserError


def photographs(folder: Path, *names: str) -> SimpleNamespace:
    return SimpleNamespace(folder=folder, names=np.array([name.encode() for name in names]))


def test_tables_that_hold_the_same_are_found_and_others_are_not():
    images, labels = torch.arange(12).view(3, 4), torch.arange(3)
    train = Table({"image": images, "label": labels})
    assert trained_on(train, Table({"image": images.clone(), "label": labels.clone()})) == [
        "example 0", "example 1", "example 2"]  # fmt: skip
    assert trained_on(train, Table({"image": images + 1, "label": labels})) == []
    assert trained_on(train, Table({"image": images[:2], "label": labels[:2]})) == []


def test_files_are_the_same_where_they_lie_in_the_same_place(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
    train = photographs(tmp_path, "train/cat/a.png", "train/cat/b.png")
    assert trained_on(train, photographs(tmp_path, "val/cat/a.png")) == []
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").symlink_to(tmp_path / "train")
    assert trained_on(train, photographs(tmp_path, "val/cat/a.png", "val/cat/c.png")) == [
        str(tmp_path / "train" / "cat" / "a.png")]  # fmt: skip
    beside = photographs(tmp_path / "train", "cat/b.png")  # as a set whose splits share one folder has them
    assert trained_on(train, beside) == [str(tmp_path / "train" / "cat" / "b.png")]


class Images(ImageDataModule):
    name, image_shape, num_classes = "mine", (1, 2, 2), 2

    def __init__(self, shift: int, **splits):
        super().__init__(batch_size=2, **splits)
        self.shift = shift

    def load(self):
        images, labels = torch.arange(24, dtype=torch.uint8).view(6, 1, 2, 2), torch.arange(6) % 2
        return {"train": ImageTable(images, labels), "test": ImageTable(images + self.shift, labels)}


def test_a_test_on_the_training_images_is_refused_unless_it_is_called_so():
    Images(1).setup()
    with pytest.raises(UserError, match=r"6 of the 6 test examples of mine are training examples, the first example 0"):
        Images(0, val_size=2).setup()
    known = Images(0)
    known.tests_on_training_data = True
    known.setup()
