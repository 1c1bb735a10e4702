"""Every key of the dashboard is one that an experiment declares, and every method has its section."""

import json
import sys
from functools import cache

import pytest

from finished import dashboard
from finished.dashboard import Logged, Panel, Section
from foundation.errors import UserError
from foundation.metrics import key_of_today


@cache
def logged():
    return dashboard.what_experiments_log()


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.setenv("NETRC", "no such file")
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_every_key_is_declared_by_an_experiment_of_its_method():
    for section in dashboard.sections(logged()):
        theirs = [it for it in logged() if it.method == section.method]
        declared = set().union(*(it.metrics | it.pictures | it.tables for it in theirs))
        named = [key for panel in section.panels for key in panel.keys]
        assert {key_of_today(it) for it in named} <= declared
        assert {"train/examples_per_s"} | (declared & {"images/samples", "test/classes"}) <= set(named)
        figures = {it.paper["metric"] for it in theirs if it.paper.get("metric")}
        assert {key for panel in section.panels if panel.kind == "bars" for key in panel.keys} >= figures
        assert {key for it in theirs for key in it.metrics | it.pictures | it.tables} <= set(named)


def test_every_experiment_is_in_a_section():
    assert {it.experiment for it in logged()} == {path.stem for path in (dashboard.CONF / "experiment").glob("*.yaml")}
    assert {it.method for it in logged()} == {section.method for section in dashboard.sections(logged())}


def test_the_paper_s_figure_stands_in_the_title():
    paper = {"id": "x", "metric": "test/accuracy", "value": 0.9, "data": "digits", "split": "test"}
    digits, mnist = ({"name": name, "split": "test"} for name in ("digits", "mnist"))
    made = dashboard.sections(
        [
            Logged("a_digits", "a", paper, digits, {"test/accuracy", "train/loss", "train/lr"}, {"images/samples"}),
            Logged("a_mnist", "a", paper, mnist, {"test/accuracy", "val/accuracy"}, set()),
        ]
    )
    assert made == [
        Section("a", [
            Panel("bars", "test/accuracy (paper: 0.9 for a_digits on digits test)", ["test/accuracy"]),
            Panel("lines", "losses", ["train/loss"]),
            Panel("lines", "val/accuracy", ["val/accuracy"]),
            Panel("pictures", "images/samples", ["images/samples"]),
            Panel("lines", "learning rates", ["train/lr"]),
        ])
    ]  # fmt: skip


def test_metrics_and_tables_of_a_method_that_nobody_knows_have_their_panels():
    keys = {"train/loss_masked", "train/perplexity", "val/bleu", "test/bleu", "test/robust_accuracy_linf", "train/lr_head",
            "train/tokens_per_s", "train_set/bleu"}  # fmt: skip
    paper = {"metric": "test/bleu"}
    made = dashboard.panels_of([Logged("a_text", "a", paper, {}, keys, set(), {"test/sentences_table"})])
    assert [(panel.kind, panel.keys) for panel in made] == [
        ("bars", ["test/bleu"]),
        ("lines", ["train/loss_masked"]),
        ("lines", ["val/bleu"]),
        ("lines", ["train/perplexity"]),
        ("table", ["test/sentences_table"]),
        ("bars", ["test/robust_accuracy_linf"]),
        ("bars", ["train_set/bleu"]),
        ("lines", ["train/tokens_per_s"]),
        ("lines", ["train/lr_head"]),
    ]


def test_without_a_key_the_plan_is_written_and_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(dashboard, "what_experiments_log", logged)
    dashboard.main(["--out", str(tmp_path / "new" / "dashboard.json")])
    assert "`wandb login`, then `make dashboard` again" in capsys.readouterr().out
    written = json.loads((tmp_path / "new" / "dashboard.json").read_text())
    assert [it["method"] for it in written["sections"]] == [it.method for it in dashboard.sections(logged())]


def test_without_the_extra_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(dashboard, "what_experiments_log", list)
    for name in [it for it in sys.modules if it.startswith("wandb_workspaces")] or ["wandb_workspaces"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match="wandb-workspaces is not installed: add it with"):
        dashboard.main([])


def test_the_workspace_has_the_plan_s_keys():
    pytest.importorskip("wandb_workspaces", reason="the extra `dashboards`")
    plan = dashboard.sections(logged())
    made = dashboard.made_workspace(plan, "somebody", "relight")
    assert [section.name for section in made.sections] == [section.method for section in plan]
    for section, planned in zip(made.sections, plan, strict=True):
        kinds = zip(section.panels, planned.panels, strict=True)
        assert all(it.kind == "table" or panel.title == it.title for panel, it in kinds)
    spec = made._to_model().model_dump_json()  # what would be sent
    assert all(
        f'"{key}"' in spec.replace("\\", "") for section in plan for panel in section.panels for key in panel.keys
    )
