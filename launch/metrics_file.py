"""metrics.csv, with which a resumed run goes on."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from foundation.errors import naming
from foundation.metrics import with_keys_of_today
from foundation.published import TESTED
from foundation.whole_files import whole


class MetricsFile(Logger):
    """``metrics.csv`` in the run folder: a row for each time that something is logged, a column for each key.

    A row is added at the end in one write. Where a key is new, the file is written anew beside the former one and takes
    its place at once, so that a kill loses no row. A resumed run keeps the rows that its checkpoint knows of, and the
    tests behind them; one that is made again at the same iteration takes the place of the former.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self.columns: list[str] = []  # of the file, once this run has written to it
        self.former: list[dict[str, Any]] = []  # what it begins with
        self.rows = 0
        self.tested: set[int] = set()  # steps

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *_: Any) -> None: ...  # config.yaml has them

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Lightning counts a row's step from 0."""
        row = {**metrics, "step": self.rows if step is None else step}
        again = is_of_test(row) and row["step"] in self.tested
        if again or not row.keys() <= {*self.columns}:
            kept = self._read() if self.columns else self.former
            former = [it for it in kept if not (again and is_of_test(it) and int(it["step"]) == row["step"])]
            self._write_anew([*former, row])
            return
        with naming(self.path), self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns).writerow(row)  # of one block, and so in one write
        self._count(row)

    @rank_zero_only
    def go_on_from(self, iteration: int, rows: int | None = None) -> None:
        """Keep the former rows up to an iteration.

        Args:
            rows: as many as there were when its checkpoint was written; None where it does not know.
        """
        for number, row in enumerate(self._read() if self.path.exists() else []):
            known = int(row["step"]) < iteration if rows is None else number < rows
            if known or (is_of_test(row) and int(row["step"]) <= iteration):
                counts = {key: int(row[key]) for key in ("epoch", "step") if row.get(key)}
                figures = {key: float(it) for key, it in row.items() if it and key not in counts}
                self.former.append(counts | with_keys_of_today(figures))
                self._count(row)

    def _read(self) -> list[dict[str, str]]:
        """A kill may leave half a line."""
        with self.path.open(newline="") as file:
            rows = [*csv.DictReader(file)]
        return [row for row in rows if None not in row.values() and row["step"].isdigit()]

    def _write_anew(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.columns, self.rows, self.tested = sorted({key for row in rows for key in row}), 0, set()
        with whole(self.path) as unfinished, unfinished.open("w", newline="") as file:
            table = csv.DictWriter(file, self.columns)
            table.writeheader()
            table.writerows(rows)
        for row in rows:
            self._count(row)

    def _count(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        if is_of_test(row):
            self.tested.add(int(row["step"]))


def is_of_test(row: Mapping[str, Any]) -> bool:
    return any(key.startswith(TESTED) and value not in ("", None) for key, value in row.items())


class RowsSoFar(Callback):
    """Has a checkpoint say how many rows ``metrics.csv`` has: a resume keeps these and logs the rest again."""

    def __init__(self, files: Sequence[MetricsFile]) -> None:
        self.files = files

    def state_dict(self) -> dict[str, Any]:
        return {"rows": [it.rows for it in self.files]}


def rows_in(checkpoint: Mapping[str, Any]) -> int | None:
    """As many as ``metrics.csv`` had when a checkpoint was written; None of a checkpoint that does not say so."""
    rows = checkpoint.get("callbacks", {}).get(RowsSoFar.__qualname__, {}).get("rows", [])
    return rows[0] if rows else None
