"""Archives of files, unpacked once into a folder that they cannot write beside."""

import hashlib
import os
import re
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
CHUNK = 100  # members a step of what is shown


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ENDINGS)


def unpacked(archive: Path, cache_dir: Path) -> Path:
    """The folder of an archive's files, below ``cache_dir``; unpacked whole or not at all by whoever asks first.

    Its name holds a hash of the archive's place, size and time, so that a changed archive is unpacked anew. What is
    no plain file or folder, or would lie outside, is named in a UserError before anything is written.
    """
    found = archive.stat()
    key = hashlib.sha256(f"{archive.resolve()} {found.st_size} {found.st_mtime_ns}".encode()).hexdigest()[:20]
    folder = cache_dir / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', archive.name)}-{key}"
    if folder.is_dir():
        return folder
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as unfinished:
            inside = Path(unfinished) / "files"
            inside.mkdir()
            with members_of(archive) as members:
                refuse(archive, members)
                files = [member for member in members if not member.is_folder]
                for _ in shown(extracted(files, inside), len(files), f"unpacking {archive.name}"):
                    pass
            try:
                os.replace(inside, folder)
            except OSError:
                if not folder.is_dir():  # another process was the first
                    raise
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, LZMAError, RuntimeError) as error:
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


@contextmanager
def members_of(archive: Path) -> Iterator[list[Member]]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            yield [of_zip(file, info) for info in file.infolist()]
    else:
        with tarfile.open(archive) as file:
            yield [of_tar(file, info) for info in file.getmembers()]


def of_tar(file: tarfile.TarFile, info: tarfile.TarInfo) -> Member:
    return Member(info.name, info.isdir(), info.isreg(), lambda folder: file.extract(info, folder, filter="data"))


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
