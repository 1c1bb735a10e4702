"""Whole iterations taken at once: what a GPU would replay, rehearsed on a CPU, where everything but the graph is there."""

import importlib
import re
from functools import cache
from typing import Any

import pytest
import torch

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


def test_checkpoints_go_from_one_to_the_other(tmp_path):
    """A rehearsed run's is a usual one, and a run goes on with or without."""
    whole = fitted(tmp_path / "whole", "resnet_digits", "false")
    for before, after in (("rehearse", "false"), ("false", "rehearse")):
        folder = tmp_path / before
        fitted(folder, "resnet_digits", before, "trainer.max_steps=5", "lightning_module.scheduler.iterations=12")
        path = folder / "checkpoints" / "last.ckpt"
        (group,) = read_checkpoint(path)["optimizer_states"][0]["param_groups"]
        assert type(group["lr"]) is float
        run = built(folder, "resnet_digits", after, "lightning_module.scheduler.iterations=12")
        run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=path, weights_only=True)
        assert run.trainer.global_step == ITERATIONS
        for name, it in run.module.state_dict().items():
            assert torch.equal(it, whole.module.state_dict()[name]), name


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
