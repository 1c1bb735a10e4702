"""Tables of texts in files: csv, tsv and JSON lines, packed or not."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.text.sentences import LONGEST_LINE, TextFile
from foundation.errors import UserError, did_you_mean

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl", ".json")  # .txt has tabs, as GLUE's MRPC


class Rows:
    """A file's rows, each a dict of its cells by the columns' names; without a header these are "0", "1" and so on.

    ``.jsonl`` and ``.json`` have an object a line. In ``.tsv`` quotes are letters, as in GLUE; in ``.csv`` they quote.

    Args:
        key: that names the file, for sentences.
        skip_bad: rows with more or fewer cells than the header are left out, and counted in ``skipped``; else they are
            refused.
    """

    def __init__(self, file: str | Path, key: str, header: bool = True, skip_bad: bool = False) -> None:
        self.path, self.header, self.skip_bad, self.skipped = found(file, key), header, skip_bad, 0
        ending = Path(self.path.name.removesuffix(".gz")).suffix.lower()
        if ending not in ENDINGS:
            raise UserError(f"{key}={file}: give a file that ends in {', '.join(ENDINGS)} (or one of them and .gz).")
        self.ending = ending

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.file, self.skipped = TextFile(self.path), 0
        yield from (self._objects() if self.ending in (".jsonl", ".json") else self._cells())

    def refused(self, what: str) -> UserError:
        """Of the row that was given last."""
        return UserError(f"{self.path}, line {self.file.line}: {what}.")

    def cell(self, row: dict[str, Any], column: str, key: str) -> Any:
        """key: that names the column."""
        if column not in row:
            raise UserError(
                f"{self.path} has no column {column!r} in line {self.file.line}: set {key} to one of "
                f"{', '.join(map(repr, row))}; {did_you_mean(column, row)}"
            )
        return row[column]

    def text(self, row: dict[str, Any], column: str, key: str) -> str:
        found = self.cell(row, column, key)
        if not isinstance(found, str):
            raise self.refused(f"{column} is {found!r}, which is no text")
        return found

    def _objects(self) -> Iterator[dict[str, Any]]:
        for line in self.file.lines():
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise self.refused(f"it is no JSON ({error}); give an object a line") from None
            if not isinstance(row, dict):
                raise self.refused("it is no JSON object; give an object a line")
            yield row

    def _cells(self) -> Iterator[dict[str, Any]]:
        csv.field_size_limit(LONGEST_LINE)
        how: dict[str, Any] = {} if self.ending == ".csv" else {"delimiter": "\t", "quoting": csv.QUOTE_NONE}
        names: list[str] | None = None
        try:
            for cells in csv.reader(self.file.lines(), **how):
                if not any(cells):
                    continue
                if names is None:
                    names = cells if self.header else [str(number) for number in range(len(cells))]
                    if self.header:
                        continue
                if len(cells) == len(names):
                    yield dict(zip(names, cells, strict=True))
                elif not self.skip_bad:
                    raise self.refused(f"it has {len(cells)} cells, and there are {len(names)} columns")
                self.skipped += len(cells) != len(names)
        except csv.Error as error:
            raise self.refused(f"it cannot be read ({error})") from None


def found(file: str | Path, key: str) -> Path:
    """The file that is named, or the same packed."""
    path = Path(file).expanduser()
    for it in (path, path.with_name(f"{path.name}.gz")):
        if it.is_file():
            return it
    raise UserError(
        f"{key}={file} is no file: give one, or set DATA_DIR or paths.data_dir to the folder that holds it."
    )
