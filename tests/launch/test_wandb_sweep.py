"""The command that an agent of docs/wandb_sweep.yaml starts, made as wandb makes it, checked and run."""

import csv
from pathlib import Path

import yaml

import train
from launch.command_line import check_command_line, compose_job
from launch.declared import Parts
from tests.lightning_modules.test_infogan import TINY

SWEEP = yaml.safe_load(Path("docs/wandb_sweep.yaml").read_text())


def arguments(pick) -> list[str]:
    """${args_no_hyphens}: key=value for each parameter, with a value out of its choices or range."""
    return [f"{key}={pick(space)}" for key, space in SWEEP["parameters"].items()]


def first(space):
    return space.get("value", space.get("values", [space.get("min")])[0])


def last(space):
    return space.get("value", space.get("values", [space.get("max")])[-1])


def test_the_command_is_train_py_with_hydra_s_overrides():
    assert SWEEP["command"] == ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"]
    assert Path(SWEEP["program"]).exists()


def test_every_end_of_the_search_space_passes_the_check():
    for pick in (first, last):
        (config,) = check_command_line("train", arguments(pick))
        assert config["optimized_metric"] == SWEEP["metric"]["name"]


def test_its_goal_is_the_metric_s_direction():
    (config,) = check_command_line("train", arguments(first))
    direction = Parts.of(config).direction(SWEEP["metric"]["name"])
    assert {"max": "maximize", "min": "minimize"}[str(direction)] == SWEEP["metric"]["goal"]


def test_a_job_runs_and_logs_what_the_sweep_optimises(tmp_path):
    tiny = ["trainer=cpu", "logger=csv", "trainer.max_steps=2", "trainer.val_check_interval=1", *TINY["infogan_digits"]]
    found = train.train(compose_job("train", [*arguments(first), *tiny], str(tmp_path)))
    assert found is not None
    assert 0 < found < 1
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert any(row[SWEEP["metric"]["name"]] for row in csv.DictReader(file))
