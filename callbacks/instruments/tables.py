"""CSV files in the run folder."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from foundation.whole_files import whole


def write_table(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Rows of cells, the first of them the columns' names."""
    with whole(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
