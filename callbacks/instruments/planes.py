"""The decisions of a net and of an oracle over one coordinate that the oracle sees and one that it does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from callbacks.instruments.pictures import save_figure
from lightning_modules.oracles.oracle import Oracle

SIDE = 200  # points of the grid along an axis
SHOWN = 1000  # test points


def draw_plane(
    logits_of: Callable[[Tensor], Tensor], oracle: Oracle, table: Any, path: Path, module: nn.Module
) -> None:
    """Both decision functions over the first coordinate that the oracle sees, and of those that it does not see the one
    that the net looks at most; the others are 0. Test points are projected."""
    like = next(module.parameters())
    rows = table[torch.arange(min(SHOWN, len(table)))]
    points, labels = rows["point"].to(like), rows["label"]
    unseen = oracle.null_dims
    assert unseen is not None
    seen = next(it for it in range(points.shape[1]) if it not in set(unseen.tolist()))
    other = int(unseen[int(steepness(logits_of, points)[unseen].argmax())])
    reach = 1.05 * float(points[:, [seen, other]].abs().max())
    ticks = torch.linspace(-reach, reach, SIDE)
    grid = torch.zeros(SIDE * SIDE, points.shape[1]).to(like)
    grid[:, [seen, other]] = torch.cartesian_prod(ticks, ticks).to(like)
    with torch.no_grad():
        logits = logits_of(grid).double().cpu()
    margin = (logits[:, 1] - logits[:, 0]).reshape(SIDE, SIDE).T
    truth = (
        oracle.label(grid, torch.zeros(len(grid), dtype=torch.int64, device=like.device)).cpu().reshape(SIDE, SIDE).T
    )
    with save_figure(path, width=6.0, height=6.0) as axes:
        axes.contourf(ticks, ticks, truth.double(), levels=[-0.5, 0.5, 1.5], colors=["#d7e3f4", "#f7dcd6"])
        at = points[:, [seen, other]].cpu()
        axes.scatter(*at.T.tolist(), c=labels.tolist(), s=4, cmap="coolwarm", alpha=0.4, linewidths=0)
        if margin.min() < 0 < margin.max():
            axes.contour(ticks, ticks, margin.numpy(), levels=[0], colors="black")
            axes.plot([], [], color="black", label="the net's boundary")
        else:
            axes.plot([], [], " ", label=f"class {int(margin.max() > 0)} everywhere for the net")
        for number, color in enumerate(("#d7e3f4", "#f7dcd6")):
            axes.plot([], [], color=color, linewidth=8, label=f"class {number} for the oracle")
        axes.set(
            xlabel=f"coordinate {seen}, which the oracle sees", ylabel=f"coordinate {other}, which it does not see"
        )
        axes.set_aspect("equal")
        axes.legend(fontsize=9, loc="upper right")


def steepness(logits_of: Callable[[Tensor], Tensor], points: Tensor) -> Tensor:
    """How fast the margin changes along each coordinate, on average, [size]."""
    points = points.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = logits_of(points)
        (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), points)
    return gradient.abs().mean(0)
