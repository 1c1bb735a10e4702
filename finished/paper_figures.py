"""A paper's figures of one experiment, and the records that are of the same.

A record is a figure's where data, split and metric are the paper's, its config holds what the figure is of, and it
differs from the experiment's file in nothing else but length, seed and what watches.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from finished.results import DRAWS, LENGTH, SAME, STEERING, Record, changed, figure, records_of
from foundation.errors import UserError
from foundation.published import Figure
from launch.command_line import compose_job

HARMLESS = tuple(it for it in SAME + DRAWS + LENGTH if it != "sweep=")  # to every figure


def best_of(it: Figure, experiment: Mapping[str, Any], results: list[dict[str, Any]]) -> Record | None:
    """The best founded record of a figure's data and settings; None where there is none."""
    found = [(result, of_it(it, experiment, result)) for result in results]
    theirs = [result | {"overrides": words} for result, words in found if words is not None]
    asked = {**experiment, "paper": {**experiment["paper"], "metric": it.metric}}
    return next(iter(records_of(asked, {experiment["name"]: theirs})), None)


def of_it(it: Figure, experiment: Mapping[str, Any], result: Mapping[str, Any]) -> list[str] | None:
    """A record's overrides without those that make it the figure's; None for a record of something else."""
    if figure(result, str(it.metric)) is None or not it.is_on(result["data"]):
        return None
    name = experiment["name"]
    words = [word for word in result["overrides"] if not word.startswith(("experiment=", "evaluate."))]
    try:
        if not it.is_of(composed(name, *words)):
            return None
        making = {word for word in changed(words, HARMLESS) if changes_only(name, word, it.where)}
    except UserError:  # a key or a choice that there is no more
        return None
    return [word for word in result["overrides"] if word not in making]


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


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """By dotted key what lies at the ends of a config."""
    if isinstance(node, Mapping) and node:
        for key, below in node.items():
            yield from leaves(below, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
