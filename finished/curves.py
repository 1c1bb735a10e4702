"""One metric of several runs over their iterations, as a picture.

    make curves RUN=outputs/sweeps/infogan_digits/<folder> METRIC=train/mutual_information_categorical_nats
    python -m finished.curves train/loss_g outputs/infogan_digits/<folder> outputs/infogan_digits/<another>

A folder is a run, or a sweep with a run in each folder of it. A curve is named by what sets its run apart.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from callbacks.instruments.pictures import save_figure
from finished.charts import read_curves
from foundation.errors import UserError, did_you_mean, told_as_sentences
from foundation.metrics import key_of_today, with_direction
from foundation.places import inside
from foundation.records import latest_of_each_key, read_overrides, read_record
from launch.sweep_table import job_order, shortened


def runs_in(folders: Iterable[Path]) -> list[Path]:
    """The runs among the folders and one level below, in order."""
    found = []
    for folder in folders:
        inner = [folder] if (folder / "metrics.csv").exists() else [it.parent for it in folder.glob("*/metrics.csv")]
        if not inner:
            raise UserError(f"{folder} is neither a run nor a sweep: there is no metrics.csv in it or one level below.")
        found += sorted(inner, key=job_order)
    return found


def read_curve(run: Path, metric: str) -> tuple[list[int], list[float]]:
    """Iterations finished and the metric's values where it was logged."""
    logged, metric = read_curves(run / "metrics.csv", run.name), key_of_today(metric)
    if metric not in logged:
        raise UserError(f"{run} has not logged {metric}; {did_you_mean(metric, logged)}")
    return logged[metric].iterations, logged[metric].values


def names_of(runs: list[Path]) -> list[str]:
    """For each run the overrides that not all share, keys shortened; its folder's name where they tell nothing."""
    overrides = []
    for run in runs:
        # Of its record, which has what resumes changed, else what it was started with.
        overrides.append(latest_of_each_key(read_record(run).get("overrides") or read_overrides(run)))
    shared = set.intersection(*map(set, overrides))
    apart = [[it.partition("=") for it in own if it not in shared] for own in overrides]
    short = shortened(list(dict.fromkeys(key for own in apart for key, *_ in own)))
    names = [", ".join(f"{short[key]}{equals}{value}" for key, equals, value in own) for own in apart]
    return [name or run.name for name, run in zip(names, runs, strict=True)]


def draw_curves(metric: str, folders: list[Path], path: Path) -> None:
    runs = runs_in(folders)
    curves = [read_curve(run, metric) for run in runs]
    with save_figure(path, width=7, height=4) as axes:
        names = names_of(runs)
        for name, (steps, values) in zip(names, curves, strict=True):
            axes.plot(steps, values, label=name, linewidth=1.2)
        directions = {read_record(run).get("directions", {}).get(metric) for run in runs}
        axes.set(xlabel="iteration", ylabel=with_direction(metric, directions.pop() if len(directions) == 1 else None))
        axes.grid(alpha=0.3)
        # Above, since curves may be anywhere below.
        axes.legend(
            fontsize="small",
            loc="lower left",
            bbox_to_anchor=(0, 1),
            ncols=2 if max(map(len, names)) < 35 else 1,
            frameon=False,
        )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metric", help="a column of metrics.csv")
    parser.add_argument("folders", nargs="+", type=Path, help="runs or sweeps")
    parser.add_argument("--out", type=Path, help="the picture; unless given, in the first folder")
    given = parser.parse_args(arguments)
    beside = given.folders[0] / f"curves-{given.metric.replace('/', '-')}.png"
    path = given.out or inside(beside, given.folders[0])
    draw_curves(given.metric, given.folders, path)
    print(path)


if __name__ == "__main__":
    with told_as_sentences():
        main()
