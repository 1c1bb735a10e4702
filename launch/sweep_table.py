"""What a sweep has found: a table of its jobs, the same as sweep.csv, and sweep.png with the metric over the values.

python -m launch.sweep_table outputs/sweeps/infogan_digits/<folder>     # made again, as of jobs that run elsewhere
"""

import csv
import math
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from foundation.errors import UserError, told_as_sentences
from foundation.metrics import IN_WORDS, Direction, best, key_of_today, with_direction
from foundation.places import inside
from foundation.published import key_in, metrics_of
from foundation.records import is_training, read_overrides, read_record
from foundation.whole_files import whole

COLUMNS: Sequence[str] = ("job", "overrides", "metric", "value", "folder", "status", "error")
WIDTH_IN, HEIGHT_IN = 4.0, 3.4  # of one key's picture
DECADES = 100  # largest by smallest value from which on an axis is logarithmic


@dataclass(frozen=True)
class Job:
    """One job. ``values`` are its overrides by key; ``value`` is NaN where it has not reached the metric.
    ``direction``: of the metric the better one, as its record says; None where it does not."""

    folder: Path
    values: dict[str, str]
    metric: str | None
    value: float
    status: str
    error: str = ""
    direction: Direction = None


def metric_of(config: Mapping[str, Any]) -> str | None:
    """What a sweep of this config is about: the optimised metric, else the paper's, else nothing."""
    return config.get("optimized_metric") or (config.get("paper") or {}).get("metric")


def jobs_in(sweep: Path) -> list[Job]:
    """The jobs that have begun, in their order."""
    return [read_job(it) for it in sorted(folders_of_jobs(sweep), key=job_order)]


def folders_of_jobs(sweep: Path) -> list[Path]:
    """At whatever depth ``hydra.sweep.subdir`` lays them; what is in one belongs to it."""
    found: list[Path] = []
    for folder in sorted(it for it in sweep.glob("*/") if it.name != ".hydra"):
        found += [folder] if (folder / ".hydra" / "overrides.yaml").exists() else folders_of_jobs(folder)
    return found


def job_order(folder: Path) -> tuple[int, str]:
    """Sorts a sweep's 2 before its 10."""
    return len(folder.name), folder.name


def read_job(folder: Path) -> Job:
    record = read_record(folder)
    pairs = [it.partition("=") for it in read_overrides(folder)]
    status = record.get("status", "interrupted")
    if status in ("running", "fitted") and not is_training(record | {"status": "running"}):
        status = "interrupted"  # killed without a chance to say so
    metric = metric_of(record.get("config") or {})
    metrics = metrics_of(record)
    metric = metric and key_in(metrics, key_of_today(metric))
    value = metrics.get(metric or "", math.nan) if status == "finished" else math.nan
    direction = record.get("directions", {}).get(metric)
    values = {key: it for key, _, it in pairs}
    return Job(folder, values, metric, value, status, record.get("error") or "", direction)


def swept(jobs: Sequence[Job]) -> list[str]:
    """The keys in which the jobs differ."""
    keys = dict.fromkeys(key for job in jobs for key in job.values)
    return [key for key in keys if len({job.values.get(key) for job in jobs}) > 1]


def rows_of(jobs: Sequence[Job]) -> list[dict[str, str]]:
    """Each under COLUMNS."""
    keys = swept(jobs)
    return [
        {
            "job": job.folder.name,
            "overrides": " ".join(f"{key}={job.values[key]}" for key in keys if key in job.values),
            "metric": job.metric or "",
            "value": "" if job.metric is None else f"{job.value:.7g}",
            "folder": str(job.folder),
            "status": job.status,
            "error": job.error,
        }
        for job in jobs
    ]


def tell(jobs: Sequence[Job], sweep: Path) -> None:
    """Print the table; write sweep.csv and, where there is something to see, sweep.png."""
    if not jobs:
        return
    with whole(inside(sweep / "sweep.csv", sweep)) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows_of(jobs))
    print("", table(jobs), "", sep="\n")
    counts = {it: sum(job.status == it for job in jobs) for it in dict.fromkeys(job.status for job in jobs)}
    print(f"{len(jobs)} jobs: {', '.join(f'{count} {status}' for status, count in counts.items())}")
    if (found := best_of(jobs)) is not None:
        print(f"  best        {found.folder}: {found.metric} {found.value:.4f} ({IN_WORDS[str(found.direction)]})")
    print(f"  table       {sweep / 'sweep.csv'}")
    if draw(jobs, inside(sweep / "sweep.png", sweep)):
        print(f"  picture     {sweep / 'sweep.png'}", flush=True)


def best_of(jobs: Sequence[Job]) -> Job | None:
    """The first of those with the best value; None where they have no metric in common that has a better one."""
    reached = [it for it in jobs if not math.isnan(it.value)]
    if len({(it.metric, it.direction) for it in reached}) != 1:
        return None
    highest = best((it.value for it in reached), reached[0].direction)
    return next((it for it in reached if it.value == highest), None)


def table(jobs: Sequence[Job]) -> str:
    """Rows of job, overrides, metric, status and folder; beneath a failed one why. Keys and numbers are shortened."""
    names = {job.metric for job in jobs if job.metric}
    heading = names.pop() if len(names) == 1 else "metric"
    rows = [("job", "overrides", heading, "status", "folder")]
    short = shortened(swept(jobs))
    for job, row in zip(jobs, rows_of(jobs), strict=True):
        values = " ".join(f"{name}={rounded(job.values[key])}" for key, name in short.items() if key in job.values)
        value = f"{job.value:.4f}" if row["value"] else "-"
        rows.append((row["job"], values, value, row["status"], row["folder"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    told = [lines[0]]
    for job, line in zip(jobs, lines[1:], strict=True):
        told.append(line)
        told += [f"{'':{widths[0]}}  {job.error.splitlines()[0]}"] if job.error else []
    return "\n".join(told)


def shortened(keys: Sequence[str]) -> dict[str, str]:
    """For each key as many of its last parts as set it apart from the others."""
    dotted = {key: key.lstrip("+").replace("/", ".") for key in keys}  # groups have slashes
    found = {}
    for key in keys:
        parts = dotted[key].split(".")
        ends = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        alone = (end for end in ends if not any(f".{it}".endswith(f".{end}") for of, it in dotted.items() if of != key))
        found[key] = next(alone, key)
    return found


def rounded(value: str) -> str:
    """A number with many digits to four of them; anything else as it is."""
    try:
        return value if len(value) < 8 else f"{float(value):.4g}"
    except ValueError:
        return value


# --- the picture ---------------------------------------------------------------------------------------------------


def draw(jobs: Sequence[Job], path: Path) -> bool:
    """A picture for each key that was swept, beside one another; False where there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = swept(jobs)
    if not keys or all(math.isnan(job.value) for job in jobs):
        return False
    figure = Figure(figsize=(WIDTH_IN * len(keys), HEIGHT_IN), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
        draw_key(axes, jobs, key)
    with whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=110)
    return True


def draw_key(axes: Any, jobs: Sequence[Job], key: str) -> None:
    """A dot a job; a line through the means where values come back or nothing else was swept; crosses for failures."""
    places, names = places_of([job.values.get(key, "") for job in jobs])
    done = [(place, job.value) for place, job in zip(places, jobs, strict=True) if not math.isnan(job.value)]
    failed = [place for place, job in zip(places, jobs, strict=True) if math.isnan(job.value)]
    axes.scatter(*zip(*done, strict=True), s=22, zorder=3)
    at: dict[float, list[float]] = defaultdict(list)
    for place, value in done:
        at[place].append(value)
    if names is None and (len(swept(jobs)) == 1 or len(at) <= len(done) / 2):
        axes.plot(sorted(at), [mean(at[place]) for place in sorted(at)], linewidth=1.2)
    if failed:
        axes.scatter(failed, [0.03] * len(failed), marker="x", color="tab:red", transform=axes.get_xaxis_transform())
        axes.set_title("x: no value", fontsize="small", color="tab:red")
    if names is not None:
        axes.set_xticks(range(len(names)), names)
    elif min(places) > 0 and max(places) / min(places) >= DECADES:
        axes.set_xscale("log")
    metrics = {with_direction(job.metric, job.direction) for job in jobs if job.metric and not math.isnan(job.value)}
    axes.set(xlabel=key, ylabel=metrics.pop() if len(metrics) == 1 else "metric")
    axes.grid(alpha=0.3)


def places_of(values: Sequence[str]) -> tuple[list[float], list[str] | None]:
    """Where values stand on an axis: numbers as they are; else by the categories, which are given with them."""
    try:
        return [float(it) for it in values], None
    except ValueError:
        names = list(dict.fromkeys(values))
        return [float(names.index(it)) for it in values], names


def main(arguments: list[str]) -> None:
    if not arguments or not (jobs := jobs_in(Path(arguments[0]))):
        raise UserError("Name the folder of a sweep, such as outputs/sweeps/infogan_digits/<folder>.")
    tell(jobs, Path(arguments[0]))


if __name__ == "__main__":
    with told_as_sentences():
        main(sys.argv[1:])
