"""Image files made one uint8 table: decoded once, by all cores, and kept in a cache that the next start reads."""

import os
import tempfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.decoding import Pixels
from datamodules.decoding_processes import decoder_of
from datamodules.image_files import AT_ONCE, as_file_name, key_of, read_all, say, some


class ImageFiles:
    """Some files of a folder as one table.

    Args:
        name: of the data set, for what is said and for the cache file.
        names: the files, relative to the folder; their order is the table's.
        cache_dir: where the table is kept; a file of it can be deleted at any time.
    """

    def __init__(self, name: str, folder: Path, names: list[str], pixels: Pixels, cache_dir: Path) -> None:
        self.name, self.folder, self.names, self.pixels = name, folder, names, pixels
        self.cache_dir = cache_dir
        key = key_of(folder, names, {"pixels": asdict(pixels)})
        self.cache = None if key is None else cache_dir / f"{as_file_name(name)}-{key}.npy"

    def load(self, quiet: bool = False) -> Tensor:
        """uint8 [N, C, size, size], from the cache where it has them. Quiet where another process says the same."""
        images = self._read(quiet)
        if images is None:
            images = self._decode_all(quiet)
            self._write(images, quiet)
        return torch.from_numpy(images)

    def _read(self, quiet: bool) -> np.ndarray | None:
        if self.cache is None or not self.cache.exists():
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
        if self.cache is None:  # a file that was not there is there now
            return
        try:
            self.cache_dir.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache_dir) as unfinished:
                with open(Path(unfinished) / "table", "wb") as file:
                    np.save(file, images, allow_pickle=False)
                    np.save(file, np.array(zlib.crc32(images.data)), allow_pickle=False)
                os.replace(Path(unfinished) / "table", self.cache)
        except OSError as error:
            say(
                f"{self.name}: the decoded images cannot be kept in {self.cache_dir} ({error.strerror or error}), "
                "so every start decodes them: set RELIGHT_CACHE or paths.cache_dir to a folder that you may write to.",
                quiet,
            )

    def _shape(self) -> tuple[int, ...]:
        return len(self.names), *self.pixels.shape

    def _decode_all(self, quiet: bool) -> np.ndarray:
        images = np.empty(self._shape(), dtype=np.uint8)
        remarks: dict[str, list[str]] = {}
        with decoder_of(self.pixels, len(self.names), AT_ONCE) as decode:

            def read_chunk(places: range) -> dict[int, str]:
                decoded = decode([self.folder / self.names[it] for it in places])
                images[places.start : places.stop] = decoded.images
                for place, said in decoded.remarks.items():
                    for remark in said:
                        remarks.setdefault(remark, []).append(self.names[places[place]])
                return {places[place]: reason for place, reason in decoded.reasons.items()}

            read_all(self.name, self.folder, self.names, read_chunk, "decoding", self.cache_dir, quiet)
        for remark, names in remarks.items():
            say(f"{self.name}: {len(names):,} of {len(images):,} images with {remark}: {some(sorted(names))}.", quiet)
        return images
