"""Run folders of before the rooms were sorted are loaded, measured and gone on with, and give the former numbers."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from evaluate import evaluate
from finished.report import read_run
from foundation.errors import UserError
from foundation.former_names import config_of_today
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.initial_weights import source_of
from launch.resume import prepare
from launch.runs import build, instantiate, load_module, load_run
from launch.saved_config import saved_config
from lightning_modules.networks.detection_backbones import FrozenBatchNorm
from tests.former_runs import FOLDER, former_run, metrics_of

METHODS = ("infogan", "improved_gan", "draw", "resnet", "faster_rcnn")


INITIAL_WEIGHTS = {
    "resnet_imagenet": "torchvision:resnet50/IMAGENET1K_V1",
    "faster_rcnn_coco": "torchvision:resnet50/IMAGENET1K_V1",
    "faster_rcnn_coco_whole": "torchvision:fasterrcnn_resnet50_fpn/COCO_V1",
}


def measured(run: Path, folder: Path) -> dict[str, float]:
    words = [f"run={run}", "trainer=cpu", "precision=32-true"]
    return evaluate(compose_job("evaluate", words, str(folder)), folder)


TODAY = {"test/nll_importance_nats": "test/nll_importance_2_nats"}  # it names its samples now: two in that run


def figures(name: str) -> dict[str, float]:
    return {TODAY.get(key, key): value for key, value in metrics_of(name).items() if key.startswith("test/")}


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
    images = found.pop("test/real_classifier_score_images")  # of how many, which a run of before did not say
    assert found == pytest.approx(figures("judged"), rel=1e-4)
    written = json.loads((tmp_path / "again" / "record.json").read_text())
    assert written["inputs"]["callbacks.classifier_score.judge"]["run"] == "resnet"
    assert written["judges"]["classifier_score"]["images"]["real test"] == images
    assert str(prepare(str(run), ["trainer.max_steps=3"])[1]) == str(run / "checkpoints" / "last.ckpt")


@pytest.mark.parametrize("name", INITIAL_WEIGHTS)
def test_what_a_former_network_began_with_is_init_from_now(name, tmp_path):
    (tmp_path / ".hydra").mkdir()
    shutil.copy(FOLDER / "weights" / f"{name}.yaml", tmp_path / ".hydra" / "config.yaml")
    config = saved_config(tmp_path)
    assert config["init_from"] == INITIAL_WEIGHTS[name]
    assert source_of(config["init_from"])
    with torch.device("meta"):
        module = instantiate(config["lightning_module"])
    epsilons = {it.eps for it in module.modules() if isinstance(it, FrozenBatchNorm)}
    assert epsilons == {"resnet_imagenet": set(), "faster_rcnn_coco": {1e-5}, "faster_rcnn_coco_whole": {0.0}}[name]


def test_a_former_first_command_with_weights_is_resumed(tmp_path):
    run = former_run("faster_rcnn", tmp_path / "run")
    path = run / ".hydra" / "overrides.yaml"
    path.write_text(path.read_text() + "- lightning_module.network.backbone.weights=null\n")
    assert prepare(str(run), ["trainer.max_steps=3"])[0]["trainer"]["max_steps"] == 3


def test_a_command_with_a_former_key_is_told_the_key_of_today(tmp_path):
    words = ["experiment=resnet_imagenet", "lightning_module=resnet_torchvision"]
    with pytest.raises(UserError, match="has no key 'weights': weights to begin with are named by init_from now"):
        compose_job("train", [*words, "lightning_module.network.weights=IMAGENET1K_V1"])
    config = compose_job("train", words)
    config["lightning_module"]["network"]["weights"] = "IMAGENET1K_V1"
    with pytest.raises(
        UserError, match="lightning_module.network.weights: weights to begin with are named by init_from"
    ):
        check_config(config, TrainConfig)


@pytest.mark.parametrize("module", [3, "text", None, [], {"network": 3}, {"network": {"weights": 3, "_target_": []}}])
def test_a_damaged_config_is_upgraded_without_a_stumble(module):
    assert config_of_today({"lightning_module": module}) == {"lightning_module": module}
