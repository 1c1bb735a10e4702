import pytest
import torch
from sklearn.datasets import load_digits

from datamodules.digits import DigitsDataModule
from foundation.errors import UserError


def ready(**settings) -> DigitsDataModule:
    datamodule = DigitsDataModule(**{"batch_size": 128} | settings)
    datamodule.setup()
    return datamodule


def test_splits_are_the_1797_images_once_each():
    tables = ready(val_size=100).tables
    assert {split: len(table) for split, table in tables.items()} == {"train": 1337, "val": 100, "test": 360}
    images = torch.cat([table.images for table in tables.values()])
    labels = torch.cat([table.labels for table in tables.values()])
    known = sorted(zip(load_digits().images.reshape(1797, 64).tolist(), load_digits().target.tolist(), strict=True))
    found = (images.flatten(1).float() * 16 / 255).round().tolist()
    assert sorted(zip(found, labels.tolist(), strict=True)) == known


def test_the_split_depends_on_its_own_seed_alone():
    assert torch.equal(ready(seed=1).tables["test"].images, ready(seed=2).tables["test"].images)
    assert not torch.equal(ready(split_seed=1).tables["test"].images, ready().tables["test"].images)
    assert ready(seed=1).describe() == ready(seed=2).describe()
    assert ready().describe()["sha256"] != ready(split_seed=1).describe()["sha256"]


def test_a_batch_holds_index_image_and_label():
    datamodule = ready()
    table = datamodule.tables["train"]
    batch = datamodule.on_after_batch_transfer(next(iter(datamodule.train_dataloader())), 0)
    assert batch["image"].shape == (128, 1, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert batch["image"].min() == 0.0
    assert batch["image"].max() == 1.0
    assert torch.equal(batch["label"], table.labels[batch["index"]])
    assert torch.equal(batch["image"], table.images[batch["index"]] / 255)


def test_no_validation_means_no_loader():
    assert ready().val_dataloader() == []
    assert len(ready(val_size=50).val_dataloader()) == 1


def test_a_validation_set_that_takes_all_is_refused():
    with pytest.raises(UserError, match="val_size=1437 leaves nothing to train on: digits has 1437"):
        ready(val_size=1437)
