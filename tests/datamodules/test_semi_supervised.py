"""Which examples keep their labels, and what each stream brings in which order, on which rank."""

from types import SimpleNamespace

import pytest
import torch

from datamodules.digits import DigitsDataModule
from datamodules.imagenet import ImageNetDataModule
from datamodules.semi_supervised import StreamBatches, labelled_subset, streams_of
from foundation.errors import UserError
from tests.datamodules import test_imagenet

LABELS = torch.tensor([0, 1, 2] * 20 + [2] * 5)


def subset(num_labels, seed=0, labels=LABELS):
    return labelled_subset(labels, num_labels, 3, seed, "these")


# --- the subset ------------------------------------------------------------------------------------------------


def test_a_subset_is_balanced_and_the_seed_s():
    chosen = subset(12)
    assert torch.bincount(LABELS[chosen]).tolist() == [4, 4, 4]
    assert len(chosen.unique()) == 12
    assert torch.equal(chosen, subset(12))
    assert not torch.equal(chosen, subset(12, seed=1))
    assert set(subset(6).tolist()) < set(chosen.tolist())
    assert len(subset(0)) == 0


@pytest.mark.parametrize(
    ("num_labels", "words"),
    [
        (10, "num_labels=10 cannot be the same number of each of 3 classes: choose a multiple of 3, such as 9"),
        (2, "choose a multiple of 3, such as 3"),
        (63, "asks for 21 examples of each class, and these has 20 of class 0 to train on: choose 60 or less"),
    ],
)
def test_a_number_that_cannot_be_is_told(num_labels, words):
    with pytest.raises(UserError, match=words):
        subset(num_labels)


def test_data_without_labels_is_told():
    with pytest.raises(UserError, match="these has no labels: set datamodule.num_labels=0"):
        labelled_subset(None, 10, None, 0, "these")
    with pytest.raises(UserError, match="num_labels is -1: give 0 or more"):
        DigitsDataModule(batch_size=8, num_labels=-1)


# --- the streams -----------------------------------------------------------------------------------------------


def batches(epoch=0, rank=0, world_size=1, consumed=0, labelled=(3, 5, 8), seed=0):
    found = StreamBatches(
        torch.tensor(labelled, dtype=torch.int64), 41, 4, seed=seed, rank=rank, world_size=world_size,
        consumed=lambda: consumed,
    )  # fmt: skip
    found.set_epoch(epoch)
    return list(found)


def streams(of):
    """What each stream brings in an epoch, in order."""
    return [torch.cat(parts) for parts in zip(*(batch.chunk(3) for batch in of), strict=True)]


def test_an_epoch_is_once_through_all_images_in_two_orders_and_ever_again_through_the_labelled_ones():
    labelled, unlabelled, for_generator = streams(batches())
    assert len(labelled) == len(unlabelled) == len(for_generator) == 40
    for order in (unlabelled, for_generator):
        assert len(order.unique()) == 40
    assert not torch.equal(unlabelled, for_generator)
    rounds = labelled[:39].view(13, 3)
    assert all(set(it.tolist()) == {3, 5, 8} for it in rounds)
    assert len({tuple(it.tolist()) for it in rounds}) > 3
    assert {3, 5, 8} <= set(unlabelled.tolist()) | set(for_generator.tolist())


def test_the_order_is_a_function_of_seed_and_epoch():
    for of in zip(streams(batches()), streams(batches(epoch=1)), streams(batches(seed=1)), strict=True):
        assert not torch.equal(of[0], of[1])
        assert not torch.equal(of[0], of[2])
    assert all(map(torch.equal, batches(epoch=1), batches(epoch=1)))


def test_a_resumed_epoch_goes_on_where_it_stopped():
    assert all(map(torch.equal, batches(consumed=3), batches()[3:]))
    assert len(batches(consumed=3)) == 7


def test_each_rank_has_its_share_of_each_stream():
    whole, ranks = batches(), [batches(rank=rank, world_size=2) for rank in range(2)]
    for together, *shares in zip(whole, *ranks, strict=True):
        parts = zip(together.chunk(3), *(share.chunk(3) for share in shares), strict=True)
        assert all(torch.equal(stream, torch.cat(of)) for stream, *of in parts)


def test_without_labels_there_are_two_streams():
    assert all(len(batch) == 8 for batch in batches(labelled=()))
    parts = streams_of({"index": torch.arange(8), "label": torch.arange(8)}, labelled=False)
    assert {name: it["index"].tolist() for name, it in parts.items()} == {
        "unlabelled": [0, 1, 2, 3], "for_generator": [4, 5, 6, 7]}  # fmt: skip
    assert all("label" not in it for it in parts.values())


# --- in a DataModule ----------------------------------------------------------------------------------------------


def training(datamodule):
    """As a Trainer in the middle of its first epoch would have it."""
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0))))
    datamodule.trainer = SimpleNamespace(
        training=True, global_rank=0, world_size=1, current_epoch=0, fit_loop=loop,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        lightning_module=SimpleNamespace(dtype=torch.float32),
    )  # fmt: skip
    datamodule.setup("fit")
    return datamodule


def test_a_batch_is_a_dict_of_three_and_labels_stay_with_one():
    datamodule = training(DigitsDataModule(batch_size=20, num_labels=30, augment={"pad": 1}))
    table = datamodule.tables["train"]
    known = labelled_subset(table.labels, 30, 10, 0, "digits").tolist()
    given = datamodule.on_after_batch_transfer(next(iter(datamodule.train_dataloader())), 0)
    assert {name: set(part) for name, part in given.items()} == {
        "labelled": {"index", "image", "label"}, "unlabelled": {"index", "image"}, "for_generator": {"index", "image"}}  # fmt: skip
    assert all(part["image"].shape == (20, 1, 8, 8) and part["image"].max() <= 1 for part in given.values())
    assert set(given["labelled"]["index"].tolist()) <= set(known)
    assert torch.equal(given["labelled"]["label"], table.labels[given["labelled"]["index"]])
    assert datamodule.describe()["labels"] == 30


def test_evaluation_has_no_streams():
    datamodule = training(DigitsDataModule(batch_size=20, num_labels=30, val_size=40))
    datamodule.trainer.training = False
    for loader in (datamodule.val_dataloader(), datamodule.test_dataloader()):
        assert set(datamodule.on_after_batch_transfer(next(iter(loader)), 0)) == {"index", "image", "label"}


def test_the_images_of_the_first_batch_are_the_seed_s():
    chosen = [training(DigitsDataModule(batch_size=20, seed=seed)).some_images(50) for seed in (0, 0, 1)]
    assert chosen[0].shape == (50, 1, 8, 8)
    assert 0.9 < chosen[0].max() <= 1
    assert torch.equal(chosen[0], chosen[1])
    assert not torch.equal(chosen[0], chosen[2])
    assert training(DigitsDataModule(batch_size=20)).some_images(2000).shape[0] == 2000  # more than there are


def test_photographs_on_disk_have_streams_too(tmp_path, monkeypatch):
    test_imagenet.write_tiny(tmp_path, monkeypatch)
    datamodule = training(
        ImageNetDataModule(str(tmp_path / "imagenet"), size=16, short_sides=[16, 20], test_short_side=16, batch_size=4,
                           num_labels=len(list((tmp_path / "imagenet" / "train").iterdir())), num_workers=0)
    )  # fmt: skip
    given = datamodule.on_after_batch_transfer(next(iter(datamodule.train_dataloader())), 0)
    assert {name: tuple(part["image"].shape) for name, part in given.items()} == dict.fromkeys(
        ("labelled", "unlabelled", "for_generator"), (4, 3, 16, 16)
    )
    assert datamodule.some_images(3).shape == (3, 3, 16, 16)
    told = datamodule.describe()
    assert (told["labels"], told["label_seed"]) == (datamodule.num_labels, 0)
    assert datamodule.tables["test"][torch.arange(2)]["image"].shape == (2, 3, 16, 16)  # as callbacks look images up
