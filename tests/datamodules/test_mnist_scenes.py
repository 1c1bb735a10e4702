import pytest
import torch

from datamodules.mnist import MNISTDataModule
from datamodules.mnist_scenes import ClutteredDigits, Parts, TwoDigits, compose
from foundation.errors import UserError
from tests.datamodules.test_mnist import write_tiny as write_mnist


def write_tiny(data_dir, monkeypatch) -> None:
    write_mnist(data_dir, monkeypatch)


def ready(kind, folder, monkeypatch, **settings):
    if not (folder / "MNIST").exists():
        write_tiny(folder, monkeypatch)
    datamodule = kind(str(folder), batch_size=8, **settings)
    datamodule.setup()
    return datamodule


def test_parts_are_cut_out_laid_down_added_and_clipped():
    images = torch.arange(2 * 9, dtype=torch.uint8).view(2, 1, 3, 3) * 10
    # Of image 1 its lower right square at (0, 1), of image 0 its upper left one there and at (2, 0).
    parts = Parts(2, torch.tensor([[[1, 1, 1, 0, 1], [0, 0, 0, 0, 1], [0, 0, 0, 2, 0]]], dtype=torch.int32))
    expected = [[0, 130, 150, 0], [0, 190, 210, 0], [0, 10, 0, 0], [30, 40, 0, 0]]
    assert compose(images, [parts], 4).tolist() == [[expected]]
    bright = compose(images + 60, [parts], 4)
    assert int(bright.max()) == 255  # 60 + 160 + 60 + 30 is more


def test_two_digits_lie_where_their_layout_says(tmp_path, monkeypatch):
    datamodule = ready(TwoDigits, tmp_path, monkeypatch, size=60)
    table, digits = datamodule.tables["train"], MNISTDataModule(str(tmp_path), batch_size=8)
    digits.setup()
    images = digits.tables["train"].images
    batch = table[torch.tensor([5, 2])]
    assert set(batch) == {"index", "image"}
    assert batch["image"].shape == (2, 1, 60, 60)
    for scene, number in zip(batch["image"], (5, 2), strict=True):
        expected = torch.zeros(60, 60, dtype=torch.int64)
        places = table.groups[0].places[number].tolist()
        assert places[0][0] == number
        for digit, _, _, top, left in places:
            expected[top : top + 28, left : left + 28] += images[digit, 0]
        assert torch.equal(scene[0].long(), expected.clamp(max=255))


def test_scenes_that_are_taken_out_keep_their_labels_and_are_told_by_their_fingerprint(tmp_path, monkeypatch):
    datamodule = ready(ClutteredDigits, tmp_path, monkeypatch, size=100, per_digit=3)
    table, before = datamodule.tables["train"], datamodule.describe()
    assert table.labels is not None
    some = torch.tensor([37, 5, 62])
    taken = table.take(some)
    for name in ("image", "label"):
        assert torch.equal(taken[torch.arange(3)][name], table[some][name])
    assert taken[torch.arange(3)]["label"].tolist() == table.labels[some % len(table.labels)].tolist()
    datamodule.replace("train", table.take(torch.arange(len(table)).flip(0)))
    now = datamodule.describe()
    assert now["train"] == before["train"]
    assert now["sha256"] != before["sha256"]


def test_a_cluttered_scene_holds_its_digit_and_has_its_label(tmp_path, monkeypatch):
    datamodule = ready(ClutteredDigits, tmp_path, monkeypatch, size=100, per_digit=3, val_size=10)
    tables = datamodule.tables
    assert {split: len(table) for split, table in tables.items()} == {"train": 90, "val": 10, "test": 12}
    batch = tables["train"][torch.tensor([7, 37, 67])]  # of one digit
    assert len(batch["label"].unique()) == 1
    for scene, number in zip(batch["image"], (7, 37, 67), strict=True):
        _, _, _, top, left = tables["train"].groups[0].places[number, 0].tolist()
        assert bool((scene[0, top : top + 28, left : left + 28] >= tables["train"].images[7, 0]).all())
    assert not torch.equal(batch["image"][0], batch["image"][1])
    pieces = tables["train"].groups[1].places
    assert pieces.shape == (90, 8, 5)
    assert (int(pieces[..., 1:3].max()), int(pieces[..., 3:].max())) == (20, 92)


def test_scenes_are_a_function_of_their_own_seed_and_number(tmp_path, monkeypatch):
    positions = torch.arange(12)
    made = {
        settings: ready(TwoDigits, tmp_path, monkeypatch, size=60, **dict(settings)).tables["test"][positions]["image"]
        for settings in ((), (("seed", 1),), (("val_size", 5),), (("split_seed", 1),))
    }
    first, by_seed, by_val_size, by_split_seed = made.values()
    assert torch.equal(first, by_seed)
    assert torch.equal(first, by_val_size)
    assert not torch.equal(first, by_split_seed)
    table = ready(TwoDigits, tmp_path, monkeypatch, size=60).tables["test"]
    assert torch.equal(table[torch.tensor([7])]["image"], first[7:8])


def test_the_record_says_how_scenes_were_made(tmp_path, monkeypatch):
    described = ready(ClutteredDigits, tmp_path, monkeypatch, size=60, split_seed=3).describe()
    assert (described["name"], described["size"], described["scenes_seed"]) == ("cluttered", 60, 3)
    assert described["train"] == 40
    fewer = ready(ClutteredDigits, tmp_path, monkeypatch, size=60, split_seed=3, pieces=2).describe()
    assert {key for key in described if described[key] != fewer[key]} == {"pieces"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 27}, "size is 27: give a digit's 28 pixels or more"),
        ({"per_digit": 0}, "per_digit is 0: give 1 or more"),
        ({"pieces": -1}, "pieces is -1: give 0 or more"),
        ({"piece_size": 29}, "piece_size is 29: give 1 to 28 pixels"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ClutteredDigits("nowhere", **{"size": 60, "batch_size": 8} | settings)
