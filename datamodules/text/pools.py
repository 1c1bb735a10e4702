"""Pools of candidates: texts, what really goes on with each, and what others have written instead.

A pool is a file of JSON lines, a text a line:

    {"item": 17, "group": "Canoeing", "context": "...", "ending": "...", "candidates": ["...", "..."],
     "generator": "...", "nats": {"context": 80.1, "ending": [31.2, 44.0, 0.4], "candidates": [[...], ...]}}

``context``, ``ending`` and ``candidates`` have to be there. ``generator`` is one name, or a list of one each. ``nats``
are a language model's, of each ending behind its text, by itself, and of its end (``finished.endings`` writes them).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.text.rows import Rows
from foundation.errors import UserError

NATS = 3
"""Numbers of an ending's ``nats``."""


@dataclass
class Pooled:
    """A text of a pool."""

    item: int
    group: str
    context: str
    ending: str
    candidates: list[str]
    generators: list[str]
    """Of each candidate."""
    nats: list[list[float]] = field(default_factory=list)
    """Of the right ending, then of each candidate; none where the pool has none."""
    context_nats: float = 0.0

    def take_from(self, other: "Pooled") -> None:
        """Also the candidates of another pool, but for those that are here already."""
        known = {spelled(it) for it in (self.ending, *self.candidates)}
        for number, it in enumerate(other.candidates):
            if spelled(it) not in known:
                self.candidates.append(it)
                self.generators.append(other.generators[number])
                if self.nats and other.nats:
                    self.nats.append(other.nats[number + 1])
        if not other.nats:
            self.nats = []


def spelled(text: str) -> str:
    """The same for texts that differ in case and spaces alone."""
    return "".join(text.casefold().split())


def read_pool(files: str | Sequence[str], key: str = "datamodule.pool") -> list[Pooled]:
    """The texts of all files in the order of their numbers; a text that several have has the candidates of all."""
    found: dict[int, Pooled] = {}
    for file in [files] if isinstance(files, str) else files:
        rows, here = Rows(file, key), set()
        for number, row in enumerate(rows):
            it = pooled(rows, row, number, key)
            if it.item in here:
                raise rows.refused(f"item {it.item} stands in two lines: give each text a number of its own")
            here.add(it.item)
            if it.item not in found:
                found[it.item] = it
                continue
            first = found[it.item]
            if spelled(first.context) != spelled(it.context) or spelled(first.ending) != spelled(it.ending):
                raise rows.refused(f"item {it.item} is another text, or has another ending, in a file before")
            first.take_from(it)
        if not here:
            raise UserError(f"{key}={file} has no rows.")
    return [found[item] for item in sorted(found)]


def pooled(rows: Rows, row: dict[str, Any], number: int, key: str) -> Pooled:
    """A line of a file, checked."""
    for name in ("context", "ending"):
        if not isinstance(row.get(name), str) or not row[name].strip():
            what = "text" if name == "context" else "right ending"
            raise rows.refused(f"it has no {what}: {name} is {row.get(name)!r}; give each text one")
    candidates = row.get("candidates")
    if not isinstance(candidates, list) or not all(isinstance(it, str) and it.strip() for it in candidates):
        raise rows.refused(f"candidates is {candidates!r:.80}, which is no list of texts")
    seen = {spelled(row["ending"]): "the right ending"}
    for place, it in enumerate(candidates):
        if other := seen.get(spelled(it)):
            raise rows.refused(f"candidate {place} is {other} once more ({it[:40]!r}): give each ending once")
        seen[spelled(it)] = f"candidate {place}"
    item = row.get("item", number)
    if not isinstance(item, int) or isinstance(item, bool) or item < 0:
        raise rows.refused(f"item is {item!r}, which is no number from 0")
    generator = row.get("generator", "not told")
    generators = [str(it) for it in generator] if isinstance(generator, list) else [str(generator)] * len(candidates)
    if len(generators) != len(candidates):
        raise rows.refused(f"generator names {len(generators)} for {len(candidates)} candidates: give one, or one each")
    it = Pooled(item, str(row.get("group", item)), row["context"], row["ending"], candidates, generators)
    if (nats := row.get("nats")) is not None:
        it.nats, it.context_nats = checked_nats(rows, nats, len(candidates))
    return it


def checked_nats(rows: Rows, nats: Any, candidates: int) -> tuple[list[list[float]], float]:
    try:
        numbers = [list(map(float, one)) for one in (nats["ending"], *nats["candidates"])]
        if len(numbers) != candidates + 1 or any(len(it) != NATS for it in numbers):
            raise ValueError
        return numbers, float(nats["context"])
    except (TypeError, ValueError, KeyError):
        raise rows.refused(
            f"nats is no number for the context and {NATS} for the ending and for each of {candidates} candidates"
        ) from None
