"""PNG and GIF files in the run folder, and the same pictures in the logger."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Trainer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid, save_image

from foundation.errors import UserError
from foundation.published import key_for
from foundation.run_files import read_table
from foundation.whole_files import whole

FIGURES_UP_TO = 20  # rows or columns of counts; beyond, there is no room
READABLE_SIDE = 48  # pixels; smaller images are magnified so that a person can see them


def save_grid(images: Tensor, path: Path, columns: int) -> None:
    """Write images [N, C, H, W] in [0, 1] as one PNG, row by row."""
    images = images.cpu()
    magnification = -(-READABLE_SIDE // images.shape[-1])
    images = images.repeat_interleave(magnification, dim=2).repeat_interleave(magnification, dim=3)
    with whole(path) as unfinished:
        save_image(make_grid(images, nrow=columns, padding=2, pad_value=0.5), unfinished, format="png")


def as_8_bit(images: Tensor) -> Tensor:
    """uint8 [B, C, H, W] of images in [0, 1]: what a file of each would hold, whatever else is in the batch."""
    if not images.isfinite().all():
        raise UserError("The module's samples are not finite, so they can be neither judged nor compared.")
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def save_single(image: Tensor, path: Path) -> None:
    """Write one image [C, H, W] in [0, 1], of one or three channels, pixel by pixel as it is."""
    with whole(path) as unfinished:
        to_pil_image(image.cpu().mul(255).add(0.5).clamp(0, 255).to(torch.uint8)).save(unfinished, format="png")


def save_animation(frames: Sequence[Image.Image], path: Path, milliseconds: int = 150) -> None:
    """Write a GIF that begins anew after a second of its last frame."""
    durations = [milliseconds] * (len(frames) - 1) + [1000]
    with whole(path) as unfinished:
        frames[0].save(unfinished, format="gif", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def write_figure(figure: Figure, path: Path, dpi: float | Literal["figure"] = 110) -> None:
    """Write a drawn figure as PNG, whole or not at all."""
    with whole(path) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)


@contextmanager
def save_figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """Axes to draw on; written to ``path`` at the end. Sizes in inches. Needs no display and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.add_subplot()
    write_figure(figure, path)


@contextmanager
def save_panels(path: Path, titles: Sequence[str]) -> Iterator[list[Any]]:
    """Axes for each title, in rows of two or three, of the same height. Else as ``save_figure``."""
    columns = 2 if len(titles) == 4 else min(len(titles), 3)
    rows = -(-len(titles) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = [*figure.subplots(rows, columns, squeeze=False, sharey=True).flat]
    for axes, title in zip(panels, titles, strict=False):
        axes.set_title(title)
    for axes in panels[len(titles) :]:
        axes.remove()
    yield panels[: len(titles)]
    write_figure(figure, path)


def draw_counts(
    counts: Tensor, path: Path, *, rows: Sequence[str], columns: Sequence[str], title: str, of_rows: str,
    of_columns: str, framed: Iterable[tuple[int, int]] = (),
) -> None:  # fmt: skip
    """Write counts, int64 [R, C], as a picture: the darker, the larger a cell's share of its row; figures where there
    is room. Cells (row, column) may be framed."""
    shares = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    with save_figure(path, width=7.5, height=6.5) as axes:
        # Mistakes are what one looks for; on a scale to 1 they would all be white.
        axes.imshow(shares.numpy() ** 0.5, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel=of_columns, ylabel=of_rows, title=title)
        for row, column in framed:
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False))
        if max(counts.shape) > FIGURES_UP_TO:
            return
        for row, line in enumerate(counts.tolist()):
            for column, count in enumerate(line):
                color = "white" if shares[row, column] > 0.25 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=8)
        # What a person called a class may look like mathematics to matplotlib.
        axes.set_xticks(
            range(len(columns)), columns, rotation=45 if max(map(len, columns)) > 2 else 0, parse_math=False
        )
        axes.set_yticks(range(len(rows)), rows, parse_math=False)


def save_captioned(images: Tensor, captions: Sequence[str], names: Sequence[str], path: Path) -> None:
    """Write images, uint8 [N, C, H, W], as one PNG, each over its caption and in small print its name.

    Captions and names that are too many or too long are cut.
    """
    columns = min(len(images), 6)
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(max(1.6 * columns, 3.2), 2.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (image, caption, name) in enumerate(zip(images.cpu(), captions, names, strict=False), start=1):
        axes = figure.add_subplot(rows, columns, place)
        axes.imshow(image.permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        # What a person called a file may look like mathematics to matplotlib.
        axes.set_xlabel(shortened(name, 24), fontsize=6, color="grey", parse_math=False)
        axes.set_title(shortened(caption, 20), fontsize=9, parse_math=False)
    write_figure(figure, path)


def shortened(text: str, length: int) -> str:
    """Without its middle where it is too long: a caption's percentage and a file's ending stay."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def log_picture(trainer: Trainer, key: str, path: Path) -> None:
    """Show a picture in every logger that takes pictures (wandb)."""
    key = key_for(key, getattr(trainer, "datamodule", None))
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key=key, images=[str(path)], step=trainer.global_step)  # pyright: ignore


def log_animation(trainer: Trainer, key: str, path: Path) -> None:
    """Show a GIF in every logger that takes videos (wandb)."""
    for logger in trainer.loggers:
        if hasattr(logger, "log_video"):
            logger.log_video(key=key, videos=[str(path)], step=trainer.global_step)  # pyright: ignore


def log_table(trainer: Trainer, key: str, path: Path) -> None:
    """Show a CSV file with a heading in every logger that takes tables (wandb)."""
    key = key_for(key, getattr(trainer, "datamodule", None))
    columns, rows = read_table(path)
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            logger.log_table(key=key, columns=columns, data=rows, step=trainer.global_step)  # pyright: ignore
