"""Pictures of how images come about step by step, with the windows through which a model reads and writes."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image, ImageDraw
from torch import Tensor

from callbacks.instruments.pictures import READABLE_SIDE, log_animation, log_picture, save_animation
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.protocols import Drawing, DrawsStepwise
from foundation.whole_files import whole

SIDE = 2 * READABLE_SIDE  # windows need more room than images
MARGIN = SIDE // 8  # round the image, where windows show that reach beyond it
READ, WRITE, BORDER = (60, 220, 90), (240, 60, 60), (128, 128, 128)


class DrawingPictures(Callback):
    """Writes ``drawing`` (from the prior) and ``redrawing`` (of test images), each as a strip and as an animation.

    Made in the test: ``<name>.png`` has a row an image and a column a time step, the first and the last among them;
    ``<name>.gif`` shows all steps. A green frame is where the step has read, a red one where it has written, from the
    first filter's centre to the last one's; the wider its border, the blurrier it is. What lies beyond the margin round
    the image is drawn at its edge. The last column of ``redrawing`` is the image itself.

    Args:
        folder: where the pictures go.
        images: rows of a strip.
        columns: time steps of a strip.
    """

    requires = DrawsStepwise

    def __init__(self, folder: str, images: int = 8, columns: int = 10) -> None:
        for name, value, least in (("images", images, 1), ("columns", columns, 2)):
            if value < least:
                raise UserError(f"callbacks.drawing.{name} is {value}: give {least} or more.")
        self.folder, self.images, self.columns = Path(folder), images, columns

    def pictures(self, module: Any) -> set[str]:
        return {f"images/{name}{kind}" for name in ("drawing", "redrawing") for kind in ("", "_animation")}

    @rank_zero_only
    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if batch_idx:
            return
        assert isinstance(pl_module, DrawsStepwise)
        images, indices = batch["image"][: self.images], batch["index"][: self.images]
        with evaluating(pl_module):
            drawn = pl_module.drawing(torch.arange(self.images))
            drawn_again = pl_module.redrawing(images, indices)
        self._write(trainer, "drawing", drawn, None)
        self._write(trainer, "redrawing", drawn_again, images)

    def _write(self, trainer: Trainer, name: str, drawing: Drawing, images: Tensor | None) -> None:
        tiles = framed(drawing)
        last = None if images is None else [tile(image) for image in images]
        shown = torch.linspace(0, len(tiles) - 1, min(self.columns, len(tiles))).round().long().tolist()
        columns = [tiles[step] for step in shown] + ([] if last is None else [last])
        strip, animation = self.folder / f"{name}.png", self.folder / f"{name}.gif"
        with whole(strip) as unfinished:
            side_by_side(columns).save(unfinished, format="png")
        save_animation([side_by_side(in_rows(step, last)) for step in tiles], animation)
        log_picture(trainer, f"images/{name}", strip)
        log_animation(trainer, f"images/{name}_animation", animation)


def framed(drawing: Drawing) -> list[list[Image.Image]]:
    """For each step the pictures of all images, magnified, with their windows."""
    steps = []
    for step, canvases in enumerate(drawing.canvases):
        pictures = [tile(canvas) for canvas in canvases]
        for windows, color in ((drawing.read_windows, READ), (drawing.write_windows, WRITE)):
            if windows is not None:
                for picture, window in zip(pictures, windows[step].tolist(), strict=True):
                    frame(picture, window, (picture.width - 2 * MARGIN) / canvases.shape[-1], color)
        steps.append(pictures)
    return steps


def tile(image: Tensor) -> Image.Image:
    """A magnified picture of an image, [C, H, W] in [0, 1], with a margin."""
    pixels = image.cpu().float().mul(255).add(0.5).clamp(0, 255).byte().permute(1, 2, 0).expand(-1, -1, 3)
    times = -(-SIDE // image.shape[2])
    size = image.shape[2] * times, image.shape[1] * times
    picture = Image.new("RGB", (size[0] + 2 * MARGIN, size[1] + 2 * MARGIN), BORDER)
    picture.paste(Image.fromarray(pixels.contiguous().numpy()).resize(size, Image.Resampling.NEAREST), (MARGIN, MARGIN))
    return picture


def frame(picture: Image.Image, window: list[float], times: float, color: tuple[int, int, int]) -> None:
    """Draw a window. window: left, top, right, bottom and blur in pixels of the image, which is magnified ``times``."""
    # Half a pixel further is the middle of a magnified one.
    corners = [
        min(max((it + 0.5) * times + MARGIN, 0), side - 1)
        for it, side in zip(window[:4], picture.size * 2, strict=True)
    ]
    ImageDraw.Draw(picture).rectangle(corners, outline=color, width=min(max(round(window[4] * times / 4), 1), 4))


def in_rows(pictures: list[Image.Image], last: list[Image.Image] | None) -> list[list[Image.Image]]:
    """Columns for an animation, each of one picture or of one above the image that it is to become."""
    return [[it] for it in pictures] if last is None else [list(them) for them in zip(pictures, last, strict=True)]


def side_by_side(columns: list[list[Image.Image]], gap: int = 2) -> Image.Image:
    width, height = columns[0][0].size
    sheet = Image.new("RGB", (len(columns) * (width + gap) + gap, len(columns[0]) * (height + gap) + gap), BORDER)
    for x, column in enumerate(columns):
        for y, picture in enumerate(column):
            sheet.paste(picture, (gap + x * (width + gap), gap + y * (height + gap)))
    return sheet
