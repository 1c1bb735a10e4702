"""Rates by a clock that the test turns."""

from types import SimpleNamespace

import pytest
import torch

from callbacks import throughput
from callbacks.throughput import Throughput, examples_in


def run(waits, steps, every=2, world_size=1, size=10):
    """What is logged in iterations that wait and take so many seconds, ``every`` of them a logging."""
    now, logged = [100.0], []
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda values, **_: logged.append(values))
    trainer = SimpleNamespace(global_step=0, log_every_n_steps=every, world_size=world_size)
    callback = Throughput()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput.time, "perf_counter", lambda: now[0])
        callback.on_train_start(trainer, module)
        for wait, step in zip(waits, steps, strict=True):
            now[0] += wait
            callback.on_train_batch_start(trainer, module, None, 0)
            now[0] += step
            trainer.global_step += 1
            callback.on_train_batch_end(trainer, module, None, {"index": torch.arange(size)}, 0)
    assert all(set(it) == callback.metrics(None, "train").keys() for it in logged)
    return logged


def test_rates_by_hand():
    first, second = run(waits=[0.1, 0.1, 0.3, 0.3], steps=[0.4, 0.4, 0.2, 0.2])
    assert first == pytest.approx({"train/images_per_s": 20, "train/step_s": 0.4, "train/data_wait_s": 0.1})
    assert second == pytest.approx({"train/images_per_s": 20, "train/step_s": 0.2, "train/data_wait_s": 0.3})


def test_a_validation_between_two_iterations_is_no_slow_data():
    (found,) = run(waits=[0.1, 60.0, 0.1], steps=[0.4] * 3, every=3)
    assert found["train/data_wait_s"] == pytest.approx(0.1)
    assert found["train/images_per_s"] == pytest.approx(20)


def test_images_are_those_of_the_global_batch():
    (found,) = run(waits=[0.0, 0.0], steps=[0.5, 0.5], world_size=4)
    assert found["train/images_per_s"] == pytest.approx(80)


def test_examples_of_several_streams_add_up():
    labelled, unlabelled = {"index": torch.arange(3)}, {"index": torch.arange(5)}
    assert examples_in({"labelled": labelled, "unlabelled": unlabelled}) == 8
    assert examples_in(torch.zeros(2)) == 0
