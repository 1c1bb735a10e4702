"""Whole iterations taken at once: what a GPU would replay, rehearsed on a CPU, where everything but the graph is there."""

import importlib
import os
import re
import signal
from functools import cache
from typing import Any

import pytest
import torch
from lightning import Callback

from foundation.checkpoints import read_checkpoint
from foundation.errors import UserError
from launch.capture import CapturingStrategy, Staging, first_cause, leaves_of
from launch.command_line import compose_job
from launch.runs import build
from lightning_modules.image_classifier import ImageClassifier
from tests.launch.replays import Watched, agree

ITERATIONS = 12
OF_ALL = ["trainer=cpu", "logger=csv", "callbacks.nan_guard.watch=train/loss", "trainer.max_epochs=null", "~callbacks.progress",
          "+trainer.enable_progress_bar=false", "trainer.log_every_n_steps=3", "trainer.precision=32-true"]  # fmt: skip
PLATEAUS = {"_target_": "lightning_modules.schedules.DropsOnPlateaus", "_partial_": True, "monitor": "val/error",
            "patience": 1, "drop": 0.5, "least": 1.0}  # fmt: skip
METHODS = {
    "infogan_digits": ["lightning_module.mutual_information_warmup=7", "lightning_module.gradient_clip_norm=1"],
    "improved_gan_digits": ["lightning_module.historical_averaging=0.1", "lightning_module.generator_steps=2",
                            "+callbacks=averaged_weights", "callbacks.averaged_weights.bias_corrected=true"],
    "draw_digits": [],
    "resnet_digits": ["lightning_module.scheduler.warmup=3"],
    "wrm_digits": [],
    "oracle_synthetic": [],
    "bert_tiny_text": ["datamodule.pad_to_max_length=true", "lightning_module.network.padding_free=false",
                       "lightning_module.optimizer.fused=true"],
}  # fmt: skip


@cache
def tiny(experiment: str) -> list[str]:
    module = compose_job("train", [f"experiment={experiment}"])["lightning_module"]["_target_"].split(".")[1]
    return importlib.import_module(f"tests.lightning_modules.test_{module}").TINY[experiment]


def overrides_of(experiment: str, *more: str) -> list[str]:
    return [f"experiment={experiment}", *tiny(experiment), *OF_ALL, *METHODS[experiment], *more]


def built(folder, experiment: str, capture: str, *more: str) -> Any:
    lengths = [f"trainer.max_steps={ITERATIONS}", f"trainer.capture={capture}", *more]
    return build(compose_job("train", overrides_of(experiment, *lengths), str(folder)))


def fitted(folder, experiment: str, capture: str, *more: str) -> Any:
    run = built(folder, experiment, capture, *more)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    return run


def logged(run) -> dict[str, float]:
    return {key: float(it) for key, it in run.trainer.callback_metrics.items() if not key.endswith("_s")}


@pytest.fixture
def watched(monkeypatch):
    monkeypatch.setattr("launch.capture.CapturingStrategy", Watched)


@pytest.mark.parametrize("experiment", METHODS)
def test_the_numbers_are_the_same_bit_for_bit(experiment, tmp_path, watched):
    """And every iteration's operators the same, on inputs and on what lasts: among them one that is logged, an epoch's
    first, others with another rate and another weight of a term."""
    plain, rehearsed = (fitted(tmp_path / it, experiment, it) for it in ("false", "rehearse"))
    assert (plain.captured, rehearsed.captured) == ("off", "rehearsed")
    assert rehearsed.trainer.global_step == ITERATIONS
    expected = plain.module.state_dict()
    for name, it in rehearsed.module.state_dict().items():
        torch.testing.assert_close(it, expected[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert any(key.startswith("train/loss") for key in logged(plain))
    assert logged(rehearsed) == logged(plain)
    traces = rehearsed.trainer.strategy.traces
    assert len(traces) > ITERATIONS - 2
    agree(traces)


# --- what would be found ---------------------------------------------------------------------------------------------


class Careless(ImageClassifier):
    """Breaks a rule."""

    def __init__(self, *args, rule: str, **kwargs):
        super().__init__(*args, **kwargs)
        self.rule, self.weight, self.former = rule, 1.0, None

    def loss(self, inputs):
        told = super().loss(inputs)
        self.weight *= 0.9
        if self.rule == "a number that changes":
            told["loss"] = told["loss"] * self.weight
        if self.rule == "a tensor made of a list":
            told["loss"] = told["loss"] * torch.tensor([1.0, self.weight])[1]
        if self.rule == "what the last step has left":
            told["loss"] = told["loss"] + 0.01 * (told["loss"] if self.former is None else self.former)
            self.former = told["loss"].detach()
        if self.rule == "a graph that is kept":
            self.former = told["loss"]
        return told


def careless(folder, rule: str) -> Any:
    config = compose_job("train", overrides_of("resnet_digits", "trainer.capture=rehearse", "trainer.max_steps=4",
                                               "~callbacks.nan_guard"), str(folder))  # fmt: skip
    config["lightning_module"] |= {"_target_": f"{__name__}.Careless", "rule": rule}
    run: Any = build(config)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    return run


@pytest.mark.parametrize("rule", ["a number that changes", "a tensor made of a list", "what the last step has left"])
def test_a_step_that_a_replay_would_take_otherwise_is_found(rule, tmp_path, watched):
    _, second, third, fourth = careless(tmp_path, rule).trainer.strategy.traces
    assert second != third or third != fourth or any("FROM ELSEWHERE" in it for it in second)


def test_a_graph_that_is_kept_is_found(tmp_path, watched):
    with pytest.raises(AssertionError, match="network"):
        careless(tmp_path, "a graph that is kept")


# --- checkpoints and refusals ----------------------------------------------------------------------------------------


class Stops(Callback):
    """A scheduler's signal in the middle of a run."""

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.global_step == 5:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("experiment", "before", "after"),
    [
        ("resnet_digits", "rehearse", "false"),
        ("resnet_digits", "false", "rehearse"),
        ("improved_gan_digits", "rehearse", "false"),  # with averaged weights
        ("improved_gan_digits", "rehearse", "rehearse"),
    ],
)
def test_an_interrupted_run_goes_on_with_or_without(experiment, before, after, tmp_path):
    """A rehearsed run's checkpoint is a usual one."""
    whole = fitted(tmp_path / "whole", experiment, "false")
    run = built(tmp_path / "run", experiment, before)
    run.trainer.callbacks.append(Stops())
    with pytest.raises(SystemExit):
        run.trainer.fit(run.module, datamodule=run.datamodule)
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    states = read_checkpoint(path)["optimizer_states"]
    assert {type(group["lr"]) for state in states for group in state["param_groups"]} == {float}
    run = built(tmp_path / "run", experiment, after)
    run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=path, weights_only=True)
    assert run.trainer.global_step == ITERATIONS
    for name, it in run.module.state_dict().items():
        assert torch.equal(it, whole.module.state_dict()[name]), name


def test_what_else_a_run_does_goes_on(tmp_path):
    """A rate that goes by validation, early stopping, short epochs, a profiler, a clock; and a second fit."""
    words = ["trainer.limit_train_batches=3", "trainer.val_check_interval=2", "datamodule.val_size=100", "trainer.profiler=simple",
             "+callbacks@callbacks=early_stopping", "optimized_metric=val/error", "trainer.inference_mode=true",
             "trainer.max_time=00:01:00:00", "trainer.max_steps=9"]  # fmt: skip
    runs = []
    for capture in ("false", "rehearse"):
        lengths = [f"trainer.capture={capture}", *words]
        config = compose_job("train", overrides_of("resnet_digits", *lengths), str(tmp_path / capture))
        config["lightning_module"]["scheduler"] = PLATEAUS
        runs.append(run := build(config))
        trainer: Any = run.trainer
        trainer.fit(run.module, datamodule=run.datamodule)
        (schedule,) = (it.scheduler for it in trainer.lr_scheduler_configs)
        assert schedule.dropped_at
        trainer.fit_loop.epoch_loop.max_steps = ITERATIONS
        trainer.fit(run.module, datamodule=run.datamodule)
        assert trainer.global_step == ITERATIONS
    for name, it in runs[1].module.state_dict().items():
        assert torch.equal(it, runs[0].module.state_dict()[name]), name


def test_a_tensor_that_has_moved_ends_the_run(tmp_path):
    """Or one that is gone, or was not there when the iteration was recorded."""
    run = fitted(tmp_path, "resnet_digits", "rehearse", "trainer.max_steps=2")
    strategy: Any = run.trainer.strategy
    strategy.connect(run.module)
    strategy.places = strategy.addresses()
    strategy.check_places()
    strategy.optimizers[0].state.popitem()
    with pytest.raises(UserError, match="momentum_buffer .* lies elsewhere"):
        strategy.check_places()
    strategy.places = strategy.addresses()
    last: Any = run.module.get_submodule("network.linear")
    last.weight = torch.nn.Parameter(last.weight.detach().clone())
    with pytest.raises(UserError, match="linear.weight lies elsewhere.*trainer.capture=false"):
        strategy.check_places()


def test_a_second_fit_is_warmed_up_anew(tmp_path):
    """Its optimisers are others, whose state is made in the first iterations."""
    run = fitted(tmp_path, "resnet_digits", "rehearse", "trainer.max_steps=2")
    strategy: Any = run.trainer.strategy
    assert (strategy.taken, strategy.graph, strategy.staging) == (0, None, None)


def test_a_failed_recording_is_told_by_its_first_cause():
    """Ending it fails, too, and raises over what has failed."""
    with pytest.raises(RuntimeError) as raised:
        try:
            raise RuntimeError("CUDA error: operation not permitted\nCompile with ...")
        finally:
            raise RuntimeError("capture was invalidated")
    assert re.fullmatch(r"CUDA error: operation not permitted, test_capture.py:\d+", first_cause(raised.value))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["trainer=ddp_cpu"], "one device alone"),
        (["trainer.detect_anomaly=true"], "detect_anomaly"),
        (["trainer.precision=16-mixed"], "bf16-mixed"),
        (["lightning_module.micro_batch_size=8"], "micro_batch_size"),
        (["lightning_module.compile_mode=reduce-overhead"], "reduce-overhead"),
        (["lightning_module.optimizer.fused=false"], "SGD would read its rate"),
        ([], "only a CUDA device"),
    ],
)
def test_what_cannot_be_captured_is_refused_or_goes_on_as_usual(overrides, told, tmp_path):
    if "CUDA" in told and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(UserError, match=told):
        built(tmp_path, "resnet_digits", "true", *overrides)
    run = built(tmp_path, "resnet_digits", "auto", *overrides)
    assert told in run.captured
    assert run.captured.startswith("off: ")
    assert not isinstance(run.trainer.strategy, CapturingStrategy)


def test_texts_of_any_length_are_refused(tmp_path):
    for override, told in (("datamodule.pad_to_max_length=false", "pad_to_max_length=true"),
                           ("lightning_module.network.padding_free=true", "padding_free=false")):  # fmt: skip
        with pytest.raises(UserError, match=told):
            built(tmp_path, "bert_tiny_text", "rehearse", override)
    words = ["experiment=filtering_synthetic", *tiny("filtering_synthetic"), "trainer=cpu", "trainer.capture=rehearse"]
    with pytest.raises(UserError, match="differ in length, and no key gives them one shape"):
        build(compose_job("train", words, str(tmp_path)))


def test_inputs_keep_their_places_and_values():
    inputs = {"image": torch.rand(3, 5), "index": torch.arange(3), "flag": torch.tensor(True),
              "of": {"half": torch.rand(3).to(torch.bfloat16), "none": torch.empty(0)}}  # fmt: skip
    staging = Staging(inputs, torch.device("cpu"))
    for factor in (1, 2, 3):
        now = {"image": inputs["image"] * factor, "index": inputs["index"] * factor, "flag": torch.tensor(factor == 2),
               "of": {"half": inputs["of"]["half"] * factor, "none": torch.empty(0)}}  # fmt: skip
        assert staging.takes(now)
        filled = staging.fill(now)
        places = [it.data_ptr() for _, it in leaves_of(filled)]
        assert places == [it.data_ptr() for _, it in leaves_of(staging.inputs)]
        assert list(filled) == list(now)
        for (name, it), (_, expected) in zip(leaves_of(filled), leaves_of(now), strict=True):
            assert torch.equal(it, expected), name
    assert not staging.takes({**inputs, "image": torch.rand(2, 5)})
