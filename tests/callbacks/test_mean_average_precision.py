"""COCO's figures by hand, as the official files have them, as pycocotools computes them, and on 1, 2 and 3 ranks."""

import csv
import gc
import io
import json
import math
import os
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from callbacks.instruments.coco_evaluation import FIGURES
from callbacks.mean_average_precision import MeanAveragePrecision, MeanAveragePrecisionMetric
from callbacks.voc_average_precision import VocAveragePrecisionMetric
from foundation.errors import UserError
from foundation.protocols import AnnotatesObjects, DetectsObjects
from tests.callbacks.detections_on_ranks import CATEGORIES, SHARES, Parrot, Scenes, filled, scenes, trainer_with
from tests.forks import run_in_fork

OFFICIAL = Path(os.environ.get("DATA_DIR", "data")) / "coco_eval"
needs_official = pytest.mark.skipif(not OFFICIAL.exists(), reason="DATA_DIR has no coco_eval")


def truth_of(*boxes, image_ids=(5,), **more):
    """Of category 3 unless a box has a fifth number; boxes are left, top, right, bottom, in the first image."""
    annotations = [
        {"id": number, "image_id": image_ids[0], "category_id": box[4] if len(box) > 4 else 3, "iscrowd": 0,
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
         "area": (box[2] - box[0]) * (box[3] - box[1])} | more
        for number, box in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": it, "height": 128, "width": 128, "file_name": f"{it}.jpg"} for it in image_ids]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 3, "name": "car"}, {"id": 90, "name": "brush"}],
    }


def detected(*rows):
    """Rows of left, top, right, bottom, score, of category 3."""
    rows = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    return {"boxes": rows[:, :4], "scores": rows[:, 4], "labels": torch.full((len(rows),), 3)}


def measure(truth, detections, **options):
    metric = MeanAveragePrecisionMetric(truth, **options)
    for number, found in detections.items():
        metric.update(torch.tensor([number]), [found])
    return metric.compute()


BOX, ELSEWHERE, FAR = (10, 10, 60, 60), (70, 70, 120, 120), (0, 0, 9, 9)


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (truth_of(BOX), detected((*BOX, 0.9)), {"map": 1, "map_50": 1, "map_75": 1, "mar_1": 1, "map_medium": 1}),
        # A false positive before it: precision 1/2 at every recall.
        (truth_of(BOX), detected((*BOX, 0.8), (*FAR, 0.9)), {"map": 0.5, "map_50": 0.5, "mar_1": 0, "mar_10": 1}),
        # After it, it costs nothing.
        (truth_of(BOX), detected((*BOX, 0.8), (*FAR, 0.7)), {"map": 1}),
        # Recall 1/2: precision 1 at 51 of the 101 points of recall.
        (truth_of(BOX, ELSEWHERE), detected((*BOX, 0.9)), {"map": 51 / 101, "mar_100": 0.5}),
        # An overlap of exactly 0.6 reaches three of the ten thresholds (and but two where they are float32: 0.60000002).
        (truth_of((0, 0, 10, 10)), detected((0, 0, 10, 6, 0.9)), {"map": 0.3, "map_50": 1, "map_75": 0}),
        (truth_of(BOX), detected((*BOX, 0.9), (*BOX, 0.8)), {"map": 1}),  # the second one takes nothing
        (truth_of(BOX), detected(), {"map": 0, "mar_100": 0, "map_small": math.nan}),
        (truth_of(), detected((*BOX, 0.9)), dict.fromkeys(FIGURES, math.nan)),
        # A crowd counts for nothing, and what is found within it is not wrong.
        (truth_of(BOX, iscrowd=1), detected((20, 20, 30, 30, 0.9)), {"map": math.nan}),
        # An object of 50 x 50 in its box and 900 pixels in its outline is a small one.
        (truth_of(BOX, area=900), detected((*BOX, 0.9)), {"map": 1, "map_small": 1, "map_medium": math.nan}),
        (truth_of((*BOX, 3), (*ELSEWHERE, 90)), detected((*BOX, 0.9)), {"map": 0.5}),  # a mean over two classes
    ],
)  # fmt: skip
def test_by_hand(truth, found, expected):
    figures = measure(truth, {5: found})
    assert set(figures) == set(FIGURES)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_a_crowd_takes_detections_up():
    truth = truth_of(BOX, (70, 0, 128, 128))
    truth["annotations"][1]["iscrowd"] = 1
    found = detected((*BOX, 0.7), (80, 10, 90, 20, 0.9), (80, 30, 90, 40, 0.8))
    assert measure(truth, {5: found})["map"] == pytest.approx(1)
    truth["annotations"][1]["iscrowd"] = 0
    assert measure(truth, {5: found})["map"] < 0.5


def official_detections(kind):
    """By image, of all images: those without a detection have empty ones."""
    truth = json.loads((OFFICIAL / "instances_val2014_100.json").read_text())
    rows = json.loads((OFFICIAL / f"instances_val2014_fake{kind}100_results.json").read_text())
    of = {image["id"]: [row for row in rows if row["image_id"] == image["id"]] for image in truth["images"]}
    found = {}
    for number, them in of.items():
        boxes = torch.tensor([it.get("bbox", [0, 0, 1, 1]) for it in them], dtype=torch.float64).reshape(-1, 4)
        found[number] = {
            "boxes": torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            "scores": torch.tensor([it["score"] for it in them], dtype=torch.float64),
            "labels": torch.tensor([it["category_id"] for it in them], dtype=torch.int64),
            "masks": [it["segmentation"] for it in them if kind == "segm"],
        }
    return truth, found


def official_figures(kind):
    text = (OFFICIAL / "val2014_fake_eval_res.txt").read_text().partition(f"type={kind}")[2]
    return dict(
        zip(FIGURES, [float(line.rpartition("=")[2]) for line in text.splitlines() if "Average" in line], strict=False)
    )


@needs_official
def test_is_the_official_result_to_the_printed_digit():
    boxes = measure(*official_detections("bbox"))
    assert {name: round(value, 3) for name, value in boxes.items()} == official_figures("bbox")
    assert [official_figures("bbox")[name] for name in ("map", "map_50", "mar_1")] == [0.505, 0.697, 0.387]
    masks = measure(*official_detections("segm"), masks=True)
    assert {name: round(masks[f"mask_{name}"], 3) for name in FIGURES} == official_figures("segm")


def pycocotools_figures(truth, results, kind):
    with redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = deepcopy(truth)
        for number, it in enumerate(reference.dataset["annotations"], start=1):
            it["id"] = number  # 0 is no match
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes(deepcopy(results)), kind)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return {name: math.nan if value == -1 else value for name, value in zip(FIGURES, evaluator.stats, strict=True)}


def as_results(detections, kind):
    rows = []
    for number, found in detections.items():
        for place, (box, score, label) in enumerate(
            zip(found["boxes"].tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
        ):
            row = {"image_id": number, "category_id": label, "score": score}
            if kind == "bbox":
                rows.append(row | {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]})
            else:
                rows.append(
                    row
                    | {
                        "segmentation": coco_mask.encode(
                            np.asfortranarray(found["masks"][place].numpy().astype(np.uint8))
                        )
                    }
                )
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_is_pycocotools_on_random_scenes(seed):
    truth, detections = scenes(25, seed)
    detections = {number: filled(it) for number, it in detections.items()}
    crowded = detections[truth["images"][0]["id"]]  # more than the 100 of a class that count
    crowded |= {key: it.repeat(40, *[1] * (it.ndim - 1)) for key, it in crowded.items()}
    found = measure(truth, detections, masks=True)
    boxes = pycocotools_figures(truth, as_results(detections, "bbox"), "bbox")
    masks = pycocotools_figures(truth, as_results(detections, "segm"), "segm")
    assert 0.05 < boxes["map"] < 0.9
    assert masks["map_small"] != boxes["map_small"]
    assert {name: found[name] for name in FIGURES} == pytest.approx(boxes, abs=1e-6, nan_ok=True)
    assert {name: found[f"mask_{name}"] for name in FIGURES} == pytest.approx(masks, abs=1e-6, nan_ok=True)


def test_neither_batches_nor_order_nor_precision_matter():
    truth, detections = scenes(9)
    detections = {number: it | {"scores": it["scores"].float()} for number, it in detections.items()}
    alone = measure(truth, detections)
    metric = MeanAveragePrecisionMetric(truth)
    ids = list(detections)[::-1]
    metric.update(torch.tensor(ids[:2]), [detections[it] for it in ids[:2]])
    metric.update(torch.tensor([], dtype=torch.int64), [])
    metric.update(torch.tensor(ids[2:]), [detections[it] for it in ids[2:]])
    assert str(metric.compute()) == str(alone)
    metric.reset()
    assert len(metric.packed().images) == 0


def test_a_category_that_the_ground_truth_has_not_is_left_out():
    found = detected((*BOX, 0.8), (*FAR, 0.9))
    found["labels"] = torch.tensor([3, 91])
    assert measure(truth_of(BOX), {5: found})["map"] == 1


@pytest.mark.parametrize(
    ("detections", "options", "message"),
    [
        ({5: detected()}, {}, "1 of the 2 images were not measured, the first of them image 8 8.jpg"),
        ({5: detected(), 8: detected(), 0: detected()}, {}, "in image 0, which is not one of the 2 images"),
        ({5: detected((*BOX, 1)) | {"scores": torch.ones(1).bfloat16()}}, {}, "are torch.bfloat16, .* compute them in float32"),
        ({5: detected((*BOX, 1))}, {"masks": True}, "gives no masks: set callbacks.mean_average_precision.masks=false"),
        ({5: detected((*BOX, 1)) | {"masks": torch.ones(1, 9, 8).bool()}, 8: detected() | {"masks": []}}, {"masks": True},
         "masks in image 5 have 9 x 8 pixels, and the image has 128 x 128"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused(detections, options, message):
    with pytest.raises(UserError, match=message):
        measure(truth_of(BOX, image_ids=(5, 8)), detections, **options)


def test_garbage_is_collected_again_afterwards():
    measure(*scenes(2))
    assert gc.isenabled()


def test_logs_what_it_declares_and_writes_what_was_found(tmp_path):
    truth, detections = scenes(11)
    callback, module = (
        MeanAveragePrecision(str(tmp_path), masks=True),
        Parrot({it: filled(found) for it, found in detections.items()}),
    )
    datamodule = Scenes(truth)
    assert isinstance(module, DetectsObjects)
    assert isinstance(datamodule, AnnotatesObjects)
    trainer = trainer_with(callback)
    trainer.validate(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(None, "val").keys()
    assert not any(tmp_path.iterdir())
    trainer.test(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(None, "test").keys()
    assert len(callback.metrics(None, "test").keys()) == 24

    expected = measure(truth, {it: filled(found) for it, found in detections.items()}, masks=True)
    logged = {key.removeprefix("test/"): float(value) for key, value in trainer.callback_metrics.items()}
    assert logged == pytest.approx(expected, abs=1e-6, nan_ok=True)
    for suffix, prefix, kind in (("", "", "bbox"), ("_masks", "mask_", "segm")):
        written = json.loads((tmp_path / f"detections{suffix}.json").read_text())
        again = pycocotools_figures(truth, written, kind)
        assert again == pytest.approx({name: expected[prefix + name] for name in FIGURES}, abs=1e-6, nan_ok=True)
        with (tmp_path / f"average_precision{suffix}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["class"] for row in rows] == list(CATEGORIES.values())
        assert (rows[3]["objects"], rows[3]["map"]) == ("0", "")
        assert sum(float(row["map"]) for row in rows[:3]) / 3 == pytest.approx(expected[f"{prefix}map"])
        people = [it for it in truth["annotations"] if it["category_id"] == 1 and not it["iscrowd"]]
        assert int(rows[0]["objects"]) == len(people)


def test_with_limited_batches_the_images_that_were_seen_are_measured(tmp_path):
    truth, detections = scenes(11)
    callback = MeanAveragePrecision(str(tmp_path), write_detections=False)
    trainer = trainer_with(callback, limit_test_batches=1)
    trainer.test(Parrot(detections), Scenes(truth), verbose=False)
    seen = {it["id"] for it in truth["images"][:5]}
    part = {
        key: [it for it in truth[key] if it[name] in seen]
        for key, name in (("images", "id"), ("annotations", "image_id"))
    }
    expected = measure(truth | part, {it: detections[it] for it in seen})
    assert float(trainer.callback_metrics["test/map"]) == pytest.approx(expected["map"], abs=1e-6)
    assert sorted(it.name for it in tmp_path.iterdir()) == ["average_precision.csv", "confusion.csv", "confusion.png"]
    rows = [line.split(",") for line in (tmp_path / "confusion.csv").read_text().splitlines()]
    assert [rows[0][0], rows[0][-1], rows[-1][0]] == ["class", "missed", "(background)"]
    objects = sum(not it.get("iscrowd", 0) for it in part["annotations"])
    assert sum(int(it) for row in rows[1:-1] for it in row[1:]) == objects  # each is found, mistaken or missed


def test_figures_of_training_images_are_called_no_test(tmp_path):
    truth, detections = scenes(4)
    trainer, datamodule = trainer_with(MeanAveragePrecision(str(tmp_path))), Scenes(truth)
    datamodule.tests_on_training_data = True  # type: ignore
    trainer.test(Parrot(detections), datamodule, verbose=False)
    assert float(trainer.callback_metrics["train_set/map"]) == pytest.approx(
        measure(truth, detections)["map"], abs=1e-6
    )
    assert not [key for key in trainer.callback_metrics if key.startswith("test/")]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = run_in_fork("-m", "tests.callbacks.detections_on_ranks", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("shares", SHARES)
def test_every_rank_has_the_figures_of_one_process(ranks, shares):
    truth, detections = scenes(7)
    found = {path.stem: json.loads(path.read_text())[shares] for path in ranks.glob("coco*.json")}
    assert len(found) == 1 + 2 + 3
    if shares == "one is missing":
        expected = f"refused: 1 of the 7 images were not measured, the first of them image {truth['images'][6]['id']}"
        assert all(it.startswith(expected) for it in found.values())
    else:
        expected = measure(truth, {it: filled(of) for it, of in detections.items()}, masks=True)
        assert set(found.values()) == {str(expected)}


@pytest.mark.parametrize("shares", SHARES)
def test_every_rank_has_voc_s_figures_of_one_process(ranks, shares):
    truth, detections = scenes(7)
    found = {path.stem: json.loads(path.read_text())[shares] for path in ranks.glob("voc*.json")}
    assert len(found) == 1 + 2 + 3
    if shares == "one is missing":
        assert all(it.startswith("refused: 1 of the 7 images were not measured") for it in found.values())
    else:
        metric = VocAveragePrecisionMetric(truth)
        for number, of in detections.items():
            metric.update(torch.tensor([number]), [of])
        assert set(found.values()) == {str(metric.compute())}
        assert 0 < metric.compute()["voc07_map"] < 1


def test_a_real_run_on_two_ranks_logs_and_writes_the_same(ranks):
    assert (ranks / "ddp2.txt").read_text() == (ranks / "ddp1.txt").read_text()
    assert "'test/map': 0." in (ranks / "ddp1.txt").read_text()
    for name in ("average_precision.csv", "detections.json", "voc_average_precision.csv"):
        assert (ranks / "run2" / name).read_bytes() == (ranks / "run1" / name).read_bytes()
