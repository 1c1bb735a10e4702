"""Pictures of what a detector finds: the annotated objects beside the detections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from torch import Tensor

from callbacks.instruments.pictures import log_picture, shortened, write_figure
from datamodules.coco_masks import decode_masks, encode_mask
from foundation.errors import UserError
from foundation.protocols import AnnotatesObjects, DetectsObjects
from foundation.published import stage_name

# Okabe and Ito's, which the colour-blind tell apart; without black, which dark images swallow.
COLORS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
DARK = ("#009E73", "#0072B2", "#D55E00")  # under white letters
LEGIBLE = 640  # pixels of an image's longer side, roughly, from which captions are small beside objects
OPACITY = 0.45  # of masks
MOST_BOXES = 20  # of one image; more hide what they frame


@dataclass(frozen=True)
class Framed:
    """A box to draw: left, top, width, height in the image's pixels. What does not count has a dashed outline.

    mask: uint8 or bool [H, W], which pixels are the object's; None draws the box alone.
    """

    box: Sequence[float]
    category: int
    caption: str
    crowd: bool = False
    mask: np.ndarray | None = None


class DetectionGrid(Callback):
    """Writes ``val_detections-<iteration>.png`` and ``test_detections.png``, and shows both in the logger.

    A row shows images with their annotated objects on the left and the detections on the right, a class in the same
    colour on both sides, and masks where the module makes them. They are the first ones that the first rank sees.

    Args:
        folder: where the pictures go.
        images: how many.
        min_score: detections below it are not drawn; nor are those behind the best 20 of an image.
    """

    requires = DetectsObjects
    requires_data = AnnotatesObjects

    def __init__(self, folder: str, images: int = 8, min_score: float = 0.5) -> None:
        if images < 1:
            raise UserError(f"callbacks.detection_grid.images is {images}: give 1 or more.")
        if not 0 <= min_score <= 1:
            raise UserError(f"callbacks.detection_grid.min_score is {min_score}: give a score from 0 to 1.")
        self.folder, self.images, self.min_score = Path(folder), images, min_score
        self.seen: list[tuple[int, Tensor, Mapping[str, Any]]] = []

    def pictures(self, module: Any) -> set[str]:
        return {"images/val_detections", "images/test_detections"}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen = []

    on_test_epoch_start = on_validation_epoch_start

    @rank_zero_only
    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        for row in zip(outputs["image_id"].tolist(), batch["image"], outputs["detections"], strict=True):
            if len(self.seen) < self.images:
                self.seen.append(row)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer, "val", f"detections-{trainer.global_step:06d}.png")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, "test", "detections.png")

    @rank_zero_only
    def _draw(self, trainer: Trainer, stage: str, name: str) -> None:
        if not self.seen:
            return
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        truth, stage = datamodule.coco_ground_truth(stage), stage_name(stage, datamodule)
        path = self.folder / f"{stage}_{name}"
        save_detections(self.seen, truth, self.min_score, path)
        log_picture(trainer, f"images/{stage}_detections", path)


def save_detections(
    seen: Sequence[tuple[int, Tensor, Mapping[str, Any]]], truth: Mapping[str, Any], min_score: float, path: Path
) -> None:
    """Write one PNG, two images a row, each twice: with its annotated objects and with its detections.

    Args:
        seen: for each image its id, its pixels [C, H, W] in [0, 1], in any size, and its detections.
        truth: the split in COCO's format; boxes of both are in the pixels of its images.
    """
    names = {it["id"]: it["name"] for it in truth["categories"]}
    places = {category: place for place, category in enumerate(sorted(names))}
    sizes = {it["id"]: (it["height"], it["width"]) for it in truth["images"]}
    columns = 4 if len(seen) > 1 else 2
    rows = -(-2 * len(seen) // columns)
    figure = Figure(figsize=(4.4 * columns, 3.9 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (image, pixels, found) in enumerate(seen):
        masks_of = sizes[image] if "masks" in found else None
        sides = {
            "annotated": annotated(truth["annotations"], image, names, masks_of),
            f"detected, score from {min_score:g}": likeliest(found, names, min_score),
        }
        for side, (title, frames) in enumerate(sides.items(), start=1):
            axes = figure.add_subplot(rows, columns, 2 * place + side)
            draw(axes, pixels, sizes[image], frames, places)
            axes.set_title(f"image {image}: {title}", fontsize=8)
    write_figure(figure, path)


def save_framed(pixels: Tensor, frames: Sequence[Framed], categories: Sequence[int], path: Path) -> None:
    """Write an image [3, H, W] in [0, 1] with frames on it, enlarged where letters would hide it."""
    height, width = pixels.shape[1:]
    times = max(1, round(LEGIBLE / max(height, width)))
    figure = Figure(figsize=(times * width / 100, times * height / 100), dpi=100)
    FigureCanvasAgg(figure)
    places = {category: place for place, category in enumerate(sorted(categories))}
    draw(figure.add_axes((0, 0, 1, 1)), pixels, (height, width), frames, places)
    write_figure(figure, path, dpi="figure")


def annotated(
    annotations: Sequence[Mapping[str, Any]],
    image: int,
    names: Mapping[int, str],
    masks_of: tuple[int, int] | None = None,
) -> list[Framed]:
    """The small ones on top. masks_of: the image's height and width; None leaves masks out."""
    objects = [it for it in annotations if it["image_id"] == image]
    return [
        Framed(
            it["bbox"],
            it["category_id"],
            shortened(names[it["category_id"]], 16) + crowd,
            bool(crowd),
            None if masks_of is None or not it.get("segmentation") else mask_of(it["segmentation"], masks_of),
        )
        for it in sorted(objects, key=lambda it: -it["bbox"][2] * it["bbox"][3])
        for crowd in [f" ({'difficult' if it.get('difficult') else 'crowd'})" if it.get("iscrowd", 0) else ""]
    ]


def likeliest(found: Mapping[str, Any], names: Mapping[int, str], min_score: float) -> list[Framed]:
    """The best on top."""
    masks = found.get("masks")
    columns = [found["scores"].tolist(), found["labels"].tolist(), found["boxes"].tolist()]
    rows = zip(*columns, range(len(columns[0])), strict=True)
    best = sorted((it for it in rows if it[0] >= min_score and it[1] in names), key=lambda it: -it[0])[:MOST_BOXES]
    return [
        Framed(
            (left, top, right - left, bottom - top),
            label,
            f"{shortened(names[label], 16)} {score:.2f}",
            mask=None if masks is None else as_pixels(masks[place]),
        )
        for score, label, (left, top, right, bottom), place in reversed(best)
    ]


def as_pixels(mask: Any) -> np.ndarray:
    """A detector's mask, bool [H, W] or encoded as COCO's tools do, as uint8 [H, W]."""
    return mask.cpu().numpy().astype(np.uint8) if isinstance(mask, Tensor) else mask_of(mask, tuple(mask["size"]))


def mask_of(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """COCO's segmentation as uint8 [H, W]."""
    return decode_masks([encode_mask(segmentation, *size)], *size)[0].numpy()


def draw(axes: Any, pixels: Tensor, size: tuple[int, int], frames: Sequence[Framed], places: Mapping[int, int]) -> None:
    height, width = size
    shown = pixels.detach().cpu().float().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0).numpy()
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))
    for it in frames:
        color = COLORS[places[it.category] % len(COLORS)]
        left, top, box_width, box_height = it.box
        if it.mask is not None:
            tint = np.zeros((*it.mask.shape, 4))
            tint[it.mask > 0] = (*to_rgb(color), OPACITY)
            axes.imshow(tint, extent=(0, width, height, 0), interpolation="nearest")
        outline = Rectangle((left, top), box_width, box_height, fill=False, edgecolor=color, linewidth=1.6,
                            linestyle="--" if it.crowd else "-")  # fmt: skip
        outline.set_path_effects([Stroke(linewidth=2.8, foreground="black"), Normal()])  # seen on any ground
        axes.add_patch(outline)
        # The caption stands above the box, and inside where there is no room above or to the right.
        high, far = top < 0.06 * height, left > 0.75 * width
        x = min(left + box_width, 0.99 * width) if far else max(left, 0.01 * width)
        axes.text(x, max(top, 0), it.caption, ha="right" if far else "left", va="top" if high else "bottom",
                  fontsize=6.5, color="white" if color in DARK else "black", clip_on=True, parse_math=False,
                  bbox={"facecolor": color, "edgecolor": "none", "pad": 0.8, "alpha": 0.85})  # fmt: skip
