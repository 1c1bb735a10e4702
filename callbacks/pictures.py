"""PNG files in the run folder, and the same pictures in the logger."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid, save_image

READABLE_SIDE = 48  # pixels; smaller images are magnified so that a person can see them


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write images [N, C, H, W] in [0, 1] as one PNG, row by row."""
    images = images.cpu()
    magnification = -(-READABLE_SIDE // images.shape[-1])
    images = images.repeat_interleave(magnification, dim=2).repeat_interleave(magnification, dim=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(make_grid(images, nrow=columns, padding=2, pad_value=0.5), path)


def save_single(image: Tensor, path: Path) -> None:
    """Write one image [C, H, W] in [0, 1], of one or three channels, pixel by pixel as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(image.cpu().mul(255).add(0.5).clamp(0, 255).to(torch.uint8)).save(path)


@contextmanager
def save_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Axes to draw on; written to ``path`` at the end. Sizes in inches. Needs no display and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.add_subplot()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def log_picture(trainer: Trainer, key: str, path: Path) -> None:
    """Show a picture in every logger that takes pictures (wandb)."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=key, images=[str(path)], step=trainer.global_step)  # pyright: ignore


def log_table(trainer: Trainer, key: str, path: Path) -> None:
    """Show a CSV file with a heading in every logger that takes tables (wandb)."""
    with path.open(newline="") as file:
        columns, *rows = csv.reader(file)
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            logger.log_table(key=key, columns=columns, data=rows, step=trainer.global_step)  # pyright: ignore
