"""Rates by a clock that the test turns."""

from types import SimpleNamespace

import pytest
import torch

from callbacks import throughput
from callbacks.throughput import Throughput, examples_in, tokens_in

BATCH = {"index": torch.arange(10)}


def run(waits, steps, every=2, world_size=1, batch=BATCH, batches=1, **more):
    """What is logged in iterations, of so many batches, that wait and take so many seconds, ``every`` of them a logging.

    more: what the module says.
    """
    now, logged = [100.0], []
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda values, **_: logged.append(values), **more)
    strategy = SimpleNamespace(reduce=lambda tensor, reduce_op: tensor * world_size)
    trainer = SimpleNamespace(global_step=0, log_every_n_steps=every, world_size=world_size, strategy=strategy)
    callback = Throughput()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput.time, "perf_counter", lambda: now[0])
        callback.on_train_start(trainer, module)
        for number, (wait, step) in enumerate(zip(waits, steps, strict=True), start=1):
            now[0] += wait
            callback.on_train_batch_start(trainer, module, None, 0)
            now[0] += step
            trainer.global_step = number // batches
            callback.on_train_batch_end(trainer, module, None, batch, 0)
    assert all(set(it) == callback.metrics(module, "train").keys() for it in logged)
    return logged


def test_rates_by_hand():
    first, second = run(waits=[0.1, 0.1, 0.3, 0.3], steps=[0.4, 0.4, 0.2, 0.2])
    assert first == pytest.approx({"train/examples_per_s": 20, "train/step_s": 0.4, "train/data_wait_s": 0.1})
    assert second == pytest.approx({"train/examples_per_s": 20, "train/step_s": 0.2, "train/data_wait_s": 0.3})


def test_a_validation_between_two_iterations_is_no_slow_data():
    (found,) = run(waits=[0.1, 60.0, 0.1], steps=[0.4] * 3, every=3)
    assert found["train/data_wait_s"] == pytest.approx(0.1)
    assert found["train/examples_per_s"] == pytest.approx(20)


def test_examples_are_those_of_the_global_batch():
    (found,) = run(waits=[0.0, 0.0], steps=[0.5, 0.5], world_size=4)
    assert found["train/examples_per_s"] == pytest.approx(80)


def test_examples_of_several_streams_add_up():
    labelled, unlabelled = {"index": torch.arange(3)}, {"index": torch.arange(5)}
    assert examples_in({"labelled": labelled, "unlabelled": unlabelled}) == 8
    assert examples_in(torch.zeros(2)) == 0


def test_batches_of_one_iteration_are_one_step():
    """Four batches make an iteration, and the second logs."""
    (found,) = run(waits=[0.1] * 8, steps=[0.4] * 8, batches=4)
    assert found == pytest.approx({"train/examples_per_s": 20, "train/step_s": 1.6, "train/data_wait_s": 0.4})


def test_tokens_are_counted_where_they_are_read_and_padding_is_none():
    text = {
        "index": torch.arange(3),
        "input_ids": torch.zeros(3, 5, dtype=torch.int64),
        "lengths": torch.tensor([5, 2, 1]),
    }
    (found,) = run(waits=[0.0, 0.0], steps=[0.5, 0.5], batch=text, world_size=2, vocabulary_size=9)
    assert found["train/tokens_per_s"] == pytest.approx(32)
    assert found["train/examples_per_s"] == pytest.approx(12)
    (of_images,) = run(waits=[0.0, 0.0], steps=[0.5, 0.5])
    assert "train/tokens_per_s" not in of_images


def test_tokens_of_any_batch():
    ids = torch.zeros(2, 3)
    assert tokens_in({"input_ids": ids}) == 6
    assert (
        tokens_in({"source": {"input_ids": ids, "lengths": torch.tensor([1, 3])}, "target": {"input_ids": ids}}) == 10
    )
    assert tokens_in({"image": ids}) == tokens_in(torch.zeros(2)) == 0
