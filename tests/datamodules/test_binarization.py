import pytest
import torch

from datamodules.binarization import BLOCK, Binarize
from datamodules.digits import DigitsDataModule


def test_a_pixel_is_white_as_often_as_it_is_bright():
    grey = torch.tensor([0, 51, 204, 255], dtype=torch.uint8).view(1, 1, 2, 2).expand(20_000, -1, -1, -1)
    made = Binarize().apply(grey, "train")
    assert made.unique().tolist() == [0, 255]
    shares = (made == 255).float().mean(0).flatten().tolist()
    assert (shares[0], shares[3]) == (0, 1)
    assert shares[1:3] == pytest.approx([0.2, 0.8], abs=0.015)


def test_an_image_s_draws_are_a_function_of_seed_split_and_number():
    grey = torch.full((BLOCK + 30, 1, 5, 5), 128, dtype=torch.uint8)
    made = Binarize(3).apply(grey, "train")
    assert torch.equal(made, Binarize(3).apply(grey, "train"))
    for fewer in (7, BLOCK, BLOCK + 1):
        assert torch.equal(made[:fewer], Binarize(3).apply(grey[:fewer], "train"))
    assert not torch.equal(made, Binarize(4).apply(grey, "train"))
    assert not torch.equal(made, Binarize(3).apply(grey, "test"))
    assert len(made.flatten(1).unique(dim=0)) == len(made)


def ready(**settings) -> DigitsDataModule:
    datamodule = DigitsDataModule(batch_size=8, **settings)
    datamodule.setup()
    return datamodule


def test_all_splits_are_binary_and_the_record_says_so():
    datamodule = ready(val_size=100, binarize={"seed": 2})
    for table in datamodule.tables.values():
        assert table.images.unique().tolist() == [0, 255]
        assert table.labels is not None
    assert datamodule.describe()["binarized"] == "sampled once, seed 2"
    assert "binarized" not in ready().describe()
    assert datamodule.describe()["sha256"] != ready(val_size=100, binarize={"seed": 3}).describe()["sha256"]


def test_which_images_are_set_aside_changes_none():
    whole, parts = ready(binarize={}).tables["train"], ready(val_size=100, binarize={}).tables
    apart = torch.cat([parts["train"].images, parts["val"].images]).flatten(1)
    assert sorted(apart.tolist()) == sorted(whole.images.flatten(1).tolist())
