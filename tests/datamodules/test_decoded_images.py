"""The table of decoded files and its cache: what is decoded once, and when again."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import decoded_images, decoding_processes
from datamodules.decoded_images import ImageFiles
from datamodules.decoding import Pixels, decode_files
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
    monkeypatch.setattr(Pixels, "decode", lambda self, path, *more: [names.append(path.name), decode(self, path)][1])
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


@pytest.fixture
def processes(monkeypatch) -> list[subprocess.Popen]:
    """Two decode whatever there is."""
    begun: list[subprocess.Popen] = []
    start = decoding_processes.started
    monkeypatch.setattr(decoding_processes, "MANY", 1)
    monkeypatch.setattr(decoded_images, "AT_ONCE", 2)
    monkeypatch.setattr(decoding_processes, "started", lambda pixels: [begun.append(start(pixels)), begun[-1]][1])
    return begun


def test_processes_decode_what_threads_do_and_are_gone_then(folder, processes, capsys):
    write(folder / "grey.png", np.full((9, 7), 5))
    Image.new("RGB", (6, 6)).save(folder / "moves.gif", save_all=True, append_images=[Image.new("RGB", (6, 6), "red")])
    names = [*NAMES, "grey.png", "moves.gif"] * 20  # of two chunks and more
    found = files(folder, names).load()
    assert len(processes) == 2
    assert all(it.poll() is not None for it in processes)
    expected = decode_files(Pixels(6, 3), [folder / name for name in names])
    assert torch.equal(found, torch.from_numpy(expected.images))
    assert not expected.reasons
    assert "20 of 100 images with several frames, of which the first is taken: moves.gif, " in capsys.readouterr().err


def test_processes_name_what_cannot_be_read(folder, processes):
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"1 of 3 images in .*images cannot be read: b.png \(is no image that PIL reads\)"
    ):
        files(folder).load()
    assert len(processes) == 2
    assert all(it.poll() is not None for it in processes)


def test_a_process_that_is_killed_is_told(folder):
    process = decoding_processes.started(Pixels(6, 3))
    process.kill()
    process.wait()
    with pytest.raises(RuntimeError, match="ended with exit code -9"):
        decoding_processes.asked(process, [folder / "a.png"] * 2000)
    process.communicate()


def test_a_process_ends_with_the_one_that_started_it(folder):
    """And not by a signal, which a scheduler sends to all that a run has started."""
    process = decoding_processes.started(Pixels(6, 3))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        assert not decoding_processes.asked(process, [folder / "a.png"]).reasons
        process.send_signal(number)
    process.stdin.close()
    assert process.wait(timeout=60) == 0
    process.stdout.close()


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
    assert [it.name for it in (folder.parent / "cache").iterdir()] == ["some-unreadable.txt"]
    assert "\n" not in str(error.value)


def test_of_many_bad_files_five_are_named(folder):
    names = [f"{number}.png" for number in range(40)]
    for name in names:
        (folder / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"40 of 40 images .*: 0.png, 1.png, 10.png, 11.png, 12.png \(is empty\), \.\.\.\. Repair"
    ):
        files(folder, names).load()


def test_all_bad_files_are_listed_until_none_is_left(folder):
    names = [*NAMES, *(f"{number}.png" for number in range(40)), os.fsdecode(b"\xff.png")]
    for name in names[3:-1]:
        (folder / name).write_bytes(b"")
    (folder / names[-1]).symlink_to(folder / "nowhere.png")
    listed = folder.parent / "cache" / "some-unreadable.txt"
    with pytest.raises(UserError, match=rf"41 of 44 .* All are listed in {listed}\.$"):
        files(folder, names).load()
    lines = [os.fsdecode(line) for line in listed.read_bytes().splitlines()]
    assert lines[:-1] == [f"{folder}/{name}\tis empty" for name in sorted(names[3:-1])]
    assert lines[-1] == f"{folder}/{names[-1]}\tis a link to what is not there"
    for name in names[3:]:
        (folder / name).unlink()
    assert len(files(folder).load()) == 3
    assert not listed.exists()


def test_without_a_place_for_the_list_five_are_named(folder):
    (folder.parent / "file").write_text("")
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b.png \(is empty\)\. Repair or remove them: none is left out silently\.$"):
        files(folder, cache="file/cache").load()


def test_an_image_smaller_than_the_crop_is_named(folder):
    with pytest.raises(UserError, match=r"3 of 3 .* a.png, b.png, c.png \(is 6x6, too small for a crop of 7\)"):
        files(folder, pixels=Pixels(6, 3, crop=7)).load()


def test_a_link_to_what_is_not_there_is_named(folder):
    (folder / "d.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(
        UserError,
        match=r"1 of 4 images in \S+ cannot be read: d.png \(is a link to what is not there\). Repair or remove",
    ):
        files(folder, [*NAMES, "d.png"]).load()


def test_what_moves_is_counted_aloud_and_its_first_frame_is_taken(folder, capsys):
    frames = [Image.new("RGB", (6, 6), (value, 0, 0)) for value in (200, 10, 20)]
    for name in ("moves.gif", "moves.webp", "moves.png"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:], lossless=True)
    names = ["a.png", "moves.gif", "moves.png", "moves.webp"]
    assert files(folder, names).load()[1:, 0].float().mean((1, 2)).tolist() == [200, 200, 200]
    assert capsys.readouterr().err == (
        "some: 3 of 4 images with several frames, of which the first is taken: moves.gif, moves.png, moves.webp.\n"
    )
    files(folder, names[:1]).load()
    assert capsys.readouterr().err == ""
