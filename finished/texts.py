"""A person's own texts and pairs of them: the lines of a file or of standard input, or a table's columns; and what a
run's module is given for them."""

import gzip
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.text.labelled import LabelledTextDataModule
from datamodules.text.pairs import PairsDataModule
from datamodules.text.rows import Rows
from datamodules.text.tokens import PairTable, TokensDataModule, TokenTable, WordPieceDataModule
from finished.predictions import STANDARD_INPUT
from foundation.errors import UserError
from foundation.protocols import said
from launch.runs import Finished

SHOWN = 60  # characters of a text on the terminal
TABLES = (".csv", ".tsv", ".jsonl", ".json")
HOW = "one text a line, of a pair both with a tab between them"


@dataclass
class Texts:
    """What ``input=`` named. others: of a pair its second text. lines: where each stands in the source."""

    source: str
    texts: list[str] = field(default_factory=list)
    others: list[str | None] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)

    def add(self, text: str, other: str | None, line: int) -> None:
        for it in (text, *([] if other is None else [other])):
            if not it.strip():
                whose = "" if other is None else " in one of its two parts"
                raise UserError(f"input={self.source}, line {line} is empty{whose}: give {HOW}.")
        self.texts.append(text.strip())
        self.others.append(None if other is None else other.strip())
        self.lines.append(line)

    @property
    def of_pairs(self) -> bool:
        """Whether there are any."""
        return any(it is not None for it in self.others)

    @property
    def names(self) -> list[str]:
        """What a line of the terminal has of them."""
        both = zip(self.texts, self.others, strict=True)
        return [begun(text if other is None else f"{text} | {other}") for text, other in both]

    def refused(self, number: int, what: str) -> UserError:
        """Of a text by its number."""
        return UserError(f"input={self.source}, line {self.lines[number]} {what}.")

    def table(self, more: list[list[str]], of: list[int] | None = None) -> list[list[str]]:
        """The texts as a table's first columns; more: of each row the others, the heading first. of: the number of
        each row's text, where that is not the row's own."""
        heading, *rows = more
        numbers = range(len(self.texts)) if of is None else of
        if not self.of_pairs:
            return [["text", *heading], *([self.texts[it], *row] for it, row in zip(numbers, rows, strict=True))]
        told = ([self.texts[it], self.others[it] or "", *row] for it, row in zip(numbers, rows, strict=True))
        return [["text", "text_b", *heading], *told]


def begun(text: str) -> str:
    """As much as a line of the terminal has room for."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def read_texts(source: str, finished: Finished) -> Texts:
    """None is left out silently. Of a run that reads no pairs a line with a tab in it is one text."""
    pairs = said(finished.module, "reads_pairs")
    if source != STANDARD_INPUT and file_of(source) is None:
        raise UserError(f"input={source}: this run reads texts. Give a file of them, one a line.")
    if source != STANDARD_INPUT and source.removesuffix(".gz").lower().endswith(TABLES):
        found = of_table(source, finished, pairs)
    else:
        found = of_lines(source, content_of(source), pairs)
    if not found.texts:
        raise UserError(f"input={source} is empty: give {HOW}.")
    return found


def file_of(source: str) -> Path | None:
    """The file that is named, or the same packed; None where there is neither."""
    path = Path(source).expanduser()
    return next((it for it in (path, path.with_name(f"{path.name}.gz")) if it.is_file()), None)


def content_of(source: str) -> bytes:
    """Of a file, packed or not, or of standard input until its end; a person who would have to type it is told so."""
    if source != STANDARD_INPUT:
        path = file_of(source) or Path(source)
        try:
            content = path.read_bytes()
            return gzip.decompress(content) if path.name.endswith(".gz") else content
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"input={source} cannot be read ({error}): fetch or make it again.") from None
    if sys.stdin is None or sys.stdin.closed:
        raise UserError(f"input=- reads standard input, which is closed: pipe texts into the command, {HOW}.")
    if sys.stdin.isatty():
        print(f"Type {HOW}, and end with Ctrl-D:", file=sys.stderr)
    content = sys.stdin.buffer.read()
    if not content.strip():
        raise UserError(
            f"input=- read nothing from standard input: give {HOW}, as in: echo 'A fine film.' | python predict.py "
            "run=<folder> input=-"
        )
    return content


def decoded_lines(source: str, content: bytes) -> Iterator[tuple[int, str]]:
    """Each line by its number from 1."""
    for number, line in enumerate(content.rstrip(b"\r\n").splitlines(), start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"input={source}, line {number} is no UTF-8 ({error.reason} at byte {error.start}): give a file of "
                "texts, one a line, saved as UTF-8."
            ) from None


def of_lines(source: str, content: bytes, pairs: bool) -> Texts:
    found = Texts(source)
    for number, line in decoded_lines(source, content):
        first, *others = line.strip("\r\n").split("\t") if pairs and line.strip() else [line]
        if len(others) > 1:
            raise UserError(
                f"input={source}, line {number} has {len(others) + 1} parts with tabs between them: give {HOW}, or a "
                ".tsv file whose first row names its columns, text and text_b."
            )
        found.add(first, others[0] if others else None, number)
    return found


def of_table(source: str, finished: Finished, pairs: bool) -> Texts:
    """Columns ``text`` and ``text_b``, or called as in the tables that the run was trained on."""
    data, header = finished.datamodule, True
    own = data.columns if isinstance(data, LabelledTextDataModule) else {}
    rows = Rows(source, "input")
    first: Mapping[str, Any] = next(iter(rows), {})
    columns = {key: name for key in ("text", "text_b") for name in (own.get(key), key) if name in first}
    if "text" not in columns and isinstance(data, LabelledTextDataModule) and not data.header:
        header, columns = False, {key: it for key, it in own.items() if key != "label"}
    if first and "text" not in columns:
        also = f" (or {own['text']!r}, as in the run's data)" if own.get("text", "text") != "text" else ""
        raise UserError(
            f"input={source} has no column 'text'{also} but {', '.join(map(repr, first))}: call the column of texts "
            "text, and that of a pair's second texts text_b."
        )
    found, rows = Texts(source), Rows(source, "input", header)
    for row in rows:
        told = {key: rows.text(row, name, "input") for key, name in columns.items()}
        found.add(told["text"], told.get("text_b") if pairs else None, rows.file.line)
    return found


# --- what a module gets ----------------------------------------------------------------------------------------------


def encoded(finished: Finished, asked: Texts) -> TokenTable:
    """Their token ids; with segments where the module takes pairs."""
    data = finished.datamodule
    if not isinstance(data, TokensDataModule | PairsDataModule):
        raise UserError(f"The run's {type(data).__name__} does not say how a text becomes token ids.")
    if not said(finished.module, "reads_pairs") or not isinstance(data, WordPieceDataModule):
        return TokenTable.of(data.encode(asked.texts))
    rows = data.encode(asked.texts)
    first = [len(it) for it in rows]
    of_pairs = [number for number, other in enumerate(asked.others) if other is not None]
    texts, others = [asked.texts[it] for it in of_pairs], [asked.others[it] or "" for it in of_pairs]
    for number, row, kept in zip(of_pairs, *data.tokenizer.encode_pairs(texts, others, data.max_length), strict=True):
        rows[number], first[number] = row, kept
    whole = TokenTable.of(rows)
    return PairTable(whole.token_ids, whole.columns["starts"], whole.columns["lengths"], None, torch.tensor(first))


def batches(module: Any, table: TokenTable, batch_size: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """The numbers of a batch's texts, and what the module's functions of texts take by name, on its device."""
    names = ("input_ids", "lengths", "segment_ids")
    for positions in torch.arange(len(table)).split(batch_size):
        batch = table[positions]
        yield positions, {name: batch[name].to(module.device) for name in names if name in batch}


def check_like_training(finished: Finished, asked: Texts) -> None:
    """Single texts where the run was trained on pairs, or pairs where on single texts, would be told nonsense."""
    data = finished.datamodule
    if not isinstance(data, LabelledTextDataModule) or not said(finished.module, "reads_pairs"):
        return
    wanted = "text_b" in data.columns
    for number, other in enumerate(asked.others):
        if wanted and other is None:
            raise asked.refused(number, "is one text, and this run was trained on pairs: give both, with a tab between "
                                "them, or a table with columns text and text_b")  # fmt: skip
        if not wanted and other is not None:
            raise asked.refused(number, "is a pair of texts, and this run was trained on single ones: give one text a "
                                "line, without a tab")  # fmt: skip


def looked_at(finished: Finished, config: Mapping[str, Any]) -> Any:
    """The module; what is for images alone is refused."""
    if config["invert"]:
        raise UserError("invert=true is for images, and this run reads texts: leave it out.")
    return finished.module


def record_of(finished: Finished, table: TokenTable) -> dict[str, Any]:
    """How many texts are as long as any can be, so that some of them may be cut."""
    kept = finished.datamodule.max_length
    return {"max_length": kept, "of_that_length": int((table.known_lengths == kept).sum())}


def finite(values: Tensor) -> Tensor:
    """On the CPU."""
    values = values.cpu()
    if not values.isfinite().all():
        raise UserError("The run's weights give values that are not finite: name another with checkpoint=.")
    return values
