"""The page says what the record says, loads nothing, and holds no HTML that a run's files smuggle in."""

import json
import re
from html.parser import HTMLParser

import pytest
import torch
import yaml

from callbacks.instruments.pictures import save_single
from finished import report
from finished.charts import Curve, line_chart, nice_ticks, read_curves, short
from foundation.errors import UserError
from tests.finished.browser import WIDTHS, Seen, seen

VOID = {"meta", "img", "br"}
EVIL = "<script>alert(1)</script>"
CSV = "epoch,step,train/loss_g,val/accuracy,test/accuracy\n0,9,1.5,,\n0,9,,0.25,\n1,19,nan,,\n1,29,1.25,0.5,\n2,30,,,0.625\n"


def write_run(folder, seed=0, status="finished", **record):
    (folder / "images").mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / ".hydra" / "overrides.yaml").write_text(f"- trainer=cpu\n- seed={seed}\n")
    (folder / "metrics.csv").write_text(CSV)
    paper = {"id": "arXiv:1", "metric": "test/accuracy", "value": 0.95, "data": "digits", "split": "test"}
    config = {"name": "tiny", "seed": seed, "paper": paper}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"note": EVIL}))
    content = {"status": status, "experiment": "tiny", "seed": seed, "iterations": 30, "commit": "0123456789abcdef",
               "clean": False, "command": f"train.py seed={seed}", "wall_time_s": {"fit": 75.0, "test": 1.5},
               "metrics": {"test/accuracy": 0.625, "val/accuracy": 0.5, "train/loss_g": 1.25},
               "hardware": {"device": "a fast chip", "cores": 2}, "precision": "32-true",
               "data": {"name": "digits", "split": "test", "train": 1437, "test": 360}}  # fmt: skip
    (folder / "record.json").write_text(json.dumps(content | record))
    for name in ("samples-000010", "samples-000030", "traversal-code0"):
        save_single(torch.rand(1, 4, 4), folder / "images" / f"{name}.png")
    save_single(torch.rand(1, 4, 4), folder / "clusters.png")
    return folder


class Page(HTMLParser):
    """Checks that tags close in order and keeps tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def made(folder, *arguments):
    report.main([str(folder), *arguments])
    text = (folder / "report.html").read_text()
    assert_loads_nothing(text)
    return Page(text)


def assert_loads_nothing(text):
    page = Page(text)
    assert not [name for name, _ in page.tags if name in ("script", "link", "iframe", "object")]
    for _, attributes in page.tags:
        assert str(attributes.get("src", "data:")).startswith("data:image/") or "src" not in attributes
        assert not attributes.keys() & {"href", "srcset", "onload", "onerror", "style"}
    assert not re.search(r"url\(|@import|https?://", text)


def test_a_run_s_page_has_what_its_record_has(tmp_path, capsys):
    run = write_run(tmp_path / "run")
    page = made(run)
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    for told in ("tiny, seed 0", "finished", "0.6250", "paper: 0.95", "train.py seed=0", "0123456789abcdef with uncommitted changes",
                 "a fast chip, 2 cores", "fit 1 min 15 s, test 1.5 s", "arXiv:1"):  # fmt: skip
        assert told in page.text, told
    assert [it["alt"] for it in page.of("img")] == ["samples-000030", "traversal-code0", "clusters"]
    assert [it["aria-label"] for it in page.of("svg")] == [
        "train/loss_g over iterations",
        "val/accuracy over iterations",
    ]


@pytest.mark.parametrize(("direction", "words"), [("max", "0.5000, best 0.7500"), ("min", "0.5000, best 0.2500")])
def test_the_best_is_told_by_the_direction_of_each_metric(tmp_path, direction, words):
    directions = {"val/accuracy": direction, "test/accuracy": direction}
    for number, value in enumerate((0.625, 0.5)):
        run = write_run(
            tmp_path / "sweep" / str(number), number, metrics={"test/accuracy": value}, directions=directions
        )
        (run / "metrics.csv").write_text("epoch,step,val/accuracy\n0,9,0.25\n1,19,0.75\n2,29,0.5\n")
    text = made(tmp_path / "sweep" / "0").text
    assert words in text
    made(tmp_path / "sweep")
    strong = re.findall("<b>([^<]*)</b>", (tmp_path / "sweep" / "report.html").read_text())
    assert strong == [{"max": "0.6250", "min": "0.5000"}[direction]]


@pytest.mark.parametrize(
    "data", [{"name": "my own digits", "split": "test"}, {"name": "digits", "split": "test, 9 examples"}]
)
def test_the_paper_s_figure_stands_beside_no_other_data(tmp_path, data):
    page = made(write_run(tmp_path / "sweep" / "0", data=data | {"test": 9}))
    assert "0.6250" in page.text
    assert "0.95" not in page.text.partition("Config")[0]
    assert "the paper's figure is of something else" in page.text
    write_run(tmp_path / "sweep" / "1", seed=1)
    assert "(paper: 0.95)" not in made(tmp_path / "sweep").text  # one run of the column is of other data


def test_a_figure_of_another_metric_stands_beside_that_metric(tmp_path):
    run = write_run(tmp_path / "sweep" / "0", metrics={"test/accuracy": 0.625, "test/score": 7.5})
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["paper"]["figures"] = [{"what": "score", "metric": "test/score", "value": 8.09}]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    told = made(run).text.partition("Config")[0]
    assert (told.count("paper: 0.95"), told.count("paper: 8.09")) == (1, 1)
    assert "test/score (paper: 8.09)" in made(tmp_path / "sweep").text
    config["paper"] |= {"value": None, "figures": None}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert "the paper gives no figure" in made(run).text


def test_pictures_and_tables_of_a_callback_that_nobody_knows_are_shown(tmp_path):
    run = write_run(tmp_path / "run")
    for name in ("attention-000010.png", "attention-000020.png", "steps.gif"):
        save_single(torch.rand(1, 4, 4), run / "images" / name)
    words = "".join(f"{number},a sentence & {EVIL},{number / 8}\n" for number in range(30))
    (run / "sentences.csv").write_text("number,sentence,bleu\n" + words + '31,"half a li')
    page = made(run)
    assert [it["alt"] for it in page.of("img")] == [
        "attention-000020", "samples-000030", "steps", "traversal-code0", "clusters"]  # fmt: skip
    assert [it["src"].partition(";")[0] for it in page.of("img")][2] == "data:image/gif"
    assert "sentences (20 of 31 rows: sentences.csv)" in page.text
    assert page.text.count("a sentence & " + EVIL) == 20
    assert "2.3750" in page.text  # the twentieth row's figure
    assert "metrics" not in page.text.partition("Tables")[2].partition("Training")[0]


def test_what_could_be_html_is_text(tmp_path):
    run = write_run(tmp_path / "run", status=EVIL, error=EVIL, command=EVIL)
    page = made(run)
    assert page.text.count("alert(1)") == 4 + page.text.count("note: ") - 1  # status, error, command, config
    assert not page.of("script")


def test_a_failed_run_tells_why_and_shows_what_there_is(tmp_path):
    page = made(write_run(tmp_path / "run", status="failed", error="Diverged: train/loss_g is nan", metrics={}))
    assert "Diverged: train/loss_g is nan" in page.text
    assert any(it.get("class") == "status failed" for it in page.of("span"))
    assert len(page.of("svg")) == 2


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text("name: tiny\nseed: 3\n")
    (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,9,1.")
    page = made(tmp_path)
    assert "tiny, seed 3" in page.text
    assert "nothing is recorded yet" in page.text


def test_a_sweep_s_page_compares_its_runs(tmp_path):
    for seed in (0, 2, 10):
        write_run(tmp_path / str(seed), seed, metrics={"test/accuracy": seed / 100})
    (tmp_path / "10" / "record.json").write_text(json.dumps({"status": "failed", "error": "it broke"}))
    page = made(tmp_path)
    assert "2 finished" in page.text
    assert "1 failed" in page.text
    assert "seed=10: it broke" in page.text
    rows = re.findall(r"seed=\d+(?:finished|failed)[\d.-]+", page.text)
    assert [row.partition("f")[0] for row in rows] == ["seed=0", "seed=2", "seed=10"]
    charts = [it for it in page.of("svg") if "aria-label" in it]
    assert [it["aria-label"] for it in charts] == ["train/loss_g over iterations", "val/accuracy over iterations"]
    assert len([it for it in page.of("path") if str(it.get("class")).startswith("line")]) == 3 + 2 * 3  # legend, charts


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(UserError, match="is neither a run nor a sweep: give a folder that train.py printed"):
        report.main([str(tmp_path)])


def test_values_stand_at_finished_iterations_and_half_a_line_is_left_out(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(CSV + "2,3")
    curves = read_curves(path, "a")
    assert curves["val/accuracy"] == Curve("a", [10, 30], [0.25, 0.5])
    assert curves["test/accuracy"] == Curve("a", [30], [0.625])


def test_a_chart_breaks_where_a_value_is_not_finite():
    drawn = line_chart([Curve("a", [10, 20, 30, 40, 50], [1.0, 2.0, float("nan"), 3.0, float("inf")])], "a")
    (path,) = re.findall(r'class="line c0" d="([^"]+)"', drawn)
    assert re.sub(r"[\d. ]+", "", path) == "MLM"
    assert line_chart([Curve("a", [10], [float("nan")])], "a") == ""


def test_ticks_enclose_the_values():
    assert nice_ticks(0.12, 0.93) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(-3, 12) == [-5, 0, 5, 10, 15]
    assert nice_ticks(2, 2)[0] < 2 < nice_ticks(2, 2)[-1]
    assert [short(it) for it in (0, 0.25, 0.00017, 20000, -1500000)] == ["0", "0.25", "1.7e-4", "20k", "-1.5M"]


# --- in a browser --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("jobs", [0, 3])
def test_a_browser_shows_it_without_a_word_and_nothing_is_wider_than_the_window(jobs, width, tmp_path):
    """Of a run, and of a sweep; with names and figures as long as they come."""
    folder, long = tmp_path / "it", {f"test/{'a_long_name_' * 4}{number}": 1e-9 / 3 for number in range(9)}
    for number in range(jobs):
        write_run(folder / str(number), seed=number, metrics=long, error="x" * 400)
    if not jobs:
        write_run(folder, metrics=long, command=f"train.py experiment={'x' * 300}")
        (folder / "table.csv").write_text(f"{','.join('abcdefghij' * 3)}\n{','.join(['a long cell'] * 30)}\n")
    report.main([str(folder)])
    page = (folder / "report.html").read_text()
    assert seen(page, width, tmp_path) == Seen(wider=0, requests=[], pictures=page.count("<img "), console=[])


@pytest.mark.slow
def test_a_browser_would_tell(tmp_path):
    page = """<body style="margin: 0"><p style="width: 500px">wide</p><img src="http://127.0.0.1:9/a.png">
              <script>console.error("a mistake")</script>"""
    found = seen(page, 390, tmp_path)
    assert (found.wider, found.requests, found.pictures) == (110, ["http://127.0.0.1:9/a.png"], 0)
    assert any("a mistake" in it for it in found.console)
