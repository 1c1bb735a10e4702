"""CSV files in the run folder."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Rows of cells, the first of them the columns' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
