"""Polygons and run lengths: each of COCO's three forms, and every form that is none."""

import math
import random

import numpy as np
import pytest
from faster_coco_eval.core import mask as rle

from datamodules.coco_masks import decode_masks, encode_mask, is_empty, runs_in, unfit_masks, unfit_segmentation

HEIGHT, WIDTH = 10, 12
RUNS = {"size": [HEIGHT, WIDTH], "counts": [33, 4, 83]}
TEXT = {"size": [HEIGHT, WIDTH], "counts": rle.frPyObjects(RUNS, HEIGHT, WIDTH)["counts"].decode()}  # pyright: ignore
SQUARE = [2, 3, 6, 3, 6, 8, 2, 8]


def random_mask(number: int) -> np.ndarray:
    generator = np.random.default_rng(number)
    shape = generator.integers(1, 70, 2)
    if number % 4 == 0:
        return np.full(shape, number % 8 == 0, dtype=np.uint8)
    return (generator.random(shape) < generator.random()).astype(np.uint8)


def runs_of(mask: np.ndarray) -> list[int]:
    """Down the columns, the first of what is not the object."""
    runs, value = [0], 0
    for pixel in mask.flatten(order="F").tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


@pytest.mark.parametrize("number", range(40))
def test_the_runs_in_a_text_are_those_of_its_mask(number):
    mask = random_mask(number)
    height, width = mask.shape
    text = rle.encode(np.asfortranarray(mask))["counts"]
    runs = runs_of(mask)
    assert runs_in(text.decode()) == runs
    assert is_empty(text) == (mask.sum() == 0)
    for counts in (runs, text.decode()):
        segmentation = {"size": [height, width], "counts": counts}
        assert unfit_segmentation(segmentation, height, width) == ("", "")
        assert encode_mask(segmentation, height, width) == text
        assert np.array_equal(decode_masks([encode_mask(segmentation, height, width)], height, width)[0], mask)


def test_a_large_mask_s_text():
    mask = np.zeros((300, 400), dtype=np.uint8)
    mask[100:200, 150:250] = 1
    assert runs_in(rle.encode(np.asfortranarray(mask))["counts"].decode()) == runs_of(mask)


def test_a_polygon_s_mask():
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[3:8, 2:6] = 1
    assert np.array_equal(decode_masks([encode_mask([SQUARE], HEIGHT, WIDTH)], HEIGHT, WIDTH)[0], expected)
    two = encode_mask([SQUARE, [8, 0, 10, 0, 10, 2, 8, 2]], HEIGHT, WIDTH)
    expected[0:2, 8:10] = 1
    assert np.array_equal(decode_masks([two], HEIGHT, WIDTH)[0], expected)
    assert decode_masks([], HEIGHT, WIDTH).shape == (0, HEIGHT, WIDTH)


def test_several_run_lengths_are_one_mask():
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, 2, HEIGHT * WIDTH - 2]}
    parts = [
        decode_masks([encode_mask(it, HEIGHT, WIDTH)], HEIGHT, WIDTH)[0].numpy() for it in (TEXT, runs, [TEXT, runs])
    ]
    assert np.array_equal(np.maximum(parts[0], parts[1]), parts[2])
    assert int(parts[2].sum()) > int(parts[0].sum())
    assert unfit_segmentation([TEXT, runs | {"size": [8, 8]}], HEIGHT, WIDTH)[0] == "size"


@pytest.mark.parametrize(
    "segmentation", [[SQUARE], [SQUARE, [0.5, 1, 2, 3.5, 4, 5]], [[-3, -3, 14, 0, 5, 11]], RUNS, TEXT, [RUNS, TEXT]]
)
def test_what_is_read(segmentation):
    assert unfit_segmentation(segmentation, HEIGHT, WIDTH) == ("", "")


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        (None, "has no segmentation: set datamodule.masks=false for boxes alone"),
        ([], "has no segmentation: set"),
        ({}, "has no segmentation: set"),
        ("", "has no segmentation: set"),
        ([[1, 2, 5, 6]], "has a polygon of 4 numbers, [1, 2, 5, 6]: give x and y of three points or more (a rectangle"),
        ([SQUARE, [1, 2, 5, 6]], "has a polygon of 4 numbers, [1, 2, 5, 6]: give x and y of three points"),
        ([[1, 2]], "has a polygon of 2 numbers, [1, 2]: give x and y of three points or more"),
        ([[1, 2, 3, 4, 5, 6, 7]], "has a polygon of 7 numbers, [1, 2, 3, 4, 5, 6, 7]: give x and y"),
        ([1, 2, 3, 4, 5, 6], "has the polygon 1: give a list of polygons, each a list [x1, y1, x2, y2, ...]"),
        ([[[1, 2], [3, 4], [5, 6]]], "has the polygon [[1, 2], [3, 4], [5, 6]]: give numbers alone"),
        ([[]], "has the polygon []: give numbers alone"),
        ([["1", "2", "3", "4", "5", "6"]], 'has the polygon ["1", "2", "3", "4", "5", "6"]: give numbers alone'),
        ([[1, 2, math.nan, 4, 5, 6]], "has the polygon [1, 2, NaN, 4, 5, 6]: give numbers alone"),
        ([[math.nan, 2, 10**400, 4, 5, 6]], "has the polygon [NaN, 2, 1000"),
        ([[1, 2, math.inf, 4, 5, 6]], "has the polygon [1, 2, Infinity, 4, 5, 6]: give numbers alone"),
        ([[1, 2, 1e8, 4, 5, 6]], "has the polygon [1, 2, 100000000.0, 4, 5, 6], far outside of its image of 10 x 12"),
        ([[1, 2, 3, -11, 5, 6]], "has the polygon [1, 2, 3, -11, 5, 6], far outside"),
        ("a text", "has a text for a segmentation: give polygons or run lengths"),
        (7, "has a number for a segmentation"),
        (RUNS | {"size": [8, 8]}, "has run lengths of size [8, 8], and its image is of [10, 12] (height, width)"),
        (RUNS | {"size": [WIDTH, HEIGHT]}, "has run lengths of size [12, 10], and its image is of [10, 12]"),
        ({"counts": [33, 4, 83]}, "has run lengths of size null, and its image"),
        (TEXT | {"size": [8, 8]}, "has run lengths of size [8, 8], and its image is of [10, 12]"),
        (RUNS | {"counts": [33, 4, 82]}, "has run lengths of 119 pixels in all, and its image has 120"),
        (RUNS | {"counts": [33, 4, 9999]}, "has run lengths of 10,036 pixels in all, and its image has 120"),
        (RUNS | {"counts": [33, -4, 91]}, "has the counts [33, -4, 91]: give run lengths, or the text"),
        (RUNS | {"counts": [33.5, 4, 82.5]}, "has the counts [33.5, 4, 82.5]: give run lengths"),
        (RUNS | {"counts": []}, "has the counts []: give run lengths"),
        (RUNS | {"counts": None}, "has the counts null: give run lengths"),
        ({"size": [HEIGHT, WIDTH]}, "has the counts null: give run lengths"),
        (TEXT | {"counts": ""}, 'has the counts "": give run lengths'),
        (TEXT | {"counts": TEXT["counts"][:-1]}, "has "),
        (TEXT | {"counts": "12"}, "has run lengths of 3 pixels in all, and its image has 120"),
        (TEXT | {"counts": "ä"}, 'has the counts "\\u00e4": give run lengths'),
        (TEXT | {"counts": "\ud800"}, 'has the counts "\\ud800": give run lengths'),
        (TEXT | {"counts": "o" * 40 + "0"}, 'has the counts "ooooooooo'),
        (TEXT | {"counts": "o"}, 'has the counts "o": give run lengths'),
        (TEXT | {"counts": "!"}, 'has the counts "!": give run lengths'),
    ],
)  # fmt: skip
def test_what_is_refused(segmentation, reason):
    kind, found = unfit_segmentation(segmentation, HEIGHT, WIDTH)
    assert kind
    assert found.startswith(reason)


def test_no_text_of_run_lengths_that_is_let_through_fails_later():
    """Damaged ones are refused, or are the text of another mask of that size."""
    generator = random.Random(0)
    letters = [chr(48 + it) for it in range(64)]
    passed = 0
    for _ in range(3000):
        text = list(TEXT["counts"])
        text[generator.randrange(len(text))] = generator.choice(letters)
        if generator.random() < 0.3:
            text.insert(generator.randrange(len(text)), generator.choice(letters))
        segmentation = TEXT | {"counts": "".join(text)}
        if unfit_segmentation(segmentation, HEIGHT, WIDTH) == ("", ""):
            passed += 1
            mask = decode_masks([encode_mask(segmentation, HEIGHT, WIDTH)], HEIGHT, WIDTH)
            assert mask.shape == (1, HEIGHT, WIDTH)
    assert passed > 10


def test_mistakes_name_the_annotation():
    annotations = [
        {"id": 4, "image_id": 9, "segmentation": [SQUARE]},
        {"id": 5, "image_id": 9, "segmentation": []},
        {"image_id": 9, "segmentation": [[1, 2]]},
    ]
    assert list(unfit_masks(annotations, {9: (HEIGHT, WIDTH)})) == [
        ("none", "annotation 5 of image 9 has no segmentation: set datamodule.masks=false for boxes alone."),
        (
            "points",
            "annotation null of image 9 has a polygon of 2 numbers, [1, 2]: give x and y of three points or more.",
        ),
    ]
