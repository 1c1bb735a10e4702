"""What a figure may be called, and which of a paper's may stand beside it: of the same data, split and metric alone.

Everything that shows a figure asks here. ``paper`` is an experiment's, ``data`` what a record says of its data. What a
test has measured is called ``test/...``, and ``train_set/...`` where a DataModule says ``tests_on_training_data``.
"""

from collections.abc import Container, Mapping
from typing import Any

from foundation.metrics import with_keys_of_today

TRAIN_SET = "train_set"
TESTED = ("test/", f"{TRAIN_SET}/")  # how the keys begin of what a test has measured
FROM_SCRATCH: dict[str, Any] = {"init_from": None}  # what a figure is of, where its ``where`` says nothing else
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
    conditions = FROM_SCRATCH | (paper.get("where") or {})
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


# --- tests on training data -------------------------------------------------------------------------------------------


def stage_name(stage: str, datamodule: Any) -> str:
    """How the keys of a stage begin: a test on training data is none."""
    on_training_data = stage == "test" and getattr(datamodule, "tests_on_training_data", False)
    return TRAIN_SET if on_training_data else stage


def key_for(key: str, datamodule: Any) -> str:
    """``test/map`` as it is called with this DataModule."""
    stage, slash, name = key.partition("/")
    return stage_name(stage, datamodule) + slash + name


def key_in(metrics: Container[str], metric: str) -> str:
    """Under which key a run has the metric that is asked for: that of a test, or of one on training data."""
    name = metric.partition("/")[2]
    if metric in metrics or not metric.startswith(TESTED):
        return metric
    return next((key for stage in TESTED if (key := stage + name) in metrics), metric)


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """A record's metrics by today's keys. Before there were those of training data, they were called a test's."""
    metrics, data = with_keys_of_today(record.get("metrics", {})), record.get("data", {})
    if "split" not in data and data.get("test_split") == "train":
        return {TRAIN_SET + key.removeprefix("test") if key.startswith("test/") else key: value
                for key, value in metrics.items()}  # fmt: skip
    return metrics
