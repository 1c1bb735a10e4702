import numpy as np
import torch

from datamodules.digit_scenes import DRAWS, MOST_OVERLAP, Scene, Scenes, cubic, objects, overlap, paint


def test_cubic_weights_are_those_of_keys():
    places = np.linspace(2, 6, 9)
    weights = cubic(places, 8)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(cubic(np.arange(8) + 0.5, 8), np.eye(8))
    # Exact for a parabola, and by hand: halfway between two cells -1/16, 9/16, 9/16, -1/16.
    np.testing.assert_allclose(weights @ (np.arange(8) + 0.5) ** 2, places**2, rtol=1e-5)
    np.testing.assert_allclose(cubic(np.array([4.0]), 8)[0, 2:6], [-1 / 16, 9 / 16, 9 / 16, -1 / 16], rtol=1e-6)


def test_a_digit_is_painted_where_its_square_lies():
    """A glyph that is all ink, 8 by 8 cells of 2 by 4 pixels."""
    canvas, owner = np.zeros((3, 64, 64), dtype=np.float32), np.zeros((64, 64), dtype=np.uint8)
    colour = np.array([0.2, 0.4, 0.8], dtype=np.float32)[:, None, None]
    paint(canvas, owner, 7, np.ones((8, 8), dtype=np.float32), (10, 20, 16, 32), colour, 0.5)
    rows, columns = (owner == 7).nonzero()
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (10, 20, 26, 52)
    np.testing.assert_allclose(canvas[:, 30, 18], colour[:, 0, 0], rtol=1e-6)
    assert not canvas[:, :, :6].any()
    assert not canvas[:, 56:].any()
    edge = canvas[2, 30, 8:12] / 0.8  # ink sets in over about a pixel
    assert 0 == edge[0] <= edge[1] < 0.5 < edge[2] <= edge[3] == 1


def test_objects_are_boxes_of_visible_ink():
    owner = np.zeros((6, 8), dtype=np.uint8)
    owner[1:4, 2:5] = 1
    owner[2:6, 4:8] = 3  # over a part of the first one; the second one is not seen
    numbers, boxes, masks = objects(Scene(np.zeros((3, 6, 8), dtype=np.uint8), owner, np.array([5, 6, 7])))
    assert numbers.tolist() == [0, 2]
    assert boxes.tolist() == [[2, 1, 5, 4], [4, 2, 8, 6]]
    assert masks.shape == (2, 6, 8)
    assert [int(mask.sum()) for mask in masks] == [7, 16]


def test_overlap_is_of_the_smaller_square():
    assert overlap((0, 0, 10, 10), (5, 5, 20, 20)) == overlap((5, 5, 20, 20), (0, 0, 10, 10)) == 0.25
    assert overlap((0, 0, 10, 10), (10, 0, 5, 5)) == overlap((0, 0, 4, 4), (9, 9, 4, 4)) == 0


def test_digits_overlap_at_their_edges_alone():
    glyphs = np.ones((1, 8, 8), dtype=np.float32)
    kind, placed = Scenes(glyphs, np.zeros(1, dtype=np.int64), 128, 6, (16, 64), seed=0, stream=""), 0
    drawn = torch.rand(200, 6, DRAWS, generator=torch.Generator().manual_seed(0)).numpy()
    for scene in drawn:
        squares = []
        for digit in scene:
            square = kind.square(digit, squares)
            if square is not None:
                assert all(overlap(square, other) <= MOST_OVERLAP for other in squares)
                assert square[0] >= 0 <= square[1]
                assert square[0] + square[2] <= 128 >= square[1] + square[3]
                squares.append(square)
        placed += len(squares)
    assert 0.8 < placed / 1200 < 1  # of six that are wanted, one may find no room
