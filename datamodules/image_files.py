"""Image files made one uint8 table: decoded once, by threads, and kept in a cache that the next start reads."""

import hashlib
import json
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from tqdm import tqdm

from datamodules.decoding import Pixels, attempt
from foundation.errors import UserError

FORMAT = 2  # of the cache, and of how a file becomes pixels: a change here makes former cache files unused
CHUNK = 32  # files a thread takes at once
SECONDS_A_LINE = 20


class ImageFiles:
    """Some files of a folder as one table.

    Args:
        name: of the data set, for what is said and for the cache file.
        names: the files, relative to the folder; their order is the table's.
        cache_dir: where the table is kept; a file of it can be deleted at any time.
    """

    def __init__(self, name: str, folder: Path, names: list[str], pixels: Pixels, cache_dir: Path) -> None:
        self.name, self.folder, self.names, self.pixels = name, folder, names, pixels
        self.cache = cache_dir / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{self._key()}.npy"

    def load(self, quiet: bool = False) -> Tensor:
        """uint8 [N, C, size, size], from the cache where it has them. Quiet where another process says the same."""
        images = self._read(quiet)
        if images is None:
            images = self._decode_all(quiet)
            self._write(images, quiet)
        return torch.from_numpy(images)

    def _key(self) -> str:
        """A hash of all that decides the pixels."""
        stats = {name: attempt(os.stat, self.folder / name) for name in self.names}
        if bad := {name: it for name, it in stats.items() if isinstance(it, str)}:
            raise unreadable(bad, len(stats), self.folder)
        content = {
            "format": [FORMAT, PIL.__version__],
            "pixels": asdict(self.pixels),
            "folder": str(self.folder.resolve()),
            "files": [(name, it.st_size, it.st_mtime_ns) for name, it in stats.items() if not isinstance(it, str)],
        }
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]

    def _read(self, quiet: bool) -> np.ndarray | None:
        if not self.cache.exists():
            return None
        try:
            with open(self.cache, "rb") as file:
                images = np.load(file, allow_pickle=False)
                checksum = np.load(file, allow_pickle=False)
            fits = images.dtype == np.uint8 and images.shape == self._shape()
            intact = fits and zlib.crc32(images.data) == int(checksum)
        except Exception:  # whatever numpy makes of bytes that are not what was written
            images, intact = None, False
        if intact:
            return images
        say(f"{self.name}: the cache {self.cache} is damaged and is made again.", quiet)
        return None

    def _write(self, images: np.ndarray, quiet: bool) -> None:
        """Whole or not at all; without a cache every start decodes."""
        try:
            self.cache.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache.parent) as unfinished:
                with open(Path(unfinished) / "table", "wb") as file:
                    np.save(file, images, allow_pickle=False)
                    np.save(file, np.array(zlib.crc32(images.data)), allow_pickle=False)
                os.replace(Path(unfinished) / "table", self.cache)
        except OSError as error:
            say(
                f"{self.name}: the decoded images cannot be kept in {self.cache.parent} ({error.strerror or error}), "
                "so every start decodes them: set RELIGHT_CACHE or paths.cache_dir to a folder that you may write to.",
                quiet,
            )

    def _shape(self) -> tuple[int, ...]:
        return len(self.names), *self.pixels.shape

    def _decode_all(self, quiet: bool) -> np.ndarray:
        images = np.empty(self._shape(), dtype=np.uint8)
        bad: dict[str, str] = {}
        remarks: dict[str, list[str]] = {}

        def decode(start: int) -> int:
            chunk = range(start, min(start + CHUNK, len(images)))
            for position in chunk:
                name, said = self.names[position], []
                pixels = attempt(lambda path, said=said: self.pixels.decode(path, said), self.folder / name)
                if isinstance(pixels, str):
                    bad[name] = pixels
                else:
                    images[position] = pixels
                for remark in said:
                    remarks.setdefault(remark, []).append(name)
            return len(chunk)

        # PIL gives the interpreter up while it decodes.
        with ThreadPoolExecutor(min(os.cpu_count() or 1, 32)) as threads:
            try:
                done = threads.map(decode, range(0, len(images), CHUNK))
                for _ in done if quiet else shown(done, len(images), f"decoding {self.name}"):
                    pass
            finally:
                threads.shutdown(wait=False, cancel_futures=True)  # a Ctrl-C does not wait for the rest
        if bad:
            raise unreadable(bad, len(images), self.folder)
        for remark, names in remarks.items():
            say(f"{self.name}: {len(names):,} of {len(images):,} images with {remark}: {some(sorted(names))}.", quiet)
        return images


def unreadable(bad: Mapping[str, str], total: int, folder: Path) -> UserError:
    """A sentence that names the first of the bad files, each with its reason."""
    named = some([f"{name} ({bad[name]})" for name in sorted(bad)])
    return UserError(
        f"{len(bad)} of {total} images in {folder} cannot be read: {named}. "
        "Repair or remove them: none is left out silently."
    )


def some(words: Sequence[str], most: int = 5) -> str:
    """The first of them for a sentence."""
    return ", ".join(words[:most]) + (", ..." if len(words) > most else "")


def say(line: str, quiet: bool = False) -> None:
    if not quiet:
        print(line, file=sys.stderr, flush=True)


def shown(done: Iterator[int], total: int, doing: str, unit: str = "files") -> Iterator[int]:
    """Passes on how many ``unit`` are done; in a terminal a bar shows them, elsewhere a line now and then."""
    said, count = time.monotonic(), 0
    terminal = sys.stderr.isatty()
    with tqdm(total=total, desc=doing, unit=f" {unit}", dynamic_ncols=True, disable=not terminal) as bar:
        for number in done:
            count += number
            bar.update(number)
            if not terminal and time.monotonic() - said > SECONDS_A_LINE:
                said = time.monotonic()
                print(f"{doing}: {count} of {total} {unit}", flush=True)
            yield number
