"""Archives of files, unpacked once into a folder that they cannot write beside."""

import hashlib
import os
import re
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath

from datamodules.image_files import shown
from foundation.errors import UserError

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")
FREELY = 100 * 10**6  # bytes that any archive may unpack to
MOST_TIMES = 100  # its own size, beyond
LEFT_FREE = 500 * 10**6  # bytes of the disk
CHUNK = 100  # members a step of what is shown
UNREADABLE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, RuntimeError, ValueError,
              OverflowError)  # fmt: skip
"""The last two: of a name or a time that no file can have."""


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def place_of(archive: Path, cache_dir: Path) -> Path:
    """The folder that an archive is unpacked into. Its name holds a hash of the archive's place, size and time, so that
    a changed archive is unpacked anew."""
    found = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:20]
    return cache_dir / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', archive.name)}-{key}"


def unpacked(archive: Path, cache_dir: Path) -> Path:
    """The folder of an archive's files, ``place_of`` it; unpacked whole or not at all by whoever asks first.

    What is no plain file or folder, or would lie outside, is named in a UserError before anything is written.
    """
    folder = place_of(archive, cache_dir)
    if folder.is_dir():
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as unfinished:
            inside = Path(unfinished) / "files"
            inside.mkdir()
            with members_of(archive, Room.of(archive, cache_dir)) as members:
                refuse(archive, members)
                files = [member for member in members if not member.is_folder]
                for _ in shown(extracted(files, inside), len(files), f"unpacking {archive.name}"):
                    pass
            try:
                os.replace(inside, folder)
            except OSError:
                if not folder.is_dir():  # another process was the first
                    raise
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(f"{archive} cannot be read ({error}): fetch it again, or unpack it yourself.") from None
    except OSError as error:
        raise UserError(
            f"{archive} cannot be unpacked into {cache_dir} ({error.strerror or error}): set RELIGHT_CACHE or "
            "paths.cache_dir to a folder that you may write to and that has room."
        ) from None
    return folder


@dataclass(frozen=True)
class Member:
    name: str
    is_folder: bool
    is_file: bool
    extract: Callable[[Path], object]


@dataclass
class Room:
    """How much an archive may unpack to: what a data set packs to, and what the disk has.

    Photographs, as those of COCO and ImageNet, hardly become smaller when they are packed; a file that is nothing but
    a repetition becomes a thousandth.

    Args:
        packed, free: bytes of the archive, and of the disk.
    """

    archive: Path
    folder: Path
    packed: int
    free: int
    taken: int = 0

    @classmethod
    def of(cls, archive: Path, folder: Path) -> "Room":
        return cls(archive, folder, archive.stat().st_size, shutil.disk_usage(folder).free)

    def take(self, size: int) -> None:
        """Raises a UserError before more is unpacked than there may be."""
        self.taken += size
        if self.taken > max(FREELY, MOST_TIMES * self.packed):
            raise UserError(
                f"{self.archive} has {told(self.packed)} and would unpack to {told(self.taken)} or more, over "
                f"{MOST_TIMES} times as much, as no images do: refused. Unpack it yourself if you trust it, and give "
                "the folder instead."
            )
        if self.taken > self.free - LEFT_FREE:
            raise UserError(
                f"{self.archive} would unpack to {told(self.taken)} or more, and the disk of {self.folder} has "
                f"{told(self.free)} left, of which {told(LEFT_FREE)} stay free: make room, or set RELIGHT_CACHE or "
                "paths.cache_dir to a folder that has it."
            )


def told(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def members_of(archive: Path, room: Room) -> Iterator[list[Member]]:
    """In the archive's order; of a compressed tar no more is read than there is room for."""
    found = []
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                room.take(info.file_size)  # more is not unpacked of a member, whatever it holds
                found.append(of_zip(file, info))
            yield found
    else:
        with tarfile.open(archive) as file:
            for info in file:
                room.take(info.size)
                found.append(of_tar(file, info))
            yield found


def of_tar(file: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    return Member(info.name, info.isdir(), info.isreg(), lambda folder: write_member(file, info, folder))


def write_member(file: tarfile.TarFile, info: tarfile.TarInfo, folder: Path) -> None:
    """A plain file whose name leads nowhere else (``refuse``), with its time, by which its decoded image is found.

    ``TarFile.extract`` sees to owners, rights and links as well, which takes most of the time of a small file.
    """
    path, content = folder / info.name, file.extractfile(info)
    assert content is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with content, path.open("wb") as target:
        shutil.copyfileobj(content, target)
    os.utime(path, (info.mtime, info.mtime))


def of_zip(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)  # Unix's; 0 where the archive was not made there
    return Member(info.filename, info.is_dir(), kind in (0, stat.S_IFREG), lambda folder: file.extract(info, folder))


def refuse(archive: Path, members: list[Member]) -> None:
    for member in members:
        path, elsewhere = PurePosixPath(member.name), PureWindowsPath(member.name)
        if path.is_absolute() or elsewhere.drive or elsewhere.root or ".." in elsewhere.parts:
            raise UserError(f"{archive} holds {member.name}, which would be unpacked outside of its folder: refused.")
        if not (member.is_file or member.is_folder):
            raise UserError(
                f"{archive} holds {member.name}, a link or a special file, which may lead outside of its folder: "
                "refused. Unpack it yourself if you trust it, and give the folder instead."
            )


def extracted(members: list[Member], folder: Path) -> Iterator[int]:
    """Extracts in order, and gives how many there were since it last said so."""
    for start in range(0, len(members), CHUNK):
        chunk = members[start : start + CHUNK]
        for member in chunk:
            member.extract(folder)
        yield len(chunk)
