import json
import os
from dataclasses import astuple
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.mean_average_precision import MeanAveragePrecisionMetric
from datamodules.coco import CocoDataModule
from datamodules.coco_files import clipped
from datamodules.coco_masks import encode_mask
from foundation.errors import UserError
from foundation.protocols import AnnotatesObjects
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import instantiate
from tests.datamodules.test_detection import assert_equal, batches, joined, on_rank

REAL = Path(os.environ.get("DATA_DIR", "data")) / "coco"
needs_real = pytest.mark.skipif(not REAL.exists(), reason="DATA_DIR has no coco")

MISSING = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # COCO's 80 categories lie in 1..90
CATEGORIES = [{"id": it, "name": f"kind {it}", "supercategory": "thing"} for it in range(1, 91) if it not in MISSING]
TRAIN, VAL = 12, 6
COLORS = {1: (230, 40, 40), 18: (40, 200, 40), 90: (40, 40, 230)}


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """12 + 6 photographs of different sizes, every third one upright, with coloured rectangles for objects.

    Image 300 has none, image 310 a crowd alone, image 320 a box without area and one that ends outside.
    """
    folder = data_dir / "coco"
    (folder / "annotations").mkdir(parents=True)
    for split, count, first in (("train2017", TRAIN, 300), ("val2017", VAL, 900)):
        (folder / split).mkdir()
        content: dict[str, Any] = {
            "info": {},
            "licenses": [],
            "images": [],
            "annotations": [],
            "categories": CATEGORIES,
        }
        for number in reversed(range(count)):
            add_image(content, folder / split, first + 10 * number, number)
        if split == "train2017":
            add_oddities(content)
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def add_image(content: dict[str, Any], folder: Path, image: int, number: int) -> None:
    height, width = (64 + number, 48) if number % 3 == 2 else (48, 64 + number)
    pixels = np.full((height, width, 3), 120, dtype=np.uint8)
    for place in range(0 if number == 0 and image < 900 else 1 + number % 2):
        category = [1, 18, 90][(number + place) % 3]
        left, top = 4 + 20 * place, 6 + number
        pixels[top : top + 20, left : left + 16] = COLORS[category]
        annotate(content, image, category, (left, top, 16, 20))
    name = f"{image:012d}.jpg"
    Image.fromarray(pixels).save(folder / name, quality=95, subsampling=0)
    content["images"].append({"id": image, "file_name": name, "height": height, "width": width, "license": 1})


def annotate(content: dict[str, Any], image: int, category: int, box: tuple[float, ...], **more: Any) -> None:
    left, top, width, height = box
    right, bottom = left + width, top + height
    polygon = [left, top, right, top, right, bottom, left, bottom]
    content["annotations"].append({
        "id": 1000 + len(content["annotations"]), "image_id": image, "category_id": category, "bbox": list(box),
        "area": width * height, "segmentation": [polygon], "iscrowd": 0} | more)  # fmt: skip


def add_oddities(content: dict[str, Any]) -> None:
    content["annotations"] = [it for it in content["annotations"] if it["image_id"] != 310]
    # Run lengths go down the columns: 10 without, then 30 with.
    runs = {"size": [48, 65], "counts": [10, 30, 48 * 65 - 40]}
    annotate(content, 310, 1, (0, 10, 1, 30), iscrowd=1, area=30, segmentation=runs)
    annotate(content, 320, 18, (5, 5, 0, 10))
    annotate(content, 320, 90, (30, 50, 40, 30))


@pytest.fixture
def folder(tmp_path):
    write_tiny(tmp_path)
    return tmp_path / "coco"


def ready(folder: Path, **settings: Any) -> CocoDataModule:
    datamodule = CocoDataModule(str(folder), **{"batch_size": 2, "eval_batch_size": 4} | settings)
    datamodule.setup()
    return datamodule


def edit(folder: Path, split: str, change: Any) -> None:
    path = folder / "annotations" / f"instances_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def targets(datamodule: CocoDataModule, loader: Any) -> dict[int, dict[str, torch.Tensor]]:
    """By image id."""
    found = {}
    for batch in loader:
        batch = datamodule.on_after_batch_transfer(batch, 0)
        found |= dict(zip(batch["image_id"].tolist(), batch["target"], strict=True))
    return found


def perfect(datamodule: CocoDataModule, target: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The targets as if they were detected."""
    labels = torch.tensor(datamodule.category_ids)[target["labels"] - 1]
    return {"boxes": target["boxes"], "labels": labels, "scores": torch.ones(len(labels)), "masks": target["masks"]}


def test_splits_and_classes(folder):
    datamodule = ready(folder, val_size=3)
    assert isinstance(datamodule, AnnotatesObjects)
    assert datamodule.num_classes == len(datamodule.class_names) == 80
    assert (datamodule.category_ids[10:13], datamodule.class_names[11]) == ([11, 13, 14], "kind 13")
    tables = datamodule.tables
    assert {split: len(table) for split, table in tables.items()} == {"train": 9, "val": 3, "test": 6}
    assert tables["test"].image_ids.tolist() == list(range(900, 960, 10))
    ids = tables["train"].image_ids.tolist() + tables["val"].image_ids.tolist()
    assert sorted(ids) == list(range(300, 420, 10))
    assert tables["train"].wide.tolist() == [it % 30 != 20 for it in tables["train"].image_ids.tolist()]
    others = [
        ready(folder, val_size=3, **more).tables["val"].image_ids.tolist() for more in ({"seed": 1}, {"split_seed": 1})
    ]
    assert others[0] == tables["val"].image_ids.tolist() != others[1]
    assert ready(folder).val_dataloader() == []
    with pytest.raises(UserError, match=r"val_size=12 leaves nothing to train on: coco has 12 training images here"):
        ready(folder, val_size=12)


def test_the_record_says_what_the_data_is(folder):
    described = ready(folder, val_size=3).describe()
    fingerprint = described.pop("sha256_of_annotations")
    assert described == {"name": "coco", "train": 9, "val": 3, "test": 6, "classes": 80, "train_listed": 12,
                         "train_present": 12, "val_listed": 6, "val_present": 6, "test_split": "val",
                         "split": "val2017, 6 examples"}  # fmt: skip
    assert ready(folder, val_size=3, seed=1).describe()["sha256_of_annotations"] == fingerprint
    edit(folder, "train", lambda content: content["annotations"][0].update(category_id=2))
    assert ready(folder, val_size=3).describe()["sha256_of_annotations"] != fingerprint


def test_targets_are_the_objects_that_are_seen(folder):
    """Boxes and masks lie on the coloured rectangles; the labels are in 1..80."""
    datamodule = ready(folder, masks=True)
    for batch in datamodule.test_dataloader():
        batch = datamodule.on_after_batch_transfer(batch, 0)
        for image, target in zip(batch["image"], batch["target"], strict=True):
            assert len(target["labels"]) > 0
            for (left, top, right, bottom), label, mask in zip(
                target["boxes"].int().tolist(), target["labels"].tolist(), target["masks"], strict=True
            ):
                colour = torch.tensor(COLORS[datamodule.category_ids[label - 1]]) / 255
                inside = image[:, top + 2 : bottom - 2, left + 2 : right - 2]
                assert float((inside - colour[:, None, None]).abs().max()) < 0.1
                expected = torch.zeros(image.shape[1:], dtype=torch.uint8)
                expected[top:bottom, left:right] = 1
                assert torch.equal(mask, expected)
    assert datamodule.category_ids[79] == 90


def test_images_are_the_pixels_on_disk(folder):
    datamodule = ready(folder)
    for batch in datamodule.test_dataloader():
        batch = datamodule.on_after_batch_transfer(batch, 0)
        for number, image in zip(batch["image_id"].tolist(), batch["image"], strict=True):
            expected = np.asarray(Image.open(folder / "val2017" / f"{number:012d}.jpg")).transpose(2, 0, 1)
            assert torch.equal(image, torch.from_numpy(expected.copy()) / 255)


def test_crowds_empty_images_and_boxes_without_area_are_no_targets_and_named(folder, capsys):
    datamodule = ready(folder, masks=True)
    assert capsys.readouterr().err.splitlines()[1:] == [
        "coco: of 12 training images, not trained on as objects: 1 crowd (image 310); 1 box without area (image 320); "
        "2 images without objects (image 300, 310).",
        "coco: of 16 objects, reaching more than a pixel out of their image and cut off there: 1 box (image 320).",
    ]
    found = targets(datamodule, datamodule.train_dataloader())
    assert len(found) == 12
    for empty in (300, 310):
        assert found[empty]["boxes"].shape == (0, 4)
        assert found[empty]["labels"].shape == (0,)
        assert found[empty]["masks"].shape == (0, 48, 64 + (empty - 300) // 10)
    # Image 320 is 66 high and 48 wide: the last box is cut off at both ends, the one without area is gone.
    assert found[320]["boxes"].tolist() == [[4, 8, 20, 28], [30, 50, 48, 66]]
    assert found[320]["labels"].tolist() == [datamodule.category_ids.index(it) + 1 for it in (90, 90)]
    assert int(found[320]["masks"][1].sum()) == 18 * 16


@pytest.mark.parametrize("box", [(5, 5, 0, 3), (5, 5, 3, 1e-5), (67, 5, 3, 3), (-9, 5, 9, 3), (-500, -500, 3, 3)])
def test_boxes_without_area_within_the_image_are_left_out(folder, box, capsys):
    edit(folder, "train", lambda content: annotate(content, 330, 1, box, segmentation=[]))
    datamodule = ready(folder)
    assert "2 boxes without area (image 320, 330)" in capsys.readouterr().err
    assert len(targets(datamodule, datamodule.train_dataloader())[330]["boxes"]) == 2


def test_boxes_are_clipped_to_their_image():
    assert clipped((-2, -3, 10, 10), height=50, width=60) == (0, 0, 8, 7)
    assert clipped((55, 45, 10, 10), height=50, width=60) == (55, 45, 60, 50)
    assert clipped((1.5, 2.25, 10, 10), height=50, width=60) == (1.5, 2.25, 11.5, 12.25)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_perfect_detections_are_measured_as_perfect(folder, stage):
    """The ground truth has category ids with gaps, and in validation a crowd, which is no target."""

    def leave_out_320(content):
        content["annotations"] = [it for it in content["annotations"] if it["image_id"] != 320]

    edit(folder, "train", leave_out_320)
    datamodule = ready(folder, masks=True, val_size=11, split_seed=1)
    truth = datamodule.coco_ground_truth(stage)
    assert {it["iscrowd"] for it in truth["annotations"]} == ({0, 1} if stage == "val" else {0})
    loader = datamodule.val_dataloader() if stage == "val" else datamodule.test_dataloader()
    metric = MeanAveragePrecisionMetric(truth, masks=True)
    for image, target in targets(datamodule, loader).items():
        metric.update(torch.tensor([image]), [perfect(datamodule, target)])
    figures = metric.compute()
    assert figures["map"] == figures["mask_map"] == figures["mar_100"] == figures["mask_mar_100"] == 1


def test_ids_may_begin_with_nought_and_annotations_have_none(folder):
    """The evaluator takes the number 0 for nothing."""
    for split, first in (("train", 300), ("val", 900)):
        edit(folder, split, each("images", lambda it, first=first: {"id": it["id"] - first}))
        edit(folder, split, each("annotations", lambda it, first=first: {"image_id": it["image_id"] - first}))
        edit(folder, split, each("annotations", lambda it: {"category_id": it["category_id"] - 1, "id": None}))
        edit(folder, split, each("categories", lambda it: {"id": it["id"] - 1}))
    datamodule = ready(folder, masks=True)
    assert (datamodule.category_ids[0], datamodule.tables["test"].image_ids.tolist()[0]) == (0, 0)
    metric = MeanAveragePrecisionMetric(datamodule.coco_ground_truth("test"), masks=True)
    for image, target in targets(datamodule, datamodule.test_dataloader()).items():
        metric.update(torch.tensor([image]), [perfect(datamodule, target)])
    figures = metric.compute()
    assert figures["map"] == figures["mask_map"] == figures["mar_100"] == 1


def test_the_ground_truth_is_the_file_s(folder):
    datamodule = ready(folder, test_split="train")
    truth = datamodule.coco_ground_truth("test")
    original = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    assert truth["annotations"] == original["annotations"]
    assert next(it for it in truth["annotations"] if it["iscrowd"])["image_id"] == 310
    assert truth["categories"] == original["categories"]
    assert {it["id"] for it in truth["images"]} == set(range(300, 420, 10))
    assert datamodule.coco_ground_truth("val")["images"] == []


def test_the_test_may_be_of_the_training_images(folder):
    datamodule = ready(folder, test_split="train", val_size=4, flip=True)
    assert datamodule.tables["test"].image_ids.tolist() == datamodule.tables["train"].image_ids.tolist()
    truth = datamodule.coco_ground_truth("test")
    assert {it["id"] for it in truth["images"]} == set(datamodule.tables["train"].image_ids.tolist())
    assert {it["image_id"] for it in truth["annotations"]} <= {it["id"] for it in truth["images"]}
    assert datamodule.describe()["test_split"] == "train"
    assert datamodule.tested_on() == {"name": "coco", "split": "train2017, 8 examples"}
    with pytest.raises(UserError, match=r"datamodule.test_split is test: give train or val"):
        ready(folder, test_split="test")


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_and_workers_change_nothing(folder, world_size):
    settings = {"batch_size": world_size, "flip": True, "masks": True, "group_by_aspect": True}
    whole = batches(ready(folder, num_workers=world_size - 2, **settings), epoch=1)
    ranks = [batches(on_rank(ready(folder, **settings), rank, world_size), epoch=1) for rank in range(world_size)]
    assert_equal([joined(shares) for shares in zip(*ranks, strict=True)], whole)


def test_a_partial_copy_is_used_as_far_as_it_goes(folder, capsys):
    for path in ("train2017/000000000330.jpg", "train2017/000000000340.jpg", "val2017/000000000900.jpg"):
        (folder / path).unlink()
    datamodule = ready(folder)
    assert capsys.readouterr().err.splitlines()[0] == (
        "coco is partial: 10 of 12 listed training images and 5 of 6 listed validation images are here, and the whole "
        "has 118,287 and 5,000."
    )
    assert not {330, 340} & set(datamodule.tables["train"].image_ids.tolist())
    truth = datamodule.coco_ground_truth("test")
    assert {it["id"] for it in truth["images"]} == set(range(910, 960, 10))
    assert not [it for it in truth["annotations"] if it["image_id"] == 900]
    assert len(targets(datamodule, datamodule.test_dataloader())) == 5
    assert {key: datamodule.describe()[key] for key in ("train_listed", "train_present", "val_present")} == {
        "train_listed": 12, "train_present": 10, "val_present": 5}  # fmt: skip


def test_another_set_in_that_layout_is_whole_when_all_its_images_are_there(folder, capsys):
    ready(folder, name="mine")
    assert "partial" not in capsys.readouterr().err
    on_rank(CocoDataModule(str(folder), batch_size=2), 1, 2).setup()  # the other ranks say nothing
    assert capsys.readouterr().err == ""


def test_what_is_missing_or_damaged_is_told_with_where_to_get_it(folder, tmp_path):
    how = r"lay \S+ out as .* COCO 2017 itself is fetched by hand from https://cocodataset.org/#download"
    with pytest.raises(UserError, match=rf"nowhere/annotations/instances_train2017.json is missing: {how}"):
        _ = CocoDataModule(str(tmp_path / "nowhere"), batch_size=2).num_classes
    path = folder / "annotations" / "instances_train2017.json"
    content = path.read_text()
    path.write_text(content[:-5])
    with pytest.raises(UserError, match=r"instances_train2017.json is no whole JSON file \(.* line 1 .*\)\.$"):
        ready(folder)
    path.write_text(content)
    rmtree(folder / "val2017")
    with pytest.raises(UserError, match=rf"val2017 is missing: {how}"):
        ready(folder)
    (folder / "val2017").mkdir()
    with pytest.raises(
        UserError,
        match=r"val2017 has none of the 6 images: \S+val2017.json lists \"000000000950.jpg\", and \S+val2017 holds no other",
    ):
        ready(folder)
    (folder / "val2017" / "950.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"lists \"000000000950.jpg\", and \S+val2017 holds \"950.jpg\"\.$"):
        ready(folder)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_image_that_cannot_be_read_or_does_not_fit_is_named(folder, num_workers):
    path = folder / "val2017" / "000000000910.jpg"
    whole = path.read_bytes()
    for content, reason in (
        (b"damaged", "is no image that PIL reads"),
        (whole[: len(whole) // 2], "image file is truncated .*"),
    ):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match=rf"^\S+{path.name} cannot be read \({reason}\): repair or remove it; none is left"
        ):
            list(ready(folder, num_workers=num_workers).test_dataloader())
    Image.new("RGB", (65, 47)).save(path)
    with pytest.raises(
        UserError, match=rf"^\S+{path.name} has 47 x 65 pixels \(height x width\), and the annotations of"
    ):
        _ = CocoDataModule(str(folder), batch_size=2).num_classes  # before anything is made
    with pytest.raises(
        UserError,
        match=rf"^\S+{path.name} has 47 x 65 pixels \(height x width\), and the annotations of image 910 are for 48 x 65",
    ):
        list(ready(folder, num_workers=num_workers).test_dataloader())


def test_mistakes_are_found_when_the_classes_are_asked_for_before_anything_is_made(folder):
    """launch.parts_check asks for them, of both files."""
    edit(folder, "val", lambda content: annotate(content, 910, 12, (1, 1, 5, 5)))
    with pytest.raises(
        UserError, match=r"instances_val2017.json: annotation \d+ of image 910 has category_id 12, which"
    ):
        _ = CocoDataModule(str(folder), batch_size=2).num_classes
    edit(folder, "val", lambda content: content["annotations"][-1].update(category_id=1, segmentation=[]))
    assert CocoDataModule(str(folder), batch_size=2).num_classes == 80
    with pytest.raises(UserError, match=r"annotation \d+ of image 910 has no segmentation: set datamodule.masks=false"):
        _ = CocoDataModule(str(folder), batch_size=2, masks=True).num_classes


def test_the_test_may_lack_categories_and_has_no_others(folder):
    expected = ready(folder)
    edit(folder, "val", lambda content: content["categories"].pop())
    edit(folder, "val", lambda content: content["categories"][0].update(supercategory="something else"))
    found = ready(folder)
    assert found.class_names == expected.class_names
    assert found.describe() == expected.describe()
    assert found.coco_ground_truth("test")["categories"] == expected.coco_ground_truth("test")["categories"]
    edit(folder, "val", lambda content: content["categories"][0].update(name="another"))
    with pytest.raises(
        UserError, match=r'has category 1, "another", which is "kind 1" in \S+: the two files need the same'
    ):
        ready(folder)
    edit(folder, "val", lambda content: content["categories"][0].update(id=12, name="more"))
    with pytest.raises(
        UserError, match=r'val2017.json has category 12, "more", which is not there in \S+train2017.json'
    ):
        ready(folder)


def each(rows: str, change: Any) -> Any:
    return lambda content: [it.update(change(it)) for it in content[rows]]


@pytest.mark.parametrize(
    "changes",
    [
        [each("images", lambda it: {"id": str(it["id"])}), each("annotations", lambda it: {"image_id": str(it["image_id"])})],
        [each("categories", lambda it: {"id": str(it["id"])}), each("annotations", lambda it: {"category_id": str(it["category_id"])})],
        [each("images", lambda it: {"file_name": f"../train2017/{it['file_name']}"})],
        [each("images", lambda it: {"file_name": f"batch_1\\{it['file_name']}"})],
        [each("images", lambda it: {"height": None, "width": None})],
        [each("annotations", lambda it: {"area": None})],
        [each("annotations", lambda it: {"segmentation": as_text(it)})],
        [each("annotations", lambda it: {"note": "x", "score": 1.0}), lambda content: content.update(made_by="a tool")],
    ],
)  # fmt: skip
def test_what_is_read_otherwise_is_the_same_data(folder, changes):
    """In tables, pixels, masks and the ground truth that it is measured by."""
    before = ready(folder, masks=True, test_split="train")
    for change in changes:
        edit(folder, "train", change)
    after = ready(folder, masks=True, test_split="train")
    assert after.describe() == before.describe()
    for position in range(12):
        for one, other in zip(
            astuple(before.tables["test"].example(position)),
            astuple(after.tables["test"].example(position)),
            strict=True,
        ):
            assert torch.equal(one, other)
    found = [
        {key: it[key] for key in ("id", "image_id", "category_id", "bbox", "area", "iscrowd")}
        for it in after.coco_ground_truth("test")["annotations"]
    ]
    assert found == [{key: it[key] for key in found[0]} for it in before.coco_ground_truth("test")["annotations"]]


def as_text(annotation: dict[str, Any]) -> dict[str, Any]:
    """Its segmentation as run lengths in a compressed text."""
    number = annotation["image_id"] // 10 - 30
    size = [64 + number, 48] if number % 3 == 2 else [48, 64 + number]
    return {"size": size, "counts": encode_mask(annotation["segmentation"], *size).decode()}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_objects_is_refused(folder, split):
    edit(folder, split, lambda content: [it.update(iscrowd=1) for it in content["annotations"]])
    with pytest.raises(
        UserError,
        match={
            "train": r"None of the 12 training images in \S+ has an object to train on: 18 crowds",
            "val": r"none of the 6 images of test has an object, so that nothing could be measured: annotate some",
        }[split],
    ):
        ready(folder)


def test_validation_without_objects_is_refused(folder):
    edit(
        folder,
        "train",
        lambda content: [it.update(iscrowd=int(it["image_id"] != 330)) for it in content["annotations"]],
    )
    with pytest.raises(UserError, match=r"none of the 1 images of val has .*: choose another datamodule.val_size or"):
        ready(folder, val_size=1)


def test_what_is_read_otherwise_than_it_is_given_is_said(folder, capsys):
    """Images that nobody lists, annotations of images that are not listed, boxes beyond the border."""
    for name in ("a.jpg", "b.JPG", "notes.txt", ".hidden.jpg"):
        (folder / "train2017" / name).write_bytes(b"")
    edit(folder, "val", lambda content: [annotate(content, 77, 1, (1, 1, 5, 5)) for _ in range(3)])
    edit(folder, "train", lambda content: [it["bbox"].__setitem__(2, 100) for it in content["annotations"]])
    datamodule = ready(folder, name="mine")
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        f'mine: 2 images are there and not listed: {folder}/train2017 holds "a.jpg".',
        f"mine: 3 annotations of {folder}/annotations/instances_val2017.json are of images that it does not list, and "
        "are left out.",
    ]
    assert said[-1].startswith(
        "mine: of 17 objects, reaching more than a pixel out of their image and cut off there: 17"
    )
    assert said[-1].endswith("Is bbox [left, top, width, height]?")
    assert len(datamodule.coco_ground_truth("test")["annotations"]) == 9


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (3, True), (6, True), (8, True)])
def test_a_photograph_is_turned_where_its_annotations_are_of_the_turned_one(folder, orientation, turned):
    """Sizes of both ways are tried for those that turn by 90 degrees."""
    path = folder / "val2017" / "000000000910.jpg"
    stored = np.asarray(Image.open(path))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, quality=100, subsampling=0, exif=exif)
    upright = np.rot90(stored, {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    for height, width in {stored.shape[:2], upright.shape[:2]}:
        edit(folder, "val", lambda content, size=(height, width): size_image(content, 910, *size))
        expected = upright if turned and (height, width) == upright.shape[:2] else stored
        position = ready(folder).tables["test"].image_ids.tolist().index(910)
        found = ready(folder).tables["test"].example(position).image
        assert float((found.float() - torch.tensor(expected.transpose(2, 0, 1).copy()).float()).abs().mean()) < 3


def size_image(content: dict[str, Any], image: int, height: int, width: int) -> None:
    next(it for it in content["images"] if it["id"] == image).update(height=height, width=width)


def test_the_config_composes(folder, tmp_path):
    config = compose_job("train", ["datamodule=coco", f"paths.data_dir={tmp_path}", "datamodule.num_workers=0"])
    check_config(config, TrainConfig)
    datamodule = instantiate(config["datamodule"])
    datamodule.setup()
    assert len(datamodule.tables["train"]) == 12
    assert (datamodule.flip, datamodule.group_by_aspect, datamodule.test_split) == (True, True, "val")


@needs_real
def test_real_images(capsys):
    datamodule = CocoDataModule(str(REAL), batch_size=8, test_split="train", masks=True, group_by_aspect=True)
    datamodule.setup()
    assert (
        "8 crowds (image 87038, 129648, 159269, 174375, 204805, ...); 2 images without objects"
        in capsys.readouterr().err
    )
    truth = datamodule.coco_ground_truth("test")
    metric = MeanAveragePrecisionMetric(truth, masks=True)
    found = targets(datamodule, datamodule.test_dataloader())
    for image, target in found.items():
        metric.update(torch.tensor([image]), [perfect(datamodule, target)])
    figures = metric.compute()
    assert figures["map"] == figures["mar_100"] == figures["mask_map"] == figures["mask_mar_100"] == 1
    # A mask has the area that the file gives its polygons, but for what rounding to pixels does.
    kept = [it for it in truth["annotations"] if not it["iscrowd"]]
    areas = [float(mask.sum()) for _, target in sorted(found.items()) for mask in target["masks"]]
    assert len(areas) == len(kept) == 581 - 8
    expected = [it["area"] for it in sorted(kept, key=lambda it: it["image_id"])]
    assert all(abs(area - known) < 0.1 * known for area, known in zip(areas, expected, strict=True) if known > 1000)
