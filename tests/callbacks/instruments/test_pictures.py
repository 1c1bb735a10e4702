import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.instruments.pictures import draw_counts

WORDS = {"title": "What is taken for what", "of_rows": "class", "of_columns": "predicted"}


def drawn(path, counts, **more):
    names = {"rows": [f"${it}" for it in range(len(counts))], "columns": [f"x{it}" for it in range(counts.shape[1])]}
    draw_counts(counts, path, **names, **WORDS, **more)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.parametrize("shape", [(3, 3), (2, 5), (100, 100)])
def test_counts_of_any_shape_are_drawn(tmp_path, shape):
    """A lone dollar in a name is no mathematics."""
    picture = drawn(tmp_path / "deep" / "counts.png", torch.eye(*shape, dtype=torch.int64) * 7)
    assert picture.std() > 10


def test_a_frame_is_drawn_and_a_row_without_counts_is_white(tmp_path):
    counts = torch.tensor([[9, 1], [0, 0]])
    without, framed = drawn(tmp_path / "a.png", counts), drawn(tmp_path / "b.png", counts, framed=[(1, 0)])
    assert (without != framed).any()
    assert (without.sum(axis=2) < 300).sum() > 100  # the dark cell of the first row
