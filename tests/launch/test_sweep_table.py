"""Tables and pictures of sweeps that never ran."""

import csv
import json
import math

import pytest

from foundation.errors import UserError
from launch import sweep_table


def job(sweep, name, overrides, status="finished", value=0.5, metric="test/accuracy", **more):
    folder = sweep / name
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {it}\n" for it in ["trainer=cpu", *overrides]))
    config = {"optimized_metric": None, "paper": {"metric": metric}}
    record = {"status": status, "config": config, "metrics": {metric: value} if metric else {}} | more
    (folder / "record.json").write_text(json.dumps(record))


@pytest.fixture
def sweep(tmp_path):
    job(tmp_path, "0", ["lr=0.1", "kind=a"], value=0.5)
    job(tmp_path, "10", ["lr=0.001", "kind=b"], value=0.75)
    job(tmp_path, "2", ["lr=0.1", "kind=b"], "failed", math.nan, error="ValueError: no\nmore", traceback="...")
    job(tmp_path, "3", ["lr=0.001", "kind=a"], "running", math.nan, pid=2**22 + 1, host="elsewhere")
    return tmp_path


def test_rows_are_in_order_and_name_what_sets_jobs_apart(sweep):
    rows = sweep_table.rows_of(sweep_table.jobs_in(sweep))
    assert [(it["job"], it["overrides"], it["value"], it["status"]) for it in rows] == [
        ("0", "lr=0.1 kind=a", "0.5", "finished"),
        ("2", "lr=0.1 kind=b", "nan", "failed"),
        ("3", "lr=0.001 kind=a", "nan", "interrupted"),
        ("10", "lr=0.001 kind=b", "0.75", "finished"),
    ]
    assert rows[0]["folder"] == str(sweep / "0")


def test_jobs_are_found_at_whatever_depth_they_lie(tmp_path):
    job(tmp_path, "a/0", ["seed=0"])
    job(tmp_path, "a/1", ["seed=1"])
    job(tmp_path, "b", ["seed=2"])
    job(tmp_path, "b/evaluations/later", ["run=b"])
    found = [str(it.folder.relative_to(tmp_path)) for it in sweep_table.jobs_in(tmp_path)]
    assert sorted(found) == ["a/0", "a/1", "b"]


def test_the_table_is_printed_and_kept(sweep, capsys):
    sweep_table.main([str(sweep)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["job", "overrides", "test/accuracy", "status", "folder"]
    assert lines[3].split()[:5] == ["2", "lr=0.1", "kind=b", "nan", "failed"]
    assert lines[4].split() == ["ValueError:", "no"]
    assert "4 jobs: 2 finished, 1 failed, 1 interrupted" in lines
    rows = list(csv.DictReader((sweep / "sweep.csv").open(newline="")))
    assert list(rows[0]) == ["job", "overrides", "metric", "value", "folder", "status", "error"]
    assert rows[1]["error"] == "ValueError: no\nmore"
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("direction", "best"), [("max", "10"), ("min", "0")])
def test_the_best_is_told_by_the_metric_s_direction(sweep, capsys, direction, best):
    for path in sweep.glob("*/record.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"directions": {"test/accuracy": direction}}))
    sweep_table.main([str(sweep)])
    words = {"max": "0.7500 (larger is better)", "min": "0.5000 (smaller is better)"}[direction]
    assert f"  best        {sweep / best}: test/accuracy {words}\n" in capsys.readouterr().out


def test_there_is_no_best_where_no_direction_is_known_or_nothing_was_reached(sweep, tmp_path_factory):
    assert sweep_table.best_of(sweep_table.jobs_in(sweep)) is None
    none = tmp_path_factory.mktemp("none")
    job(none, "0", ["lr=1"], "failed", math.nan, directions={"test/accuracy": "max"})
    assert sweep_table.best_of(sweep_table.jobs_in(none)) is None


def test_a_job_that_never_began_to_train_was_interrupted(tmp_path):
    job(tmp_path, "0", [])
    (tmp_path / "0" / "record.json").unlink()
    (only,) = sweep_table.jobs_in(tmp_path)
    assert (only.status, only.metric) == ("interrupted", None)
    assert sweep_table.rows_of([only])[0]["value"] == ""


def test_the_metric_is_the_optimised_one_else_the_papers_else_none():
    paper = {"metric": "test/accuracy"}
    assert sweep_table.metric_of({"optimized_metric": "val/accuracy", "paper": paper}) == "val/accuracy"
    assert sweep_table.metric_of({"optimized_metric": None, "paper": paper}) == "test/accuracy"
    assert sweep_table.metric_of({"paper": None}) is None


def test_numbers_stand_where_they_are_and_words_side_by_side():
    assert sweep_table.places_of(["1", "1e-3"]) == ([1.0, 0.001], None)
    assert sweep_table.places_of(["a", "2", "a"]) == ([0.0, 1.0, 0.0], ["a", "2"])


def test_there_is_no_picture_of_nothing(tmp_path):
    job(tmp_path, "0", ["lr=1"], "failed", math.nan)
    assert not sweep_table.draw(sweep_table.jobs_in(tmp_path), tmp_path / "sweep.png")
    job(tmp_path, "1", ["lr=2"], "failed", math.nan)
    assert not sweep_table.draw(sweep_table.jobs_in(tmp_path), tmp_path / "sweep.png")
    job(tmp_path, "2", ["lr=3"])
    assert sweep_table.draw(sweep_table.jobs_in(tmp_path), tmp_path / "sweep.png")


def test_a_folder_that_is_no_sweep_is_told(tmp_path):
    with pytest.raises(UserError, match="Name the folder of a sweep"):
        sweep_table.main([str(tmp_path)])


def test_printed_keys_and_numbers_are_short():
    keys = ["module.optimizer_g.lr", "module.optimizer_d.lr", "seed", "+callbacks.fail.rank"]
    assert list(sweep_table.shortened(keys).values()) == ["optimizer_g.lr", "optimizer_d.lr", "seed", "rank"]
    assert [sweep_table.rounded(it) for it in ("0.0011701414", "0.1", "4294967", "a_long_word")] == [
        "0.00117", "0.1", "4294967", "a_long_word"]  # fmt: skip
