"""What a run's folder holds for a person to look at, whichever callbacks leave it there, and how to go on in it."""

import csv
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from foundation.places import lies_in

KINDS_OF_PICTURES = {".png": "image/png", ".gif": "image/gif", ".jpg": "image/jpeg", ".jpeg": "image/jpeg",
                     ".webp": "image/webp"}  # fmt: skip
SERIES = re.compile(r"-\d+$")  # samples-001000.png: of that iteration
OF_THE_PLATFORM = ("metrics.csv", "sweep.csv")  # and curves-*.png: they are made of a run, not by it

Cell = str | int | float | None


def pictures_in(folder: Path) -> list[Path]:
    """Those of ``images/`` and then those beside it, by name; of a series over iterations the last, before others."""
    found: list[Path] = []
    for place in (folder / "images", folder):
        paths = sorted(it for it in own_files(folder, place.glob("*")) if it.suffix.lower() in KINDS_OF_PICTURES)
        last = {series_of(path): path for path in paths if SERIES.search(path.stem)}
        found += [*last.values(), *(path for path in paths if not SERIES.search(path.stem))]
    return [path for path in found if not path.name.startswith("curves-")]


def own_files(folder: Path, paths: Iterable[Path]) -> Iterator[Path]:
    """Those that are files of the folder itself: a page or a service would be given what a link leads to."""
    return (path for path in paths if path.is_file() and not path.is_symlink() and lies_in(path, folder))


def series_of(path: Path) -> str:
    """``samples`` of ``samples-001000.png``."""
    return SERIES.sub("", path.stem)


def tables_in(folder: Path) -> list[Path]:
    """Its CSV files, each with a heading, by name."""
    return sorted(path for path in own_files(folder, folder.glob("*.csv")) if path.name not in OF_THE_PLATFORM)


def read_table(path: Path) -> tuple[list[str], list[list[Cell]]]:
    """A CSV file's heading and rows. A column of nothing but numbers holds numbers, and None where it is empty."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        heading, *rows = [*csv.reader(file)] or [[]]
    width = len(heading)
    whole = [[*row, *[""] * (width - len(row))][:width] for row in rows if row]  # a kill may leave half a line
    columns = [numbers_or_texts([row[place] for row in whole]) for place in range(width)]
    return heading, [list(row) for row in zip(*columns, strict=True)]


def numbers_or_texts(column: list[str]) -> list[Cell]:
    for kind in (int, float):
        try:
            return [kind(it) if it else None for it in column]
        except ValueError:
            continue
    return [*column]


def to_go_on(folder: str | Path, *settings: str) -> str:
    """The command that goes on with a run, as a shell takes it."""
    return shlex.join(["python", "train.py", f"resume={folder}", *settings])
