"""Where windows are drawn, and which steps a strip shows."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.drawing import BORDER, MARGIN, READ, SIDE, WRITE, DrawingPictures, frame, framed, side_by_side, tile
from foundation.errors import UserError
from foundation.protocols import Drawing

TIMES = SIDE // 8
FULL = SIDE + 2 * MARGIN


def windows(*window: float) -> torch.Tensor:
    return torch.tensor([window]).expand(3, 2, 5)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_a_tile_is_the_image_magnified():
    image = torch.rand(3, 8, 8)
    whole = pixels(tile(image))
    assert whole.shape == (FULL, FULL, 3)
    shown = whole[MARGIN:-MARGIN, MARGIN:-MARGIN]
    expected = (image * 255 + 0.5).byte().permute(1, 2, 0).numpy()
    assert (shown[TIMES // 2 :: TIMES, TIMES // 2 :: TIMES] == expected).all()
    assert (whole[:MARGIN] == BORDER[0]).all()
    assert pixels(tile(torch.ones(1, 8, 8)))[MARGIN:-MARGIN, MARGIN:-MARGIN].min() == 255


def test_a_frame_goes_through_the_centres_of_its_corner_pixels():
    picture = Image.new("RGB", (FULL, FULL))
    frame(picture, [2, 1, 5, 6, 0.1], TIMES, WRITE)
    rows, columns = np.nonzero(pixels(picture).sum(2))
    assert (columns.min(), columns.max()) == (MARGIN + 2.5 * TIMES, MARGIN + 5.5 * TIMES)
    assert (rows.min(), rows.max()) == (MARGIN + 1.5 * TIMES, MARGIN + 6.5 * TIMES)
    assert tuple(pixels(picture)[rows.min(), columns.min()]) == WRITE


def test_a_window_beyond_the_margin_is_drawn_at_its_edge():
    picture = Image.new("RGB", (FULL, FULL))
    frame(picture, [-1e6, -1e6, 1e6, 1e6, 0.1], TIMES, READ)
    inked = pixels(picture).sum(2) > 0
    assert inked[0].all()
    assert inked[:, -1].all()
    assert not inked[1:-1, 1:-1].any()
    frame(picture, [50.0, 50, 60, 60, 0.0], TIMES, READ)
    assert not (pixels(picture).sum(2) > 0)[1:-1, 1:-1].any()


def test_blur_widens_the_border():
    inked = []
    for blur in (0.1, 1.0):
        picture = Image.new("RGB", (FULL, FULL))
        frame(picture, [2, 2, 5, 5, blur], TIMES, READ)
        inked.append(np.count_nonzero(pixels(picture).sum(2)))
    assert inked[0] < inked[1]


def test_both_windows_are_drawn_where_there_are_any():
    canvases = torch.zeros(3, 2, 1, 8, 8)
    both = framed(Drawing(canvases, windows(1, 1, 3, 3, 0.1), windows(4, 4, 6, 6, 0.1)))
    assert [len(step) for step in both] == [2, 2, 2]
    found = {tuple(it) for it in pixels(both[0][0]).reshape(-1, 3)}
    assert found == {(0, 0, 0), BORDER, READ, WRITE}
    assert pixels(framed(Drawing(canvases, None, None))[0][0])[MARGIN:-MARGIN, MARGIN:-MARGIN].sum() == 0


def test_columns_stand_side_by_side():
    red, blue = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (4, 3), (0, 0, 255))
    sheet = pixels(side_by_side([[red, blue], [blue, red]], gap=1))
    assert sheet.shape == (9, 11, 3)
    assert tuple(sheet[1, 1]) == tuple(sheet[5, 6]) == (255, 0, 0)
    assert tuple(sheet[5, 1]) == tuple(sheet[1, 6]) == (0, 0, 255)
    assert tuple(sheet[0, 0]) == BORDER


def test_a_strip_has_the_first_and_the_last_step_and_an_animation_all(tmp_path):
    canvases = torch.linspace(0, 1, 7).view(7, 1, 1, 1, 1).expand(-1, 2, 1, 8, 8)
    callback = DrawingPictures(str(tmp_path), images=2, columns=3)
    callback._write(SimpleNamespace(loggers=[]), "redrawing", Drawing(canvases, None, None), torch.ones(2, 1, 8, 8))  # type: ignore
    strip = pixels(Image.open(tmp_path / "redrawing.png"))
    assert strip.shape == (2 * (FULL + 2) + 2, 4 * (FULL + 2) + 2, 3)
    assert [strip[FULL // 2, FULL // 2 + column * (FULL + 2), 0] for column in range(4)] == [0, 128, 255, 255]
    with Image.open(tmp_path / "redrawing.gif") as animation:
        assert animation.n_frames == 7  # type: ignore
        assert animation.size == (2 * (FULL + 2) + 2, 2 * (FULL + 2) + 2)


def test_what_cannot_be_shown_is_refused(tmp_path):
    with pytest.raises(UserError, match="callbacks.drawing.images is 0: give 1 or more"):
        DrawingPictures(str(tmp_path), images=0)
    with pytest.raises(UserError, match="callbacks.drawing.columns is 1: give 2 or more"):
        DrawingPictures(str(tmp_path), columns=1)
