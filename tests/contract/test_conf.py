"""What every file of conf/ promises. A new method adds files, and nothing here.

The overrides with which an experiment runs in seconds stand as TINY beside its method's test, tiny files in a
data set's real format are made by ``write_tiny`` beside its DataModule's test.
"""

import importlib
import json
from collections import ChainMap
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from finished.results import load_experiments
from foundation.metrics import STAGES
from foundation.protocols import said
from foundation.published import TRAIN_SET, figures_of
from foundation.security import check_targets
from launch.command_line import CONF, check_command_line, compose_job
from launch.config_check import TrainConfig, check_config
from launch.declared import Parts
from launch.parts_check import metrics_of_run
from launch.runs import build, instantiate, load_run, with_classes
from tests.contract.missing import experiment_of_sweep

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@cache
def composed(experiment: str) -> dict[str, Any]:
    return compose_job("train", [f"experiment={experiment}"])


def text_of(experiment: str) -> str:
    return (CONF / "experiment" / f"{experiment}.yaml").read_text()


@cache
def data_of(option: str) -> tuple[str, str]:
    """Name and test split of a choice of data."""
    node: Any = OmegaConf.load(CONF / "datamodule" / f"{option}.yaml")
    kind = get_object(node.get("_target_") or "datamodules.image_folder.ImageFolderDataModule")
    return node.get("name") or kind.name, kind.test_name


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
class TestExperiment:
    def test_passes_the_check(self, experiment):
        check_config(composed(experiment), TrainConfig)

    def test_is_named_after_its_file_and_cites_its_paper(self, experiment):
        config = composed(experiment)
        assert config["name"] == experiment
        assert config["paper"]["id"]

    def test_a_figure_of_the_paper_is_of_the_experiment_s_own_data_and_settings(self, experiment):
        config = composed(experiment)
        for it in figures_of(config["paper"]):
            assert None not in (it.metric, it.data, it.split), it
            if (it.data, it.split) not in [data_of(option) for option in options("datamodule")]:
                assert it.value != config["paper"]["value"], f"{it} is on no data of conf/datamodule"
                continue  # stands on the page alone
            if it.as_filed:
                assert it.is_of(config), it
                continue
            asked = [f"{key}={json.dumps(value)}".replace('"', "") for key, value in it.where.items()]
            of_it = compose_job("train", [f"experiment={experiment}", *asked])
            parts = Parts.of(of_it, device="meta")
            assert it.is_of(of_it), it
            logged = it.metric in parts.metrics() or parts.direction(str(it.metric))
            assert logged or it.metric.endswith("_runs"), it  # of several runs, which evaluate.py is given

    def test_figures_of_the_experiment_that_it_builds_on_are_not_its_own_unseen(self, experiment):
        own = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")
        builds_on = [it for it in own.defaults if isinstance(it, str)]
        if any(composed(it)["paper"].get("figures") for it in builds_on):
            assert "figures" in own.paper, "say its own, or figures: null"

    def test_has_what_every_run_has(self, experiment):
        always = {"checkpoint", "progress", "run_record", "throughput", "learning_rates", "nan_guard"}
        assert always <= composed(experiment)["callbacks"].keys()
        assert composed(experiment)["trainer"]["inference_mode"] is False
        assert composed(experiment)["trainer"]["use_distributed_sampler"] is False

    def test_names_no_hardware_logger_or_launcher(self, experiment):
        text = text_of(experiment)
        for group in ("trainer", "logger", "launcher", "hydra"):
            assert f"override /{group}" not in text
        assert len(text.splitlines()) <= 25

    def test_its_runs_are_read_again(self, experiment):
        """What a saved config may name holds all that this one names."""
        check_targets(composed(experiment), experiment)

    def test_is_built_at_its_real_size(self, experiment):
        with torch.device("meta"):
            module = instantiate(with_classes(composed(experiment)["lightning_module"], 3))
        assert sum(parameter.numel() for parameter in module.parameters()) > 0
        assert all(parameter.is_meta for parameter in module.parameters())

    def test_trains_two_steps_and_logs_what_it_declares(self, experiment, tmp_path, monkeypatch):
        config = compose_job("train", tiny_overrides(experiment, tmp_path, monkeypatch), str(tmp_path / "run"))
        check_config(config, TrainConfig)
        run = build(config)
        run.trainer.fit(run.module, datamodule=run.datamodule)
        logged = set(run.trainer.callback_metrics)
        run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
        logged |= set(run.trainer.callback_metrics)
        assert run.trainer.global_step == 2
        assert logged == metrics_of_run(run.module, run.datamodule, run.callbacks).keys()
        assert {key.partition("/")[0] for key in logged} <= {*STAGES, TRAIN_SET}
        assert_told_apart(config, run)

        checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        assert checkpoint["global_step"] == 2
        assert checkpoint["state_dict"].keys() == run.module.state_dict().keys()
        (tmp_path / "run" / ".hydra").mkdir()
        saved = OmegaConf.to_yaml(OmegaConf.create(config)).replace(str(tmp_path / "run"), "${paths.run_dir}")
        (tmp_path / "run" / ".hydra" / "config.yaml").write_text(saved)
        module, _, _ = load_run(tmp_path / "run")  # as its folder may be given to somebody else
        assert module.state_dict().keys() == checkpoint["state_dict"].keys()


def assert_told_apart(config: dict[str, Any], run: Any) -> None:
    """Of what a sweep or a page calls the best, one of two values is the better one."""
    unavailable = [said(it, "unavailable_metrics")(run.module, stage) for it in run.callbacks for stage in STAGES]
    directions = ChainMap(metrics_of_run(run.module, run.datamodule, run.callbacks), *unavailable)
    for metric in (config["optimized_metric"], config["paper"]["metric"]):
        assert metric is None or directions[metric] in ("max", "min")


def tiny_overrides(experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two steps of an experiment at the size of its method's TINY, on tiny files."""
    config = composed(experiment)
    method = config["lightning_module"]["_target_"].split(".")[1]
    *room, file, _ = config["datamodule"]["_target_"].split(".")
    tests_of_data = importlib.import_module(".".join(["tests", *room, f"test_{file}"]))
    if hasattr(tests_of_data, "write_tiny"):
        tests_of_data.write_tiny(tmp_path / "data", monkeypatch)
    tiny = importlib.import_module(f"tests.lightning_modules.test_{method}").TINY[experiment]
    steps = ["trainer=cpu", "trainer.max_steps=2", "trainer.log_every_n_steps=1"]
    if config["trainer"]["val_check_interval"]:
        steps.append("trainer.val_check_interval=1")
    places = [f"paths.{name}_dir={tmp_path / name}" for name in ("data", "cache")]
    return [f"experiment={experiment}", "logger=none", *steps, *tiny, *places]


@pytest.mark.parametrize(
    ("group", "option"),
    [(group, option) for group in ("trainer", "logger", "debug", "callbacks") for option in options(group)],
)
def test_every_option_composes_with_every_experiment(group, option):
    chosen = composed("infogan_digits")["callbacks"].keys() - {option}
    choice = f"[{','.join([*sorted(chosen), option])}]" if group == "callbacks" else option
    monitored = "optimized_metric=val/cluster_accuracy"
    config = compose_job("train", [f"{group}={choice}", "experiment=infogan_digits", monitored])
    check_config(config, TrainConfig)


@pytest.mark.parametrize("launcher", options("launcher"))
@pytest.mark.parametrize("sweep", options("sweep"))
def test_every_launcher_composes_with_every_sweep(sweep, launcher):
    experiment = experiment_of_sweep(sweep, CONF.parent, load_experiments(CONF))
    has_its_own = "override /experiment" in (CONF / "sweep" / f"{sweep}.yaml").read_text()  # or several
    named = [] if has_its_own else [f"experiment={experiment}"]
    choices = [*named, f"sweep={sweep}", f"launcher={launcher}"]
    assert len(check_command_line("train", [*choices, "trainer=cpu"])) > 1
