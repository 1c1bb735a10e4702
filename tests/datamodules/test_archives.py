"""What may be unpacked, and that nothing else is: whole or not at all, and never outside."""

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from datamodules.archives import ENDINGS, Room, unpacked
from foundation.errors import UserError

FILES = {"pets/cat/a.jpg": b"cat", "pets/dog/b.jpg": b"dog"}


def write(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    compression = {".gz": "gz", ".tgz": "gz", ".xz": "xz"}.get(path.suffix, "")
    with tarfile.open(path, f"w:{compression}") as archive:  # type: ignore
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_link(path: Path, name: str, target: str, kind: bytes) -> Path:
    """Links ``name``, then writes through it."""
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo(name)
        link.type, link.linkname = kind, target
        archive.addfile(link)
        through = tarfile.TarInfo(f"{name}/evil")
        through.size = 4
        archive.addfile(through, io.BytesIO(b"evil"))
    return path


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        it.relative_to(folder).as_posix(): it.read_bytes() if it.is_file() else None
        for it in folder.rglob("*")
        if it.is_file() or not any(it.iterdir())
    }


@pytest.mark.parametrize("ending", [*ENDINGS, ".TAR"])
def test_every_kind_is_unpacked(tmp_path, ending):
    folder = unpacked(write(tmp_path / f"pets{ending}", FILES), tmp_path / "cache")
    assert everything(folder) == FILES
    assert [it.name for it in (tmp_path / "cache").iterdir()] == [folder.name]


@pytest.mark.parametrize("ending", [".tar", ".zip"])
@pytest.mark.parametrize("name", ["../evil", "pets/../../evil", "/tmp/relight_evil", "..\\evil", "C:\\evil", "C:evil"])
def test_a_member_that_would_leave_the_folder_is_refused_by_name(tmp_path, ending, name):
    archive = write(tmp_path / f"pets{ending}", FILES | {name: b"evil"})
    before = everything(tmp_path)
    with pytest.raises(UserError) as refused:
        unpacked(archive, tmp_path / "some" / "cache")
    assert f"holds {name}, which would be unpacked outside of its folder: refused" in str(refused.value)
    assert everything(tmp_path) == before | {"some/cache": None}
    assert not Path("/tmp/relight_evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_special_files_are_refused_by_name(tmp_path, kind):
    archive = write_link(tmp_path / "pets.tar", "way", str(tmp_path), kind)
    with pytest.raises(UserError, match=r"pets.tar holds way, a link or a special file, .* Unpack it yourself"):
        unpacked(archive, tmp_path / "cache")
    assert everything(tmp_path) == {"pets.tar": archive.read_bytes(), "cache": None}


def test_a_link_in_a_zip_is_refused_by_name(tmp_path):
    link = zipfile.ZipInfo("way")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        archive.writestr(link, str(tmp_path))
    with pytest.raises(UserError, match=r"pets.zip holds way, a link or a special file"):
        unpacked(tmp_path / "pets.zip", tmp_path / "cache")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz", ".tar.xz", ".zip"])
def test_a_damaged_archive_is_named_and_leaves_nothing(tmp_path, ending):
    archive = write(tmp_path / f"pets{ending}", {"a.jpg": os.urandom(100_000)})
    archive.write_bytes(archive.read_bytes()[:50_000])
    with pytest.raises(UserError, match=r"pets\S+ cannot be read \(.+\): fetch it again, or unpack it yourself"):
        unpacked(archive, tmp_path / "cache")
    assert everything(tmp_path / "cache") == {}


@pytest.mark.parametrize("time", ["1e300", "nan"])
def test_a_time_that_no_file_can_have_is_told(tmp_path, time):
    path = tmp_path / "odd.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("a.png")
        info.pax_headers = {"mtime": time}
        file.addfile(info)
    with pytest.raises(UserError, match="odd.tar cannot be read"):
        unpacked(path, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments, **settings):
        raise KeyboardInterrupt

    archive = write(tmp_path / "pets.tar", FILES)
    monkeypatch.setattr(tarfile.TarFile, "extractfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpacked(archive, tmp_path / "cache")
    assert everything(tmp_path / "cache") == {}


def test_it_is_unpacked_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    archive = write(tmp_path / "pets.tar", FILES)
    first = unpacked(archive, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", None)
        assert unpacked(archive, tmp_path / "cache") == first
    second = unpacked(write(archive, FILES | {"pets/eel/c.jpg": b"eel" * 9999}), tmp_path / "cache")
    assert second != first
    assert len(everything(second)) == 3


def test_another_process_may_be_faster(tmp_path, monkeypatch):
    archive = write(tmp_path / "pets.tar", FILES)
    replace = os.replace

    def later(source, target):
        Path(target).mkdir()
        (Path(target) / "theirs").write_bytes(b"")
        replace(source, target)

    monkeypatch.setattr(os, "replace", later)
    folder = unpacked(archive, tmp_path / "cache")
    assert everything(folder) == {"theirs": b""}
    assert [it.name for it in (tmp_path / "cache").iterdir()] == [folder.name]


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(
        UserError, match=r"cannot be unpacked into \S+cache \(.+\): set RELIGHT_CACHE or paths.cache_dir"
    ):
        unpacked(write(tmp_path / "pets.tar", FILES), tmp_path / "file" / "cache")


# --- what unpacks to more than it may -------------------------------------------------------------------------


def write_bomb(path: Path, size: int) -> Path:
    """As many zeros."""
    zeros = Path(f"{path}.zeros")
    with zeros.open("wb") as file:
        file.truncate(size)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(zeros, "a.jpg")
    else:
        with tarfile.open(path, f"w:{path.suffix[1:]}") as archive:  # type: ignore
            archive.add(zeros, "a.jpg")
    zeros.unlink()
    return path


@pytest.mark.parametrize("ending", [".zip", ".tar.gz", ".tar.xz"])
def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path, ending):
    bomb = write_bomb(tmp_path / f"bomb{ending}", 150 * 10**6)
    with pytest.raises(
        UserError, match=r"bomb\S+ has 0\.\d MB and would unpack to 150.0 MB or more, over 100 times as much"
    ):
        unpacked(bomb, tmp_path / "cache")
    assert not [*(tmp_path / "cache").iterdir()]


def test_members_that_lie_about_their_size_are_not_believed(tmp_path):
    bomb = write_bomb(tmp_path / "bomb.zip", 10**7)
    content = bomb.read_bytes().replace((10**7).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    bomb.write_bytes(content)
    with pytest.raises(UserError, match="bomb.zip cannot be read"):
        unpacked(bomb, tmp_path / "cache")
    assert not [*(tmp_path / "cache").iterdir()]


def test_a_disk_without_room_is_told_before_anything_is_written(tmp_path, monkeypatch):
    archive = write(tmp_path / "pets.zip", FILES)
    full = shutil.disk_usage(tmp_path)._replace(free=400 * 10**6)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(
        UserError, match="the disk of .*cache has 400.0 MB left, of which 500.0 MB stay free: make room"
    ):
        unpacked(archive, tmp_path / "cache")
    assert not [*(tmp_path / "cache").iterdir()]


@pytest.mark.parametrize(
    ("packed", "whole"), [(19 * 10**9, 20 * 10**9), (138 * 10**9, 150 * 10**9), (10**6, 90 * 10**6)]
)
def test_the_limits_leave_room_for_what_there_is(packed, whole):
    """COCO, ImageNet, and annotations that pack well."""
    Room(Path("a"), Path("b"), packed, 10**13).take(whole)
