"""One self-contained HTML page of a run, or of a sweep: figures, curves, pictures, config, command.

    make report RUN=outputs/infogan_digits/<folder>
    python -m finished.report outputs/sweeps/infogan_digits/<folder> --out report.html

It reads what the run has written so far, so a run that failed or still trains has one, too. The page loads nothing.
"""

import argparse
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import yaml

from finished.charts import Curve, line_chart, read_curves
from finished.curves import names_of
from finished.exhibits import number, pictures_of, tables_of
from finished.html import Html, html
from foundation.errors import UserError, told_as_sentences
from foundation.metrics import GROUPS, IN_WORDS, Direction, best, group_of
from foundation.places import inside, lies_in
from foundation.published import TESTED, TRAIN_SET, figures_of, key_in, metrics_of, published, split_of
from foundation.records import read_record
from foundation.security import split_trust
from foundation.yaml_files import read_yaml
from launch.packed import folder_of
from launch.sweep_table import job_order

STYLE = Path(__file__).with_name("report.css")
STAGES = {"train": "Training", "val": "Validation", "test": "Test", TRAIN_SET: "On the training images"}


@dataclass
class RunFiles:
    """What a run has left in its folder; empty where it has not come so far."""

    folder: Path
    name: str
    record: dict[str, Any]
    config: dict[str, Any]
    curves: dict[str, Curve]

    @property
    def status(self) -> str:
        return self.record.get("status", "unknown")

    @property
    def metrics(self) -> dict[str, float]:
        return metrics_of(self.record)

    @property
    def directions(self) -> dict[str, Direction]:
        """Of a metric which of two values is the better one; of older runs it is not known."""
        return self.record.get("directions", {})

    @property
    def paper(self) -> dict[str, Any]:
        return self.config.get("paper") or {}


# --- reading -------------------------------------------------------------------------------------------------


def read_runs(folder: Path) -> list[RunFiles]:
    """The run, or those of a sweep in the order of their jobs."""
    folders = [folder] if is_run(folder) else sorted(filter(is_run, folder.glob("*")), key=job_order)
    if not folders:
        raise UserError(f"{folder} is neither a run nor a sweep: give a folder that train.py printed.")
    return [read_run(it, name) for it, name in zip(folders, names_of(folders), strict=True)]


def is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("record.json", "metrics.csv", "config.yaml"))


def read_run(folder: Path, name: str) -> RunFiles:
    record, config, metrics = (folder / name for name in ("record.json", "config.yaml", "metrics.csv"))
    for path in (record, config, metrics):
        if path.exists() and not (path.is_file() and lies_in(path, folder)):
            raise UserError(f"{path} is no file of this run but a link out of its folder or a pipe: it is not shown.")
    return RunFiles(
        folder,
        name,
        read_record(folder),
        (read_yaml(config) or {}) if config.exists() else {},
        read_curves(metrics, name),
    )


# --- the page ------------------------------------------------------------------------------------------------


PAGE: LiteralString = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
<footer>Made by Relight on {made}.</footer>
</main>
</body>
</html>
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # a browser runs and loads nothing here


def page(title: str, body: list[Html]) -> Html:
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    style = Html(STYLE.read_text())  # the project's own file
    return html(PAGE, policy=POLICY, title=title, style=style, body=[html("{}\n", it) for it in body], made=made)


def run_page(run: RunFiles) -> Html:
    title = f"{run.config.get('name') or run.record.get('experiment') or run.folder.name}, seed {seed_of(run)}"
    return page(title, [
        html("<h1>{} {}</h1>", title, badge(run.status)), html('<p class="dim">{}</p>', in_short(run)), error_of(run),
        measured(run), pictures_of(run.folder), tables_of(run.folder), *curves_of([run]), facts_of(run),
        config_of(run),
    ])  # fmt: skip


def sweep_page(folder: Path, runs: list[RunFiles]) -> Html:
    names = sorted({str(it.config.get("name", it.folder.name)) for it in runs})
    title = f"{', '.join(names)}: {len(runs)} runs"
    numbers = {status: sum(it.status == status for it in runs) for status in sorted({it.status for it in runs})}
    told = ", ".join(f"{number} {status}" for status, number in numbers.items())
    pictures = [pictures_of(it.folder, f"Pictures of {it.name}", 3) for it in runs]
    return page(title, [
        html("<h1>{}</h1>", title), html('<p class="dim">{}; {}</p>', told, folder.name), table_of(runs),
        *curves_of(runs), *pictures, *(config_of(it, f"Config of {it.name}") for it in runs[:1]),
    ])  # fmt: skip


def badge(status: str) -> Html:
    return html('<span class="status {status}">{status}</span>', status=status)


def seed_of(run: RunFiles) -> Any:
    return run.config.get("seed", run.record.get("seed", "?"))


def in_short(run: RunFiles) -> str:
    """How long, on what, from which commit."""
    record = run.record
    hardware = record.get("hardware", {})
    parts = [
        f"{record['iterations']} iterations" if "iterations" in record else "",
        f"{record.get('world_size', 1)} x {hardware.get('device')}, {record.get('precision')}" if hardware else "",
        f"{duration(record['wall_time_s']['fit'])}" if "fit" in record.get("wall_time_s", {}) else "",
        f"commit {record['commit'][:7]}" if record.get("commit") else "",
    ]
    return " · ".join(part for part in parts if part) or "nothing is recorded yet"


def error_of(run: RunFiles) -> Html:
    return html('<div class="error">{}</div>', run.record["error"]) if run.record.get("error") else html("")


def measured(run: RunFiles) -> Html:
    """The test's metrics, else the validation's; the one that the paper reports first, with the paper's figure."""
    stage = next((it for it in (*TESTED, "val/") if any(key.startswith(it) for key in run.metrics)), None)
    reported = reported_by(run)
    keys = sorted((key for key in run.metrics if stage and key.startswith(stage)), key=lambda it: (it != reported, it))
    if not keys:
        return html("")
    cards = []
    for key in keys:
        told = beside(run, key, reported)
        paper = html('<span class="dim">{}</span>', told) if told else None
        first = " first" if key == reported else ""
        better = IN_WORDS.get(run.directions.get(key) or "", "")
        name = html('<code title="{}">{}</code>', better, key) if better else html("<code>{}</code>", key)
        value = number(run.metrics[key])
        cards.append(html('<div class="figure{}"><b>{}</b>{} {}</div>', first, value, name, paper))
    return html('<div class="figures">{}</div>', cards)


def reported_by(run: RunFiles) -> str | None:
    """The paper's metric, by the key under which this run has it."""
    metric = run.paper.get("metric")
    return metric and key_in(run.metrics, metric)


def beside(run: RunFiles, key: str, reported: str | None) -> str | None:
    """The paper's figure of a metric; that there is none where it is the metric that the paper reports."""
    figure = published(run.paper, key, run.record.get("data"), run.config)
    if figure is not None:
        return f"paper: {figure}"
    if key != reported:
        return None
    others = any(it.metric == run.paper.get("metric") for it in figures_of(run.paper))
    return "the paper's figure is of something else" if others else "the paper gives no figure"


def table_of(runs: list[RunFiles]) -> Html:
    """A line a run: what sets it apart, its end, and its final metrics, the paper's first, the best of each strong."""
    reported = reported_by(runs[0])
    keys = {key for it in runs for key in it.metrics if key.startswith((*TESTED, "val/"))}
    columns = sorted(keys, key=lambda it: (it != reported, not it.startswith(TESTED), it))
    heads = [head_of(key, runs) for key in columns]
    lines = [html("{}", [html("<th>{}</th>", head) for head in ("run", "", *heads, "time")])]
    bests = {key: best_over(runs, key) for key in columns}
    for it in runs:
        values = [cell(it.metrics.get(key), bests[key]) for key in columns]
        fit = it.record.get("wall_time_s", {}).get("fit")
        cells = [*values, duration(fit) if fit is not None else "-"]
        numbers = [html('<td class="number">{}</td>', told) for told in cells]
        lines.append(html("<td>{}</td><td>{}</td>{}", it.name, badge(it.status), numbers))
    rows = [html("<tr>{}</tr>", line) for line in lines]
    failed = [(it.name, it.record["error"]) for it in runs if it.record.get("error")]
    errors = [html('<div class="error">{}: {}</div>', name, error) for name, error in failed]
    return html('<h2>Runs</h2><div class="card scroll"><table>{}</table></div>{}', rows, errors)


def head_of(key: str, runs: list[RunFiles]) -> str:
    """With the paper's figure where it is the same for every run in the column."""
    found = {published(it.paper, key, it.record.get("data"), it.config) for it in runs if key in it.metrics}
    figure = found.pop() if len(found) == 1 else None
    return key if figure is None else f"{key} (paper: {figure})"


def best_over(runs: list[RunFiles], key: str) -> float | None:
    """Of a metric's final values; None where the runs do not agree on a direction."""
    measured = [it for it in runs if key in it.metrics]
    directions: set[Direction] = {it.directions.get(key) for it in measured}
    return best((it.metrics[key] for it in measured), directions.pop()) if len(directions) == 1 else None


def cell(value: float | None, highest: float | None) -> Html:
    told = "-" if value is None else number(value)
    return html("<b>{}</b>", told) if value is not None and value == highest else html("{}", told)


def curves_of(runs: list[RunFiles]) -> list[Html]:
    """A section a stage, a chart a metric with a line a run. What was logged but once is no curve."""
    keys = sorted({key for it in runs for key, curve in it.curves.items() if len(curve.values) > 1}, key=rank)
    made = []
    for stage in dict.fromkeys(key.partition("/")[0] for key in keys):
        charts = [chart(key, runs) for key in keys if key.partition("/")[0] == stage]
        if charts:
            made.append(html('<h2>{}</h2><div class="charts">{}</div>', STAGES.get(stage, stage), charts))
    return [legend(runs), *made] if made and len(runs) > 1 else made


def rank(key: str) -> tuple[int, str]:
    return GROUPS.index(group_of(key)), key


def legend(runs: list[RunFiles]) -> Html:
    entry: LiteralString = '<li><svg viewBox="0 0 22 8"><path class="line c{}" d="M0 4H22"/></svg>{}</li>'
    entries = [html(entry, position % 8, it.name) for position, it in enumerate(runs)]
    return html('<h2>Curves</h2><ul class="legend">{}</ul>', entries)


def chart(key: str, runs: list[RunFiles]) -> Html:
    curves = [it.curves.get(key, Curve(it.name, [], [])) for it in runs]
    drawn = line_chart(curves, f"{key} over iterations")
    last = html("<span>{}</span>", in_the_end(curves[0], runs[0].directions.get(key))) if len(runs) == 1 else None
    name = key.partition("/")[2] or key
    return html('<div class="card"><h3>{}{}</h3>{}</div>', name, last, drawn or html("<p>no finite value</p>"))


def in_the_end(curve: Curve, direction: Direction) -> str:
    """The last value, and the best where it is another."""
    last, highest = curve.values[-1], best(curve.values, direction)
    return number(last) if highest in (None, last) else f"{number(last)}, best {number(highest)}"


def facts_of(run: RunFiles) -> Html:
    """Which command gave these numbers, on what."""
    record = run.record
    hardware, data = record.get("hardware", {}), record.get("data", {})
    sizes = ", ".join(f"{data[split]} {split}" for split in ("train", "val", "test") if split in data)
    clean = {True: "", False: " with uncommitted changes", None: ""}[record.get("clean")]
    facts = {
        "command": record.get("command"),
        "commit": f"{record['commit']}{clean}" if record.get("commit") else None,
        "started": record.get("started_at"),
        "took": ", ".join(f"{stage} {duration(it)}" for stage, it in record.get("wall_time_s", {}).items()),
        "resumed": ", ".join(f"from iteration {it['from_iteration']}" for it in record.get("resumes", [])),
        "hardware": f"{hardware.get('device')}, {hardware.get('cores')} cores" if hardware else None,
        "weights tested": record.get("weights"),
        "parameters": f"{record['parameters']:,}" if "parameters" in record else None,
        "data": f"{data.get('name')}: {sizes}" if data else None,
        "tested on": split_of(data) if data else None,
        "paper": run.paper.get("id"),
        "versions": ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items() if version),
        "folder": str(run.folder),
    }
    rows = [html("<tr><th>{}</th><td>{}</td></tr>", key, str(value)) for key, value in facts.items() if value]
    return html('<h2>Where it comes from</h2><div class="card"><table class="facts">{}</table></div>', rows)


def config_of(run: RunFiles, title: str = "Config") -> Html:
    if not run.config:
        return html("")
    text = yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)
    return html('<details class="card"><summary>{}</summary><pre>{}</pre></details>', title, text)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a run or a sweep")
    parser.add_argument("--out", type=Path, help="the page; unless given, report.html in the folder")
    _, words = split_trust(sys.argv[1:] if arguments is None else arguments)  # a page builds nothing
    given = parser.parse_args(words)
    given.folder = folder_of(given.folder)
    try:
        runs = read_runs(given.folder)
        alone = len(runs) == 1 and runs[0].folder == given.folder
        made = run_page(runs[0]) if alone else sweep_page(given.folder, runs)
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:  # of another kind of value
        raise UserError(
            f"{given.folder}: record.json, config.yaml or a table holds what no run writes ({error}): it is damaged or "
            "was written by hand."
        ) from None
    path = given.out or inside(given.folder / "report.html", given.folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(made)
    print(path)


if __name__ == "__main__":
    with told_as_sentences():
        main()
