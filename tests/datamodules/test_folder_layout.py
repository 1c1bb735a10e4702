"""What folders mean: every near-name of a split, system folders, classes, and what is said of them."""

import os
from pathlib import Path

import pytest

from datamodules.folder_layout import Layout, split_of
from datamodules.listing import listing_of
from foundation.errors import UserError


def touch(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def layout(root: Path, *names: str) -> Layout:
    return Layout(root, listing_of(touch(root, *names)))


def both(*splits: str) -> list[str]:
    return [f"{split}/{name}/{number}.png" for split in splits for name in ("cat", "dog") for number in range(2)]


@pytest.mark.parametrize(
    ("split", "names"),
    [
        (
            "train",
            ["train", "Train", "TRAINING", "training_set", "train-images", "trainset", "train2017", "Train Data"],
        ),
        ("val", ["val", "valid", "Validation", "validation_set", "dev", "eval", "evaluation", "val2017", "dev_set"]),
        ("test", ["test", "Testing", "test_images", "testset", "test 2014", "test_data"]),
        (
            None,
            ["trains", "trainer", "cat", "invalid", "contest", "tests1", "set", "data", "images", "attest", "2017", ""],
        ),
    ],
)
def test_names_of_splits(split, names):
    assert {name: split_of(name) for name in names} == dict.fromkeys(names, split)


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing"), ("train_set", "test_set")])
@pytest.mark.parametrize("val", [None, "val", "validation", "valid", "dev"])
def test_near_names_of_splits_are_understood(tmp_path, names, val):
    found = layout(tmp_path, *both(*names, *filter(None, [val])))
    assert {split: len(it) for split, it in found.splits.items()} == {"train": 4, "test": 4} | (
        {"val": 4} if val else {}
    )
    assert found.class_names == ["cat", "dog"]
    for split, positions in found.splits.items():
        assert {split_of(found.listing.images[it].partition("/")[0]) for it in positions} == {split}


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (both("train", "validation"), "holds train and validation alone: splits are train, test and"),
        (both("Train"), "holds Train alone"),
        (both("training", "dev"), "holds training and dev alone"),
        (
            both("train", "test", "testing"),
            "holds train and test and testing, of which two mean the same split: rename",
        ),
        (both("train", "Train", "test"), "holds Train and train and test, of which two mean the same"),
        ([*both("train", "val"), "extra/1.png"], "holds train and val, and beside them extra: move that away"),
        (
            [*both("train"), "extra/1.png"],
            "holds train, which is sorted into cat, dog as a split is, and beside it extra",
        ),
        (
            both("data/train", "data/validation"),
            "data holds train and validation, which are splits: set datamodule.folder",
        ),
        ([*both("bottle/train", "bottle/test"), "cable/1.png"], "bottle holds test and train, which are splits"),
        ([*both("train"), "test/fox/1.png"], "val or test holds classes that train does not: fox"),
        ([*both("train", "test"), "test/1.png"], "both in folders of classes and outside of them, such as test/1.png"),
    ],
)
def test_splits_never_become_classes(tmp_path, files, sentence):
    with pytest.raises(UserError, match=sentence):
        layout(tmp_path, *files)


@pytest.mark.parametrize(
    "tops", [("car", "train"), ("valid", "invalid"), ("dev", "prod"), ("test1", "test2"), ("testing_a", "control")]
)
def test_classes_may_be_called_like_a_split(tmp_path, tops):
    found = layout(tmp_path, *[f"{top}/{number}.png" for top in tops for number in range(2)])
    assert (found.splits, found.class_names) == ({}, sorted(tops))


def test_system_folders_are_no_classes_and_what_is_left_out_is_said(tmp_path):
    found = layout(
        tmp_path, "cat/1.png", "cat/2.JFIF", "dog/1.avif", "dog/3.heic", "dog/4.HEIC", "notes.txt", "README", ".DS_Store",
        "cat/._1.png", "cat/Thumbs.db", "@eaDir/1.png", "$RECYCLE.BIN/1.png", "cat/lost+found/1.png", "__MACOSX/1.png",
        ".git/1.png", ".ipynb_checkpoints/1.png", "System Volume Information/1.png",
    )  # fmt: skip
    (tmp_path / "bird" / "nest").mkdir(parents=True)
    (tmp_path / "dog" / "inner").mkdir()
    found = Layout(tmp_path, listing_of(tmp_path))
    assert found.listing.images == ["cat/1.png", "cat/2.JFIF", "dog/1.avif"]
    assert found.lines() == [
        "2 classes; 3 images (cat 2, dog 1).",
        "left out: files that are not read as images (2 .heic, 1 .txt, 1 hidden, 1 without an ending); folders of the "
        "system ($RECYCLE.BIN, .git, .ipynb_checkpoints, @eaDir, System Volume Information, __MACOSX, lost+found); "
        "folders without images (bird, dog/inner).",
    ]


def test_a_link_to_a_folder_that_is_there_already_is_said(tmp_path):
    touch(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "kitten").symlink_to(tmp_path / "cat", target_is_directory=True)
    (tmp_path / "cat" / "round").symlink_to(tmp_path, target_is_directory=True)
    assert Layout(tmp_path, listing_of(tmp_path)).lines() == [
        "2 classes; 2 images (cat 1, dog 1).",
        "left out: links to folders that are there already (cat/round, kitten).",
    ]


def test_classes_are_said_with_their_counts_in_each_split(tmp_path):
    lines = layout(tmp_path, *both("train"), "train/fox/1.png", "test/cat/1.png").lines()
    assert lines == ["3 classes; train 5 images (cat 2, dog 2, fox 1); test 1 images (cat 1, dog 0, fox 0)."]


def test_of_many_classes_ten_are_named(tmp_path):
    (line,) = layout(tmp_path, *[f"{number:02d}/1.png" for number in range(12)]).lines()
    assert line == f"12 classes; 12 images ({', '.join(f'{number:02d} 1' for number in range(10))}, ...)."


@pytest.mark.parametrize(
    ("files", "why"),
    [
        (["1.png", "2.png"], "none of the images lies in a folder"),
        (["cat/1.png", "cat/2.png"], "all images lie in one folder, cat"),
        (["train/cat/1.png", "test/cat/2.png"], "all images lie in one folder, cat"),
        (["train/1.png", "test/2.png"], "none of the images lies in a folder"),
    ],
)
def test_why_there_are_no_labels(tmp_path, files, why):
    found = layout(tmp_path, *files)
    assert found.lack_of_labels == why
    assert (found.class_names, set(found.classes)) == ([], {None})
    assert found.lines()[0].startswith(f"no labels, since {why}; ")


def test_a_class_without_images_is_named_where_one_is_left(tmp_path):
    (tmp_path / "dog").mkdir()
    assert (
        layout(tmp_path, "cat/1.png").lack_of_labels
        == "all images lie in one folder, cat (folders without images: dog)"
    )


def test_letters_composed_in_two_ways_are_one_class(tmp_path):
    found = layout(tmp_path, "train/caf\u00e9/1.png", "train/b/1.png", "test/cafe\u0301/2.png")
    assert found.class_names == ["b", "caf\u00e9"]
    assert sorted(it for it in found.classes if it) == ["b", "caf\u00e9", "caf\u00e9"]


def test_a_folder_that_cannot_be_listed_is_named_and_not_passed_over(tmp_path, monkeypatch):
    touch(tmp_path, "cat/1.png", "dog/1.png")
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"dog cannot be listed \(Permission denied\): give a folder that you may read"):
        listing_of(tmp_path)
