from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image

from callbacks.image_grid import ImageGrid
from callbacks.instruments.pictures import save_grid
from tests.lightning_modules.test_infogan import infogan


def test_a_grid_is_readable_and_in_order(tmp_path):
    images = torch.zeros(6, 1, 8, 8)
    images[4] = 1  # second row, second column of three
    save_grid(images, tmp_path / "deep" / "grid.png", columns=3)
    picture = np.asarray(Image.open(tmp_path / "deep" / "grid.png"))
    assert picture.shape == (2 * 50 + 2, 3 * 50 + 2, 3)  # 8 pixels magnified to 48, borders of 2
    assert (picture[52:100, 52:100] == 255).all()
    assert (picture[2:50, 2:50] == 0).all()


def test_large_images_keep_their_size(tmp_path):
    save_grid(torch.zeros(2, 3, 60, 70), tmp_path / "grid.png", columns=1)
    assert Image.open(tmp_path / "grid.png").size == (74, 126)


def test_pictures_are_named_by_iteration_and_code(tmp_path):
    callback = ImageGrid(str(tmp_path), every_n_steps=2, samples=4, rows=2)
    module = infogan()
    for step in (1, 2, 3):
        trainer = SimpleNamespace(global_step=step, loggers=[])
        callback.on_train_batch_end(trainer, module, None, None, 0)  # type: ignore
    callback.on_train_end(trainer, module)  # type: ignore
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "samples-000002.png", "samples-000003.png", "traversal-code0_categorical.png",
        "traversal-code1_continuous0.png", "traversal-code1_continuous1.png"]  # fmt: skip
