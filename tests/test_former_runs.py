"""Run folders of before the rooms were sorted are loaded, measured and gone on with, and give the former numbers."""

import json
from pathlib import Path

import pytest
import torch

from evaluate import evaluate
from finished.report import read_run
from launch.command_line import compose_job
from launch.resume import prepare
from launch.runs import build, load_module, load_run
from launch.saved_config import saved_config
from tests.former_runs import former_run, metrics_of

METHODS = ("infogan", "improved_gan", "draw", "resnet", "faster_rcnn")


def measured(run: Path, folder: Path) -> dict[str, float]:
    words = [f"run={run}", "trainer=cpu", "precision=32-true"]
    return evaluate(compose_job("evaluate", words, str(folder)), folder)


def figures(name: str) -> dict[str, float]:
    return {key: value for key, value in metrics_of(name).items() if key.startswith("test/")}


@pytest.mark.parametrize("method", METHODS)
def test_a_former_run_is_measured_with_the_former_numbers(method, tmp_path):
    run = former_run(method, tmp_path / method)
    found = measured(run, tmp_path / "again")
    assert {key: found[key] for key in figures(method)} == pytest.approx(figures(method), rel=1e-4, nan_ok=True)
    written = json.loads((tmp_path / "again" / "record.json").read_text())
    assert written["status"] == "finished"
    assert written["experiment"] == saved_config(run)["name"]


@pytest.mark.parametrize("method", METHODS)
def test_a_former_run_is_an_input_and_can_go_on(method, tmp_path):
    run = former_run(method, tmp_path / method)
    module = load_module(str(run))
    assert not module.training
    config, _ = prepare(str(run), ["trainer.max_steps=3"])
    assert config["trainer"]["max_steps"] == 3
    assert config["lightning_module"].keys() == saved_config(run)["lightning_module"].keys()
    assert build(config).module.state_dict().keys() == module.state_dict().keys()
    assert read_run(run, "it").metrics


def test_a_former_detector_detects_the_same(tmp_path):
    module, _, _ = load_run(former_run("faster_rcnn", tmp_path / "run"))
    (found,) = module.detect_objects([torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))])  # type: ignore
    expected = metrics_of("faster_rcnn")["detections"]
    assert found["labels"].tolist() == expected["labels"]
    assert found["scores"].tolist() == pytest.approx(expected["scores"], rel=1e-4)
    torch.testing.assert_close(found["boxes"], torch.tensor(expected["boxes"]), atol=1e-3, rtol=1e-4)


def test_a_former_judge_is_a_run_as_an_input_now(tmp_path):
    judge, run = former_run("resnet", tmp_path / "resnet"), former_run("judged", tmp_path / "judged")
    asked = saved_config(run)["callbacks"]["classifier_score"]["judge"]
    assert asked == {"_target_": "launch.runs.load_module", "run": str(judge), "checkpoint": "last"}
    found = measured(run, tmp_path / "again")
    assert found == pytest.approx(figures("judged"), rel=1e-4)
    written = json.loads((tmp_path / "again" / "record.json").read_text())
    assert written["inputs"]["callbacks.classifier_score.judge"]["run"] == "resnet"
    assert str(prepare(str(run), ["trainer.max_steps=3"])[1]) == str(run / "checkpoints" / "last.ckpt")
