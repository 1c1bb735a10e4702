"""A paper's figures of one experiment, and the records that are of the same.

A record is a figure's where data, split and metric are the paper's, the config that was measured holds what the figure
is of, and it differs from the experiment's file in nothing else but length, seed and what watches. Of an evaluation
that config is the run's with the callbacks that ``evaluate.py`` was given. Runs that were measured together are those
of a figure where they differ in their seeds alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from finished.results import DRAWS, LENGTH, SAME, STEERING, Record, changed, figure, records_of
from foundation.errors import UserError
from foundation.published import Figure
from launch.command_line import compose_job

HARMLESS = tuple(it for it in SAME + DRAWS + LENGTH if it != "sweep=")  # to every figure
EVALUATED = "evaluate."  # how the overrides of an evaluation begin
TOGETHER = "callbacks.averaged_predictions.others."  # how the keys of the runs begin that were measured with a run


def best_of(it: Figure, experiment: Mapping[str, Any], results: list[dict[str, Any]]) -> Record | None:
    """The best founded record of a figure's data and settings; None where there is none."""
    found = [(result, of_it(it, experiment, result)) for result in results]
    theirs = [result | {"overrides": words} for result, words in found if words is not None]
    asked = {**experiment, "paper": {**experiment["paper"], "metric": it.metric}}
    return next(iter(records_of(asked, {experiment["name"]: theirs})), None)


def of_it(it: Figure, experiment: Mapping[str, Any], result: Mapping[str, Any]) -> list[str] | None:
    """A record's overrides without those that make it the figure's; None for a record of something else."""
    if figure(result, str(it.metric)) is None or not it.is_on(result["data"]) or not are_alike(result):
        return None
    name = experiment["name"]
    words = [word for word in result["overrides"] if not word.startswith(("experiment=", EVALUATED))]
    asked = [word.removeprefix(EVALUATED) for word in result["overrides"] if word.startswith(EVALUATED)]
    try:
        if not it.is_of(measured(name, words, asked)):
            return None
        making = {word for word in changed(words, HARMLESS) if changes_only(name, word, it.where)}
    except UserError:  # a key or a choice that there is no more
        return None
    return [word for word in result["overrides"] if word not in making]


def are_alike(result: Mapping[str, Any]) -> bool:
    """Whether the runs that were measured together have the same recipe, subset of labels and length."""
    others = [it for key, it in result.get("inputs", {}).items() if key.startswith(TOGETHER)]
    own = [word for word in result["overrides"] if not word.startswith(EVALUATED)]
    recipes = {recipe(result["experiment"], own, result.get("iterations"))}
    recipes |= {recipe(it["experiment"], it.get("overrides"), it["iteration"]) for it in others}
    return len(recipes) == 1


def recipe(experiment: str, overrides: Sequence[str] | None, iterations: int | None) -> tuple[Any, ...]:
    """overrides: None where a record does not say them, which equals none."""
    same = tuple(it for it in SAME + LENGTH if it != "sweep=")
    return experiment, None if overrides is None else tuple(changed(overrides, same)), iterations


def measured(experiment: str, words: Sequence[str], asked: Sequence[str]) -> dict[str, Any]:
    """asked: of an evaluation, whose callbacks take the place of the run's own of their names."""
    config = composed(experiment, *words)
    added = of_evaluation(*asked)["callbacks"] if asked else None
    return config | {"callbacks": config["callbacks"] | (added or {})}


def changes_only(experiment: str, word: str, where: Mapping[str, Any]) -> bool:
    """Whether an override changes what a figure is of and nothing else that decides its value."""
    before, after = (dict(leaves(it)) for it in (composed(experiment), composed(experiment, word)))
    differ = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    deciding = [key for key in differ if not key.startswith("paper.") and not only_watches(key)]
    return all(f"{key}.".startswith(tuple(f"{it}." for it in where)) for key in deciding)


def only_watches(key: str) -> bool:
    return key.startswith("callbacks.") and key.split(".")[1] not in STEERING


@cache
def composed(experiment: str, *words: str) -> dict[str, Any]:
    return compose_job("train", [f"experiment={experiment}", *words])


@cache
def of_evaluation(*words: str) -> dict[str, Any]:
    return compose_job("evaluate", ["run=unknown", *words])


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """By dotted key what lies at the ends of a config."""
    if isinstance(node, Mapping) and node:
        for key, below in node.items():
            yield from leaves(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
