"""Documents as sentences, read from plain files of any size."""

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from datamodules.listing import Listing, folders_below, is_system, joined
from foundation.errors import UserError

ENDINGS = (".txt", ".txt.gz")
LONGEST_LINE = 10 * 10**6  # bytes
PARAGRAPH = 10**6  # characters after which a paragraph without an end is cut at a sentence

LAYOUTS = {"lines": "one sentence a line, a blank line between documents", "running": "a file is a document"}

# A full stop, question or exclamation mark, with what closes behind it, in front of what may begin a sentence; in
# Chinese and Japanese without a blank between them.
OPENS, CLOSES = "\"'\u201c\u2018(\\[", "\"'\u201d\u2019)\\]"
STOPS, CJK_STOPS, CJK_CLOSES = ".!?\u2026", "\u3002\uff01\uff1f", "\u300d\u300f\u201d\u2019\uff09"
END = re.compile(rf"(?<=[{STOPS}])[{CLOSES}]*(?=\s+[{OPENS}]*[^\W_a-z])|(?<=[{CJK_STOPS}])[{CJK_CLOSES}]*")
# What ends in a full stop and goes on, beside initials (J.) and what is made of them (U.S., e.g.).
ABBREVIATIONS = (
    "mr mrs ms dr drs prof st sr jr ltd co inc corp gen col capt lt sgt rev hon gov sen rep pres vs nos vol pp "
    "fig figs cf ed al jan feb apr aug sep sept oct nov dec"
)
ABBREVIATION = re.compile(
    rf"(?:^|[\s{OPENS}])(?:[^\W\d_](?:\.[^\W\d_])*|{ABBREVIATIONS.replace(' ', '|')})\.$", re.IGNORECASE
)


def files_of(given: str | Sequence[str]) -> list[Path]:
    """The files that are named, and those of named folders at every depth, in an order that no file system decides."""
    found = []
    for name in [given] if isinstance(given, str) else list(given):
        path = Path(name).expanduser()
        if path.is_dir():
            listing, inside = Listing(), []
            for folder, names in folders_below(path, listing):
                inside += [joined(folder, it) for it in names if it.lower().endswith(ENDINGS) and not is_system(it)]
            if not inside:
                raise UserError(
                    f"datamodule.files={name} is a folder without {' or '.join(ENDINGS)}: give files of text."
                )
            found += [path / it for it in sorted(inside)]
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(
                f"datamodule.files={name} is no file and no folder: give files of text ({', '.join(ENDINGS)}), or set "
                "DATA_DIR or paths.data_dir to the folder that holds them."
            )
    if not found:
        raise UserError("datamodule.files names nothing: give files or folders of text.")
    return found


class TextFile:
    """A file that is read from its beginning to its end, of which ``done`` bytes are read as they lie on the disk."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.done, self.line = path, path.stat().st_size, 0, 0

    def lines(self) -> Iterator[str]:
        """With their ends. A UserError names the file, and the line where there is one."""
        try:
            with open(self.path, "rb") as raw:
                file: IO[bytes] = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if self.is_packed(raw) else raw  # pyright: ignore[reportArgumentType]
                while line := file.readline(LONGEST_LINE + 1):
                    self.line, self.done = self.line + 1, raw.tell()
                    if len(line) > LONGEST_LINE:
                        raise self.refused(f"is longer than {LONGEST_LINE // 10**6} MB", "break it into sentences")
                    yield self.decoded(line)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path} cannot be unpacked ({error}): fetch or make it again.") from None
        except OSError as error:
            raise UserError(f"{self.path} cannot be read: {error.strerror or error}.") from None

    def is_packed(self, raw: IO[bytes]) -> bool:
        return self.path.name.lower().endswith(".gz") and self.size > 0

    def decoded(self, line: bytes) -> str:
        try:
            return line.decode("utf-8-sig" if self.line == 1 else "utf-8")
        except UnicodeDecodeError as error:
            what = f"is no UTF-8 ({error.reason} at byte {error.start})"
            raise self.refused(what, "save it as UTF-8") from None

    def refused(self, what: str, how: str) -> UserError:
        return UserError(f"{self.path}, line {self.line} {what}: {how}.")

    def documents(self, layout: str) -> Iterator[str | None]:
        """Its sentences, with None behind each document."""
        lines = (it.strip() for it in self.lines())
        yield from (split_of_running(lines) if layout == "running" else split_at_blank(lines))
        yield None


def split_at_blank(lines: Iterator[str]) -> Iterator[str | None]:
    for line in lines:
        yield line or None


def split_of_running(lines: Iterator[str]) -> Iterator[str]:
    """Sentences of running text, whose lines may be broken anywhere; a blank line ends a sentence, too."""
    paragraph, size = [], 0
    for line in lines:
        if line:
            paragraph.append(line)
            size += len(line)
        if paragraph and (not line or size > PARAGRAPH):
            *whole, last = split_into_sentences(" ".join(paragraph))
            yield from whole
            if not line:
                yield last
            paragraph = [last] if line else []
            size = len(last) if line and whole else 0
    if paragraph:
        yield from split_into_sentences(" ".join(paragraph))


def split_into_sentences(text: str) -> list[str]:
    """One sentence or more, by rule: at ``.``, ``!`` or ``?`` before what is no small letter, unless an abbreviation or
    an initial stands there."""
    sentences, start = [], 0
    for match in END.finditer(text):
        sentence = text[start : match.end()]
        if ABBREVIATION.search(text[max(start, match.start() - 12) : match.start()]):
            continue
        if sentence.strip():
            sentences.append(sentence.strip())
            start = match.end()
    if rest := text[start:].strip():
        sentences.append(rest)
    return sentences or [text]
