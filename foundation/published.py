"""Which of a paper's figures may stand beside one of ours: of the same data, split and metric, and no other.

Everything that shows a figure asks here. ``paper`` is an experiment's, ``data`` what a record says of its data.
"""

from collections.abc import Mapping
from typing import Any

COCO_SPLITS = {"train": ("train2017", 118_287), "val": ("val2017", 5_000)}  # of records that name no split


def published(
    paper: Mapping[str, Any] | None, metric: str, data: Mapping[str, Any] | None, config: Mapping[str, Any] | None
) -> float | None:
    """The paper's figure for a metric measured on this data by this config; None where it has none of that.

    A paper that does not say its data and split has no figure for anybody. ``config`` None stands for the experiment as
    its file has it.
    """
    if not paper or not data or paper.get("value") is None or paper.get("metric") != metric:
        return None
    of_the_paper = (paper.get("data"), paper.get("split"))
    if None in of_the_paper or of_the_paper != (data.get("name"), split_of(data)):
        return None
    conditions = paper.get("where") or {}
    if config is not None and any(chosen(config, key) != value for key, value in conditions.items()):
        return None
    return paper["value"]


def split_of(data: Mapping[str, Any]) -> str:
    """What was tested on, as papers call it; with how many examples where that is not all of them."""
    if "split" in data:
        return data["split"]
    if "test_split" in data:  # of before records named the split
        name, whole = COCO_SPLITS[data["test_split"]]
        return part_of(name, data["test"], whole)
    return "test"


def part_of(split: str, examples: int, whole: int | None) -> str:
    return split if whole in (None, examples) else f"{split}, {examples:,} examples"


def chosen(config: Mapping[str, Any], key: str) -> Any:
    """What a config has under a dotted key; None where there is no such key."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
