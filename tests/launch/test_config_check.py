"""Keys against the schema, targets against their signatures, values against type hints."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest

from foundation.errors import UserError
from launch import config_check
from launch.command_line import compose_job
from launch.config_check import Parameters, TrainConfig, check_config


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


def test_a_run_from_before_there_was_a_cache_passes():
    config = compose_job("train", [])
    del config["paths"]["cache_dir"]
    del config["datamodule"]["augment"]
    check_config(config, TrainConfig)


def test_a_typo_in_the_augmentation_is_told():
    with pytest.raises(UserError, match="datamodule.augment has no key 'padd'; did you mean 'pad'"):
        check_config(compose_job("train", ["datamodule.augment={padd:4}"]), TrainConfig)


class Measures:
    def __init__(self, parts: Mapping[str, Base], places: Mapping[str, Sequence[float]] | None = None) -> None: ...


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"parts": {"a": None}}, "it.parts.a is None, which is not a node with a _target_ (Base)."),
        ({"parts": {"a": {"b": "x"}}}, "it.parts.a is {'b': 'x'}, which is not a node with a _target_ (Base)."),
        ({"parts": {}, "places": {"x": ["a"]}}, "it.places.x is ['a'], which is not a list of numbers."),
        ({"parts": {}, "places": {"x": 0.5}}, "it.places.x is 0.5, which is not a list of numbers."),
    ],
)
def test_what_lies_under_the_keys_of_a_mapping_is_held_against_its_hint(values, sentence):
    target = {"_target_": f"{Measures.__module__}.Measures"}
    assert list(config_check.unfit_keys(target | values, Any, "it")) == [sentence]
    part = {"_target_": f"{Base.__module__}.Base", "a": 1}
    assert not list(config_check.unfit_keys(target | {"parts": {"a": part}, "places": {"x": [1, 0.5]}}, Any, "it"))


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"_partial_": [1]}, "node._partial_ is .*, which is not true or false"),
        ({"_target_": 3}, "node._target_ is 3, which is not a text"),
        ({"_target_": "torch.nn"}, "node._target_ is 'torch.nn', which is neither a class nor a function"),
        ({"_partail_": True}, "node has no key '_partail_'; did you mean '_partial_'"),
    ],
)
def test_words_for_hydra_itself_are_held_to_their_kinds(node, sentence):
    problems = list(config_check.unfit_call({"_target_": "torch.nn.Flatten"} | node, "node"))
    assert len(problems) == 1
    assert re.match(sentence, problems[0])


def test_keys_that_may_be_left_out_get_what_holds_then():
    config = compose_job("train", ["experiment=infogan_digits"])
    del config["paper"], config["logger"]
    check_config(config, TrainConfig)
    assert config["paper"] is config["logger"] is None


def test_what_is_no_number_is_told_wherever_it_stands():
    config = compose_job("train", ["experiment=infogan_digits", "lightning_module.discriminator.leak=nan"])
    with pytest.raises(UserError, match="^lightning_module.discriminator.leak is nan, which is no number: give one.$"):
        check_config(config, TrainConfig)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"metric": "test/error"}, r"paper.figures\[0\] \(56 layers\): give metric and value, or values"),
        ({"metric": "test/error", "value": 1.0, "values": {"test/error": 1.0}}, "give metric and value, or values"),
        ({"values": {"test/error": [1.0, 2.0, 3.0]}}, r"values.test/error is \[1.0, 2.0, 3.0\]: give a value, or \["),
    ],
)
def test_a_figure_of_a_paper_is_one_or_several(given, expected):
    config = compose_job("train", ["experiment=resnet_cifar10_56"])
    config["paper"]["figures"] = [
        {"what": "56 layers", "values": {"test/error": [0.07, 0.01], "test/error_top5": 0.01}}
    ]
    check_config(config, TrainConfig)
    config["paper"]["figures"] = [{"what": "56 layers"} | given]
    with pytest.raises(UserError, match=expected):
        check_config(config, TrainConfig)
