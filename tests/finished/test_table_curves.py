"""Which curves a table of several runs makes, and what is told where there is none."""

import sys

import pytest

from finished import table_curves
from finished.table_curves import TableCurves, panels_of, runs_with
from foundation.errors import UserError

TABLE = "attack,budget,error\nfgm,0,0.1\nfgm,1,{0}\npgd,0,0.1\npgd,1,\n"


@pytest.fixture
def sweep(tmp_path):
    for number, training in enumerate(("wrm", "erm")):
        run = tmp_path / str(number)
        (run / ".hydra").mkdir(parents=True)
        (run / "robustness.csv").write_text(TABLE.format(0.2 + number / 2))
        (run / ".hydra" / "overrides.yaml").write_text(f"- +lightning_module/training={training}\n- trainer=cpu\n")
    return tmp_path


def test_a_panel_a_value_and_a_curve_a_run(sweep):
    found = panels_of([sweep / "0", sweep / "1"], "robustness.csv", "budget", "error", "attack")
    assert list(found) == ["fgm", "pgd"]
    assert [(it.name, it.x, it.y) for it in found["fgm"]] == [
        ("training=wrm", [0, 1], [0.1, 0.2]),
        ("training=erm", [0, 1], [0.1, 0.7]),
    ]
    assert [it.x for it in found["pgd"]] == [[0], [0]]  # what is no number is left out


def test_without_panels_there_is_one(sweep):
    (only,) = panels_of([sweep / "0"], "robustness.csv", "budget", "error", None).values()
    assert only[0].x == [0, 1, 0]


def test_the_picture_is_drawn_by_hand_and_at_a_sweep_s_end(sweep, capsys, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["table_curves", "robustness.csv", "budget", "error", str(sweep), "--panels", "attack"]
    )
    table_curves.main()
    assert capsys.readouterr().out.strip() == str(sweep / "robustness_curves.png")
    assert (sweep / "robustness_curves.png").read_bytes().startswith(b"\x89PNG")
    path = sweep / "robustness.png"
    assert not path.exists()

    class Config:
        class hydra:
            class sweep:
                dir = str(sweep)

    TableCurves("robustness.csv", "budget", "error", "attack").on_multirun_end(Config)
    assert path.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    TableCurves("nothing.csv", "budget", "error").on_multirun_end(Config)  # every job failed before it had one
    assert capsys.readouterr().out == f"no curves of nothing.csv: no job of {sweep} has written it.\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("robustness.csv", "budgets", "error", None), "has no column budgets; did you mean 'budget'"),
        (("robustness.csv", "budget", "attack", None), "no robustness.csv of these runs has a number"),
    ],
)
def test_what_is_not_there_is_told(sweep, words, sentence):
    with pytest.raises(UserError, match=sentence):
        panels_of([sweep / "0"], *words)


def test_names_may_be_given(sweep):
    runs = [sweep / "0", sweep / "1"]
    found = panels_of(runs, "robustness.csv", "budget", "error", "attack", ["one", "two"])
    assert [it.name for it in found["fgm"]] == ["one", "two"]
    with pytest.raises(UserError, match="there are 2 runs and 1 names"):
        panels_of(runs, "robustness.csv", "budget", "error", None, ["one"])


def test_a_folder_without_the_table_is_told(sweep):
    assert runs_with("robustness.csv", [sweep]) == [sweep / "0", sweep / "1"]
    with pytest.raises(UserError, match=r"has no nothing.csv, nor has a folder in it"):
        runs_with("nothing.csv", [sweep])
