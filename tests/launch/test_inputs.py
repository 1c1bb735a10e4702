"""Runs as inputs of runs: any method's module, a part of it, its DataModule, a metric; who asks keeps their origins."""

import hashlib
import json
import os
import platform
import random
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback
from omegaconf import OmegaConf

from datamodules.digits import DigitsDataModule
from datamodules.mnist import MNISTDataModule
from evaluate import evaluate
from finished.tables import record
from foundation.errors import UserError
from foundation.security import FUNCTIONS, check_targets
from launch import runs
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.inputs import ORIGINS, SEVERAL, changed_inputs, inputs_of, of_another_split
from launch.resume import prepare, take_up
from launch.runs import build, load_datamodule, load_metric, load_module, load_proposals, load_run
from lightning_modules.networks.resnet import CifarResNet
from tests.datamodules.test_shapes import write_tiny
from tests.finished_runs import finished_run
from tests.lightning_modules.test_infogan import TINY

NET = ["lightning_module.network.width=4", "lightning_module.network.depth=8", "trainer.precision=32-true"]
CLASSIFIER = ["experiment=resnet_digits", *NET]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("classifier"), *CLASSIFIER, "trainer.log_every_n_steps=1")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("generator"), *TINY["infogan_digits"])


def node(kind: str, run: Any, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"launch.runs.load_{kind}", "run": str(run), **arguments}


class Asks(Callback):
    """A callback that is given anything, alone or in a list."""

    def __init__(self, given: Any, folder: str = "") -> None:
        self.given = given


class DigitsBeside(DigitsDataModule):
    """A DataModule that is given another."""

    def __init__(self, other: Any, **digits: Any) -> None:
        super().__init__(**digits)
        self.other = other


def asking_for_a_network(folder: Path, classifier: Path) -> dict[str, Any]:
    """The config of a classifier whose network is another's."""
    config = compose_job("train", [*CLASSIFIER, "trainer=cpu", "trainer.max_steps=2", "logger=none"], str(folder))
    config["lightning_module"]["network"] = node("module", classifier, part="network")
    config["lightning_module"]["optimizer"]["lr"] = node("metric", classifier, metric="train/loss")
    return config


def asking(folder: Path, classifier: Path, generator: Path) -> dict[str, Any]:
    """The same with inputs wherever a config can have them."""
    config = asking_for_a_network(folder, classifier)
    config["datamodule"] |= {"_target_": f"{__name__}.DigitsBeside", "other": node("datamodule", generator)}
    given = [{"deep": node("module", generator, part="generator")}, node("module", generator, checkpoint="last")]
    config["callbacks"]["asks"] = {"_target_": f"{__name__}.Asks", "given": given}
    return config


def save(config: dict[str, Any], folder: Path) -> None:
    (folder / ".hydra").mkdir(parents=True)
    text = OmegaConf.to_yaml(OmegaConf.create(config)).replace(str(folder), "${paths.run_dir}")
    (folder / ".hydra" / "config.yaml").write_text(text)
    OmegaConf.save(OmegaConf.create([]), folder / ".hydra" / "overrides.yaml")


def changed_copy(run: Path, folder: Path, weight: str) -> Path:
    """A run that went on training."""
    shutil.copytree(run, folder)
    path = folder / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["state_dict"][weight] += 1
    torch.save(checkpoint | {"global_step": 3}, path)
    return folder


# --- nodes wherever a config has one -------------------------------------------------------------------------


def test_a_run_is_given_wherever_it_is_asked_for_and_its_origin_recorded(classifier, generator, tmp_path):
    config = asking(tmp_path, classifier, generator)
    check_config(config, TrainConfig)
    run = build(config)
    of_classifier, of_generator = load_run(classifier)[0], load_run(generator)[0]
    network: Any = run.module.network
    assert isinstance(network, CifarResNet)
    assert torch.equal(network.linear.weight, of_classifier.network.linear.weight)  # type: ignore
    listed, whole = run.callbacks[-1].given  # type: ignore
    assert type(whole) is type(of_generator)
    assert type(listed["deep"]) is type(of_generator.generator)
    assert isinstance(run.datamodule.other, DigitsDataModule)  # type: ignore
    loss = json.loads((classifier / "record.json").read_text())["metrics"]["train/loss"]
    (optimizer,), _ = run.module.configure_optimizers()  # type: ignore
    assert optimizer.param_groups[0]["initial_lr"] == loss

    run.trainer.fit(run.module, datamodule=run.datamodule)
    assert not any(it.training for it in network.modules())  # what came in evaluation mode stays so
    told = json.loads((tmp_path / "record.json").read_text())
    asked = {key: {name: it.get(name) for name in ("run", "experiment", "part", "iteration")}
             for key, it in told["inputs"].items()}  # fmt: skip
    of = {"run": classifier.name, "experiment": "resnet_digits", "iteration": 2, "part": None}
    of_other = {"run": generator.name, "experiment": "infogan_digits", "iteration": 2, "part": None}
    assert asked == {
        "lightning_module.network": of | {"part": "network"},
        "lightning_module.optimizer.lr": of,
        "datamodule.other": of_other,
        "callbacks.asks.given[0].deep": of_other | {"part": "generator"},
        "callbacks.asks.given[1]": of_other,
    }
    assert told["inputs"]["lightning_module.optimizer.lr"]["value"] == loss
    assert told["inputs"]["datamodule.other"]["data"]["name"] == "digits"
    assert str(classifier.parent) not in json.dumps(told["inputs"])

    kept = told | {"clean": True, "commit": "abcdef0", "status": "finished"}
    (tmp_path / "record.json").write_text(json.dumps(kept))
    assert json.loads(record(tmp_path, tmp_path / "results").read_text())["inputs"] == told["inputs"]


def test_a_run_with_inputs_is_measured_and_gone_on_with(classifier, tmp_path, capsys):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    config = asking_for_a_network(tmp_path / "run", copy)
    save(config, tmp_path / "run")
    run = build(config)
    run.trainer.fit(run.module, datamodule=run.datamodule)

    words = [f"run={tmp_path / 'run'}", "trainer=cpu"]
    found = evaluate(compose_job("evaluate", words, str(tmp_path / "again")), tmp_path / "again")
    assert 0 <= found["test/error"] <= 1
    written = json.loads((tmp_path / "again" / "record.json").read_text())
    assert written["inputs"].keys() == {"lightning_module.network", "lightning_module.optimizer.lr"}
    assert "no longer what it was" not in capsys.readouterr().out

    resumed, path = prepare(str(tmp_path / "run"), ["trainer.max_steps=3"])
    again = build(resumed)
    take_up(again, path)
    again.trainer.fit(again.module, datamodule=again.datamodule, ckpt_path=path, weights_only=True)
    assert again.trainer.global_step == 3
    told = json.loads((tmp_path / "run" / "record.json").read_text())
    assert told["inputs"] == written["inputs"]
    assert "inputs_before" not in told["resumes"][0]

    # The input goes on training under the same name: told by a measurement, refused by a resume.
    shutil.rmtree(copy)
    changed_copy(classifier, copy, "network.linear.bias")
    expected = "lightning_module.network: the run copy is no longer what it was: its iteration was 2 and is 3, its"
    evaluate(compose_job("evaluate", words, str(tmp_path / "third")), tmp_path / "third")
    assert expected in capsys.readouterr().out
    with pytest.raises(UserError, match=expected):
        take_up(build(prepare(str(tmp_path / "run"), ["trainer.max_steps=4"])[0]), path)

    shutil.rmtree(copy)
    with pytest.raises(UserError, match=f"lightning_module.network: there is no run {copy}: it was moved or deleted"):
        evaluate(compose_job("evaluate", words, str(tmp_path / "fourth")), tmp_path / "fourth")


def test_another_input_that_a_resume_asks_for_leaves_a_trace(classifier, tmp_path):
    other = changed_copy(classifier, tmp_path / "other", "network.linear.bias")
    config = asking_for_a_network(tmp_path / "run", classifier)
    save(config, tmp_path / "run")
    run = build(config)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    before = json.loads((tmp_path / "run" / "record.json").read_text())["inputs"]

    config["lightning_module"]["network"]["run"] = str(other)
    config["trainer"]["max_steps"] = 3
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    again = build(config)
    take_up(again, path)
    again.trainer.fit(again.module, datamodule=again.datamodule, ckpt_path=path, weights_only=True)
    told = json.loads((tmp_path / "run" / "record.json").read_text())
    assert told["inputs"]["lightning_module.network"]["run"] == "other"
    assert told["resumes"][0]["inputs_before"] == before


def test_an_input_may_have_inputs_and_none_is_its_own(classifier, tmp_path):
    config = asking_for_a_network(tmp_path / "outer", classifier)
    save(config, tmp_path / "outer")
    run = build(config)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    assert isinstance(load_module(str(tmp_path / "outer"), "network.blocks"), torch.nn.Sequential)

    path = tmp_path / "outer" / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace(str(classifier), str(tmp_path / "outer")))
    with pytest.raises(UserError, match="outer is an input of itself: its config names its own folder"):
        load_module(str(tmp_path / "outer"))


# --- what is given -------------------------------------------------------------------------------------------


def test_loading_leaves_the_global_random_state_alone(classifier, generator):
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(1)), random.random(), float(np.random.rand())  # noqa: NPY002

    def seeded() -> None:
        torch.manual_seed(3)
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002

    seeded()
    expected = drawn()
    seeded()
    load_module(str(generator))
    load_datamodule(str(classifier))
    inputs_of({"x": node("module", classifier)})
    with pytest.raises(UserError):
        load_module(str(classifier), "nothing")
    assert drawn() == expected


def test_a_module_is_in_evaluation_mode_and_keeps_its_gradients(generator):
    module = load_module(str(generator))
    assert not any(it.training for it in module.modules())
    assert all(it.requires_grad for it in module.parameters())  # freezing is the asker's choice


def test_a_datamodule_has_the_state_that_it_had_in_its_run(classifier, tmp_path, monkeypatch):
    held: dict[str, Any] = {}
    monkeypatch.setattr(DigitsDataModule, "load_state_dict", lambda self, state: held.update(state))
    load_datamodule(str(classifier))
    copy = shutil.copytree(classifier, tmp_path / "copy")
    path = copy / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    torch.save(checkpoint | {"DigitsDataModule": {"kept": [1, 2]}}, path)
    datamodule = load_datamodule(str(copy))
    assert held == {}  # it is made of tables
    datamodule.setup()
    assert held["kept"] == [1, 2]
    assert len(datamodule.tables["train"]) == 1437  # type: ignore


def test_a_metric_is_that_of_the_record(classifier):
    metrics = json.loads((classifier / "record.json").read_text())["metrics"]
    assert load_metric(str(classifier), "train/loss") == metrics["train/loss"] > 0
    with pytest.raises(UserError, match="has no metric 'train/los'; did you mean 'train/loss'"):
        load_metric(str(classifier), "train/los")


# --- what cannot be an input ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("generatr", "InfoGAN of the run .* has no part 'generatr'; did you mean 'generator'"),
        ("generator.lyers.0", "has no part 'generator.lyers.0'; did you mean 'generator.layers'"),
        ("qq", "has no part 'qq'; known: .*discriminator, generator"),
        ("generator.layers.99", "has no part 'generator.layers.99'; "),
    ],
)
def test_a_part_that_does_not_exist_is_told_with_the_nearest(generator, part, sentence):
    with pytest.raises(UserError, match=sentence):
        load_module(str(generator), part)


@pytest.mark.parametrize("kind", ["module", "datamodule", "metric"])
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"status": "interrupted", "iterations": 2}, "x: the run .* is interrupted after 2 iterations, not finished: go on with it by python train.py resume="),
        ({"status": "failed"}, "is failed, not finished"),
        ({"status": "running", "host": "elsewhere"}, "is running, not finished"),
    ],
)  # fmt: skip
def test_an_unfinished_run_is_told(classifier, tmp_path, kind, changes, sentence):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    told = json.loads((copy / "record.json").read_text())
    told.pop("iterations")
    (copy / "record.json").write_text(json.dumps(told | changes))
    arguments = {"metric": "train/loss"} if kind == "metric" else {}
    with pytest.raises(UserError, match=sentence):
        inputs_of({"x": node(kind, copy, **arguments)})


def test_a_run_that_is_being_trained_is_told(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    alive = {"status": "running", "host": platform.node(), "pid": os.getpid()}
    (copy / "record.json").write_text(json.dumps(alive))
    with pytest.raises(UserError, match=f"is still being trained by process {os.getpid()}: wait for its end"):
        load_module(str(copy))


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"_target_": "launch.runs.load_module", "run": None}, "x.y: run is null: give the folder of a finished run"),
        ({"_target_": "launch.runs.load_metric", "run": None, "metric": "a"}, "x.y: run is null"),
        ({"_target_": "launch.runs.load_datamodule", "run": "nowhere"}, "x.y: there is no run nowhere: it was moved or"),
        ({"_target_": "launch.runs.load_module", "run": "launch"}, "x.y: launch has no checkpoint 'last'"),
        ({"_target_": "launch.runs.load_module", "_args_": ["launch"]}, "x.y: give the arguments of launch.runs.load_module by name"),
    ],
)  # fmt: skip
def test_what_is_no_run_is_told_with_the_key_of_the_node(node, sentence):
    with pytest.raises(UserError, match=sentence):
        inputs_of({"x": {"y": node}})


@pytest.fixture
def proposer(classifier, tmp_path) -> Path:
    """A run that has saved proposals."""
    folder = shutil.copytree(classifier, tmp_path / "proposer")
    write_tiny(folder, pytest.MonkeyPatch())
    return folder


def test_proposals_of_a_run_or_a_file_are_read_and_their_origin_told(proposer):
    path = proposer / "proposals.safetensors"
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    of_file = {"file": "proposals.safetensors", "sha256": sha256}
    of_run = {"run": "proposer", "experiment": "resnet_digits", "iteration": 2}
    assert inputs_of({"x": node("proposals", proposer)}) == {"x": of_run | of_file}
    by_file = {"_target_": "launch.runs.load_proposals", "run": None, "file": str(path), "most": [7, 3]}
    assert inputs_of({"x": by_file}) == {"x": of_file}
    assert load_proposals(str(proposer)).listed["train"][0].tolist() == list(range(1, 9))
    assert load_proposals(file=str(path), most=[7, 3]).most == (7, 3)


def test_a_run_without_proposals_and_one_of_two_that_is_none_are_told(classifier, proposer):
    expected = (
        f"x: the run {classifier} has no proposals.safetensors: python evaluate.py run={classifier} callbacks=saved"
    )
    with pytest.raises(UserError, match=expected):
        inputs_of({"x": node("proposals", classifier)})
    with pytest.raises(UserError, match="x: run and file are both null: give the folder of a finished run that has"):
        inputs_of({"x": {"_target_": "launch.runs.load_proposals", "run": None}})
    with pytest.raises(UserError, match="x: run is .* and file is here: give the folder"):
        inputs_of({"x": node("proposals", proposer, file="here")})
    with pytest.raises(UserError, match="x: there is no file of proposals here: give the path of one"):
        inputs_of({"x": {"_target_": "launch.runs.load_proposals", "file": "here"}})


def test_proposals_that_are_others_now_are_told():
    before = {"a": {"file": "p.safetensors", "sha256": "0" * 64}}
    (told,) = changed_inputs(before, {"a": {"file": "p.safetensors", "sha256": "1" * 64}})
    assert told == "a: p.safetensors is no longer what it was: its sha256 was 000000000000... and is 111111111111...."
    of_run = {"run": "r", "file": "p.safetensors", "sha256": "0" * 64}
    (told,) = changed_inputs({"a": of_run}, {"a": of_run | {"iteration": 3}})
    assert told.startswith("a: the run r is no longer what it was: its iteration was None and is 3")


def test_a_run_that_was_trained_on_what_is_tested_here_is_told(classifier, tmp_path):
    """Where the data have no test of their own, and whichever way it comes in."""
    ways = {
        "init_from": [f"init_from={classifier}"],
        "callbacks.averaged_predictions.others.runs": [
            "callbacks=[default,averaged_predictions]",
            f"callbacks.averaged_predictions.others.runs=[{classifier}]",
        ],
    }
    for key, words in ways.items():
        job = compose_job("train", [*CLASSIFIER, *words, "datamodule.split_seed=1"], str(tmp_path))
        sentence = f"{key}: the run {classifier} has datamodule.split_seed=0 and this one 1, so that it was trained on"
        with pytest.raises(UserError, match=re.escape(sentence)):
            build(job)
        assert not [*of_another_split(job, MNISTDataModule(".", batch_size=2), trains=True)]  # with a test of its own
        same = job | {"datamodule": job["datamodule"] | {"split_seed": 0}}
        assert not [*of_another_split(same, DigitsDataModule(batch_size=2), trains=True)]
        others = job | {"datamodule": job["datamodule"] | {"_target_": "elsewhere"}}
        assert not [*of_another_split(others, DigitsDataModule(batch_size=2), trains=True)]
    measured = compose_job("train", [*CLASSIFIER, *ways["init_from"], "datamodule.split_seed=1"], str(tmp_path))
    assert not [*of_another_split(measured, DigitsDataModule(batch_size=2), trains=False)]
    assert not [*of_another_split(measured | {"init_from": "elsewhere"}, DigitsDataModule(batch_size=2), trains=True)]


def test_a_checkpoint_that_does_not_exist_is_told(classifier):
    with pytest.raises(UserError, match="x: .* has no checkpoint 'best'; known: last"):
        inputs_of({"x": node("module", classifier, checkpoint="best")})


def test_an_argument_that_does_not_exist_is_told_by_the_check(classifier, tmp_path):
    config = asking_for_a_network(tmp_path, classifier)
    config["lightning_module"]["network"] = node("module", classifier, prt="network")
    expected = r"lightning_module.network \(launch.runs.load_module\) has no key 'prt'; did you mean 'part'"
    with pytest.raises(UserError, match=expected):
        check_config(config, TrainConfig)


def test_inputs_that_are_others_now_are_no_change():
    before = {"a": {"run": "x", "checkpoint": "last.ckpt", "iteration": 1}, "gone": {"run": "y"}}
    assert not [
        *changed_inputs(before, {"a": {"run": "z", "checkpoint": "last.ckpt", "iteration": 2}, "new": {"run": "y"}})
    ]
    assert not [*changed_inputs(before, before)]


# --- security ------------------------------------------------------------------------------------------------


def test_a_config_from_elsewhere_may_ask_for_runs_and_they_are_held_to_the_same_rule(classifier, tmp_path):
    check_targets(
        {"x": node("module", "a"), "y": [node("datamodule", "a")], "z": node("metric", "a", metric="b")}, "it"
    )
    assert set(FUNCTIONS) == {*ORIGINS, SEVERAL}
    assert all(callable(getattr(runs, it.removeprefix("launch.runs."))) for it in FUNCTIONS)
    for other in (
        "launch.runs.load_run",
        "launch.runs.load_checkpoint",
        "launch.resume.load_module",
        "launch.inputs.inputs_of",
    ):
        with pytest.raises(UserError, match="which a run's config may not name"):
            check_targets({"x": {"_target_": other}}, "it")

    copy = shutil.copytree(classifier, tmp_path / "copy")
    path = copy / ".hydra" / "config.yaml"
    harm = "callbacks:\n  harm: {_target_: os.mkdir, path: " + str(tmp_path / "trace") + "}\n"
    path.write_text(path.read_text().replace("callbacks:\n", harm, 1))
    with pytest.raises(UserError, match="callbacks.harm._target_ is 'os.mkdir'"):
        load_module(str(copy))
    assert not (tmp_path / "trace").exists()
