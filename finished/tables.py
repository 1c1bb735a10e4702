"""Results from runs: a run's record becomes a file of results/, and these files become the tables of the pages.

    python -m finished.tables record outputs/infogan_digits/<folder>                      # or an evaluation of it:
    python -m finished.tables record outputs/infogan_digits/<folder>/evaluations/<time>
    python -m finished.tables results [--check]
    python -m finished.tables experiments

A page holds a table between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; nothing else writes there.
NAME is ``methods`` (a line for each method and data set: its best founded record), ``<experiment> runs`` (a line a run,
with all that its test has measured), ``<experiment> variants`` (a line for each set of overrides, over its seeds) or
``<experiment> paper`` (a line for each of the paper's figures, with ours of the same). Metrics may follow runs and
variants: the only ones of runs, and those of variants besides the paper's.
``<experiment> <experiment> ... beside <metric> ...`` has a line for each of these, as their files have them.
"""

import argparse
import hashlib
import json
import math
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from finished.charts import read_curves
from finished.paper_figures import best_of
from finished.results import (
    SAME,
    Results,
    best_of_each_method,
    changed,
    figure,
    load_experiments,
    load_results,
    measured_on,
    newest_of_each_seed,
    reached,
    records_of,
    told_share,
)
from foundation.errors import UserError, did_you_mean, told_as_sentences
from foundation.metrics import Direction
from foundation.places import inside, is_one_name
from foundation.published import TESTED, Figure, figures_of
from foundation.records import key_of, latest_of_each_key, read_record
from launch.command_line import compose_job

ROOT = Path(__file__).resolve().parent.parent
MOST_POINTS = 40  # of a curve that a record keeps
WIDEST = 12  # metrics of a table of runs that names none
IN_A_MAPPING = re.compile(r"((?:[\w.]+:|(?<=[\[,{])) *)([^\s,:{}\[\]][^,:{}\[\]]*)(?=[,}\]])")  # of an override
TABLE = re.compile(r"(<!-- table: ([^\n]+?) -->\n).*?(<!-- end of table -->)", re.DOTALL)
EXPORTED = ("experiment", "seed", "overrides", "commit", "started_at", "data", "data_at_start", "hardware", "precision",
            "precision_ms", "weights", "weights_sha256", "world_size", "asked", "iterations", "epochs", "wall_time_s",
            "versions", "resumes", "inputs", "judges", "metrics", "evaluation")  # fmt: skip


# --- make record ---------------------------------------------------------------------------------------------


def record(run: Path, results: Path) -> Path:
    """Write a finished run's record into ``results``; returns the file."""
    source = run / "record.json"
    if not source.exists():
        raise UserError(f"{run} is not a run: it has no record.json. Give the folder that train.py printed.")
    found = read_record(run)
    if found["status"] != "finished":
        raise UserError(f"{run} is {found['status']}: only a run that was trained and tested to the end is a result.")
    if not found["clean"]:
        reason = "outside a git checkout" if found["clean"] is None else "with changes that its commit does not hold"
        named = f" ({', '.join(found['changes'])})" if found.get("changes") else ""
        raise UserError(f"{run} ran {reason}{named}: commit, and run it again.")
    since = changes_within(found.get("resumes", []))
    found["overrides"] = [it + since.get(key_of(it), "") for it in without_places(found["overrides"])]
    for given in found.get("inputs", {}).values():
        given |= {"overrides": without_places(given["overrides"])} if "overrides" in given else {}
    for judged in found.get("judges", {}).values():
        judged.get("judge", {}).pop("run", None)
    content = json.dumps({key: found[key] for key in EXPORTED if key in found}, indent=2)
    if curves := curves_of(run / "metrics.csv"):
        lines = [f"    {json.dumps(key)}: {json.dumps(points)}" for key, points in curves.items()]
        content = content.removesuffix("\n}") + ',\n  "curves": {\n' + ",\n".join(lines) + "\n  }\n}"
    content += "\n"
    changes = changed(found["overrides"], SAME)
    variant = "-" + hashlib.sha256(" ".join(changes).encode()).hexdigest()[:6] if changes else ""
    name = f"{found['experiment']}-{found['seed']}-{found['commit'][:7]}{variant}.json"
    if not is_one_name(name):
        raise UserError(f"{source} names its experiment, seed and commit as {name!r}, which is no name of a file.")
    target = inside(results / name, results)
    if target.exists() and target.read_text() != content:
        raise UserError(f"{target} already holds another run of this experiment, seed and commit: move it away first.")
    results.mkdir(exist_ok=True)
    target.write_text(content)
    return target


def curves_of(path: Path) -> dict[str, list[list[float]]]:
    """Of the losses and of what was validated: iterations and values, few enough to be looked at."""
    kept = {}
    for key, it in read_curves(path, "").items():
        points = [pair for pair in zip(it.iterations, it.values, strict=True) if math.isfinite(pair[1])]
        if key.startswith(("train/loss", "val/")) and len(points) > 1:
            step = -(-len(points) // MOST_POINTS)
            kept[key] = [[at, float(f"{value:.5g}")] for at, value in [*points[:-1:step], points[-1]]]
    return kept


def changes_within(resumes: list[dict[str, Any]]) -> dict[str, str]:
    """By key of what a resume changed in the midst of training, since when it holds; a later end is no such change."""
    given = [(key, it["from_iteration"]) for it in resumes for key in it.get("changed", {})]
    return {key: f" (from iteration {begun})" for key, begun in given if not key.startswith("trainer.")}


def without_places(overrides: list[str]) -> list[str]:
    """Where a person keeps data and runs is nobody's business and changes no number."""
    kept = [it for it in overrides if not it.lstrip("+").startswith(("paths.", "hydra."))]
    return [without_folders(it) for it in latest_of_each_key(kept)]


def without_folders(override: str) -> str:
    """``datamodule.folder=/home/me/coco`` -> ``datamodule.folder=coco``; what is no path stays as it is.

    So do paths in a mapping, ``init_from={run: outputs/a/b}`` -> ``init_from={run: b}``, and several runs,
    ``others.runs=[outputs/a/b,outputs/a/c]`` -> ``others.runs=[b,c]``.
    """
    key, equals, value = override.partition("=")
    if value.startswith(("{", "[")):
        of_list = "run:" if key.endswith(".runs") else ""
        alone = partial(IN_A_MAPPING.sub, lambda it: it[1] + without_folder(it[1].strip() or of_list, it[2]))
        return f"{key}{equals}{alone(value)}"
    return f"{key}{equals}{without_folder(f'{key}:', value)}"


def without_folder(key: str, value: str) -> str:
    """key: with its colon, empty in a list."""
    path = value.strip("'\"").rstrip("/")
    of_a_place = re.search(r"\b(run|folder|weights|init_from): *$", key) and not path.startswith("torchvision:")
    is_path = of_a_place or path.startswith(("/", "~", "."))
    return path.rpartition("/")[2] if is_path and "/" in path[1:] else value


# --- make results --------------------------------------------------------------------------------------------


def methods_table(experiments: list[dict[str, Any]], results: Results, pages_of: dict[str, tuple[str, str]]) -> str:
    """``pages_of`` an experiment's name: its method's title and page."""
    heads = ["method", "measured on", "metric", "paper's figure", "ours", "how much of the recipe", "experiment"]
    rows = []
    for it in best_of_each_method(experiments, results, {name: title for name, (title, _) in pages_of.items()}):
        title, page = pages_of[it.experiment["name"]]
        published = "-" if it.of_paper is None else str(it.of_paper)
        how_much = told_share(it.experiment, it.runs[0])
        rows.append([f"[{title}]({page})", measured_on(it.runs[0]), f"`{shown(it.metric)}`", published, it.reached(),
                     how_much, f"`{it.experiment['name']}`"])  # fmt: skip
    return table_of(heads, rows)


def runs_table(experiment: dict[str, Any], results: list[dict[str, Any]], named: list[str]) -> str:
    """Every recorded run of one experiment with these metrics, or with all that were tested where none is named."""
    tested = sorted({key for it in results for key in it["metrics"] if key.startswith(TESTED)}, key=shown)
    heads_of = list(dict.fromkeys(map(shown, named or tested)))
    table = f"A page asks for the table '{' '.join([experiment['name'], 'runs', *named])}'"
    if unknown := [it for it in named if all(figure(result, it) is None for result in results)]:
        raise UserError(f"{table}, but no run in results/ has {unknown[0]}; {did_you_mean(unknown[0], tested)}")
    if len(heads_of) > WIDEST:
        raise UserError(
            f"{table}, whose runs have {len(heads_of)} metrics, too many to be read side by side: name at most "
            f"{WIDEST} behind the word, as in '{experiment['name']} runs {' '.join(tested[:2])}'."
        )
    metrics = named or [f"test/{it}" for it in heads_of]
    heads = ["seed", "overrides", "measured on", "length", *(f"`{it}`" for it in heads_of), "fit", "on", "record"]
    rows = []
    for it in results:
        overrides = " ".join(changed(it["overrides"], SAME)) or "-"
        values = [figure(it, metric) for metric in metrics]
        hardware = f"{it['hardware']['device']}, {it['hardware']['threads']} threads, {it['precision']}"
        figures = ["-" if value is None else f"{value:.4f}" for value in values]
        rows.append([str(it["seed"]), overrides, measured_on(it), told_share(experiment, it), *figures,
                     f"{it['wall_time_s']['fit']:.0f} s", hardware, f"`{it['file']}`"])  # fmt: skip
    return table_of(heads, rows)


def paper_table(experiment: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """The paper's figures of one experiment: what each is of, and our best founded record of the same."""
    heads = ["what", "metric", "measured on", "paper's figure", "ours of the same", "how much of the recipe"]
    rows = []
    for it in figures_of(experiment["paper"]):
        record = best_of(it, experiment, results)
        spread = "" if it.spread is None else f" ± {it.spread}"
        ours = ["-", "-"] if record is None else [record.reached(), told_share(experiment, record.runs[0])]
        rows.append([it.what or "as the experiment's file has it", f"`{shown(str(it.metric))}`",
                     f"{it.data} {it.split}", f"{it.value}{spread}", *ours])  # fmt: skip
    if not rows:
        raise UserError(f"A page asks for the table '{experiment['name']} paper', but that experiment names no figure.")
    return table_of(heads, rows)


def variants_table(results: list[dict[str, Any]], metrics: list[str], direction: Direction) -> str:
    """For each set of overrides the metrics over its seeds; the worst and best are of the first metric, whose direction
    is given.

    Runs that have not all of the metrics are left out, such as those that no judge has seen.
    """
    variants: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for it in results:
        if all(figure(it, metric) is not None for metric in metrics):
            variants.setdefault((" ".join(changed(it["overrides"])), measured_on(it)), []).append(it)
    heads = ["overrides", "measured on", "seeds", *(f"`{shown(it)}`" for it in metrics), "worst", "best"]
    rows = []
    for (overrides, data), runs in sorted(variants.items()):
        found = newest_of_each_seed(runs)
        values: Any = [[figure(it, metric) for it in found] for metric in metrics]
        worst, best = worst_and_best(values[0], direction)
        rows.append([f"`{overrides}`" if overrides else "as the experiment's file has it", data, str(len(found)),
                     *map(reached, values), f"{worst:.3f}", f"{best:.3f}"])  # fmt: skip
    return table_of(heads, rows)


def beside_table(names: list[str], results: Results, metrics: list[str]) -> str:
    """A line for each experiment as its file has it, on whatever runs it goes on from, over its seeds.

    Runs that have all of the metrics are preferred to those that have the first alone.
    """
    rows = []
    for name in names:
        plain = [it for it in results.get(name, []) if not changed(of_recipe(it["overrides"]))]
        whole = [it for it in plain if all(figure(it, metric) is not None for metric in metrics)]
        runs = newest_of_each_seed(whole or [it for it in plain if figure(it, metrics[0]) is not None])
        cells = ["-"] * len(metrics)
        for place, metric in enumerate(metrics):
            values = [value for it in runs if (value := figure(it, metric)) is not None]
            cells[place] = reached(values) if len(values) == len(runs) > 0 else "-"
        told = [measured_on(runs[0]), str(len(runs))] if runs else ["not run yet", "-"]
        rows.append([f"`{name}`", *told, *cells])
    return table_of(["experiment", "measured on", "seeds", *(f"`{shown(it)}`" for it in metrics)], rows)


def of_recipe(overrides: list[str]) -> list[str]:
    """Without those that name runs to go on from: each seed has its own."""
    return [it for it in overrides if not re.match(r"(init_from|[\w.]+\.run)=", it)]


def worst_and_best(values: list[float], direction: Direction) -> tuple[float, float]:
    return (max(values), min(values)) if direction == "min" else (min(values), max(values))


def direction_of(experiment: str, metric: str) -> Direction:
    """As the experiment's parts declare it today."""
    from launch.declared import Parts  # with torch, for which other tables need not wait

    direction = Parts.of(compose_job("train", [f"experiment={experiment}"]), device="meta").direction(metric)
    if direction is None:
        raise UserError(f"{experiment} declares no direction of {metric}: a table of its variants has no best.")
    return direction


def shown(metric: str) -> str:
    """A column's name. What a test has measured stands under its bare name: the row says on what."""
    return metric.partition("/")[2] if metric.startswith(TESTED) else metric


def table_of(heads: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in [heads, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(heads), *lines[1:]]) + "\n"


def methods_of(experiments: list[dict[str, Any]], root: Path) -> dict[str, tuple[str, str]]:
    """For each experiment its method's title and page: the one that its name begins with, else the only one that begins
    with the same word (``oracle_deepcloak_cifar10``: oracle_robustness), else its module's."""
    titles = {it.stem: it.read_text().splitlines()[0].lstrip("# ") for it in (root / "docs" / "methods").glob("*.md")}
    found = {}
    for it in experiments:
        begun = [stem for stem in titles if it["name"].startswith(stem)]
        akin = [stem for stem in titles if stem.partition("_")[0] == it["name"].partition("_")[0]]
        stem = max(begun or (akin if len(akin) == 1 else [stem_of_module(it["module"], root)]), key=len)
        found[it["name"]] = titles.get(stem, stem), f"docs/methods/{stem}.md"
    return found


def stem_of_module(option: str, root: Path) -> str:
    """The file that a choice of conf/lightning_module builds from."""
    content: Any = OmegaConf.load(root / "conf" / "lightning_module" / f"{option}.yaml")
    if target := content.get("_target_"):
        return target.split(".")[1]
    return stem_of_module(next(it for it in content["defaults"] if isinstance(it, str) and it != "_self_"), root)


def pages(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def with_tables(
    text: str, experiments: list[dict[str, Any]], results: Results, pages_of: dict[str, tuple[str, str]]
) -> str:
    """A page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        if " beside " in match[2]:
            names, _, metrics = match[2].partition(" beside ")
            if unknown := [it for it in names.split() if it not in {known["name"] for known in experiments}]:
                raise UserError(f"A page asks for the table '{match[2]}', but there is no experiment {unknown[0]}.")
            return match[1] + beside_table(names.split(), results, metrics.split()) + match[3]
        name, kind, *metrics = [*match[2].split(), ""] if match[2] == "methods" else match[2].split()
        if name == "methods":
            return match[1] + methods_table(experiments, results, pages_of) + match[3]
        experiment = next((it for it in experiments if it["name"] == name), None)
        if kind == "paper" and experiment is not None:
            return match[1] + paper_table(experiment, results.get(name, [])) + match[3]
        if experiment is None or name not in results or kind not in ("runs", "variants"):
            raise UserError(f"A page asks for the table '{match[2]}', but results/ holds no run for it.")
        if kind == "runs":
            return match[1] + runs_table(experiment, results[name], metrics) + match[3]
        metric = experiment["paper"]["metric"]
        body = variants_table(results[name], [metric, *metrics], direction_of(name, metric))
        if body.count("\n") == 2:
            raise UserError(f"A page asks for the table '{match[2]}', but no run in results/ has all its metrics.")
        return match[1] + body + match[3]

    return TABLE.sub(table, text)


def update_pages(root: Path, check: bool) -> list[Path]:
    """Make all tables anew; returns the pages that changed, or with ``check`` those that would."""
    experiments, results = load_experiments(root / "conf"), load_results(root / "results")
    pages_of = methods_of(experiments, root)
    stale = []
    for page in pages(root):
        text = page.read_text()
        if (made := with_tables(text, experiments, results, pages_of)) != text:
            stale.append(page)
            if not check:
                page.write_text(made)
    return stale


# --- make experiments ----------------------------------------------------------------------------------------


def told(it: Figure) -> str:
    """``0.0093 (mnist test)``; with what it is of where it is not the experiment's own."""
    return f"{it.value} ({', '.join(part for part in (it.what, f'{it.data} {it.split}') if part)})"


def experiments_listing(experiments: list[dict[str, Any]], results: Results) -> str:
    """A line an experiment: what it reproduces, and the best founded of its records."""
    rows: list[tuple[str, ...]] = [
        ("experiment", "paper", "data", "metric", "paper's", "ours", "how much of the recipe", "measured on")
    ]
    for it in experiments:
        paper, records = it["paper"], records_of(it, results)
        first_of_paper = next((one for one in figures_of(paper) if one.metric == paper.get("metric")), None)
        of_paper = "-" if first_of_paper is None else told(first_of_paper)
        ours = ("not run yet", "", "")
        if records:
            first = records[0].runs[0]
            ours = (records[0].reached(), told_share(it, first), measured_on(first))
        rows.append((it["name"], paper.get("id", "-"), it["data"], paper.get("metric") or "-", of_paper, *ours))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("record").add_argument("run", type=Path)
    commands.add_parser("results").add_argument("--check", action="store_true")
    commands.add_parser("experiments")
    asked = parser.parse_args(arguments)
    if asked.command == "record":
        print(record(asked.run, ROOT / "results").relative_to(ROOT))
    elif asked.command == "experiments":
        print(experiments_listing(load_experiments(ROOT / "conf"), load_results(ROOT / "results")))
    else:
        stale = [str(page.relative_to(ROOT)) for page in update_pages(ROOT, asked.check)]
        if asked.check and stale:
            print(f"{', '.join(stale)}: the tables disagree with results/; run `make results`.", file=sys.stderr)
            return 1
        print("unchanged" if not stale else f"updated {', '.join(stale)}")
    return 0


if __name__ == "__main__":
    with told_as_sentences():
        sys.exit(main())
