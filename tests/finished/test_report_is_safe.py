"""Whatever stands in a run's files: a page runs nothing, loads nothing and shows nothing from outside of the folder."""

import ast
import copy
import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from finished import report
from finished.html import Html, escaped, html
from foundation.errors import UserError
from tests.finished.test_report import Page, assert_loads_nothing, write_run

EVILS = [
    "<script>alert(1)</script>", "'\"><img src=x onerror=alert(1)>", "\" onload=\"alert(1)", "</style><svg/onload=alert(1)>",
    "</pre></details><iframe src=javascript:alert(1)>", "{0} {policy} &lt;b&gt;", "javascript:alert(1)",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every value below, and itself."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(it for key, below in inner for it in places(below, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], evil: str, as_key: bool) -> Any:
    whole = {"it": copy.deepcopy(value)}
    *before, last = ("it", *path)
    node: Any = whole
    for key in before:
        node = node[key]
    if as_key and isinstance(node, dict) and path:
        node[evil] = node.pop(last)
    else:
        node[last] = evil
    return whole["it"]


def assert_harmless(folder: Path) -> bool:
    """Whether there is a page at all; a damaged run gets one sentence."""
    (folder / "report.html").unlink(missing_ok=True)
    try:
        report.main([str(folder)])
    except UserError:
        return False
    text = (folder / "report.html").read_text()
    assert_loads_nothing(text)
    for tag, attributes in Page(text).tags:
        assert tag in ("html", "head", "meta", "title", "style", "body", "main", "footer", "h1", "h2", "h3", "p", "span",
                       "div", "b", "code", "table", "tr", "th", "td", "figure", "img", "figcaption", "svg", "path", "text",
                       "circle", "ul", "li", "details", "summary", "pre")  # fmt: skip
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "action")]
    return True


@pytest.mark.parametrize("name", ["record.json", "config.yaml"])
def test_hostile_values_in_every_field(tmp_path, name):
    evil = "".join(EVILS)
    more = {"resumes": [{"from_iteration": 3, "changed": {}}], "versions": {"torch": "2"}, "weights": "averaged",
            "started_at": "now", "parameters": 3, "world_size": 2, "error": "no", "directions": {"test/accuracy": "max"}}  # fmt: skip
    run = write_run(tmp_path / "sweep" / "0", 0, **more)
    write_run(tmp_path / "sweep" / "1", 1)
    read, write = (json.loads, json.dumps) if name.endswith("json") else (yaml.safe_load, yaml.safe_dump)
    whole = read((run / name).read_text())
    made = 0
    for path in places(whole):
        for as_key in (False, True):
            (run / name).write_text(write(changed(whole, path, evil, as_key)))
            made += assert_harmless(tmp_path / "sweep" if as_key else run)
    assert made > len(places(whole))  # most are shown


@pytest.mark.parametrize("evil", EVILS)
def test_hostile_columns_tables_and_names_of_files(tmp_path, evil):
    name = evil.replace("/", "_")
    run = write_run(tmp_path / name / name)
    (run / "images" / f"{name}.png").write_bytes((run / "clusters.png").read_bytes())
    with (run / f"{name}.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[evil, "b"], [evil, 1]])
    with (run / "metrics.csv").open("w", newline="") as file:
        rows = [["epoch", "step", f"train/{evil}", evil], [0, 1, 2.0, 3.0], [0, 2, 3.0, "nan"]]
        csv.writer(file).writerows(rows)
    assert assert_harmless(run)
    assert assert_harmless(run.parent)


def test_the_paper_s_figure_is_shown_as_text(tmp_path):
    run = write_run(tmp_path / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["paper"]["value"] = EVILS[0]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert assert_harmless(run)
    assert "paper: &lt;script&gt;" in (run / "report.html").read_text()


@pytest.mark.parametrize("link", ["images/samples-000030.png", "clusters.png", "secret.csv", "images"])
def test_what_a_link_leads_to_is_not_shown(tmp_path, link):
    run = write_run(tmp_path / "run")
    (tmp_path / "outside").mkdir()
    secret = tmp_path / "outside" / "secret.png"
    secret.write_bytes(b"c2VjcmV0,secret\n")
    if link == "images":
        (run / "images").rename(tmp_path / "elsewhere")
        (run / "images").symlink_to(secret.parent)
    else:
        (run / link).unlink(missing_ok=True)
        (run / link).symlink_to(secret)
    assert assert_harmless(run)
    text = (run / "report.html").read_text()
    assert "secret" not in text
    assert "YzJWamNtVjA" not in text


@pytest.mark.parametrize("name", ["record.json", "config.yaml", "metrics.csv"])
def test_a_file_of_a_run_that_is_a_link_out_or_a_pipe_is_refused(tmp_path, name):
    run = write_run(tmp_path / "run")
    (run / name).rename(tmp_path / name)
    (run / name).symlink_to(tmp_path / name)
    with pytest.raises(UserError, match=f"{name} is no file of this run"):
        report.main([str(run)])
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(UserError, match=f"{name} is no file of this run"):
        report.main([str(run)])
    (run / name).unlink()
    os.mkfifo(run / "images" / "pipe.png")
    os.mkfifo(run / "pipe.csv")
    assert assert_harmless(run)


def test_html_escapes_whatever_is_not_html():
    assert html("<b>{}</b>", "<i>") == "<b>&lt;i&gt;</b>"
    assert html("<b>{}</b>", html("<i>{}</i>", "&")) == "<b><i>&amp;</i></b>"
    assert html("{}{a}", ["<", Html("<p>")], a=None) == "&lt;<p>"
    assert escaped("'\"") == "&#x27;&quot;"
    assert type(html("a") + "<b>") is str  # so that it is escaped where it is put in


@pytest.mark.parametrize("path", sorted((ROOT / "finished").glob("*.py")), ids=lambda it: it.name)
def test_html_is_made_of_the_project_s_own_words_alone(path):
    """A template is a literal, and ``Html`` is called but in its own module, and for the project's own style."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        if node.func.id == "html":
            template = node.args[0]
            literal = isinstance(template, ast.Constant)
            assert literal or (isinstance(template, ast.Name) and template.id in ("PAGE", "entry")), ast.unparse(node)
        elif node.func.id == "Html" and path.name != "html.py":
            assert ast.unparse(node) == "Html(STYLE.read_text())"
