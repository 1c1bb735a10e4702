import gzip
from pathlib import Path

import pytest

from datamodules.text.rows import Rows
from foundation.errors import UserError


def written(folder: Path, name: str, content: str) -> str:
    raw = content.encode()
    (folder / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return str(folder / name)


def test_csv_quotes_and_tsv_does_not(tmp_path):
    quoted = written(tmp_path, "a.csv", '\ufefftext,label\r\n"one, ""two""\nthree",1\r\n\r\nfour,2\r\n')
    assert list(Rows(quoted, "file")) == [{"text": 'one, "two"\nthree', "label": "1"}, {"text": "four", "label": "2"}]
    plain = written(tmp_path, "a.tsv", 'text\tlabel\n"one\t1\ntwo" \t2\n')
    assert list(Rows(plain, "file")) == [{"text": '"one', "label": "1"}, {"text": 'two" ', "label": "2"}]


def test_without_a_header_columns_have_numbers(tmp_path):
    assert list(Rows(written(tmp_path, "a.tsv", "x\t1\ny\t2\n"), "file", header=False)) == [
        {"0": "x", "1": "1"}, {"0": "y", "1": "2"}
    ]  # fmt: skip


def test_json_has_an_object_a_line_and_a_packed_file_is_found_by_its_name(tmp_path):
    written(tmp_path, "a.jsonl.gz", '{"text": "é", "label": 1}\n\n{"text": "b", "label": null}\n')
    assert list(Rows(tmp_path / "a.jsonl", "file")) == [{"text": "é", "label": 1}, {"text": "b", "label": None}]


BAD = {
    "a.tsv": ("a\tb\n1\t2\n3\n", r"a.tsv, line 3: it has 1 cells, and there are 2 columns"),
    "a.jsonl": ('{"a": 1}\n{"a": \n', r"a.jsonl, line 2: it is no JSON"),
    "b.jsonl": ("[1]\n", r"b.jsonl, line 1: it is no JSON object"),
    "a.xlsx": ("", r"file=.*a.xlsx: give a file that ends in .csv, .tsv"),
    "a.csv": ("a\n\udcff".encode("utf-8", "surrogateescape"), r"a.csv, line 2 is no UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_table_is_named_with_its_line(tmp_path, name):
    content, told = BAD[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=told):
        list(Rows(tmp_path / name, "file"))


def test_bad_rows_are_counted_where_they_may_be_left_out(tmp_path):
    rows = Rows(written(tmp_path, "a.tsv", "a\tb\n1\t2\n3\n4\t5\t6\n7\t8\n"), "file", skip_bad=True)
    assert [it["a"] for it in rows] == ["1", "7"]
    assert rows.skipped == 2


def test_a_column_that_is_missing_is_told_with_those_that_are_there(tmp_path):
    rows = Rows(written(tmp_path, "a.jsonl", '{"texts": "a", "label": 1}\n'), "file")
    with pytest.raises(
        UserError,
        match=r"a.jsonl has no column 'text' in line 1: set key to one of 'texts', 'label'; did you mean 'texts'",
    ):
        [rows.text(it, "text", "key") for it in rows]
    with pytest.raises(UserError, match=r"line 1: label is 1, which is no text"):
        [rows.text(it, "label", "key") for it in rows]
    with pytest.raises(UserError, match=r"key=.*none.csv is no file: give one, or set DATA_DIR"):
        Rows(tmp_path / "none.csv", "key")
