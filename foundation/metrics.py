"""The keys under which figures are logged: ``<stage>/<name>``, and which of two values is the better one.

Who logs a metric declares it, with its direction, and nobody else does: see ``metrics`` in ``foundation.protocols``.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

Value = TypeVar("Value")
STAGES = ("train", "val", "test")

Direction = Literal["max", "min"] | None
"""Which of two values is the better one: the larger, the smaller, or neither, as of a learning rate."""
Directions = Mapping[str, Direction]
"""For each key its direction."""

FORMER_KEYS = {"train/images_per_s": "train/examples_per_s"}
"""What metrics were called before, in records, ``metrics.csv`` and wandb: all that reads them reads both."""

IN_WORDS = {"max": "larger is better", "min": "smaller is better"}


def key_of_today(key: str) -> str:
    return FORMER_KEYS.get(key, key)


def with_keys_of_today(metrics: Mapping[str, Value]) -> dict[str, Value]:
    """Metrics, whatever stands under their keys, by what these are called today."""
    return {key_of_today(key): value for key, value in metrics.items()}


def former_keys(key: str) -> list[str]:
    """What a metric of today was called before."""
    return [former for former, today in FORMER_KEYS.items() if today == key]


def in_stage(stage: str, directions: Directions) -> dict[str, Direction]:
    """Names, as of one stage, made keys."""
    return {f"{stage}/{name}": direction for name, direction in directions.items()}


GROUPS = ("losses", "figures", "speed", "learning rates")


def group_of(key: str) -> str:
    """Of GROUPS the one that a key belongs to, by how its name begins or ends: ``step_s`` and ``examples_per_s``
    measure or count seconds."""
    name = key.partition("/")[2]
    if name == "lr" or name.startswith("lr_"):
        return "learning rates"
    return "losses" if name.startswith("loss") else "speed" if name.endswith("_s") else "figures"


def with_direction(metric: str, direction: Direction) -> str:
    """A metric as an axis or a heading names it."""
    return metric if direction is None else f"{metric} ({IN_WORDS[direction]})"


def best(values: Iterable[float], direction: Direction) -> float | None:
    """The best of those that are numbers; None where there is none, or no better."""
    numbers = [it for it in values if not math.isnan(it)]
    if direction is None or not numbers:
        return None
    return max(numbers) if direction == "max" else min(numbers)
