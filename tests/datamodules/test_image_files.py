"""How a file becomes pixels, and the cache: what is decoded once, and when again."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_files import ImageFiles, Pixels
from foundation.errors import UserError

NAMES = ["a.png", "b.png", "c.png"]


def write(path: Path, pixels, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        write(tmp_path / "images" / name, np.random.default_rng(number).integers(256, size=(6, 6, 3)))
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """The names of the files that are decoded, as they are."""
    names: list[str] = []
    decode = Pixels.decode
    monkeypatch.setattr(Pixels, "decode", lambda self, path: [names.append(path.name), decode(self, path)][1])
    return names


def files(folder: Path, names=NAMES, pixels=Pixels(6, 3), cache="cache") -> ImageFiles:  # noqa: B008 (frozen)
    return ImageFiles("some", folder, list(names), pixels, folder.parent / cache)


def test_the_order_is_the_list_s_and_pixels_stay_as_they_are(folder):
    images = files(folder, ["c.png", "a.png"]).load()
    assert images.dtype == torch.uint8
    for image, seed in zip(images, (2, 0), strict=True):
        expected = np.random.default_rng(seed).integers(256, size=(6, 6, 3))
        assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)


def test_the_second_start_decodes_nothing(folder, decoded, capsys):
    first = files(folder).load()
    assert sorted(decoded) == NAMES
    second = files(folder).load()
    assert sorted(decoded) == NAMES
    assert torch.equal(first, second)
    assert [path.suffix for path in (folder.parent / "cache").iterdir()] == [".npy"]
    assert capsys.readouterr() == ("", "")


def test_whatever_decides_the_pixels_makes_another_cache(folder, decoded, monkeypatch):
    files(folder).load()
    for change in (
        lambda: files(folder, NAMES[:2]).load(),
        lambda: files(folder, NAMES[::-1]).load(),
        lambda: files(folder, pixels=Pixels(4, 3)).load(),
        lambda: files(folder, pixels=Pixels(6, 1)).load(),
        lambda: files(folder, pixels=Pixels(6, 3, crop=5)).load(),
    ):
        decoded.clear()
        change()
        assert decoded

    decoded.clear()
    write(folder / "b.png", np.full((6, 6, 3), 7))
    os.utime(folder / "b.png", ns=(1, 1))
    assert (files(folder).load()[1] == 7).all()
    assert decoded

    (folder.parent / "other").mkdir()
    for name in NAMES:  # the same names, sizes and times elsewhere
        (folder.parent / "other" / name).write_bytes((folder / name).read_bytes())
        times = os.stat(folder / name)
        os.utime(folder.parent / "other" / name, ns=(times.st_atime_ns, times.st_mtime_ns))
    decoded.clear()
    ImageFiles("some", folder.parent / "other", NAMES, Pixels(6, 3), folder.parent / "cache").load()
    assert decoded


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "pickled", "of another shape"])
def test_a_damaged_cache_is_made_again_and_said_so(folder, decoded, capsys, harm):
    first = files(folder).load()
    (cache,) = (folder.parent / "cache").iterdir()
    content = bytearray(cache.read_bytes())
    content[-200] ^= 1  # a pixel
    if harm == "pickled":
        np.save(cache, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    elif harm == "of another shape":
        np.save(cache, np.zeros((3, 3, 5, 5), dtype=np.uint8))
    else:
        cache.write_bytes({"cut": content[:-100], "emptied": b"", "flipped": content}[harm])
    decoded.clear()
    assert torch.equal(files(folder).load(), first)
    assert sorted(decoded) == NAMES
    assert capsys.readouterr().err == f"some: the cache {cache} is damaged and is made again.\n"
    decoded.clear()
    files(folder).load()
    assert not decoded


def test_a_cache_that_cannot_be_written_is_told_and_does_without(folder, decoded, capsys):
    (folder.parent / "file").write_text("")
    first = files(folder, cache="file/cache").load()
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be kept in" in said
    assert "set RELIGHT_CACHE or paths.cache_dir" in said
    assert torch.equal(files(folder, cache="file/cache").load(quiet=True), first)
    assert capsys.readouterr() == ("", "")
    assert len(decoded) == 6


def test_files_that_cannot_be_read_are_counted_and_named(folder):
    (folder / "b.png").write_bytes(b"no image")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:70])
    with pytest.raises(
        UserError,
        match=r"2 of 3 images in .*images cannot be read: b.png \(is no image that PIL reads\), c.png \(.*\)\. Repair or remove them",
    ) as error:
        files(folder).load()
    assert not (folder.parent / "cache").exists()
    assert "\n" not in str(error.value)


def test_of_many_bad_files_five_are_named(folder):
    names = [f"{number}.png" for number in range(40)]
    for name in names:
        (folder / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"40 of 40 images .*: 0.png .*, 1.png .*, 10.png .*, 11.png .*, 12.png .*, \.\.\.\. Repair"
    ):
        files(folder, names).load()


def test_an_image_smaller_than_the_crop_is_named(folder):
    with pytest.raises(UserError, match=r"3 of 3 .* a.png \(is 6x6, too small for a crop of 7\)"):
        files(folder, pixels=Pixels(6, 3, crop=7)).load()


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
