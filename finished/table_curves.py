"""A table that every run has, such as robustness.csv, drawn for several runs: a curve a run, a panel a value.

    python -m finished.table_curves robustness.csv budget error outputs/sweeps/wrm_mnist/<folder> --panels attack

A folder is a run, a measurement of one (evaluations/<time>), or holds some of them. A curve is named by what sets its
run apart.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from hydra.experimental.callback import Callback

from callbacks.instruments.pictures import save_panels
from finished.curves import names_of
from foundation.errors import UserError, did_you_mean, told_as_sentences
from foundation.run_files import read_table
from launch.sweep_table import job_order


@dataclass(frozen=True)
class Curve:
    """Of one run in one panel."""

    name: str
    x: list[float]
    y: list[float]


def panels_of(
    runs: Sequence[Path], table: str, x: str, y: str, panels: str | None, names: Sequence[str] = ()
) -> dict[str, list[Curve]]:
    """The curves of each panel; without ``panels`` of one. Cells that are no number are left out."""
    if names and len(names) != len(runs):
        raise UserError(f"there are {len(runs)} runs and {len(names)} names: give each a name, or none.")
    found: dict[str, list[Curve]] = {}
    for run, name in zip(runs, names or names_of(list(runs)), strict=True):
        header, rows = read_table(run / table)
        columns = {}
        for column in (x, y, *([panels] if panels else [])):
            if column not in header:
                raise UserError(f"{run / table} has no column {column}; {did_you_mean(column, header)}")
            columns[column] = header.index(column)
        of_run: dict[str, Curve] = {}
        for row in rows:
            value = str(row[columns[panels]]) if panels else ""
            at, height = row[columns[x]], row[columns[y]]
            if is_number(at) and is_number(height):
                curve = of_run.setdefault(value, Curve(name, [], []))
                curve.x.append(at)
                curve.y.append(height)
        for value, curve in of_run.items():
            found.setdefault(value, []).append(curve)
    if not found:
        raise UserError(f"no {table} of these runs has a number under {x} and {y}.")
    return found


def runs_with(table: str, folders: Iterable[Path]) -> list[Path]:
    """Those among the folders and one level below, in order; runs, or measurements of them."""
    found = []
    for folder in folders:
        inner = [folder] if (folder / table).is_file() else [it.parent for it in folder.glob(f"*/{table}")]
        if not inner:
            raise UserError(
                f"{folder} has no {table}, nor has a folder in it: choose a run of the callback that writes it."
            )
        found += sorted(inner, key=job_order)
    return found


def is_number(cell: Any) -> TypeGuard[float]:
    return isinstance(cell, int | float) and math.isfinite(cell)


def draw_table_curves(
    folders: Sequence[Path], table: str, x: str, y: str, panels: str | None, path: Path, names: Sequence[str] = ()
) -> None:
    """names: of the runs in their order, else what sets each apart."""
    found = panels_of(runs_with(table, folders), table, x, y, panels, names)
    with save_panels(path, list(found)) as all_axes:
        for axes, curves in zip(all_axes, found.values(), strict=True):
            for curve in curves:
                axes.plot(curve.x, curve.y, marker="o", markersize=3, label=curve.name)
            axes.set(xlabel=x.replace("_", " "), ylabel=y.replace("_", " "))
            axes.grid(alpha=0.3)
        # Below all panels, since names may be long.
        columns = 1 if any(len(curve.name) > 25 for curve in found[next(iter(found))]) else 5
        handles, labels = all_axes[0].get_legend_handles_labels()
        all_axes[0].figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)


class TableCurves(Callback):
    """Draws at the end of a sweep; a part of conf/sweep's files."""

    def __init__(self, table: str, x: str, y: str, panels: str | None = None) -> None:
        self.table, self.x, self.y, self.panels = table, x, y, panels

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        runs = sorted((it.parent for it in folder.glob(f"*/{self.table}")), key=job_order)
        if not runs:
            print(f"no curves of {self.table}: no job of {folder} has written it.", flush=True)
            return
        path = folder / Path(self.table).with_suffix(".png").name
        with told_as_sentences():
            draw_table_curves(runs, self.table, self.x, self.y, self.panels, path)
        print(f"  {path.stem:<11} {path}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", help="a file of each run's folder, such as robustness.csv")
    parser.add_argument("x", help="a column of numbers")
    parser.add_argument("y", help="another")
    parser.add_argument("folders", nargs="+", type=Path, help="runs, or sweeps")
    parser.add_argument("--panels", help="a column: a panel for each of its values")
    parser.add_argument("--names", nargs="+", default=[], help="of the runs in their order, else what sets each apart")
    parser.add_argument("--out", type=Path, help="the picture; by default <table>_curves.png in the first folder")
    asked = parser.parse_args()
    path = asked.out or asked.folders[0] / f"{Path(asked.table).stem}_curves.png"  # a run has a <table>.png of its own
    with told_as_sentences():
        draw_table_curves(asked.folders, asked.table, asked.x, asked.y, asked.panels, path, asked.names)
    print(path)


if __name__ == "__main__":
    main()
