"""What ``results/`` holds: recorded runs, how much of its recipe each of them is, and which stands for a method.

A *recipe* is an experiment as its file has it. A run of it may be shorter, on other data and watched by other
callbacks, which its row says; with any other setting it is a variant, which has its place on the method's page.
"""

import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from foundation.published import key_in, metrics_of, published, split_of

SAME = ("experiment=", "seed=", "trainer=", "trainer.devices=", "logger=", "sweep=", "launcher=")
DRAWS = ("datamodule.label_seed=",)  # of a paper's mean over subsets, as a seed is
LENGTH = ("trainer.max_steps=", "trainer.max_epochs=", "trainer.max_time=")
DATA = ("datamodule=", "datamodule.folder=", "datamodule.name=")
WATCHING = ("trainer.log_every_n_steps=", "trainer.val_check_interval=", "trainer.check_val_every_n_epoch=",
            "evaluate.callbacks")  # fmt: skip
STEERING = {"averaged_weights", "best_checkpoint", "early_stopping"}  # callbacks that decide which weights are measured
CHOICES = {f"override /{group}": key for group, key in
           {"datamodule": "data", "lightning_module": "module", "callbacks": "callbacks"}.items()}  # fmt: skip
FEW = 3  # seeds below which there is no spread to speak of

Results = dict[str, list[dict[str, Any]]]


def load_results(results: Path) -> Results:
    """All results by experiment, in the order of their seeds."""
    found: Results = {}
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text())
        result |= {"file": path.name, "metrics": metrics_of(result)}
        found.setdefault(result["experiment"], []).append(result)
    return {name: sorted(them, key=lambda it: (it["seed"], it["file"])) for name, them in found.items()}


def load_experiments(conf: Path) -> list[dict[str, Any]]:
    """Name, paper, data set, module and length of every file of conf/experiment, as written there."""
    return [read_experiment(path) for path in sorted((conf / "experiment").glob("*.yaml"))]


def read_experiment(path: Path) -> dict[str, Any]:
    """An experiment may build on another of its folder, whose name then stands alone in its defaults."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    experiment: dict[str, Any] = {"paper": {}, "length": {}, "callbacks": []}
    for entry in content["defaults"]:
        if isinstance(entry, str):
            experiment |= read_experiment(path.with_name(f"{entry}.yaml"))
            continue
        ((group, choice),) = entry.items()
        if group in CHOICES:
            experiment[CHOICES[group]] = choice
    experiment["paper"] = OmegaConf.to_container(OmegaConf.merge(experiment["paper"], content.get("paper") or {}))
    asked = {key: value for key, value in (content.get("trainer") or {}).items() if f"trainer.{key}=" in LENGTH}
    return experiment | {"name": content["name"], "length": experiment["length"] | asked}


# --- what a run is of -----------------------------------------------------------------------------------------------


def changed(overrides: Iterable[str], same: tuple[str, ...] = SAME + DRAWS) -> list[str]:
    """The overrides that make a run another than the experiment's file has it: all but seeds, hardware and logger."""
    return sorted(it for it in overrides if not it.startswith(same))


def is_recipe(experiment: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    """Whether only length, data and what watches differ from the experiment's file. A sweep may set what it likes."""
    same = tuple(it for it in SAME + DRAWS + LENGTH + DATA + WATCHING if it != "sweep=")
    return all(watches(it, experiment["callbacks"]) for it in changed(result["overrides"], same))


def watches(override: str, callbacks: Iterable[str]) -> bool:
    """Whether an override is of callbacks that measure or show; what steers has to stay as the experiment has it."""
    key, _, value = override.lstrip("+~").partition("=")
    if key == "callbacks":
        return STEERING.intersection(re.findall(r"\w+", value)) == STEERING.intersection(callbacks)
    named = value if key.startswith("callbacks@") else key.removeprefix("callbacks.").partition(".")[0]
    return key.startswith(("callbacks@", "callbacks.")) and named not in STEERING


def figure(result: Mapping[str, Any], metric: str) -> float | None:
    """A metric of a result. What a test on training images found is asked for by the test's name, too."""
    return result["metrics"].get(key_in(result["metrics"], metric))


def measured_on(result: Mapping[str, Any]) -> str:
    """``mnist test, 100 labels``: data, split and what was done to it."""
    data = result["data"]
    told = [f"{data['name']} {split_of(data)}"]
    told += [f"binarized ({data['binarized']})"] if "binarized" in data else []
    told += [f"{data['labels']:,} labels"] if "labels" in data else []
    return ", ".join(told)


# --- how much of the recipe -------------------------------------------------------------------------------------------


def amounts(experiment: Mapping[str, Any], result: Mapping[str, Any]) -> tuple[float, float, str] | None:
    """Done, asked for by the experiment's file, and the unit: iterations, epochs or hours; None where not known."""
    length, fit_s = experiment["length"], result.get("wall_time_s", {}).get("fit")
    if (length.get("max_steps") or -1) > 0:
        return result["iterations"], length["max_steps"], "iterations"
    if (length.get("max_epochs") or -1) > 0 and "epochs" in result:
        return result["epochs"], length["max_epochs"], "epochs"
    if length.get("max_time") and fit_s is not None:
        return fit_s / 3600, seconds(length["max_time"]) / 3600, "hours"
    return None


def seconds(time: str | Mapping[str, float]) -> float:
    """``days:hours:minutes:seconds``, or by name, as the trainer takes it."""
    if isinstance(time, str):
        return sum(int(part) * unit for part, unit in zip(time.split(":"), (86400, 3600, 60, 1), strict=True))
    units = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
    return sum(amount * units[unit] for unit, amount in time.items())


def share_of(experiment: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    """Of the recipe, between 0 and 1; 0 where it is not known."""
    found = amounts(experiment, result)
    return min(found[0] / found[1], 1.0) if found else 0.0


def told_share(experiment: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """``13,000 of 50,000 iterations``."""
    found = amounts(experiment, result)
    if found is None:
        return f"{result['iterations']:,} iterations" if "iterations" in result else "-"
    done, asked, unit = found
    shown = ",.1f" if unit == "hours" else ",.4g" if unit == "epochs" else ",d"
    return f"{done:{shown}} of {asked:{shown}} {unit}"


# --- what stands for a method -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """The runs of one recipe on the same data for the same length, one a seed."""

    experiment: Mapping[str, Any]
    runs: list[dict[str, Any]]

    @property
    def metric(self) -> str:
        return self.experiment["paper"]["metric"]

    @property
    def values(self) -> list[float]:
        return [value for it in self.runs if (value := figure(it, self.metric)) is not None]

    @property
    def of_paper(self) -> float | None:
        return published(self.experiment["paper"], self.metric, self.runs[0]["data"], None)

    @property
    def share(self) -> float:
        return share_of(self.experiment, self.runs[0])

    def rank(self) -> tuple[float, int, bool]:
        """How well founded: by the share of the recipe that was run, then by seeds; a paper's figure decides a draw."""
        return self.share, len(self.runs), self.of_paper is not None

    def reached(self) -> str:
        """``0.868 ± 0.042 (5 seeds)``; below three seeds each value."""
        return f"{reached(self.values)} ({self.over})"

    @property
    def over(self) -> str:
        """``5 seeds``, or ``10 subsets of labels`` where one seed was run on several."""
        seeds, count = {it["seed"] for it in self.runs}, len(self.values)
        what = "seed" if len(seeds) == len(self.runs) else "subset"
        return f"{count} {what}{'s' * (count > 1)}" + (" of labels" if what == "subset" else "")


def records_of(experiment: Mapping[str, Any], results: Results) -> list[Record]:
    """The best founded first. Of a seed that was run twice the newest stands, one that nothing watched before it."""
    metric = experiment["paper"].get("metric")
    groups: dict[tuple[Any, ...], dict[Any, dict[str, Any]]] = {}
    ours = [it for it in results.get(experiment["name"], []) if is_recipe(experiment, it)]
    plain = SAME + DRAWS + LENGTH + DATA
    for it in sorted(ours, key=lambda it: (not changed(it["overrides"], plain), it.get("started_at", ""))):
        if metric and figure(it, metric) is not None:
            groups.setdefault((measured_on(it), told_share(experiment, it)), {})[seed_of(it)] = it
    found = [Record(experiment, [seeds[key] for key in sorted(seeds)]) for seeds in groups.values()]
    return sorted(found, key=Record.rank, reverse=True)


def seed_of(result: Mapping[str, Any]) -> tuple[int, tuple[str, ...]]:
    """All that was drawn: two runs of one recipe with the same are one."""
    return result["seed"], tuple(word for word in result["overrides"] if word.startswith(DRAWS))


def newest_of_each_seed(runs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of runs of one recipe on the same data, in the order of their seeds."""
    newest = {seed_of(it): it for it in sorted(runs, key=lambda it: it.get("started_at", ""))}
    return [newest[key] for key in sorted(newest)]


def best_of_each_method(
    experiments: list[dict[str, Any]], results: Results, method_of: Mapping[str, str]
) -> Iterator[Record]:
    """For each method and data set the best founded record. ``method_of`` an experiment's name."""
    best: dict[tuple[str, str], Record] = {}
    for experiment in experiments:
        for record in records_of(experiment, results):
            data = record.runs[0]["data"]
            key = method_of[experiment["name"]], f"{data['name']} {split_of(data)}"
            if key not in best or record.rank() > best[key].rank():
                best[key] = record
    yield from (best[key] for key in sorted(best))


def reached(values: list[float]) -> str:
    """Mean and spread; each value where they are too few to have one."""
    return mean_and_spread(values) if len(values) >= FEW else ", ".join(map(digits, values))


def mean_and_spread(values: list[float]) -> str:
    """The spread is the sample deviation; one that is small gets a digit more."""
    spread = statistics.stdev(values)
    places = 3 if spread >= 0.002 else 4
    return f"{statistics.fmean(values):.{places}f} ± {spread:.{places}f}"


def digits(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.4f}"
