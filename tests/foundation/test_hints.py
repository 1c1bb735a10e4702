"""Values of configs and files against type hints."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

import pytest
import torch

from foundation.hints import describe, element_of, fits, unfit_places


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


def test_what_a_list_holds():
    assert element_of(list[int]) is element_of(list[int] | None) is int
    assert element_of(tuple[int, str]) == int | str
    assert element_of(int | None) is element_of(list) is Any


def test_hints_in_words():
    assert describe(int | None) == "a whole number or null"
    assert describe(Literal["a", "b"] | Literal["b", "c"] | None) == "one of a, b, c or null"
    assert describe(Sequence[float]) == "a list of numbers"


class Kept(TypedDict, total=False):
    seed: int
    metrics: dict[str, float | None]
    words: list[str]


@pytest.mark.parametrize(
    ("content", "clause"),
    [
        ({"seed": 1, "metrics": {"a": 0.5, "b": None}, "words": ["x"], "else": 3}, None),
        ({}, None),
        ([], "its content is [], which is not a mapping"),
        ({"seed": "1"}, "seed is '1', which is not a whole number"),
        ({"metrics": {"a": "low"}}, "metrics.a is 'low', which is not a number or null"),
        ({"words": ["x", 2]}, "words is ['x', 2], which is not a list of texts"),
    ],
)
def test_the_first_place_that_is_of_another_kind(content, clause):
    assert next(unfit_places(content, Kept), None) == clause
