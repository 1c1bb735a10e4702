"""Which runs a folder holds, what their curves are called, and what is told where there is none."""

import json

import pytest

from finished import curves
from foundation.errors import UserError

CSV = "epoch,step,train/loss_g,val/accuracy\n0,9,1.5,\n0,9,,0.25\n1,19,1.25,\n"


@pytest.fixture
def sweep(tmp_path):
    for number in (0, 2, 10):
        run = tmp_path / str(number)
        (run / ".hydra").mkdir(parents=True)
        (run / "metrics.csv").write_text(CSV)
        (run / ".hydra" / "overrides.yaml").write_text(f"- trainer=cpu\n- seed={number}\n")
    return tmp_path


def test_a_sweep_is_its_runs_in_order(sweep):
    assert [run.name for run in curves.runs_in([sweep])] == ["0", "2", "10"]
    assert curves.runs_in([sweep / "2"]) == [sweep / "2"]


def test_a_curve_is_named_by_what_sets_its_run_apart(sweep):
    assert curves.names_of(curves.runs_in([sweep])) == ["seed=0", "seed=2", "seed=10"]
    assert curves.names_of([sweep / "2"]) == ["2"]
    for number, depth in ((0, 20), (2, 56)):
        path = sweep / str(number) / ".hydra" / "overrides.yaml"
        path.write_text(f"- trainer=cpu\n- lightning_module.network.depth={depth}\n- ~callbacks.image_grid\n")
    assert curves.names_of([sweep / "0", sweep / "2"]) == ["depth=20", "depth=56"]


def test_a_curve_is_named_by_what_a_resume_changed(sweep):
    runs = curves.runs_in([sweep])
    for run, rate in zip(runs, ("1", "2"), strict=False):
        given = ["experiment=x", "trainer.max_steps=1", "a.lr=0", f"a.lr={rate}"]
        (run / "record.json").write_text(json.dumps({"overrides": given}))
    assert curves.names_of(runs[:2]) == ["lr=1", "lr=2"]


def test_values_stand_at_finished_iterations(sweep):
    assert curves.read_curve(sweep / "0", "train/loss_g") == ([10, 20], [1.5, 1.25])
    assert curves.read_curve(sweep / "0", "val/accuracy") == ([10], [0.25])


def test_the_picture_is_drawn(sweep, capsys):
    curves.main(["train/loss_g", str(sweep)])
    path = sweep / "curves-train-loss_g.png"
    assert capsys.readouterr().out.strip() == str(path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_is_not_there_is_told(sweep, tmp_path):
    with pytest.raises(UserError, match="has not logged train/loss_q; did you mean 'train/loss_g'"):
        curves.read_curve(sweep / "0", "train/loss_q")
    with pytest.raises(UserError, match="neither a run nor a sweep"):
        curves.runs_in([tmp_path / "0" / ".hydra"])


def test_a_key_of_before_is_the_same_curve(tmp_path):
    """Of a run that was resumed once its metric had another name."""
    rows = "epoch,step,train/images_per_s,train/examples_per_s\n0,9,5.0,\n1,19,,6.0\n"
    (tmp_path / "metrics.csv").write_text(rows)
    for asked in ("train/images_per_s", "train/examples_per_s"):
        assert curves.read_curve(tmp_path, asked) == ([10, 20], [5.0, 6.0])
