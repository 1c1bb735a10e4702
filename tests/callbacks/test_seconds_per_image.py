"""Seconds by a clock that the test turns."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks import seconds_per_image
from callbacks.seconds_per_image import SecondsPerImage


def measured(*batches: tuple[float, int], others: tuple[float, int] = (0.0, 0)) -> dict[str, float]:
    """What is logged of batches that take so many seconds for so many images; others: sums of another rank."""
    now, logged = [50.0], {}
    module: Any = SimpleNamespace(device=torch.device("cpu"), log=logged.__setitem__)
    strategy = SimpleNamespace(reduce=lambda sums, reduce_op: sums + torch.tensor(others, dtype=torch.float64))
    trainer: Any = SimpleNamespace(strategy=strategy, datamodule=None)
    callback = SecondsPerImage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seconds_per_image.time, "perf_counter", lambda: now[0])
        callback.on_test_epoch_start(trainer, module)
        for seconds, images in batches:
            now[0] += 7.0  # of the loader
            callback.on_test_batch_start(trainer, module, None, 0)
            now[0] += seconds
            callback.on_test_batch_end(trainer, module, None, {"index": torch.arange(images)}, 0)
        callback.on_test_epoch_end(trainer, module)
    assert logged.keys() == callback.metrics(module, "test").keys()
    assert callback.metrics(module, "val") == callback.metrics(module, "train") == {}
    return logged


def test_all_but_the_first_batch_by_their_images():
    assert measured((100.0, 8), (2.0, 8), (1.0, 4))["test/image_s"] == pytest.approx(0.25)


def test_a_batch_that_is_alone_counts():
    assert measured((2.0, 4))["test/image_s"] == pytest.approx(0.5)


def test_of_several_ranks_the_images_count_alike():
    assert measured((9.0, 8), (2.0, 8), others=(6.0, 8))["test/image_s"] == pytest.approx(0.5)


def test_without_an_image_there_is_no_figure():
    assert math.isnan(measured()["test/image_s"])
