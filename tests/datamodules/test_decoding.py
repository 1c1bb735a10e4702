"""How a file becomes pixels: which are read, which way up, how deep, and what is refused in which words."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding import Pixels, as_stored, attempt, read, turned, whole_image
from foundation.errors import UserError

TAGS = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # turned by 90 degrees


def write(path: Path, pixels, dtype=np.uint8, **options) -> Path:
    Image.fromarray(np.asarray(pixels, dtype=dtype)).save(path, **options)
    return path


def png_of_deep_colours(value: int) -> bytes:
    """2x2 pixels of three times 16 bits, which PIL does not write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = 2 * (b"\0" + struct.pack(">6H", *6 * [value]))
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_the_middle_is_cut_out_and_made_smaller_with_antialiasing(tmp_path):
    pixels = np.zeros((10, 20, 3))
    pixels[2:8, 7:13] = 255  # the middle 6x6
    pixels[2:8:2, 7:13] = 0  # in stripes
    write(tmp_path / "a.png", pixels)
    assert Pixels(6, 3, crop=6).decode(tmp_path / "a.png")[0].tolist() == pixels[2:8, 7:13, 0].tolist()
    small = Pixels(2, 1, crop=6).decode(tmp_path / "a.png")
    assert small.shape == (1, 2, 2)
    assert 90 < small.min() <= small.max() < 165  # half black, half white
    assert Pixels(10, 1).decode(tmp_path / "a.png")[0].tolist() == pixels[:, 5:15, 0].tolist()  # the largest square


@pytest.mark.parametrize(
    ("image", "grey"),
    [
        (Image.new("RGB", (4, 4), (200, 200, 200)), 200),
        (Image.new("L", (4, 4), 90), 90),
        (Image.new("1", (4, 4), 1), 255),
        (Image.new("P", (4, 4), 0), 0),
        (Image.new("LA", (4, 4), (0, 0)), 255),  # transparent: white
        (Image.new("RGBA", (4, 4), (10, 10, 10, 255)), 10),
        (Image.fromarray(np.full((4, 4), 0x8040, dtype=np.uint16)), 0x80),  # 16 bits
    ],
)
def test_every_kind_of_image_becomes_eight_bits(tmp_path, image, grey):
    image.save(tmp_path / "a.png")
    assert np.unique(Pixels(4, 1).decode(tmp_path / "a.png")).tolist() == [grey]
    assert np.unique(Pixels(4, 3).decode(tmp_path / "a.png")).tolist() == [grey]


def test_a_photograph_is_turned_as_its_exif_data_say(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    write(tmp_path / "a.png", [[0, 100], [150, 250]], exif=exif)
    assert Pixels(2, 1).decode(tmp_path / "a.png")[0].tolist() == [[250, 150], [100, 0]]


@pytest.mark.parametrize(
    "settings", [{"size": 0, "channels": 3}, {"size": 4, "channels": 2}, {"size": 4, "channels": 3, "crop": 0}]
)
def test_sizes_that_cannot_be_are_refused(settings):
    with pytest.raises(UserError, match=r"datamodule\.(size|channels|crop) is [02]: give"):
        Pixels(**settings)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({"bits": 12}, [[300 >> 4, 3000 >> 4]]), ({"bits": 16}, [[300 >> 8, 3000 >> 8]]), ({"bits": 14}, [[4, 46]])],
)
def test_bits_say_which_range_becomes_black_to_white(tmp_path, settings, expected):
    path = write(tmp_path / "a.png", [[300, 3000]], np.uint16)
    assert whole_image(path, **settings)[0].tolist() == expected


@pytest.mark.parametrize("brightest", [4095, 1])
def test_sixteen_bits_that_would_be_nearly_black_are_refused_with_the_cure(tmp_path, brightest):
    path = write(tmp_path / "a.png", [[0, brightest]], np.uint16)
    found = attempt(whole_image, path)
    assert str(found).startswith(
        f"is nearly black: its brightest pixel is {brightest} of 65535; say with datamodule.bits"
    )


def test_other_depths(tmp_path):
    assert whole_image(write(tmp_path / "a.png", [[0, 0]], np.uint16)).max() == 0  # black is black
    assert whole_image(write(tmp_path / "b.png", [[0, 4096]], np.uint16)).max() == 16
    reasons = {
        "deeper than said": (lambda path: whole_image(path, 8), write(tmp_path / "c.png", [[256]], np.uint16)),
        "negative": (whole_image, write(tmp_path / "d.tif", [[-5, 9]], np.int32)),
        "32 bits": (whole_image, write(tmp_path / "e.tif", [[0, 70_000]], np.int32)),
        "fractions": (whole_image, write(tmp_path / "f.tif", [[0.5]], np.float32)),
    }
    cure = "make a file of 8 or 16 bits of it"
    assert {name: attempt(*it) for name, it in reasons.items()} == {
        "deeper than said": "has a pixel of 256, too much for datamodule.bits=8",
        "negative": f"holds whole numbers below 0 or of more than 16 bits: {cure}",
        "32 bits": f"holds whole numbers below 0 or of more than 16 bits: {cure}",
        "fractions": f"holds floating-point numbers: {cure}",
    }
    (tmp_path / "g.png").write_bytes(png_of_deep_colours(0x8040))
    assert np.unique(whole_image(tmp_path / "g.png")).tolist() == [0x80]
    (tmp_path / "h.png").write_bytes(png_of_deep_colours(4000))
    assert str(attempt(whole_image, tmp_path / "h.png")).startswith(
        "is nearly black, using few of its 16 bits a colour"
    )


def tiff_of_deep_colours(pixels: np.ndarray, order: str = "<", planes: bool = False) -> bytes:
    """pixels: uint16 [H, W, 3]; order of the bytes: < or >; planes: each colour by itself."""
    height, width, _ = pixels.shape
    strips = [pixels[..., it] for it in range(3)] if planes else [pixels]
    count, behind = len(strips), 8 + 2 + 12 * 10 + 4  # what is no single number stands behind the directory
    places = [behind + 6 + 8 * count + sum(it.nbytes for it in strips[:place]) for place in range(count)]
    lengths = [it.nbytes for it in strips]
    places_at, lengths_at = (behind + 6, behind + 6 + 4 * count) if planes else (places[0], lengths[0])
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, behind), (259, 4, 1, 1), (262, 4, 1, 2),
        (273, 4, count, places_at), (277, 4, 1, 3), (278, 4, 1, height), (279, 4, count, lengths_at),
        (284, 4, 1, 1 + planes),
    ]  # fmt: skip
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HIH", 42, 8, len(entries))
    directory = b"".join(struct.pack(f"{order}HHII", *it) for it in entries) + struct.pack(f"{order}I", 0)
    body = struct.pack(f"{order}3H{2 * count}I", 16, 16, 16, *places, *lengths)
    return head + directory + body + b"".join(it.astype(f"{order}u2").tobytes() for it in strips)


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_colours_of_tiff_files_are_their_upper_bits_or_refused(tmp_path, order):
    pixels = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 5000
    (tmp_path / "a.tif").write_bytes(tiff_of_deep_colours(pixels, order))
    assert np.array_equal(whole_image(tmp_path / "a.tif").transpose(1, 2, 0), pixels >> 8)
    (tmp_path / "b.tif").write_bytes(tiff_of_deep_colours(pixels >> 4, order))
    assert "is nearly black, using few of its 16 bits a colour" in str(attempt(whole_image, tmp_path / "b.tif"))


def test_deep_colours_that_pil_would_garble_are_refused(tmp_path):
    pixels = np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 5000
    (tmp_path / "a.tif").write_bytes(tiff_of_deep_colours(pixels, planes=True))
    assert str(attempt(whole_image, tmp_path / "a.tif")).startswith("holds planes of 16 bits a colour")


@pytest.mark.parametrize("bits", [7, 17])
def test_bits_are_eight_to_sixteen(bits):
    with pytest.raises(UserError, match=rf"datamodule.bits is {bits}: give"):
        Pixels(4, 3, bits=bits)


@pytest.mark.parametrize(("mode", "ending"), [("CMYK", "jpg"), ("YCbCr", "jpg"), ("CMYK", "tif"), ("P", "gif")])
def test_colours_of_printers_cameras_and_palettes_become_rgb(tmp_path, mode, ending):
    image = Image.new("RGB", (16, 16), (200, 30, 60)).convert(mode)
    image.save(tmp_path / f"a.{ending}")
    assert np.abs(whole_image(tmp_path / f"a.{ending}").mean((1, 2)) - (200, 30, 60)).max() < 4


def test_a_transparent_colour_of_a_palette_becomes_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.png", transparency=0)
    assert whole_image(tmp_path / "a.png")[:, 0].T.tolist() == [[255, 255, 255], [200, 0, 0]]


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, [[0, 80], [160, 240]]), (2, [[80, 0], [240, 160]]), (3, [[240, 160], [80, 0]]), (4, [[160, 240], [0, 80]]),
        (5, [[0, 160], [80, 240]]), (6, [[160, 0], [240, 80]]), (7, [[240, 80], [160, 0]]), (8, [[80, 240], [0, 160]]),
        (0, [[0, 80], [160, 240]]), (9, [[0, 80], [160, 240]]),
    ],
)  # fmt: skip
def test_every_orientation(tmp_path, orientation, expected):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = write(tmp_path / "a.png", [[0, 80], [160, 240]], exif=exif)
    assert np.asarray(read(path, "L")).tolist() == expected
    assert np.asarray(read(path, "L", turn=as_stored)).tolist() == [[0, 80], [160, 240]]


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", TAGS[:-9], b"Exif\0\0II*\0\xff\xff\xff\x7f", b""])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_exif_data_that_cannot_be_read_leave_an_image_as_it_is_stored(tmp_path, ending, exif):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (4, 6)).save(path, **({} if ending == "tif" else {"exif": exif}))
    assert whole_image(path).shape == (3, 6, 4)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_exif_data_turn_an_image_whatever_its_format(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    Image.new("RGB", (4, 6)).save(path, exif=TAGS)
    assert whole_image(path).shape == (3, 4, 6)
    with Image.open(path) as file:
        assert turned(file).size == (6, 4)


def test_what_is_no_image_has_its_words(tmp_path):
    for name, content in {"empty": b"", "words": b"hello", "half": b""}.items():
        (tmp_path / f"{name}.png").write_bytes(content)
    whole = write(tmp_path / "whole.png", np.random.default_rng(0).integers(256, size=(32, 32, 3))).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    os.symlink(tmp_path / "nowhere.png", tmp_path / "link.png")
    os.symlink(tmp_path / "round.png", tmp_path / "round.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "device.png")
    (tmp_path / "folder.png").mkdir()
    names = ["empty", "words", "half", "link", "round", "pipe", "device", "folder", "never"]
    assert {name: attempt(whole_image, tmp_path / f"{name}.png") for name in names} == {
        "empty": "is empty",
        "words": "is no image that PIL reads",
        "half": "image file is truncated",
        "link": "is a link to what is not there",
        "round": "Too many levels of symbolic links",
        "pipe": "is no plain file",
        "device": "is no plain file",
        "folder": "is no plain file",
        "never": "is not there any more",
    }


def test_a_file_of_another_program_s_format_is_none_whatever_its_ending(tmp_path):
    """PIL would start ghostscript."""
    content = io.BytesIO()
    Image.new("RGB", (4, 4)).save(content, "EPS")
    (tmp_path / "a.png").write_bytes(content.getvalue())
    assert attempt(whole_image, tmp_path / "a.png") == "is no image that PIL reads"


def test_an_image_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", np.zeros((20, 30, 3)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    assert "exceeds limit of 400 pixels" in str(attempt(whole_image, path))
