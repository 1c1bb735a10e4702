"""Where a classifier of points of the plane changes its mind."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from callbacks.instruments.pictures import log_picture, save_figure
from foundation.evaluation import evaluating
from foundation.protocols import ClassifiesPoints, HoldsTables, said

SIDE = 400  # points of the grid along an axis


class DecisionBoundary(Callback):
    """Writes ``decision_boundary.png`` in the test: the boundary between the classes, and test points.

    Args:
        folder: where the picture goes.
        points: how many test points, the first ones.
    """

    requires = ClassifiesPoints
    requires_data = HoldsTables
    needs_labels = True

    def __init__(self, folder: str, points: int = 1000) -> None:
        self.folder, self.points = Path(folder), points

    def refusal(self, module: Any) -> str | None:
        size = said(module, "point_size")
        return None if size == 2 else f"it draws points of the plane, and these have {size} coordinates"

    def pictures(self, module: Any) -> set[str]:
        return {"test/decision_boundary"}

    @rank_zero_only
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        table = trainer.datamodule.tables["test"]  # pyright: ignore[reportAttributeAccessIssue]
        shown = table[torch.arange(min(self.points, len(table)))]
        path = self.folder / "decision_boundary.png"
        with evaluating(pl_module):
            boundary = {"boundary": lambda points: pl_module.class_logits(points.to(pl_module.dtype))}  # pyright: ignore
            draw_boundaries(boundary, shown["point"], shown["label"], path, pl_module.device)
        log_picture(trainer, "test/decision_boundary", path)


def draw_boundaries(
    logits_of: Mapping[str, Callable[[Tensor], Tensor]],
    points: Tensor,
    labels: Tensor,
    path: Path,
    device: torch.device | str = "cpu",
) -> None:
    """A line a classifier, by name, over points [N, 2] coloured by their labels [N].

    A line is where a class ceases to be the likeliest.
    """
    low, high = points.amin(0), points.amax(0)
    across, up = (torch.linspace(float(low[it]), float(high[it]), SIDE) for it in (0, 1))
    grid = torch.cartesian_prod(across, up).to(device)
    with save_figure(path, width=6.0, height=6.0) as axes:
        axes.scatter(*points.T.tolist(), c=labels.tolist(), s=5, cmap="coolwarm", alpha=0.5, linewidths=0)
        for number, (name, logits) in enumerate(logits_of.items()):
            found = logits(grid).double().cpu()
            for label in range(found.shape[1] if found.shape[1] > 2 else 1):
                others = torch.cat([found[:, :label], found[:, label + 1 :]], dim=1).amax(1)
                lead = (found[:, label] - others).reshape(SIDE, SIDE).T
                axes.contour(across.tolist(), up.tolist(), lead.numpy(), levels=[0], colors=f"C{number}")
            axes.plot([], [], color=f"C{number}", label=name)  # a line for the legend
        axes.set_aspect("equal")
        axes.legend(fontsize=9, loc="upper right")
