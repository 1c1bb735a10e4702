"""How an image file becomes pixels of 8 bits: which kinds of file are read, which way up, and how deep."""

import functools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
from PIL import Image, ImageFile

from foundation.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".avif", ".gif", ".tif", ".tiff", ".pgm", ".ppm")
# PIL starts other programs for some of the rest, whatever a file's name ends in.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "AVIF", "GIF", "TIFF", "PPM", "JPEG2000")

ORIENTATION = 0x0112  # of EXIF
TIFF_BITS, TIFF_PLANES = 258, 284
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Found = TypeVar("Found")
NEARLY_BLACK = 16  # of 256: four of the bits of a file are not in use


@dataclass(frozen=True)
class Pixels:
    """How an image file becomes a square of uint8 pixels.

    A photograph is turned as its EXIF data say, transparency becomes white, 16 bits become 8. The centre is cut out
    and resized with antialiasing (triangle filter, as torchvision's Resize).

    Args:
        size: height and width of the result.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).
        crop: side of the square cut out at the centre, in pixels of the file; None: the largest that fits.
        bits: see ``read``.
    """

    size: int
    channels: int
    crop: int | None = None
    bits: int | None = None

    def __post_init__(self) -> None:
        for key, value in {"size": self.size, "crop": self.crop}.items():
            if value is not None and value < 1:
                raise UserError(f"datamodule.{key} is {value}: give a number of pixels, 1 or more.")
        if self.channels not in (1, 3):
            raise UserError(f"datamodule.channels is {self.channels}: give 3 (colour) or 1 (grey).")
        check_bits(self.bits)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def decode(self, path: Path, remarks: list[str] | None = None) -> np.ndarray:
        """uint8 [C, size, size]. Raises and remarks what ``read`` does."""
        image = read(path, "RGB" if self.channels == 3 else "L", bits=self.bits, remarks=remarks)
        width, height = image.size
        side = self.crop or min(width, height)
        if side > min(width, height):
            raise ValueError(f"is {width}x{height}, too small for a crop of {side}")
        left, top = (width - side) // 2, (height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((self.size, self.size), Image.Resampling.BILINEAR))
        return pixels.reshape(self.size, self.size, self.channels).transpose(2, 0, 1)


def check_bits(bits: int | None) -> None:
    if bits is not None and not 8 <= bits <= 16:
        raise UserError(f"datamodule.bits is {bits}: give the bits of a pixel that 16-bit files use, 8 to 16, or null.")


def turned(image: Image.Image) -> Image.Image:
    """As its EXIF data say; as it is stored where they say nothing or cannot be read."""
    image.load()  # some formats have these data behind the pixels
    turn = TURNS.get(orientation_of(image))
    return image if turn is None else image.transpose(turn)


def orientation_of(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ORIENTATION)
    except Exception:  # PIL raises nearly anything on damaged data, whose pixels may be whole
        return 1
    return orientation if isinstance(orientation, int) else 1


def as_stored(image: Image.Image) -> Image.Image:
    return image


def read(
    path: Path,
    mode: str = "RGB",
    turn: Callable[[Image.Image], Image.Image] = turned,
    bits: int | None = None,
    remarks: list[str] | None = None,
) -> Image.Image:
    """An image of 8 bits; of several frames the first. Transparency becomes white. Raises what ``opened`` does.

    Args:
        mode: ``RGB`` or ``L``.
        turn: which way up.
        bits: how many of a file's 16 bits hold its pixels, which then fill the range from black to white; None: all,
            and a file that would be nearly black so is refused.
        remarks: gets what a person should know of the file.
    """
    with opened(path) as file:
        if planes_of_many_bits(file):
            raise ValueError("holds planes of 16 bits a colour, which PIL takes for 8: make a file of 8 bits of it")
        deep_colours = any(";16" in str(tile) for tile in file.tile) and not file.mode.startswith("I")
        if remarks is not None and file.format != "MPO" and getattr(file, "is_animated", False):
            remarks.append("several frames, of which the first is taken")
        image = as_mode(turn(file), mode, bits)
    if deep_colours and 0 < np.asarray(image).max() < NEARLY_BLACK:  # PIL reads their upper 8 bits
        raise ValueError("is nearly black, using few of its 16 bits a colour: make a file of 8 bits a colour of it")
    return image


def planes_of_many_bits(file: ImageFile.ImageFile) -> bool:
    """Of a TIFF file, which may keep each colour by itself."""
    tags = getattr(file, "tag_v2", {})
    return tags.get(TIFF_PLANES) == 2 and len(file.getbands()) > 1 and max(tags.get(TIFF_BITS, (8,))) > 8


@contextmanager
def opened(path: Path) -> Iterator[ImageFile.ImageFile]:
    """Its head is read.

    Raises whatever PIL does on a file that it cannot read, and a ValueError for what is no plain file: to open a named
    pipe would wait for ever.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("is no plain file")
    with Image.open(path, formats=formats()) as file:
        yield file


@functools.cache
def formats() -> tuple[str, ...]:
    """Those that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def as_mode(image: Image.Image, mode: str, bits: int | None = None) -> Image.Image:
    if image.mode == "F":
        raise ValueError("holds floating-point numbers: make a file of 8 or 16 bits of it")
    if image.mode.startswith("I"):  # PIL would clip 16 bits to 255
        return Image.fromarray(eight_bits(np.asarray(image), bits)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def eight_bits(pixels: np.ndarray, bits: int | None) -> np.ndarray:
    """Whole numbers of ``bits`` bits (None: 16) -> uint8."""
    brightest = int(pixels.max())
    if pixels.min() < 0 or brightest >= 2**16:
        raise ValueError("holds whole numbers below 0 or of more than 16 bits: make a file of 8 or 16 bits of it")
    if bits is None and 0 < brightest < NEARLY_BLACK << 8:
        raise ValueError(
            f"is nearly black: its brightest pixel is {brightest} of 65535; say with datamodule.bits how many of the "
            "16 bits hold the pixels, often 12"
        )
    if bits is not None and brightest >= 2**bits:
        raise ValueError(f"has a pixel of {brightest}, too much for datamodule.bits={bits}")
    return (pixels >> ((bits or 16) - 8)).astype(np.uint8)


def whole_image(path: Path, bits: int | None = None) -> np.ndarray:
    """uint8 [3, H, W] in the file's own size, turned as its EXIF data say."""
    return np.asarray(read(path, bits=bits)).transpose(2, 0, 1)


@dataclass
class Decoded:
    """Some files: uint8 [N, C, size, size], and by their places why one could not be read, and what was remarked."""

    images: np.ndarray
    reasons: dict[int, str]
    remarks: dict[int, list[str]]


def decode_files(pixels: Pixels, paths: Sequence[Path]) -> Decoded:
    decoded = Decoded(np.zeros((len(paths), *pixels.shape), dtype=np.uint8), {}, {})
    for place, path in enumerate(paths):
        said: list[str] = []
        found = attempt(lambda it, said=said: pixels.decode(it, said), path)
        if isinstance(found, str):
            decoded.reasons[place] = found
        else:
            decoded.images[place] = found
        if said:
            decoded.remarks[place] = said
    return decoded


def attempt(read_it: Callable[[Path], Found], path: Path) -> Found | str:
    """What is made of a file, or in words why nothing is."""
    try:
        return read_it(path)
    except PIL.UnidentifiedImageError:
        return "is no image that PIL reads" if os.path.getsize(path) else "is empty"
    except FileNotFoundError:
        return "is a link to what is not there" if os.path.islink(path) else "is not there any more"
    except Exception as error:  # PIL raises nearly anything on a damaged file
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
