"""Mistakes a person makes, and the sentence that each gets before anything starts."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from launch import config_check
from launch.config_check import (
    Parameters,
    TrainConfig,
    check_command_line,
    check_config,
    compose_job,
    describe,
    fits,
    sweep_choices,
)
from launch.errors import UserError
from launch.runs import build, saved_config

MISTAKES = {
    # a choice or a key that does not exist
    "experiment=infogan_mnst": "experiment=infogan_mnst: there is no such choice; did you mean 'infogan_mnist'",
    "trainer=gpus": "did you mean 'gpu'",
    "callbacks=[default,image_grids]": "image_grids: there is no such choice; did you mean 'image_grid'",
    "trianer.max_steps=3": "there is no key 'trianer'; did you mean 'trainer'",
    "trainer.max_step=3": "trainer has no key 'max_step'; did you mean 'max_steps'",
    "datamodule.batchsize=3": "datamodule has no key 'batchsize'; did you mean 'batch_size'",
    "lightning_module.optimizer_g.lrr=1": "lightning_module.optimizer_g has no key 'lrr'; did you mean 'lr'",
    "trainer.gradient_clip_val=1": r"trainer has no key 'gradient_clip_val' yet, but .* takes it: write \+trainer.gradient_clip_val=1",
    # a key added by hand that the target does not take
    "+trainer.max_stepz=3": r"trainer \(lightning.Trainer\) has no key 'max_stepz'; did you mean 'max_steps'",
    "+lightning_module.noise=3": "lightning_module .* has no key 'noise'; did you mean 'noise_size'",
    "+lightning_module.optimizer_g.momentum=1": r"optimizer_g \(torch.optim.Adam\) has no key 'momentum'",
    "+sed=1": "The config has no key 'sed'; did you mean 'seed'",
    "+paper.valu=1": "paper has no key 'valu'; did you mean 'value'",
    # a value of another kind
    "trainer.max_steps=many": "trainer.max_steps is 'many', which is not a whole number",
    "datamodule.batch_size=1.5": "datamodule.batch_size is 1.5, which is not a whole number",
    "lightning_module.q_optimizer=with_q": "is 'with_q', which is not one of with_d, with_g, own",
    "trainer.precision=bf17": "trainer.precision is 'bf17', which is not one of .*bf16-mixed",
    "lightning_module.optimizer_g=adam": r"lightning_module.optimizer_g is 'adam', which is not a node with a _target_",
    "lightning_module.codes=[{kind:categorical,siez:10}]": r"lightning_module.codes\[0\] has no key 'siez'; did you mean 'size'",
    "lightning_module.codes=[{kind:discrete,size:10}]": r"codes\[0\].kind is 'discrete', which is not one of categorical, continuous",
    "lightning_module.codes=[{kind:categorical}]": r"codes\[0\] needs a value for 'size'",
    # a target that is not there
    "lightning_module._target_=lightning_modules.infogan.InfoGANN": "lightning_module._target_ is .*InfoGANN', which cannot be imported",
    # several values without -m
    "seed=0,1": "seed=0,1 gives several values: add -m",
    "trainer.max_steps=[1": "The command line cannot be read",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_the_command_line_gets_its_sentence(mistake):
    with pytest.raises(UserError, match=MISTAKES[mistake]):
        check_command_line("train", [mistake])


def test_a_right_command_passes():
    check_command_line(
        "train", ["experiment=infogan_mnist", "trainer=cpu", "trainer.max_steps=7", "+trainer.min_steps=1"]
    )
    assert len(check_command_line("train", ["-m", "seed=0,1", "lightning_module.noise_size=range(1,3)"])) == 3
    check_command_line("train", ["--help"])


def test_each_value_of_a_sweep_is_checked_before_the_first_job():
    with pytest.raises(UserError, match="is 'with_q', which is not one of"):
        check_command_line("train", ["-m", "seed=0,1", "lightning_module.q_optimizer=with_d,with_q"])


def test_a_sweep_is_looked_at_one_key_at_a_time():
    parse = config_check.OverridesParser.create().parse_overrides
    assert list(sweep_choices(parse(["a=1,2,3", "b=x", "c=0,5"]))) == [
        ["a=1", "b=x", "c=0"], ["a=2", "b=x", "c=0"], ["a=3", "b=x", "c=0"], ["a=1", "b=x", "c=5"]]  # fmt: skip


def test_evaluate_needs_a_run():
    with pytest.raises(UserError, match="run has no value yet: add run=..."):
        check_command_line("evaluate", [])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trianer: {max_steps: 5}", "The config has no key 'trianer'; did you mean 'trainer'"),
        ("trainer: {max_stps: 5}", r"trainer \(lightning.Trainer\) has no key 'max_stps'; did you mean 'max_steps'"),
        ("datamodule: {val_sze: 5}", "datamodule .* has no key 'val_sze'; did you mean 'val_size'"),
        ("callbacks: {image_grid: {every_n_step: 5}}", "callbacks.image_grid .* did you mean 'every_n_steps'"),
        ("optimized_metric: ${lightning_module.nois}", "Interpolation key 'lightning_module.nois' not found"),
    ],
)
def test_a_mistake_inside_an_experiment_file_gets_its_sentence(line, sentence, tmp_path, monkeypatch):
    """Hydra merges such a key without a word."""
    conf = tmp_path / "conf"
    for path in config_check.CONF.rglob("*.yaml"):
        target = conf / path.relative_to(config_check.CONF)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    text = (conf / "experiment" / "infogan_digits.yaml").read_text()
    key = line.partition(":")[0]
    kept = [it for it in text.splitlines() if not it.startswith(f"{key}:")]
    (conf / "experiment" / "infogan_digits.yaml").write_text("\n".join([*kept, line]) + "\n")
    monkeypatch.setattr(config_check, "CONF", conf)
    with pytest.raises(UserError, match=sentence):
        check_command_line("train", [])


MISFITS = {
    "datamodule=mnist": r"built for images of .*\(1, 8, 8\), but datamodule mnist gives \(1, 28, 28\)",
    "optimized_metric=test/cluster_acuracy": "which nothing in this run logs; did you mean 'test/cluster_accuracy'",
    "optimized_metric=val/cluster_accuracy": "datamodule.val_size=0 leaves no validation: set datamodule.val_size above 0",
    "paper.metric=test/accurracy": "paper.metric is test/accurracy, which nothing in this run logs",
    "callbacks=[default,best_checkpoint,cluster_accuracy]": "monitor|nothing",
    "trainer.max_steps=-1": "Nothing says how long to train: set trainer.max_steps",
    "+trainer.overfit_batches=1": "trainer.overfit_batches would replace the project's sampler",
    "+trainer.gradient_clip_val=1": "set lightning_module.gradient_clip_norm",
    "+trainer.accumulate_grad_batches=2": "trainer.accumulate_grad_batches has no effect",
    "lightning_module.noise_size=17": "takes 28: set lightning_module.generator.input_size=29",
    "lightning_module.codes=[{kind:continuous,size:11}]": "callbacks.cluster_accuracy needs a module that is AssignsClusters",
    "datamodule.batch_size=129 trainer=ddp_cpu": "cannot be cut among 2 ranks: choose a multiple of 2, such as 128",
    "lightning_module.q_optimizer=own": "teaches Q in D's turn, but with q_optimizer=own Q does not move there",
    "trainer=gpu": "Trainer: No supported gpu backend found",
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISFITS)
def test_parts_that_do_not_fit_are_refused_when_built(mistake, tmp_path):
    if mistake == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    extra = (
        ["lightning_module.discriminator.posterior_size=22", "lightning_module.generator.input_size=27"]
        if "continuous" in mistake
        else []
    )
    if mistake.startswith("callbacks="):
        extra.append("optimized_metric=test/nothing")
    config = compose_job("train", [*mistake.split(), *extra, "logger=none"], str(tmp_path))
    with pytest.raises(UserError, match=MISFITS[mistake]):
        build(config)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is not a run: it has no .hydra/config.yaml"):
        saved_config(tmp_path)


# --- the machinery -----------------------------------------------------------------------------------------------


class Base:
    def __init__(self, a: int, b: str = "x") -> None: ...


class Child(Base):
    def __init__(self, c: float, **base: Any) -> None:
        super().__init__(**base)


class Closed(Child):
    def __init__(self, d: bool) -> None:
        super().__init__(c=1.0, a=1)


def anything(e: int, **settings: Any) -> None: ...


def test_parameters_are_followed_through_the_bases():
    assert Parameters.of(Child) == Parameters({"c": float, "a": int, "b": str}, {"c", "a"}, any_name=False)
    assert Parameters.of(Closed) == Parameters({"d": bool}, {"d"}, any_name=False)
    assert Parameters.of(anything) == Parameters({"e": int}, {"e"}, any_name=True)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True), (True, int, False), (1.0, int, False), (1, float, True), ("1", float, False), ("a", str, True),
        (None, int | None, True), (None, int, False), ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False),
        ([1, 2], Sequence[int], True), ([1, "x"], list[int], False), ("ab", Sequence[str], False), (3, list[int], False),
        ([0.5, 0.9], tuple[float, float], True), ({"a": 1}, dict[str, int], True), (3, dict, False), ("x", Path, True),
        ("adam", Callable[..., Any], False), ({"_target_": "x"}, Callable[..., Any], True), (3, torch.nn.Module, False),
        ("anything", Any, True),
    ],
)  # fmt: skip
def test_values_and_hints(value, hint, expected):
    assert fits(value, hint) is expected


def test_hints_in_words():
    assert describe(int | None) == "a whole number or null"
    assert describe(Literal["a", "b"] | Literal["b", "c"] | None) == "one of a, b, c or null"
    assert describe(Sequence[float]) == "a list of a number"


def test_a_partial_node_may_leave_arguments_open():
    node = {"_target_": "torch.optim.SGD", "lr": 0.1}
    problems = partial(config_check.unfit_keys, hint=Any, path="o")
    assert list(problems(node)) == ["o (torch.optim.SGD) needs a value for 'params'."]
    assert list(problems(node | {"_partial_": True})) == []


def test_all_mistakes_are_told_at_once():
    config = compose_job("train", [])
    config["trainer"]["max_stepz"] = 1
    config["sede"] = 1
    with pytest.raises(UserError) as caught:
        check_config(config, TrainConfig)
    assert len(str(caught.value).splitlines()) == 2
