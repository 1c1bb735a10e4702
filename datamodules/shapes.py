"""Scenes for detectors that need no file: handwritten digits in many sizes and colours on textured ground."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle

from datamodules.detection import DetectionDataModule, Example, ObjectTable
from datamodules.digits import DigitsDataModule
from launch.errors import UserError
from launch.randomness import keyed_generator

VAL_DIGITS = 180  # of the 1,437 that are not the test's
TRIES = 12  # places for a digit before it is left out
MOST_OVERLAP = 0.1  # of two digits' squares, as a fraction of the smaller one
PAD = 1  # cells without ink around a digit
EDGE = 0.7  # how steeply ink sets in: 1 is within a pixel where a cell has ink and its neighbour none
DRAWS = 9 + TRIES * 2  # numbers in [0, 1) that a digit takes

Square = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True)
class Scene:
    """image: uint8 [3, H, W]; owner: uint8 [H, W], the number of the object whose ink is seen there, 0 for the ground;
    digits: int64 [N], what the objects 1, 2, ... are."""

    image: np.ndarray
    owner: np.ndarray
    digits: np.ndarray


@dataclass(frozen=True)
class Scenes:
    """How scenes are made. Scene i is a function of the seed, the stream and i.

    Args:
        glyphs: float32 [N, 8, 8] in [0, 1], digits to choose from.
        values: int64 [N], what they are.
        size: height and width of a scene.
        most: digits in a scene, at most.
        digit_sizes: least and greatest height of a digit in pixels.
    """

    glyphs: np.ndarray
    values: np.ndarray
    size: int
    most: int
    digit_sizes: tuple[int, int]
    seed: int
    stream: str

    def make(self, number: int) -> Scene:
        generator = keyed_generator(self.seed, self.stream, number)
        brightness, share = torch.rand(2, generator=generator).tolist()
        brightness, wanted = 0.25 + 0.5 * brightness, 1 + int(share * self.most)
        canvas = ground(self.size, brightness, generator)
        owner = np.zeros((self.size, self.size), dtype=np.uint8)
        squares: list[Square] = []
        digits = []
        for drawn in torch.rand(wanted, DRAWS, generator=generator).numpy():
            square = self.square(drawn, squares)
            if square is not None:
                which, level = int(drawn[0] * len(self.glyphs)), 0.38 + 0.12 * drawn[1]
                squares.append(square)
                digits.append(self.values[which])
                paint(canvas, owner, len(digits), self.glyphs[which], square, ink(drawn[2:7], brightness), level)
        image = (canvas.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        return Scene(image, owner, np.array(digits))

    def square(self, drawn: np.ndarray, taken: list[Square]) -> Square | None:
        """The next digit's; None where there was no room in all tries."""
        low, high = self.digit_sizes
        height = low * (high / low) ** float(drawn[7])
        width = height * (0.75 + 0.35 * float(drawn[8]))
        for x, y in drawn[9:].reshape(TRIES, 2).tolist():
            square = x * (self.size - width), y * (self.size - height), width, height
            if all(overlap(square, other) <= MOST_OVERLAP for other in taken):
                return square
        return None


def overlap(one: Square, other: Square) -> float:
    """Of two squares, as a fraction of the smaller one."""
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    return max(across, 0) * max(down, 0) / min(one[2] * one[3], other[2] * other[3])


def ink(drawn: np.ndarray, brightness: float) -> np.ndarray:
    """A colour that stands out, float32 [3, 1, 1]: brighter or darker than the ground by 0.25 to 0.5.

    drawn: [5] in [0, 1).
    """
    contrast = 0.25 + 0.25 * drawn[0]
    brighter = drawn[1] < 0.5 if 0.3 < brightness < 0.7 else brightness < 0.5
    tint = 0.5 * (drawn[2:] - drawn[2:].mean())
    colour = brightness + (contrast if brighter else -contrast) + tint
    return colour.astype(np.float32)[:, None, None]


def ground(size: int, brightness: float, generator: torch.Generator) -> np.ndarray:
    """float32 [3, size, size]: colours that change slowly, patches, on every other scene stripes, grain."""
    colours, patches, grain = (
        torch.rand(shape, generator=generator).numpy() - 0.5 for shape in ((3, 4, 4), (1, 12, 12), (1, size, size))
    )
    direction, frequency, phase, *shares = torch.rand(6, generator=generator).tolist()
    angle, frequency = math.pi * direction, 2 * math.pi * (3 + 12 * frequency)
    places = (np.arange(size, dtype=np.float32) + 0.5) / size
    turns = frequency * (math.cos(angle) * places[:, None] + math.sin(angle) * places) + 2 * math.pi * phase
    stripes = np.sin(turns) * max(0.2 * shares[0] - 0.1, 0)
    rough = 0.2 * shares[1] * spread(patches, size) + 0.15 * shares[2] * grain
    return brightness + 0.3 * spread(colours, size) + rough + stripes


def spread(grid: np.ndarray, size: int) -> np.ndarray:
    """[C, n, n] smoothly made [C, size, size]."""
    cells = grid.shape[1]
    weights = cubic((np.arange(size) + 0.5) * (cells - 3) / size + 1, cells)
    return weights @ grid @ weights.T


def cubic(places: np.ndarray, cells: int) -> np.ndarray:
    """Keys' cubic interpolation (a = -1/2): weights float32 [len(places), cells]; cell j's centre is at j + 0.5."""
    far = np.abs(places[:, None] - 0.5 - np.arange(cells))
    near = (1.5 * far - 2.5) * far * far + 1
    return np.where(far < 1, near, np.where(far < 2, ((-0.5 * far + 2.5) * far - 4) * far + 2, 0)).astype(np.float32)


def paint(
    canvas: np.ndarray, owner: np.ndarray, number: int, glyph: np.ndarray, square: Square, colour: np.ndarray,
    level: float,
) -> None:  # fmt: skip
    """Lay a digit over a scene: ink is where the interpolated glyph is above ``level``, with an edge a pixel wide."""
    left, top, width, height = square
    cells, size = len(glyph), len(owner)
    down, rows = stretched(cells, top, height, size)
    across, columns = stretched(cells, left, width, size)
    value = rows @ np.pad(glyph, PAD) @ columns.T
    covered = ((value - level) * (EDGE * (width + height) / 2 / cells) + 0.5).clip(0, 1)
    window = canvas[:, down, across]
    window += covered * (colour - window)
    owner[down, across][covered > 0.5] = number


def stretched(cells: int, start: float, length: float, size: int) -> tuple[slice, np.ndarray]:
    """Which pixels a padded glyph of that length covers, and the weights of its cells in them."""
    pad = PAD * length / cells
    pixels = np.arange(max(int(start - pad), 0), min(int(start + length + pad) + 1, size))
    weights = cubic((pixels + 0.5 - start) * cells / length + PAD, cells + 2 * PAD)
    return slice(pixels[0], pixels[-1] + 1), weights


class SceneTable(ObjectTable):
    """Scenes that are made when they are wanted; the first one's id is 1."""

    def __init__(self, scenes: Scenes, count: int, masks: bool) -> None:
        super().__init__(torch.arange(count) + 1, torch.zeros(count, dtype=torch.bool))
        self.scenes, self.masks = scenes, masks

    def example(self, position: int) -> Example:
        scene = self.scenes.make(position)
        numbers, boxes, masks = objects(scene)
        labels = torch.from_numpy(scene.digits[numbers]) + 1
        return Example(
            torch.from_numpy(scene.image),
            torch.from_numpy(boxes),
            labels,
            torch.from_numpy(masks) if self.masks else None,
        )


def objects(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which digits are seen, int64 [N]; the boxes of their visible ink, float32 [N, 4]; that ink, uint8 [N, H, W]."""
    masks = scene.owner == np.arange(1, len(scene.digits) + 1)[:, None, None]
    rows, columns = masks.any(2), masks.any(1)
    height, width = scene.owner.shape
    numbers = np.flatnonzero(rows.any(1))
    ends = [columns.argmax(1), rows.argmax(1), width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)]
    return numbers, np.stack(ends, axis=1)[numbers].astype(np.float32), masks[numbers].view(np.uint8)


class ShapesDataModule(DetectionDataModule):
    """1 to ``most_digits`` of scikit-learn's handwritten digits a scene, ten classes, made on the fly.

    They lie at random places, one over another at most at the edges. Each split has writings of its own: 1,257 digits
    are in the training scenes, 180 in those of validation, 360 in those of the test. Scene i of a split is a function
    of (``split_seed``, split, i): runs with other seeds see the same ones. A box is that of the ink that is seen, and
    an object's area is the area of the ink.

    Args:
        size: height and width of a scene.
        most_digits: in a scene.
        digit_sizes: least and greatest height of a digit in pixels; small ones are as frequent as large ones.
        train_size, test_size: scenes. Those of validation, ``val_size``, are not taken from training.
    """

    name = "shapes"
    category_ids = tuple(range(1, 11))
    class_names = tuple("0123456789")

    def __init__(
        self,
        size: int = 128,
        most_digits: int = 6,
        digit_sizes: Sequence[int] = (16, 64),
        train_size: int = 20_000,
        test_size: int = 1_000,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        for key, number in {"most_digits": most_digits, "train_size": train_size, "test_size": test_size}.items():
            if number < 1:
                raise UserError(f"datamodule.{key} is {number}: give 1 or more.")
        if len(digit_sizes) != 2 or not 8 <= digit_sizes[0] <= digit_sizes[1] <= size * 0.9:
            raise UserError(
                f"datamodule.digit_sizes is {list(digit_sizes)}: give two numbers of pixels, the least and the "
                f"greatest, of 8 or more and of at most nine tenths of datamodule.size={size}."
            )
        if self.flip:
            raise UserError("datamodule.flip would mirror digits: leave it false.")
        if self.group_by_aspect:
            raise UserError("datamodule.group_by_aspect has no effect on scenes, which are square: leave it false.")
        self.size, self.most_digits, self.digit_sizes = size, most_digits, (digit_sizes[0], digit_sizes[1])
        self.scene_counts = {"train": train_size, "val": self.val_size, "test": test_size}
        self.truths: dict[str, dict[str, Any]] = {}

    def load(self) -> dict[str, SceneTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        digits = DigitsDataModule(batch_size=1, val_size=VAL_DIGITS, split_seed=self.split_seed)
        digits.setup()
        self.fingerprint = digits.describe()["sha256"]
        tables = {}
        for split, count in self.scene_counts.items():
            table = digits.tables[split]
            assert table.labels is not None
            glyphs = table.images[:, 0].float().div(255).numpy()
            kind = Scenes(glyphs, table.labels.numpy(), self.size, self.most_digits, self.digit_sizes,
                          self.split_seed, f"scenes {split}")  # fmt: skip
            tables[split] = SceneTable(kind, count, self.masks)
        return tables

    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        if stage not in self.truths:
            table = self.tables[stage]
            assert isinstance(table, SceneTable)
            self.truths[stage] = truth_of(table, self.category_ids, self.class_names)
        return self.truths[stage]

    def describe(self) -> dict[str, Any]:
        """Also how the scenes were made; the fingerprint is that of the digits."""
        made = {"size": self.size, "most_digits": self.most_digits, "digit_sizes": list(self.digit_sizes)}
        return super().describe() | made | {"scenes_seed": self.split_seed, "sha256": self.fingerprint}


def truth_of(table: SceneTable, category_ids: Sequence[int], class_names: Sequence[str]) -> dict[str, Any]:
    """All scenes of a split in COCO's format, with masks where they are asked for."""
    images, annotations = [], []
    for position, image in enumerate(table.image_ids.tolist()):
        scene = table.scenes.make(position)
        images.append({"id": image, "height": table.scenes.size, "width": table.scenes.size})
        numbers, boxes, masks = objects(scene)
        for digit, (left, top, right, bottom), mask in zip(scene.digits[numbers], boxes.tolist(), masks, strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": category_ids[digit], "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": int(mask.sum()),
            } | ({"segmentation": rle.encode(np.asfortranarray(mask))} if table.masks else {}))  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
