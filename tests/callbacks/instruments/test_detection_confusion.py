"""Worked by hand: who is taken for whom."""

import numpy as np
import pytest

from callbacks.instruments.coco_evaluation import Packed
from callbacks.instruments.detection_confusion import confusion_of

CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 4, "name": "cat"}]  # the order is that of the ids: cat, dog


def packed(images: dict[int, list[tuple[float, ...]]]) -> Packed:
    rows = [row for them in images.values() for row in them]
    return Packed(
        np.array([[image, len(them), 0, 0] for image, them in images.items()]),
        np.array(rows, dtype=np.float64).reshape(-1, 6),
        np.empty(0, np.int64),
        np.empty(0, np.uint8),
    )


def annotation(image: int, category: int, box: list[float], crowd: int = 0) -> dict:
    return {"image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}


def counts(
    images: dict[int, list[tuple[float, ...]]], annotations: list[dict], min_score: float = 0.5
) -> list[list[int]]:
    truth = {"images": [{"id": it} for it in (1, 2)], "categories": CATEGORIES, "annotations": annotations}
    return confusion_of(packed(images), truth, min_score).tolist()


def test_found_mistaken_missed_and_made_up():
    objects = [annotation(1, 4, [0, 0, 10, 10]), annotation(1, 9, [50, 50, 10, 10]), annotation(2, 4, [0, 0, 10, 10])]
    found = {
        1: [(0, 0, 10, 10, 0.9, 4), (50, 50, 60, 60, 0.8, 4), (80, 80, 90, 90, 0.7, 9), (0, 0, 10, 10, 0.4, 9)],
        2: [],
    }
    # A cat as a cat, a dog as a cat, a dog where there is nothing, a cat that nobody saw; the last scores too little.
    assert counts(found, objects) == [[1, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert counts(found, objects, min_score=0.3) == [[1, 0, 1], [1, 0, 0], [0, 2, 0]]


def test_the_better_detection_takes_the_object_whatever_its_class_and_each_is_taken_once():
    objects = [annotation(1, 4, [0, 0, 10, 10])]
    found = {1: [(0, 0, 10, 9, 0.6, 4), (0, 0, 10, 8, 0.9, 9)]}
    assert counts(found, objects) == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(("right", "cell"), [(5.0, (0, 0)), (4.9, (2, 0))])
def test_half_of_the_union_is_enough(right, cell):
    matrix = counts({1: [(0, 0, right, 10, 0.9, 4)]}, [annotation(1, 4, [0, 0, 10, 10])])
    assert matrix[cell[0]][cell[1]] == 1
    assert matrix[0][2] == (cell != (0, 0))


def test_a_crowd_takes_detections_up_and_is_not_missed():
    crowd = [annotation(1, 4, [0, 0, 100, 100], crowd=1)]
    assert counts({1: [(0, 0, 10, 10, 0.9, 4), (20, 0, 30, 10, 0.9, 4)]}, crowd) == [[0] * 3] * 3
    assert counts({1: [(200, 0, 210, 10, 0.9, 4)]}, crowd)[2] == [1, 0, 0]
