"""Files that are there whole or not at all, whenever a process is killed and however full its disk is."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from foundation.errors import naming


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, which takes its place at the end; its folder is made.

    A reader, and whoever comes after a kill, finds the former file or the new one. What could not be written to its end
    is deleted, so that a full disk has room again for what says so.
    """
    unfinished = path.with_name(path.name + ".unfinished")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield unfinished
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):  # of a disk that may not be written to, which is told already
                unfinished.unlink(missing_ok=True)
            raise


def write_whole(path: Path, text: str) -> None:
    with whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
