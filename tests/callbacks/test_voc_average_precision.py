"""VOC's figures by hand, as the devkit's rule gives them step by step, and as pycocotools has its two kinds of mean."""

import csv
import io
import math
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from callbacks.instruments.voc_evaluation import at_eleven_points, below_the_curve
from callbacks.voc_average_precision import VocAveragePrecision, VocAveragePrecisionMetric
from foundation.errors import UserError
from tests.callbacks.detections_on_ranks import Parrot, Scenes, scenes, trainer_with

BOX, ELSEWHERE, FAR = (10, 10, 60, 60), (70, 70, 120, 120), (0, 0, 9, 9)


def truth_of(*boxes: Any, difficult: tuple[int, ...] = (), image: int = 5) -> dict[str, Any]:
    """Of category 3 unless a box has a fifth number; boxes are outlines, in one image of two."""
    annotations = [
        {"id": number, "image_id": image, "category_id": box[4] if len(box) > 4 else 3,
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]], "iscrowd": int(number in difficult),
         "difficult": int(number in difficult)}
        for number, box in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": it, "height": 128, "width": 128, "file_name": f"{it}.jpg"} for it in (5, 8)]
    categories = [{"id": 3, "name": "car"}, {"id": 9, "name": "cat"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def detected(*rows: Any, label: int = 3) -> dict[str, Any]:
    """Rows of left, top, right, bottom, score."""
    found = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    return {"boxes": found[:, :4], "scores": found[:, 4], "labels": torch.full((len(found),), label)}


def measure(truth: dict[str, Any], detections: dict[int, dict[str, Any]]) -> VocAveragePrecisionMetric:
    metric = VocAveragePrecisionMetric(truth)
    for image in truth["images"]:
        metric.update(torch.tensor([image["id"]]), [detections.get(image["id"], detected())])
    metric.compute()
    return metric


def figures(truth: dict[str, Any], *found: Any) -> tuple[float, float]:
    """By 11 points and by the area."""
    values = measure(truth, {5: detected(*found)}).compute()
    return values["voc07_map"], values["voc12_map"]


HALF = (10, 10, 60, 35)  # of BOX: an overlap of exactly 0.5
BIT_LESS = (10, 10, 60, 34)
TWICE = ((10, 10, 50, 50), (30, 10, 70, 50))  # two objects whose outlines overlap


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (truth_of(BOX), [(*BOX, 0.9)], (1, 1)),
        (truth_of(BOX), [], (0, 0)),
        # A false one before it halves the precision at every recall; after it, it costs nothing.
        (truth_of(BOX), [(*BOX, 0.8), (*FAR, 0.9)], (0.5, 0.5)),
        (truth_of(BOX), [(*BOX, 0.8), (*FAR, 0.7)], (1, 1)),
        # One of two found: recalls 0 to 0.5 are six of the eleven points, and half of the area.
        (truth_of(BOX, ELSEWHERE), [(*BOX, 0.9)], (6 / 11, 0.5)),
        # A second detection of an object is false, however well it fits.
        (truth_of(BOX, ELSEWHERE), [(*BIT_LESS[:3], 45, 0.9), (*BOX, 0.8), (*ELSEWHERE, 0.7)],
         ((6 + 5 * 2 / 3) / 11, (1 + 2 / 3) / 2)),
        # Exactly 0.5 finds, a row of pixels less does not.
        (truth_of(BOX), [(*HALF, 0.9)], (1, 1)),
        (truth_of(BOX), [(*BIT_LESS, 0.9)], (0, 0)),
        # A detection stands for the object that it overlaps most, also where that is found already: the other is missed.
        (truth_of(*TWICE), [(10, 10, 50, 50, 0.9), (16, 10, 56, 50, 0.8)], (6 / 11, 0.5)),
        # Of equals it is the first.
        (truth_of(BOX, BOX), [(*BOX, 0.9), (*BOX, 0.8)], (6 / 11, 0.5)),
        # What is difficult is not to be found, and its detections, any number of them, are neither right nor wrong.
        (truth_of(BOX, ELSEWHERE, difficult=(1,)), [(*ELSEWHERE, 0.9), (*ELSEWHERE, 0.8), (*BOX, 0.7)], (1, 1)),
        (truth_of(BOX, ELSEWHERE, difficult=(1,)), [(*FAR, 0.9), (*BOX, 0.7)], (0.5, 0.5)),
        # ... which holds of what overlaps a difficult one most, though it would find another.
        (truth_of((10, 10, 60, 60), (10, 10, 60, 50), difficult=(1,)), [(10, 10, 60, 51, 0.9)], (0, 0)),
        (truth_of(BOX, difficult=(0,)), [(*BOX, 0.9)], (math.nan, math.nan)),
        # A box that a diverged module gives is a false one.
        (truth_of(BOX), [(math.nan, 10, 60, 60, 0.9), (*BOX, 0.8)], (0.5, 0.5)),
        (truth_of(BOX), [(-math.inf, -math.inf, math.inf, math.inf, 0.9), (*BOX, 0.8)], (0.5, 0.5)),
        (truth_of(BOX), [(60, 60, 10, 10, 0.9), (*BOX, 0.8)], (0.5, 0.5)),
        # A mean over the classes that have an object to be found.
        (truth_of((*BOX, 3), (*ELSEWHERE, 9)), [(*BOX, 0.9)], (0.5, 0.5)),
    ],
)  # fmt: skip
def test_by_hand(truth, found, expected):
    assert figures(truth, *found) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_an_object_of_another_class_or_image_is_none():
    truth = truth_of(BOX)
    assert measure(truth, {5: detected((*BOX, 0.9), label=9)}).compute()["voc07_map"] == 0
    assert measure(truth, {8: detected((*BOX, 0.9))}).compute()["voc07_map"] == 0


def test_a_crowd_of_coco_s_counts_for_nothing_either():
    truth = truth_of(BOX, ELSEWHERE)
    truth["annotations"][1]["iscrowd"] = 1
    del truth["annotations"][1]["difficult"], truth["annotations"][0]["difficult"]
    assert figures(truth, (*ELSEWHERE, 0.9), (*BOX, 0.8)) == (1, 1)


def test_recalls_are_compared_as_fractions():
    """3 of 10 reach 0.3, for which 0.1 * 3 is too much in floats; likewise 6 and 7 of 10."""
    for found in range(11):
        precision, right = np.ones(found), np.arange(1, found + 1)
        assert at_eleven_points(precision, right, 10) == pytest.approx((found + (found > 0)) / 11)
        assert below_the_curve(precision, right, 10) == pytest.approx(found / 10)


def test_ties_stand_in_the_order_of_images_and_rows():
    truth = truth_of(BOX)
    assert figures(truth, (*BOX, 0.5), (*FAR, 0.5)) == (1, 1)
    assert figures(truth, (*FAR, 0.5), (*BOX, 0.5)) == (0.5, 0.5)
    found = {5: detected((*BOX, 0.5)), 8: detected((*FAR, 0.5))}
    assert measure(truth, found).compute()["voc12_map"] == 1
    assert measure(truth_of(BOX, image=8), {5: found[8], 8: found[5]}).compute()["voc12_map"] == 0.5


# --- other programs --------------------------------------------------------------------------------------------------


def by_the_devkit(truth: dict[str, Any], detections: dict[int, dict[str, Any]], category: int) -> tuple[float, float]:
    """Its rule step by step: corners counted from 1 and widths with the last pixel, one detection after the other."""
    rows, to_find, taken = [], 0, set()
    for image in sorted(it["id"] for it in truth["images"]):
        found = detections[image]
        for box, score, label in zip(
            found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True
        ):
            if label == category:
                rows.append((score, image, (box[0] + 1, box[1] + 1, box[2], box[3])))
    objects = [it for it in truth["annotations"] if it["category_id"] == category]
    to_find = sum(not it["difficult"] for it in objects)
    right = wrong = 0
    curve = []
    for _, image, (left, top, right_edge, bottom) in sorted(rows, key=lambda it: -it[0]):
        best, most = None, -math.inf
        for it in objects:
            if it["image_id"] != image:
                continue
            x, y, width, height = it["bbox"]
            theirs = (x + 1, y + 1, x + width, y + height)
            across = min(right_edge, theirs[2]) - max(left, theirs[0]) + 1
            down = min(bottom, theirs[3]) - max(top, theirs[1]) + 1
            if across > 0 and down > 0:
                own = (right_edge - left + 1) * (bottom - top + 1)
                its = (theirs[2] - theirs[0] + 1) * (theirs[3] - theirs[1] + 1)
                overlap = across * down / (own + its - across * down)
                if overlap > most:
                    best, most = it, overlap
        if best is not None and most >= 0.5:
            if not best["difficult"]:
                right, wrong = (right, wrong + 1) if best["id"] in taken else (right + 1, wrong)
                taken.add(best["id"])
        else:
            wrong += 1
        if right + wrong:
            curve.append((right / to_find if to_find else math.nan, right / (right + wrong)))
    if not to_find:
        return math.nan, math.nan
    points = [max((p for r, p in curve if r >= it / 10 - 1e-9), default=0.0) for it in range(11)]
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in curve}):
        area += (recall - before) * max(p for r, p in curve if r >= recall)
        before = recall
    return sum(points) / 11, area


@pytest.mark.parametrize("seed", range(4))
def test_is_the_devkit_s_rule_on_many_objects(seed):
    """Boxes that overlap one another, ties, images and classes without objects, difficult ones."""
    truth, detections = scenes(12, seed=seed)
    rng = np.random.default_rng(seed)
    for it in truth["annotations"]:
        it["difficult"] = int(rng.random() < 0.2)
    metric = measure(truth, detections)
    rows = metric.evaluation.classes  # type: ignore
    expected = {it["id"]: by_the_devkit(truth, detections, it["id"]) for it in truth["categories"]}
    found = {it["id"]: (row["voc07_ap"], row["voc12_ap"]) for it, row in zip(truth["categories"], rows, strict=True)}
    assert len(rows) == 4
    for category, values in expected.items():
        assert found[category] == pytest.approx(values, abs=1e-9, nan_ok=True), category
    assert math.isnan(found[90][0])
    known = [values for values in expected.values() if not math.isnan(values[0])]
    assert tuple(metric.compute().values()) == pytest.approx(tuple(np.mean(known, axis=0)))


def test_is_what_pycocotools_has_where_no_detection_overlaps_two_objects():
    """Its matching is the same then: 11 points are recalls that it may be asked for, and so are all that there are."""
    rng, side = np.random.default_rng(1), 40
    images = [{"id": it, "height": 3 * side, "width": 3 * side} for it in range(1, 31)]
    truth: dict[str, Any] = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    rows = []
    for image in images:
        for cell in rng.permutation(9)[: rng.integers(1, 7)]:
            left, top = side * (cell % 3) + 5, side * (cell // 3) + 5
            number = len(truth["annotations"]) + 1
            truth["annotations"].append({"id": number, "image_id": image["id"], "category_id": 1, "area": 900.0,
                                         "bbox": [float(left), float(top), 30.0, 30.0], "iscrowd": 0})  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                x, y = rng.integers(-9, 10, 2).tolist()
                rows.append({"image_id": image["id"], "category_id": 1, "score": float(rng.random()),
                             "bbox": [float(left + x), float(top + y), 30.0, 30.0]})  # fmt: skip
    detections = {}
    for image in images:
        own = [it for it in rows if it["image_id"] == image["id"]]
        boxes = torch.tensor([it["bbox"] for it in own], dtype=torch.float64).reshape(-1, 4)
        detections[image["id"]] = {"boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
                                   "scores": torch.tensor([it["score"] for it in own], dtype=torch.float64),
                                   "labels": torch.ones(len(own), dtype=torch.int64)}  # fmt: skip
    found = measure(truth, detections).compute()
    objects = len(truth["annotations"])
    recalls = {"voc07_map": np.arange(11) / 10 - 1e-9, "voc12_map": np.arange(1, objects + 1) / objects - 1e-9}
    for name, asked in recalls.items():
        assert found[name] == pytest.approx(by_pycocotools(truth, rows, asked), abs=1e-12), name
    assert 0.2 < found["voc07_map"] < 0.9


def by_pycocotools(truth: dict[str, Any], rows: list[dict[str, Any]], recalls: np.ndarray) -> float:
    with redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(rows), "bbox")
        evaluator.params.iouThrs, evaluator.params.recThrs = np.array([0.5]), recalls
        evaluator.evaluate()
        evaluator.accumulate()
    return float(evaluator.eval["precision"][0, :, 0, 0, 2].mean())


# --- the callback ----------------------------------------------------------------------------------------------------


def test_logs_both_rules_and_writes_a_row_a_class(tmp_path):
    truth, detections = scenes(11)
    truth["annotations"][0]["iscrowd"] = 1
    trainer = trainer_with(VocAveragePrecision(str(tmp_path)))
    (logged,) = trainer.test(Parrot(detections), Scenes(truth), verbose=False)
    expected = measure(truth, detections)
    assert logged == pytest.approx({f"test/{name}": value for name, value in expected.compute().items()}, rel=1e-6)
    with (tmp_path / "voc_average_precision.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["class", "objects", "difficult", "voc07_ap", "voc12_ap"]
    assert [it["class"] for it in rows] == ["person", "car", "cat", "toothbrush"]
    assert (rows[3]["objects"], rows[3]["voc07_ap"]) == ("0", "")
    crowds = sum(it["iscrowd"] for it in truth["annotations"])
    assert sum(int(it["difficult"]) for it in rows) == crowds > 0
    assert sum(int(it["objects"]) for it in rows) == len(truth["annotations"]) - crowds


def test_limited_batches_measure_what_was_seen_and_a_whole_split_asks_for_all(tmp_path):
    truth, detections = scenes(11)
    trainer = trainer_with(VocAveragePrecision(str(tmp_path)), limit_test_batches=1)
    (logged,) = trainer.test(Parrot(detections), Scenes(truth), verbose=False)
    seen = {it["id"] for it in truth["images"][:5]}
    part = truth | {
        "images": truth["images"][:5],
        "annotations": [it for it in truth["annotations"] if it["image_id"] in seen],
    }
    assert logged["test/voc12_map"] == pytest.approx(measure(part, detections).compute()["voc12_map"])
    metric = VocAveragePrecisionMetric(truth)
    metric.update(torch.tensor([truth["images"][0]["id"]]), [detections[truth["images"][0]["id"]]])
    with pytest.raises(UserError, match="10 of the 11 images were not measured"):
        metric.compute()
