"""Pictures of handwritten digits in many sizes and colours on textured ground, each by itself: some 0.6 ms."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from foundation.randomness import keyed_generator

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
    """How scenes are made. Scene i is a function of the seed, the stream and i, to the bit: none is made with others.

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


def objects(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which digits are seen, int64 [N]; the boxes of their visible ink, float32 [N, 4]; that ink, uint8 [N, H, W]."""
    masks = scene.owner == np.arange(1, len(scene.digits) + 1)[:, None, None]
    rows, columns = masks.any(2), masks.any(1)
    height, width = scene.owner.shape
    numbers = np.flatnonzero(rows.any(1))
    ends = [columns.argmax(1), rows.argmax(1), width - columns[:, ::-1].argmax(1), height - rows[:, ::-1].argmax(1)]
    return numbers, np.stack(ends, axis=1)[numbers].astype(np.float32), masks[numbers].view(np.uint8)
