"""Keys against the schema, targets against their signatures, values against type hints."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from foundation.errors import UserError
from launch import config_check
from launch.command_line import compose_job
from launch.config_check import Parameters, TrainConfig, check_config, describe, fits


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
        ("anything", Any, True), ({"lr": 1}, torch.nn.Module, False), (None, torch.nn.Module, False),
    ],
)  # fmt: skip
def test_values_and_hints(value, hint, expected):
    assert fits(value, hint) is expected


def test_hints_in_words():
    assert describe(int | None) == "a whole number or null"
    assert describe(Literal["a", "b"] | Literal["b", "c"] | None) == "one of a, b, c or null"
    assert describe(Sequence[float]) == "a list of numbers"


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
