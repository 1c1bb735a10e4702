"""Draws that a thread makes for the next iteration: the same ones, on time, and gone with the fit."""

import copy
import gc
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from launch.capture import leaves_of
from launch.command_line import compose_job
from launch.runs import build
from lightning_modules.ahead import Ahead, on_device
from lightning_modules.infogan import InfoGAN
from lightning_modules.turns import TakesTurns
from tests.lightning_modules.alone import alone
from tests.lightning_modules.test_device_step import EXPERIMENTS, forms, made
from tests.lightning_modules.test_infogan import TINY


def threads() -> list[str]:
    return [it.name for it in threading.enumerate() if it.name.startswith("draws")]


# --- the thread ------------------------------------------------------------------------------------------------------


def test_what_is_expected_is_drawn_before_it_is_asked_for():
    drawn_by: dict[tuple[int, int], str] = {}

    def draws(iteration, size):
        drawn_by[iteration, size] = threading.current_thread().name
        return {"it": torch.full((size,), iteration)}

    ahead = Ahead(draws)
    for key in ((5, 3), (6, 3), (7, 2), (8, 2), (5, 2)):  # as resumed at 5, a shorter batch, and begun anew
        taken = ahead.take(*key)["it"]
        assert (taken[0].item(), len(taken)) == key
    ahead.close()
    assert [drawn_by[it].startswith("draws") for it in ((5, 3), (6, 3), (7, 2), (8, 2), (5, 2))] == [
        False, True, False, True, False
    ]  # fmt: skip
    assert threads() == []


def test_a_mistake_is_raised_where_its_iteration_begins():
    def draws(iteration, size):
        if iteration == 2:
            raise ValueError("nothing is left to draw")
        return {}

    ahead = Ahead(draws)
    assert ahead.take(0, 1) == ahead.take(1, 1) == {}
    with pytest.raises(ValueError, match="nothing is left"):
        ahead.take(2, 1)
    ahead.close()


def test_it_ends_with_whoever_has_it_and_is_not_copied():
    ahead = Ahead(lambda iteration, size: {})
    ahead.take(0, 1)
    assert copy.deepcopy({"ahead": ahead}) == {"ahead": None}
    thread = next(it for it in threading.enumerate() if it.name.startswith("draws"))
    del ahead
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


# --- what is drawn ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_draws_are_a_function_of_iteration_and_size_and_are_shared_by_ranks(experiment):
    module = made(experiment)
    whole, others = module.draws(4, 6), [module.draws(it, size) for it, size in ((5, 6), (4, 3))]
    again = module.draws(4, 6)
    shares = [dict(leaves_of(alone(module, world_size=3, rank=it).draws(4, 6))) for it in range(3)]
    alone(module)
    of_rows = {name: it for name, it in leaves_of(whole) if it.ndim}
    assert bool(of_rows) == module.draws_something()
    for name, it in leaves_of(whole):
        assert it.is_cpu
        assert torch.equal(it, dict(leaves_of(again))[name])
        joined = torch.cat([share[name] for share in shares]) if it.ndim else shares[0][name]
        assert torch.equal(joined, it), name
    assert forms(whole) == forms(others[0])
    assert not of_rows or any(not torch.equal(it, dict(leaves_of(others[0]))[name]) for name, it in of_rows.items())


def test_what_lies_on_the_host_is_moved_in_one_piece():
    inputs = {"image": torch.rand(3, 5), "none": torch.empty(0), "of": {"flag": torch.tensor(True),
              "half": torch.rand(3, 2).to(torch.bfloat16)}, "there": torch.rand(2, device="meta")}  # fmt: skip
    assert on_device(inputs, torch.device("cpu")) is inputs
    moved = on_device(inputs, torch.device("meta"))
    assert forms(moved) == forms(inputs)
    assert moved["there"] is inputs["there"]
    pieces = [it.untyped_storage() for name, it in leaves_of(moved) if name != ("there",)]
    assert len({it._cdata for it in pieces}) == 1


# --- a fit -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def drawn_ahead(monkeypatch) -> list[int]:
    """As on a GPU; the iterations whose draws a thread has made."""
    monkeypatch.setattr(TakesTurns, "on_train_start", TakesTurns.draw_ahead)
    iterations, draws = [], InfoGAN.draws

    def seen(self, iteration, size):
        if threading.current_thread().name.startswith("draws"):
            iterations.append(iteration)
        return draws(self, iteration, size)

    monkeypatch.setattr(InfoGAN, "draws", seen)
    return iterations


class Ends(Callback):
    """Ends a fit in its first epoch: with a checkpoint, or by a mistake."""

    def __init__(self, checkpoint: Path | None = None) -> None:
        self.checkpoint = checkpoint

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 4:
            if self.checkpoint is None:
                raise ValueError("in the middle")
            trainer.save_checkpoint(self.checkpoint)
            trainer.should_stop = True


def built(folder, *more: str, steps: int = 7) -> Any:
    tiny = [it for it in TINY["infogan_digits"] if not it.startswith(("callbacks", "datamodule.batch_size"))]
    words = ["experiment=infogan_digits", *tiny, "trainer=cpu", "logger=csv", "trainer.precision=32-true", "trainer.max_epochs=null",
             "paper=null", f"trainer.max_steps={steps}", "datamodule.batch_size=256", *more]  # fmt: skip
    return build(compose_job("train", words, str(folder)) | {"callbacks": {}})


def fitted(run, **more) -> Any:
    run.trainer.fit(run.module, datamodule=run.datamodule, **more)
    return run.module.state_dict()


def equal(one, other) -> bool:
    return all(torch.equal(it, other[name]) for name, it in one.items())


def test_a_fit_has_the_numbers_of_one_that_draws_as_it_goes(tmp_path, monkeypatch, drawn_ahead):
    """Over several epochs, in micro batches, ended in the middle and gone on with, and once more in the process."""
    for number, more in enumerate(([], ["lightning_module.micro_batch_size=100"])):
        with monkeypatch.context() as usual:
            usual.setattr(TakesTurns, "on_train_start", lambda self: None)
            expected = fitted(built(tmp_path / f"usual{number}", *more))
        assert drawn_ahead == []
        run, path = built(tmp_path / f"first{number}", *more, steps=6), tmp_path / f"{number}.ckpt"
        run.trainer.callbacks.append(Ends(path))
        fitted(run)
        assert drawn_ahead == [1, 2, 3, 4]
        assert (threads(), run.module.ahead) == ([], None)
        found = fitted(built(tmp_path / f"rest{number}", *more), ckpt_path=path, weights_only=False)
        assert drawn_ahead == [1, 2, 3, 4, 5, 6, 7]
        assert equal(found, expected)
        drawn_ahead.clear()


def test_a_fit_after_one_that_a_mistake_has_ended(tmp_path, drawn_ahead):
    expected = fitted(built(tmp_path / "one"))
    broken = built(tmp_path / "two")
    broken.trainer.callbacks.append(Ends())
    with pytest.raises(ValueError, match="in the middle"):
        fitted(broken)
    again = built(tmp_path / "three")
    again.module.ahead = broken.module.ahead  # it has drawn for an iteration that did not come
    assert equal(fitted(again), expected)
    assert again.module.ahead is None


def test_other_precisions_draw_as_they_go(tmp_path, drawn_ahead):
    fitted(built(tmp_path, "trainer.precision=64-true", steps=2))
    assert drawn_ahead == []
