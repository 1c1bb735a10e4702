"""The decision boundaries of several finished runs on points of the plane, in one picture.

    python -m finished.decision_boundaries outputs/sweeps/wrm_synthetic/<folder>

A folder is a run, or a sweep with a run in each folder of it. A line is named by what sets its run apart; the points
are test points of the first run.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.experimental.callback import Callback
from torch import Tensor

from callbacks.decision_boundary import draw_boundaries
from finished.curves import names_of, runs_in
from foundation.errors import UserError, told_as_sentences
from foundation.protocols import ClassifiesPoints, said, serves
from launch.runs import load_run
from launch.sweep_table import job_order

POINTS = 1000


def draw_decision_boundaries(folders: Sequence[Path], path: Path) -> None:
    runs, lines = runs_in(folders), {}
    first: Any = None
    for run, name in zip(runs, names_of(runs), strict=True):
        module, _, datamodule = load_run(run)
        if not serves(module, ClassifiesPoints) or said(module, "point_size") != 2:
            raise UserError(f"{run} classifies no points of the plane: {type(module).__name__} on {datamodule.name}.")  # pyright: ignore
        first = first or datamodule
        lines[name] = logits_without_gradient(module)
    first.prepare_data()
    first.setup("test")
    table = first.tables["test"]
    shown = table[torch.arange(min(POINTS, len(table)))]
    draw_boundaries(lines, shown["point"], shown["label"], path)


def logits_without_gradient(module: Any) -> Callable[[Tensor], Tensor]:
    @torch.no_grad()
    def logits(points: Tensor) -> Tensor:
        return module.class_logits(points.to(module.dtype))

    return logits


class DecisionBoundaries(Callback):
    """Draws at the end of a sweep; a part of conf/sweep's files."""

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        runs = sorted((it.parent.parent for it in folder.glob("*/checkpoints/last.ckpt")), key=job_order)
        if not runs:
            return
        path = folder / "decision_boundaries.png"
        with told_as_sentences():
            draw_decision_boundaries(runs, path)
        print(f"  boundaries  {path}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="runs, or sweeps")
    parser.add_argument("--out", type=Path, help="the picture; unless given, in the first folder")
    asked = parser.parse_args()
    path = asked.out or asked.folders[0] / "decision_boundaries.png"
    with told_as_sentences():
        draw_decision_boundaries(asked.folders, path)
    print(path)


if __name__ == "__main__":
    main()
