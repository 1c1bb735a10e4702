"""What a run's record says, and one that says what no run writes."""

import pytest

from foundation.errors import UserError
from foundation.records import differences, latest_of_each_key, read_overrides, read_record


def test_differences_of_configs_are_told_by_key_with_both_values():
    before = {"a": 1, "b": {"c": [1], "d": {"e": None}}, "f": None, "same": {"x": 0}, "h": {"i": 1}}
    now = {"a": 1, "b": {"c": [2], "d": {"e": 5}}, "f": {"g": 3}, "same": {"x": 0}, "h": "file"}
    assert differences(before, now) == {
        "b.c": ([1], [2]), "b.d.e": (None, 5), "f.g": (None, 3), "h": ({"i": 1}, "file"),
    }  # fmt: skip
    assert differences(now, before)["f.g"] == (3, None)
    assert differences(before, before) == {}


def test_the_latest_override_of_a_key_holds():
    given = ["a=1", "+x@callbacks=b", "~a", "+x@callbacks=c", "+d=2"]
    assert latest_of_each_key(given) == ["~a", "+x@callbacks=b", "+x@callbacks=c", "+d=2"]


@pytest.mark.parametrize("content", ["", "[1]", "null", '{"metrics": 3}', '{"overrides": "a=1"}', '{"status": '])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "record.json").write_text(content)
    with pytest.raises(UserError, match=r"record.json is damaged or was written by hand \("):
        read_record(tmp_path)


def test_a_run_that_was_refused_before_its_first_batch_has_a_record_that_is_read(tmp_path):
    (tmp_path / "record.json").write_text('{"status": "failed", "iterations": 0, "epochs": null}')
    assert read_record(tmp_path)["status"] == "failed"


def test_no_record_is_an_empty_one_and_so_are_overrides(tmp_path):
    assert read_record(tmp_path) == {}
    assert read_overrides(tmp_path) == []


def test_damaged_overrides_are_named(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text("a: 1\n")
    with pytest.raises(UserError, match=r"overrides.yaml is damaged"):
        read_overrides(tmp_path)
