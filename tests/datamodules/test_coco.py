import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.mean_average_precision import MeanAveragePrecisionMetric
from datamodules.coco import CocoDataModule
from datamodules.coco_files import clipped
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
        "2 images without objects (image 300, 310)."
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


@pytest.mark.parametrize(
    "box", [(5, 5, 0, 3), (5, 5, 3, 1e-5), (5, 5, 3, -1), (67, 5, 3, 3), (-9, 5, 9, 3), (5, 5, float("nan"), 3)]
)
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
    how = r"fetch COCO by hand from https://cocodataset.org/#download \(2017 Train images"
    with pytest.raises(UserError, match=rf"nowhere/annotations/instances_val2017.json is missing: {how}"):
        _ = CocoDataModule(str(tmp_path / "nowhere"), batch_size=2).num_classes
    path = folder / "annotations" / "instances_train2017.json"
    content = path.read_text()
    path.write_text(content[:-5])
    with pytest.raises(
        UserError, match=r"instances_train2017.json is no whole file of COCO's annotations \(.*\): fetch it again"
    ):
        ready(folder)
    path.write_text(json.dumps({"images": []}))
    with pytest.raises(
        UserError, match=r"instances_train2017.json is no whole file of COCO's annotations \('annotations'\)"
    ):
        ready(folder)
    path.write_text(content)
    for image in (folder / "val2017").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=rf"val2017 has none of the 6 images: {how}"):
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
        UserError,
        match=rf"^\S+{path.name} has 47 x 65 pixels \(height x width\), and the annotations of image 910 are for 48 x 65",
    ):
        list(ready(folder, num_workers=num_workers).test_dataloader())


def test_annotations_that_make_no_sense_are_named(folder):
    edit(folder, "train", lambda content: annotate(content, 330, 12, (1, 1, 5, 5)))
    with pytest.raises(UserError, match=r"Annotation \d+ of image 330 is of category 12, which its file does not list"):
        ready(folder)
    edit(folder, "train", lambda content: content["annotations"][-1].update(category_id=1, segmentation=[]))
    ready(folder)
    with pytest.raises(UserError, match=r"Annotation \d+ of image 330 has no segmentation: set datamodule.masks=false"):
        ready(folder, masks=True)
    edit(folder, "train", lambda content: content["categories"].pop())
    with pytest.raises(UserError, match=r"The two files of \S+/annotations have different categories"):
        ready(folder)


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
