from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from callbacks.mean_average_precision import MeanAveragePrecisionMetric
from datamodules.digit_scenes import Scenes
from datamodules.proposals import ProposedSplit, write_proposals
from datamodules.shapes import SceneTable, ShapesDataModule
from foundation.errors import UserError
from foundation.protocols import AnnotatesObjects
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import instantiate
from tests.datamodules.test_detection import assert_equal, batches, joined, on_rank


def write_tiny(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set needs no file; those who look at proposals find some for 8 training and 4 test scenes of 32 pixels."""
    write_proposals(folder / "proposals.safetensors", {"train": proposed(8), "test": proposed(4)})


def proposed(images: int, side: int = 32, count: int = 6) -> ProposedSplit:
    generator = torch.Generator().manual_seed(images)
    corners = torch.rand(images * count, 2, generator=generator) * side / 2
    boxes = torch.cat([corners, corners + 4 + torch.rand(images * count, 2, generator=generator) * (side / 2 - 4)], 1)
    scores = torch.linspace(1, 0, count).repeat(images)
    sizes = torch.full((images, 2), side)
    return ProposedSplit(torch.arange(images) + 1, sizes, torch.full((images,), count), boxes, scores)


def ready(**settings: Any) -> ShapesDataModule:
    datamodule = ShapesDataModule(
        **{"batch_size": 6, "train_size": 36, "test_size": 20, "eval_batch_size": 8} | settings
    )
    datamodule.setup()
    return datamodule


def scenes(datamodule: ShapesDataModule, split: str = "train") -> Scenes:
    table = datamodule.tables[split]
    assert isinstance(table, SceneTable)
    return table.scenes


def test_scenes_are_what_was_asked_for():
    datamodule = ready(size=96, most_digits=4, digit_sizes=[12, 40], masks=True)
    counts, heights, labels = [], [], []
    for position in range(36):
        example = datamodule.tables["train"].example(position)
        assert (example.image.shape, example.image.dtype) == ((3, 96, 96), torch.uint8)
        boxes, masks = example.boxes, example.masks
        assert masks is not None
        assert int(masks.sum(0).max()) == 1  # a pixel's ink is of one digit
        for (left, top, right, bottom), mask in zip(boxes.int().tolist(), masks, strict=True):
            rows, columns = mask.nonzero().unbind(1)
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (left, top, right, bottom)
        counts.append(len(boxes))
        heights += (boxes[:, 3] - boxes[:, 1]).tolist()
        labels += example.labels.tolist()
    assert set(counts) == {1, 2, 3, 4}
    assert (min(labels), max(labels)) == (1, 10)
    assert 8 < min(heights) < 18
    assert 34 < max(heights) < 45


def test_ink_stands_out_from_the_ground_around_it():
    """In brightness: the mean of the ink against that of the box's other pixels."""
    table, contrasts = ready(masks=True).tables["train"], []
    for position in range(36):
        example = table.example(position)
        grey = example.image.float().mean(0) / 255
        for (left, top, right, bottom), mask in zip(example.boxes.int().tolist(), example.masks, strict=True):  # type: ignore
            window, ink = grey[top:bottom, left:right], mask[top:bottom, left:right].bool()
            if (~ink).sum() > 50:
                contrasts.append(float((window[ink].mean() - window[~ink].mean()).abs()))
    assert min(contrasts) > 0.05
    assert np.mean(contrasts) > 0.2


def test_a_scene_is_a_function_of_its_own_seed_and_number():
    first = ready().tables["test"].example(7)
    for same in ({"seed": 1}, {"val_size": 5}, {"test_size": 8}, {"train_size": 9}, {"masks": True}):
        other = ready(**same).tables["test"].example(7)
        assert torch.equal(first.image, other.image)
        assert torch.equal(first.boxes, other.boxes)
    for different in (
        ready(split_seed=1).tables["test"].example(7),
        ready().tables["train"].example(7),
        ready().tables["test"].example(8),
    ):
        assert not torch.equal(first.image, different.image)


def test_each_split_has_writings_of_its_own():
    datamodule = ready(val_size=10)
    glyphs = {split: {it.tobytes() for it in scenes(datamodule, split).glyphs} for split in ("train", "val", "test")}
    assert [len(scenes(datamodule, split).glyphs) for split in glyphs] == [1257, 180, 360]
    assert not glyphs["train"] & glyphs["test"]
    assert not glyphs["val"] & (glyphs["train"] | glyphs["test"])
    assert {split: len(table) for split, table in datamodule.tables.items()} == {"train": 36, "val": 10, "test": 20}


@pytest.mark.parametrize("stage", ["val", "test"])
def test_perfect_detections_are_measured_as_perfect(stage):
    datamodule = ready(masks=True, val_size=20)
    assert isinstance(datamodule, AnnotatesObjects)
    truth = datamodule.coco_ground_truth(stage)
    assert truth is datamodule.coco_ground_truth(stage)
    metric = MeanAveragePrecisionMetric(truth, masks=True)
    loader = datamodule.val_dataloader() if stage == "val" else datamodule.test_dataloader()
    areas = []
    for batch in loader:
        batch = datamodule.on_after_batch_transfer(batch, 0)
        assert batch["image_id"].tolist() == (batch["index"] + 1).tolist()
        for image, target in zip(batch["image_id"], batch["target"], strict=True):
            labels = torch.tensor(datamodule.category_ids)[target["labels"] - 1]
            found = {
                "boxes": target["boxes"],
                "labels": labels,
                "scores": torch.ones(len(labels)),
                "masks": target["masks"],
            }
            metric.update(image[None], [found])
            areas += [int(mask.sum()) for mask in target["masks"]]
    figures = metric.compute()
    assert figures["map"] == figures["mask_map"] == figures["mar_100"] == figures["mask_mar_100"] == 1
    assert [it["area"] for it in truth["annotations"]] == areas
    assert "segmentation" not in ready().coco_ground_truth("test")["annotations"][0]


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_and_workers_change_nothing(world_size):
    settings = {"masks": True, "train_size": 12}
    whole = batches(ready(num_workers=1, **settings), epoch=1)
    ranks = [batches(on_rank(ready(**settings), rank, world_size), epoch=1) for rank in range(world_size)]
    assert_equal([joined(shares) for shares in zip(*ranks, strict=True)], whole)


def test_goes_on_after_consumed_batches():
    whole = batches(ready(), epoch=2)
    assert_equal(batches(on_rank(ready(), 0, 1, consumed=4), epoch=2), whole[4:])


def test_the_record_says_how_scenes_were_made():
    described = ready(split_seed=3, most_digits=5).describe()
    assert described.pop("sha256") != ready().describe()["sha256"]
    assert described == {"name": "shapes", "train": 36, "val": 0, "test": 20, "size": 128, "most_digits": 5,
                         "digit_sizes": [16, 64], "scenes_seed": 3, "split": "test"}  # fmt: skip


def test_the_config_composes():
    config = compose_job("train", ["datamodule=shapes", "datamodule.val_size=7"])
    check_config(config, TrainConfig)
    datamodule = instantiate(config["datamodule"])
    datamodule.setup()
    assert {split: len(table) for split, table in datamodule.tables.items()} == {
        "train": 20_000,
        "val": 7,
        "test": 1_000,
    }
    assert datamodule.num_classes == 10


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"most_digits": 0}, "datamodule.most_digits is 0: give 1 or more"),
        ({"train_size": 0}, "datamodule.train_size is 0: give"),
        ({"test_size": 0}, "datamodule.test_size is 0: give"),
        ({"digit_sizes": [7, 64]}, r"datamodule.digit_sizes is \[7, 64\]: give two numbers of pixels, .* of 8 or more"),
        ({"digit_sizes": [16, 116]}, r"at most nine tenths of datamodule.size=128"),
        ({"digit_sizes": [64, 16]}, r"digit_sizes is \[64, 16\]"),
        ({"digit_sizes": [16]}, r"digit_sizes is \[16\]"),
        ({"flip": True}, "datamodule.flip would mirror digits"),
        ({"group_by_aspect": True}, "datamodule.group_by_aspect has no effect"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        ready(**settings)
