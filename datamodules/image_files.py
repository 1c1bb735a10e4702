"""What holds of any set of image files: threads read it, and all that cannot be read are told together."""

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import PIL
from tqdm import tqdm

from datamodules.decoding import attempt
from foundation.errors import UserError
from foundation.whole_files import whole, write_whole

FORMAT = 2  # of the cache, and of how a file becomes pixels: a change here makes former ones unused
CHUNK = 32  # files a thread takes at once
AT_ONCE = min(os.cpu_count() or 1, 32)  # threads; PIL gives the interpreter up while it decodes
LOOKED_THROUGH = 20_000  # images before training, which takes minutes, once
SECONDS_A_LINE = 20


def key_of(folder: Path, names: Sequence[str], content: Mapping[str, Any]) -> str | None:
    """A hash of the files' sizes and times, and of what else decides what is made of them; None where one is not
    there."""
    stats = {name: attempt(os.stat, folder / name) for name in names}
    files = [(name, it.st_size, it.st_mtime_ns) for name, it in stats.items() if not isinstance(it, str)]
    all_of_it = {"format": [FORMAT, PIL.__version__], **content, "folder": str(folder.resolve()), "files": files}
    return hashlib.sha256(json.dumps(all_of_it).encode()).hexdigest()[:20] if len(files) == len(stats) else None


def read_all(
    name: str,
    folder: Path,
    names: Sequence[str],
    read_chunk: Callable[[range], Mapping[int, str]],
    doing: str,
    lists_in: Path | None,
    quiet: bool = False,
) -> None:
    """Every file by threads, shown as it goes on. A UserError names those that cannot be read, see ``unreadable``.

    Args:
        read_chunk: gets places in ``names``, and tells of those that cannot be read why.
    """
    bad: dict[str, str] = {}

    def read_from(start: int) -> int:
        places = range(start, min(start + CHUNK, len(names)))
        bad.update({names[place]: reason for place, reason in read_chunk(places).items()})
        return len(places)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        try:
            done = threads.map(read_from, range(0, len(names), CHUNK))
            for _ in done if quiet else shown(done, len(names), f"{doing} {name}"):
                pass
        finally:
            threads.shutdown(wait=False, cancel_futures=True)  # a Ctrl-C does not wait for the rest
    if bad:
        raise unreadable(bad, len(names), folder, lists_in, name)
    if lists_in is not None:
        with suppress(OSError):
            list_file(lists_in, name).unlink(missing_ok=True)  # of a former start


def look_through(
    name: str, folder: Path, names: Sequence[str], read: Callable[[Path], Any], content: Mapping[str, Any], cache: Path
) -> None:
    """Whether all images can be read that will be decoded batch by batch: found out once, and again where a file has
    changed. A UserError names those that cannot. Of more than ``LOOKED_THROUGH`` nothing is found out.

    Args:
        content: what else decides how they are read.
        cache: the folder that remembers it.
    """
    if len(names) > LOOKED_THROUGH:
        return
    key = key_of(folder, names, content)
    mark = None if key is None else cache / f"{as_file_name(name)}-{key}.readable"
    if mark is not None and mark.exists():
        return

    def look_at(places: range) -> dict[int, str]:
        found = {place: attempt(lambda path: void(read(path)), folder / names[place]) for place in places}
        return {place: reason for place, reason in found.items() if reason is not None}

    read_all(name, folder, names, look_at, "looking through", cache)
    if mark is not None:
        with suppress(OSError):  # of a cache that may not be written to: every start looks
            write_whole(mark, f"all {len(names)} images can be read\n")


def void(_: Any) -> None:
    """What is read is let go of: a text would be taken for a reason."""


def unreadable(
    bad: Mapping[str, str], total: int, folder: Path, lists_in: Path | None = None, name: str = ""
) -> UserError:
    """A sentence that names the first of the bad files, each with its reason.

    Args:
        lists_in: a folder that gets a list of all of them, a path and a reason a line; None: they are not kept.
        name: of the data, for the file.
    """
    alike = groupby(sorted(bad)[:5], key=bad.__getitem__)
    told = [f"{', '.join(names)} ({reason})" for reason, names in alike]
    named = ", ".join([*told, "..."] if len(bad) > 5 else told)
    kept = None if lists_in is None else list_of(bad, folder, lists_in, name)
    return UserError(
        f"{len(bad)} of {total} images in {folder} cannot be read: {named}. "
        f"Repair or remove them: none is left out silently.{'' if kept is None else f' All are listed in {kept}.'}"
    )


def list_of(bad: Mapping[str, str], folder: Path, lists_in: Path, name: str) -> Path | None:
    """The file that lists them; None where it cannot be written."""
    path = list_file(lists_in, name)
    lines = [f"{folder / it}\t{bad[it]}".replace("\n", " ") for it in sorted(bad)]
    try:
        with whole(path) as unfinished:
            unfinished.write_bytes(os.fsencode("".join(f"{line}\n" for line in lines)))  # names are what they are
    except OSError:
        return None
    return path


def list_file(lists_in: Path, name: str) -> Path:
    return lists_in / f"{as_file_name(name)}-unreadable.txt"


def as_file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


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
