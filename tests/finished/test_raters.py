"""A sheet that does not tell the right ending, and what is left when it was filled in."""

import csv
import json
from pathlib import Path

import pytest

from finished.raters import main, rated
from foundation.errors import UserError

TEXTS = [
    {"ind": number, "ctx": f"text {number}", "endings": [f"{number} {it}" for it in "abcd"], "label": number % 4,
     "origins": ["x", "y", "z", "w"], "rounds": [0, 1, 2, 3]}
    for number in range(6)
]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "filtered.jsonl").write_text("".join(json.dumps(it) + "\n" for it in TEXTS))
    return str(tmp_path / "filtered.jsonl")


def filled(path: Path, verdicts: dict[str, str]) -> str:
    """verdicts: by the ending."""
    with open(path, newline="") as lines:
        rows = list(csv.reader(lines))
    with open(path, "w", newline="") as lines:
        csv.writer(lines).writerows([rows[0], *([*row[:4], verdicts.get(row[3], "")] for row in rows[1:])])
    return str(path)


def test_a_sheet_has_every_ending_once_and_none_is_named(file, tmp_path):
    main(["sheet", file, "--out", str(tmp_path / "sheet.csv"), "--texts", "4"])
    with open(tmp_path / "sheet.csv", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 16
    by_text = {row["item"]: [it["place"] for it in rows if it["item"] == row["item"]] for row in rows}
    assert all(sorted(places) == ["0", "1", "2", "3"] for places in by_text.values())
    assert len({tuple(places) for places in by_text.values()}) > 1  # in drawn orders
    assert all(TEXTS[int(row["item"])]["endings"][int(row["place"])] == row["ending"] for row in rows)


def test_what_raters_take_for_likely_goes(file, tmp_path):
    """Of text 1 (right: b) c is likely; the right one of text 2 (c) is not; of text 3 one has a doubt."""
    main(["sheet", file, "--out", str(tmp_path / "sheet.csv")])
    sheet = filled(tmp_path / "sheet.csv", {"1 b": "1", "1 c": "1", "1 a": "3", "2 c": "3", "2 a": "3", "3 a": "2"})
    main(["read", file, "--sheet", sheet, "--out", str(tmp_path / "rated.jsonl")])
    kept = [json.loads(it) for it in (tmp_path / "rated.jsonl").read_text().splitlines()]
    assert [it["ind"] for it in kept] == [1, 3]
    assert kept[0]["endings"] == ["1 a", "1 b", "1 d"]
    assert (kept[0]["label"], kept[0]["origins"], kept[0]["rounds"]) == (1, ["x", "y", "w"], [0, 1, 3])
    assert kept[1] == TEXTS[3]
    _, counts = rated(TEXTS, {(0, 1): ["1"], (0, 2): ["1"], (0, 3): ["1"]})
    assert counts == {"texts": 0, "rated texts": 1, "dropped texts": 1, "dropped endings": 3}


def test_what_cannot_be_is_told(file, tmp_path):
    main(["sheet", file, "--out", str(tmp_path / "sheet.csv")])
    out = ["--out", str(tmp_path / "rated.jsonl")]
    for verdicts, told in (
        ({"1 b": "yes"}, "line .*: verdict is 'yes': give 1, 2 or 3"),
        ({}, "no ending has a verdict"),
    ):
        with pytest.raises(UserError, match=told):
            main(["read", file, "--sheet", filled(tmp_path / "sheet.csv", verdicts), *out])
    with pytest.raises(UserError, match="ending 0 of item 9, which the filtered file has not"):
        rated(TEXTS, {(9, 0): ["1"]})
    with pytest.raises(UserError, match="read needs --sheet"):
        main(["read", file, *out])
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(UserError, match="line 1: it is no line of a filtered.jsonl"):
        main(["sheet", str(tmp_path / "other.jsonl"), *out])
