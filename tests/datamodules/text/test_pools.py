"""Pools of candidates: read, put together, and refused in a sentence where they cannot be."""

import json
from pathlib import Path
from typing import Any

import pytest

from datamodules.text.pools import read_pool
from foundation.errors import UserError

ROW: dict[str, Any] = {"item": 4, "group": "g", "context": "on monday anna", "ending": "feeds one cow .",
                       "candidates": ["feeds a rope .", "sews ."], "generator": "lstm"}  # fmt: skip


def written(path: Path, *rows: Any) -> str:
    path.write_text("".join((it if isinstance(it, str) else json.dumps(it)) + "\n" for it in rows))
    return str(path)


def test_a_text_of_two_files_has_the_candidates_of_both(tmp_path):
    numbers = {"context": 9, "ending": [1, 2, 3], "candidates": [[1, 1, 1], [2, 2, 2]]}
    other = ROW | {"candidates": ["Sews  .", "goes ."], "generator": ["a", "b"]}
    files = [written(tmp_path / "a.jsonl", ROW | {"nats": numbers}), written(tmp_path / "b.jsonl", other)]
    (it,) = read_pool(files)
    assert (it.candidates, it.generators) == (["feeds a rope .", "sews .", "goes ."], ["lstm", "lstm", "b"])
    assert not it.nats  # of some there are none
    (it,) = read_pool(files[0])
    assert (it.nats, it.context_nats) == ([[1, 2, 3], [1, 1, 1], [2, 2, 2]], 9)
    plain = {key: ROW[key] for key in ("context", "ending", "candidates")}
    first, second = read_pool(written(tmp_path / "plain.jsonl", plain, plain))
    assert (first.item, second.item, second.group, first.generators) == (0, 1, "1", ["not told", "not told"])


BAD: list[tuple[Any, str]] = [
    ("{", "line 2: it is no JSON"),
    (ROW | {"ending": " "}, "line 2: it has no right ending: ending is ' '"),
    ({"context": "a", "candidates": []}, "line 2: it has no right ending: ending is None"),
    (ROW | {"context": 3}, "line 2: it has no text: context is 3"),
    (ROW | {"candidates": "x"}, "line 2: candidates is 'x', which is no list of texts"),
    (ROW | {"candidates": ["a", "b", "A "]}, r"line 2: candidate 2 is candidate 0 once more \('A '\): give each"),
    (ROW | {"candidates": ["Feeds one cow."]}, "line 2: candidate 0 is the right ending once more"),
    (ROW | {"generator": ["a"]}, "line 2: generator names 1 for 2 candidates"),
    (ROW | {"item": "x"}, "line 2: item is 'x', which is no number from 0"),
    (ROW | {"item": 0}, "line 2: item 0 stands in two lines"),
    (ROW | {"nats": {"context": 1, "ending": [1, 2, 3], "candidates": [[1, 2, 3]]}}, "line 2: nats is no number"),
]


@pytest.mark.parametrize(("row", "told"), BAD)
def test_what_cannot_be_is_told(tmp_path, row, told):
    file = written(tmp_path / "mine.jsonl", ROW | {"item": 0}, row)
    with pytest.raises(UserError, match=f"mine.jsonl, {told}"):
        read_pool(file)
    with pytest.raises(UserError, match="item 4 is another text, or has another ending, in a file before"):
        read_pool([written(tmp_path / "a.jsonl", ROW), written(tmp_path / "b.jsonl", ROW | {"ending": "x"})])
