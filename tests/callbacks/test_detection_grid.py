"""Which boxes are drawn, in which colours and where."""

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

from callbacks.detection_grid import COLORS, MOST_BOXES, OPACITY, DetectionGrid, annotated, likeliest, save_detections
from callbacks.instruments.coco_evaluation import encode
from foundation.errors import UserError
from foundation.protocols import declared_metrics
from tests.callbacks.detections_on_ranks import Parrot, Scenes, scenes, trainer_with

NAMES = {3: "car", 90: "toothbrush of a long name"}


def test_the_likeliest_are_drawn_the_best_on_top():
    found = {
        "boxes": torch.tensor([[0.0, 0, 10, 20], [5, 5, 10, 10], [1, 1, 2, 2], [0, 0, 1, 1]]),
        "scores": torch.tensor([0.5, 0.9, 0.4, 0.8]),
        "labels": torch.tensor([3, 90, 3, 91]),  # 91 is no category
    }
    frames = likeliest(found, NAMES, min_score=0.5)
    assert [it.caption for it in frames] == ["car 0.50", "toothbr…ng name 0.90"]
    assert frames[1].box == (5, 5, 5, 5)
    many = {"boxes": torch.rand(50, 4), "scores": torch.linspace(0.6, 1, 50), "labels": torch.full((50,), 3)}
    assert [it.caption for it in likeliest(many, NAMES, 0.5)][-1] == "car 1.00"
    assert len(likeliest(many, NAMES, 0.5)) == MOST_BOXES


def test_annotated_objects_are_those_of_the_image_the_small_ones_on_top():
    annotations = [
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5]},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 6, 6]},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 9, 9], "iscrowd": 1},
    ]
    frames = annotated(annotations, 1, NAMES)
    assert [(it.caption, it.crowd, it.box[2]) for it in frames] == [("car (crowd)", True, 9), ("car", False, 5)]
    annotations[2]["difficult"] = 1
    assert annotated(annotations, 1, NAMES)[0].caption == "car (difficult)"


def test_boxes_are_drawn_where_they_are_on_both_sides(tmp_path):
    """On a black image of half the size of the one that the boxes are in."""
    truth = {
        "images": [{"id": 7, "height": 200, "width": 200}],
        "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "brush"}],
        "annotations": [{"image_id": 7, "category_id": 90, "bbox": [20, 40, 60, 120]}],
    }
    found = {"boxes": torch.tensor([[20.0, 40, 80, 160]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([3])}
    save_detections([(7, torch.zeros(3, 100, 100), found)], truth, 0.5, tmp_path / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")) / 255
    halves = np.array_split(picture, 2, axis=1)
    for half, color in zip(halves, (COLORS[1], COLORS[0]), strict=True):
        ground = np.argwhere((half == 0).all(axis=2))
        (top, left), (bottom, right) = ground.min(axis=0), ground.max(axis=0)
        drawn = np.argwhere(np.abs(half - to_rgb(color)).max(axis=2) < 0.02)
        # The lower right corner of the box, by the side of the image.
        assert (drawn[:, 0].max() - top) / (bottom - top) == pytest.approx(160 / 200, abs=0.02)
        assert (drawn[:, 1].max() - left) / (right - left) == pytest.approx(80 / 200, abs=0.02)


def test_masks_are_drawn_where_they_are_on_both_sides(tmp_path):
    """As polygons, run lengths or booleans; the detected one as COCO's tools encode it, too."""
    truth = {
        "images": [{"id": 7, "height": 40, "width": 40}],
        "categories": [{"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 40], "segmentation": [[0, 20, 40, 20, 40, 40, 0, 40]]}
        ],
    }
    mask = torch.zeros(1, 40, 40, dtype=torch.bool)
    mask[:, 20:] = True
    found = {"boxes": torch.tensor([[0.0, 0, 40, 40]]), "scores": torch.tensor([0.9]), "labels": torch.tensor([3])}
    for masks in (mask, encode(mask)):
        save_detections([(7, torch.zeros(3, 40, 40), found | {"masks": masks})], truth, 0.5, tmp_path / "grid.png")
        picture = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")) / 255
        tint = np.array(to_rgb(COLORS[0])) * OPACITY  # on black
        for half in np.array_split(picture, 2, axis=1):
            column = half[:, int(0.7 * half.shape[1])]  # beside title and caption
            black, tinted = (np.flatnonzero(np.abs(column - it).max(axis=1) < 0.02) for it in (0, tint))
            tinted = tinted[tinted > np.median(black)]  # the outline fades into the ground
            assert len(black) > 100
            assert len(tinted) / len(black) == pytest.approx(1, abs=0.1)
            assert tinted.min() > np.percentile(black, 95)


def test_pictures_of_the_first_images_at_validation_and_test(tmp_path):
    truth, detections = scenes(7)
    callback = DetectionGrid(str(tmp_path), images=2)
    trainer = trainer_with(callback)
    trainer.validate(Parrot(detections), Scenes(truth), verbose=False)
    trainer.test(Parrot(detections), Scenes(truth), verbose=False)
    assert [image for image, _, _ in callback.seen] == [it["id"] for it in truth["images"][:2]]
    assert sorted(it.name for it in tmp_path.iterdir()) == ["test_detections.png", "val_detections-000000.png"]
    assert declared_metrics(Parrot([]), [callback]) == {}


def test_a_picture_of_training_images_is_called_no_test(tmp_path):
    truth, detections = scenes(3)
    trainer, datamodule = trainer_with(DetectionGrid(str(tmp_path), images=2)), Scenes(truth)
    datamodule.tests_on_training_data = True  # type: ignore
    trainer.test(Parrot(detections), datamodule, verbose=False)
    assert [it.name for it in tmp_path.iterdir()] == ["train_set_detections.png"]


def test_wrong_values_are_refused(tmp_path):
    with pytest.raises(UserError, match="detection_grid.images is 0: give 1 or more"):
        DetectionGrid(str(tmp_path), images=0)
    with pytest.raises(UserError, match=r"detection_grid.min_score is 50: give a score from 0 to 1"):
        DetectionGrid(str(tmp_path), min_score=50)
