"""Results from runs: a run's record becomes a file of results/, and these files become the tables of the pages.

    python -m finished.tables record outputs/infogan_digits/<folder>                      # or an evaluation of it:
    python -m finished.tables record outputs/infogan_digits/<folder>/evaluations/<time>
    python -m finished.tables results [--check]
    python -m finished.tables experiments

A page holds a table between ``<!-- table: NAME -->`` and ``<!-- end of table -->``; nothing else writes there.
NAME is ``methods``, ``<experiment> runs`` (a line a run) or ``<experiment> variants`` (a line for each set of
overrides, over its seeds; more metrics may follow the word).
"""

import argparse
import hashlib
import json
import math
import re
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from foundation.errors import UserError, told_as_sentences
from foundation.records import latest_of_each_key

ROOT = Path(__file__).resolve().parent.parent
SAME = ("experiment=", "seed=", "trainer=", "trainer.devices=", "logger=", "sweep=", "launcher=")
DRAWS = ("datamodule.label_seed=",)  # of a paper's mean over subsets, as a seed is
TABLE = re.compile(r"(<!-- table: ([\w/ ]+) -->\n).*?(<!-- end of table -->)", re.DOTALL)
EXPORTED = ("experiment", "seed", "overrides", "commit", "data", "data_at_start", "hardware", "precision", "weights",
            "world_size", "iterations", "wall_time_s", "versions", "resumes", "inputs", "judges", "metrics",
            "evaluation")  # fmt: skip


# --- make record ---------------------------------------------------------------------------------------------


def record(run: Path, results: Path) -> Path:
    """Write a finished run's record into ``results``; returns the file."""
    source = run / "record.json"
    if not source.exists():
        raise UserError(f"{run} is not a run: it has no record.json. Give the folder that train.py printed.")
    found = json.loads(source.read_text())
    if found["status"] != "finished":
        raise UserError(f"{run} is {found['status']}: only a run that was trained and tested to the end is a result.")
    if not found["clean"]:
        reason = "outside a git checkout" if found["clean"] is None else "with changes that its commit does not hold"
        named = f" ({', '.join(found['changes'])})" if found.get("changes") else ""
        raise UserError(f"{run} ran {reason}{named}: commit, and run it again.")
    # Where a person keeps data and runs is nobody's business and changes no number.
    kept = [it for it in found["overrides"] if not it.lstrip("+").startswith(("paths.", "hydra."))]
    found["overrides"] = [without_folders(it) for it in latest_of_each_key(kept)]
    for judged in found.get("judges", {}).values():
        judged.get("judge", {}).pop("run", None)
    content = json.dumps({key: found[key] for key in EXPORTED if key in found}, indent=2) + "\n"
    changes = changed(found["overrides"], SAME)
    variant = "-" + hashlib.sha256(" ".join(changes).encode()).hexdigest()[:6] if changes else ""
    target = results / f"{found['experiment']}-{found['seed']}-{found['commit'][:7]}{variant}.json"
    if target.exists() and target.read_text() != content:
        raise UserError(f"{target} already holds another run of this experiment, seed and commit: move it away first.")
    results.mkdir(exist_ok=True)
    target.write_text(content)
    return target


def without_folders(override: str) -> str:
    """``datamodule.folder=/home/me/coco`` -> ``datamodule.folder=coco``; what is no path stays as it is."""
    key, equals, value = override.partition("=")
    is_path = value.startswith(("/", "~", ".")) or key.endswith((".run", ".folder", ".weights"))
    return f"{key}{equals}{value.rstrip('/').rpartition('/')[2]}" if is_path else override


# --- make results --------------------------------------------------------------------------------------------


def load_results(results: Path) -> dict[str, list[dict[str, Any]]]:
    """All results by experiment, in the order of their seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(results.glob("*.json")):
        result = json.loads(path.read_text()) | {"file": path.name}
        found.setdefault(result["experiment"], []).append(result)
    return {name: sorted(them, key=lambda it: (it["seed"], it["file"])) for name, them in found.items()}


def load_experiments(conf: Path) -> list[dict[str, Any]]:
    """Name, paper and data set of every file of conf/experiment, as written there."""
    return [read_experiment(path) for path in sorted((conf / "experiment").glob("*.yaml"))]


def read_experiment(path: Path) -> dict[str, Any]:
    """An experiment may build on another of its folder, whose name then stands alone in its defaults."""
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    experiment: dict[str, Any] = {"paper": {}}
    for entry in content["defaults"]:
        if isinstance(entry, str):
            experiment |= read_experiment(path.with_name(f"{entry}.yaml"))
        elif "override /datamodule" in entry:
            experiment["data"] = entry["override /datamodule"]
    return experiment | {key: content[key] for key in ("name", "paper") if content.get(key)}


def changed(overrides: Iterable[str], same: tuple[str, ...] = SAME + DRAWS) -> list[str]:
    """The overrides that make a run another than the experiment's file has it: all but seeds, hardware and logger."""
    return sorted(it for it in overrides if not it.startswith(same))


def reached(results: list[dict[str, Any]], metric: str) -> str:
    """Mean, spread and number of seeds of a metric: ``0.912 ± 0.010 (5)``; the spread is the sample deviation."""
    values = [it["metrics"][metric] for it in results if metric in it["metrics"] and not changed(it["overrides"])]
    return f"{mean_and_spread(values)} ({len(values)})" if values else "not run yet"


def mean_and_spread(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{spread}"


def methods_table(experiments: list[dict[str, Any]], results: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| experiment | paper | data | metric | paper's figure | ours, mean ± spread (seeds) |", "|" + "---|" * 6]
    for it in experiments:
        paper = it["paper"]
        published = paper.get("value") if paper.get("value") is not None else "-"
        ours = reached(results.get(it["name"], []), paper.get("metric", ""))
        metric = f"`{paper['metric']}`" if paper.get("metric") else "-"
        lines.append(f"| `{it['name']}` | {paper.get('id', '-')} | {it['data']} | {metric} | {published} | {ours} |")
    return "\n".join(lines) + "\n"


def runs_table(results: list[dict[str, Any]]) -> str:
    """Every recorded run of one experiment with its test metrics."""
    metrics = sorted({key for it in results for key in it["metrics"] if key.startswith("test/")})
    names = [f"`{metric}`" for metric in metrics]
    lines = ["| " + " | ".join(["seed", "overrides", *names, "fit", "on", "record"]) + " |"]
    lines.append("|" + "---|" * (len(metrics) + 5))
    for it in results:
        overrides = " ".join(changed(it["overrides"], SAME)) or "-"
        values = [it["metrics"].get(metric, math.nan) for metric in metrics]
        hardware = f"{it['hardware']['device']}, {it['hardware']['threads']} threads, {it['precision']}"
        figures = ["-" if math.isnan(value) else f"{value:.4f}" for value in values]
        cells = [str(it["seed"]), overrides, *figures, f"{it['wall_time_s']['fit']:.0f} s", hardware, f"`{it['file']}`"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def variants_table(results: list[dict[str, Any]], metrics: list[str]) -> str:
    """For each set of overrides the metrics over its seeds; the worst and best are of the first metric.

    Runs that have not all of the metrics are left out, such as those that no judge has seen.
    """
    variants: dict[str, list[dict[str, float]]] = {}
    for it in results:
        if any(metric not in it["metrics"] for metric in metrics):
            continue
        variants.setdefault(" ".join(changed(it["overrides"])), []).append(it["metrics"])
    names = [f"`{metric}`" for metric in metrics]
    lines = [
        "| " + " | ".join(["overrides", "seeds", *names, "worst", "best"]) + " |",
        "|" + "---|" * (len(metrics) + 4),
    ]
    for overrides, found in sorted(variants.items()):
        values = [[it[metric] for it in found] for metric in metrics]
        cells = [f"`{overrides}`" if overrides else "as the experiment's file has it", str(len(found))]
        cells += [mean_and_spread(them) for them in values]
        lines.append("| " + " | ".join([*cells, f"{min(values[0]):.3f}", f"{max(values[0]):.3f}"]) + " |")
    return "\n".join(lines) + "\n"


def pages(root: Path) -> list[Path]:
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def with_tables(text: str, experiments: list[dict[str, Any]], results: dict[str, list[dict[str, Any]]]) -> str:
    """A page with its tables made anew."""

    def table(match: re.Match[str]) -> str:
        name, kind, *metrics = [*match[2].split(), ""] if match[2] == "methods" else match[2].split()
        if name == "methods":
            body = methods_table(experiments, results)
        elif name not in results or kind not in ("runs", "variants"):
            raise UserError(f"A page asks for the table '{match[2]}', but results/ holds no run for it.")
        elif kind == "runs":
            body = runs_table(results[name])
        else:
            (metric,) = (it["paper"]["metric"] for it in experiments if it["name"] == name)
            body = variants_table(results[name], [metric, *metrics])
            if body.count("\n") == 2:
                raise UserError(f"A page asks for the table '{match[2]}', but no run in results/ has all its metrics.")
        return match[1] + body + match[3]

    return TABLE.sub(table, text)


def update_pages(root: Path, check: bool) -> list[Path]:
    """Make all tables anew; returns the pages that changed, or with ``check`` those that would."""
    experiments, results = load_experiments(root / "conf"), load_results(root / "results")
    stale = []
    for page in pages(root):
        text = page.read_text()
        if (made := with_tables(text, experiments, results)) != text:
            stale.append(page)
            if not check:
                page.write_text(made)
    return stale


# --- make experiments ----------------------------------------------------------------------------------------


def experiments_listing(experiments: list[dict[str, Any]], results: dict[str, list[dict[str, Any]]]) -> str:
    rows = [("experiment", "paper", "data", "metric", "paper's", "ours, mean ± spread (seeds)")]
    for it in experiments:
        paper = it["paper"]
        published = "-" if paper.get("value") is None else str(paper["value"])
        ours = reached(results.get(it["name"], []), paper.get("metric", ""))
        rows.append((it["name"], paper.get("id", "-"), it["data"], paper.get("metric") or "-", published, ours))
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
