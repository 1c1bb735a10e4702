"""What a figure may be called, and which of a paper's may stand beside it: of the same data, split and metric alone.

Everything that shows a figure asks here. ``paper`` is an experiment's, ``data`` what a record says of its data. A paper
has one figure of the experiment as its file has it, and may have more, of another depth, number of labels or split.
What a test has measured is called ``test/...``, and ``train_set/...`` where a DataModule says
``tests_on_training_data``.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from foundation.metrics import with_keys_of_today

TRAIN_SET = "train_set"
TESTED = ("test/", f"{TRAIN_SET}/")  # how the keys begin of what a test has measured
FROM_SCRATCH: dict[str, Any] = {"init_from": None}  # what a figure is of, where its ``where`` says nothing else
COCO_SPLITS = {"train": ("train2017", 118_287), "val": ("val2017", 5_000)}  # of records that name no split


@dataclass(frozen=True)
class Figure:
    """One of a paper's figures, and what it is of."""

    metric: str | None
    value: float | None
    data: str | None
    split: str | None
    where: Mapping[str, Any]
    """Keys of the config and their values."""
    what: str | None
    """What sets it apart in words; None of the experiment's own."""
    spread: float | None
    """The deviation that the paper gives."""
    as_filed: bool
    """Whether it is of the experiment as its file has it."""

    def stands_beside(self, metric: str, data: Mapping[str, Any] | None, config: Mapping[str, Any] | None) -> bool:
        """Whether it is of this metric on this data with this config; None: the experiment as its file has it."""
        if self.value is None or self.metric != metric or not data or not self.is_on(data):
            return False
        return self.as_filed if config is None else self.is_of(config)

    def is_on(self, data: Mapping[str, Any]) -> bool:
        """A figure that does not say its data and split is on none."""
        of_the_paper = (self.data, self.split)
        return None not in of_the_paper and of_the_paper == (data.get("name"), split_of(data))

    def is_of(self, config: Mapping[str, Any]) -> bool:
        conditions = FROM_SCRATCH | dict(self.where)
        return all(chosen(config, key) == value for key, value in conditions.items())


def figures_of(paper: Mapping[str, Any] | None) -> list[Figure]:
    """The paper's own figure, then each of its ``figures``; what has no value is none.

    One of the latter says its metric and value, or several as ``values``, has data and split from the paper unless it
    says them, and adds its ``where`` to the paper's.
    """
    paper = paper or {}
    more = [one for said in paper.get("figures") or () for one in each_of(said)]
    return [it for it in (figure_of({}, paper), *(figure_of(paper, said) for said in more)) if it.value is not None]


def each_of(said: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Of a figure's ``values`` each by itself: a number, or a number and its spread."""
    if not said.get("values"):
        return [dict(said)]
    pairs = {metric: it if isinstance(it, list) else [it, None] for metric, it in said["values"].items()}
    return [{**said, "metric": metric, "value": value, "spread": spread} for metric, (value, spread) in pairs.items()]


def figure_of(paper: Mapping[str, Any], said: Mapping[str, Any]) -> Figure:
    """paper: what holds where ``said`` is silent; empty for the paper's own figure."""
    data, split = (said.get(key, paper.get(key)) for key in ("data", "split"))
    own = said.get("where") or {}
    where = {**(paper.get("where") or {}), **own}
    return Figure(said.get("metric"), said.get("value"), data, split, where, said.get("what"), said.get("spread"),
                  as_filed=not paper or not own)  # fmt: skip


def published(
    paper: Mapping[str, Any] | None, metric: str, data: Mapping[str, Any] | None, config: Mapping[str, Any] | None
) -> float | None:
    """The paper's figure for a metric measured on this data by this config; None where it has none of that.

    A paper that does not say its data and split has no figure for anybody. ``config`` None stands for the experiment as
    its file has it.
    """
    found = (it.value for it in figures_of(paper) if it.stands_beside(metric, data, config))
    return next(found, None)


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
