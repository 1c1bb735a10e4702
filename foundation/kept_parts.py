"""Work that takes long, kept part by part: who is killed, and asks for the same once more, goes on behind the last."""

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from foundation.errors import UserError, naming


class KeptParts:
    """The parts of a file to come, in ``<file>.begun`` beside it: first a line that says what they are of, then a line
    of JSON a part, which is on the disk before the next one is begun. A line that a kill has cut is forgotten.

    To be entered; ``parts`` are then those that were there. Whoever has written the file itself calls ``done``.

    Args:
        out: the file that is made of them in the end.
        of: what decides the parts, plain values by name.

    Raises:
        UserError: what is there was begun with other values, is damaged, or is being written by another process.
    """

    def __init__(self, out: Path, of: Mapping[str, Any]) -> None:
        self.path = out.with_name(f"{out.name}.begun")
        self.of: dict[str, Any] = json.loads(json.dumps(of))
        self.parts: list[Any] = []

    def __enter__(self) -> "KeptParts":
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file: BinaryIO = open(self.path, "a+b")
        try:
            self._begin()
        except BaseException:
            self.file.close()
            raise
        return self

    def _begin(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path} is being written by another process: wait for it, or name another file."
            ) from None
        self.file.seek(0)
        content = self.file.read()
        whole = content.rpartition(b"\n")[0]
        lines = whole.split(b"\n") if whole else []
        self.file.truncate(len(whole) + bool(whole))
        told = [self._read(number, line) for number, line in enumerate(lines, start=1)]
        if told:
            self._refuse_others(told[0])
            self.parts = told[1:]
        else:
            self._write(self.of)

    def _read(self, number: int, line: bytes) -> Any:
        try:
            return json.loads(line)
        except ValueError:
            raise UserError(f"{self.path}, line {number}, is damaged: delete the file to begin anew.") from None

    def _refuse_others(self, found: Any) -> None:
        if found == self.of:
            return
        known = found if isinstance(found, dict) else {}
        key = next(it for it in (*self.of, *known) if known.get(it) != self.of.get(it))
        raise UserError(
            f"{self.path} was begun with another {key} ({known.get(key)}, and now {self.of.get(key)}): ask for the "
            "same to go on, or delete it to begin anew."
        )

    def add(self, part: Any) -> None:
        self._write(part)
        self.parts.append(part)

    def _write(self, part: Any) -> None:
        with naming(self.path):
            self.file.write(json.dumps(part, ensure_ascii=False).encode() + b"\n")
            self.file.flush()
            os.fsync(self.file.fileno())

    def done(self) -> None:
        """Nothing has to be gone on with any more."""
        self.path.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()
