"""What becomes of a job that fails, and what a study may go on with. No training."""

import json
import math
import os
import signal
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from hydra.types import RunMode
from hydra_plugins.hydra_optuna_sweeper.config import Direction
from omegaconf import OmegaConf

from foundation.errors import UserError
from launch import sweeps
from launch.command_line import compose_job

TRAINER = {"strategy": "auto", "devices": 1, "num_nodes": 1}


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Of a job in a sweep; run_job then sees that sweep."""
    job = OmegaConf.create({"overrides": {"task": ["seed=1", "launcher=joblib"], "hydra": []}, "sweeper": {}})
    hydra = SimpleNamespace(mode=RunMode.MULTIRUN, overrides=job.overrides, sweeper=job.sweeper)
    monkeypatch.setattr(sweeps.HydraConfig, "get", lambda: hydra)
    paper = {"metric": "test/accuracy"}
    paths = {"run_dir": str(tmp_path)}
    return {"name": "it", "seed": 1, "optimized_metric": None, "paper": paper, "paths": paths, "trainer": TRAINER}


def record(folder):
    return json.loads((folder / "record.json").read_text())


def measure(folder, judges=None, **metrics):
    (folder / "record.json").write_text(json.dumps({"status": "finished", "metrics": metrics, "judges": judges or {}}))


def test_a_job_gives_the_metric_of_its_record_under_its_own_command(config, tmp_path):
    before, seen = sys.argv, []

    def train(config):
        seen.extend(sys.argv)
        measure(tmp_path, **{"test/accuracy": 0.5, "train/loss": 1.0})

    assert sweeps.run_job(train, config) == 0.5
    assert seen == [str(sweeps.TRAIN), "seed=1"]
    assert sys.argv is before


def test_a_job_s_own_command_looks_for_files_where_the_sweep_does(config, tmp_path):
    sweeps.HydraConfig.get().overrides.hydra = ["hydra.searchpath=['file:///own']", "hydra.mode=MULTIRUN"]
    seen = []
    sweeps.run_job(lambda config: (seen.extend(sys.argv), measure(tmp_path, **{"test/accuracy": 0.5})), config)
    assert seen == [str(sweeps.TRAIN), "hydra.searchpath=['file:///own']", "seed=1"]


@pytest.mark.parametrize(("names", "name"), [({"a"}, "a"), ({"a", "b"}, "several"), (set(), "default")])
def test_jobs_of_several_experiments_lie_in_one_folder(names, name):
    hydra = {"sweep": {"dir": "it's/${name}"}, "overrides": {"hydra": ["hydra.mode=MULTIRUN"]}}
    config = OmegaConf.create({"name": "default", "hydra": hydra})
    assert str(sweeps.keep_together(config, names)) == f"it's/{name}"
    assert config.hydra.overrides.hydra[1:] == [f"hydra.sweep.dir='it\\'s/{name}'"]


def test_a_failed_job_gives_nan_and_a_record_with_its_traceback(config, tmp_path):
    def train(config):
        raise ZeroDivisionError("of my own")

    assert math.isnan(sweeps.run_job(train, config))
    failed = record(tmp_path)
    assert failed["status"] == "failed"
    assert failed["error"] == "ZeroDivisionError: of my own"
    assert 'raise ZeroDivisionError("of my own")' in failed["traceback"]
    assert (failed["experiment"], failed["seed"], failed["config"]["paper"]) == ("it", 1, config["paper"])


def test_a_figure_that_nothing_counts_for_is_no_failure(config, tmp_path):
    figures = {"test/accuracy": 0.5, "test/map_large": math.nan, "train/loss": 1.0}
    assert sweeps.run_job(lambda config: measure(tmp_path, **figures), config) == 0.5
    assert record(tmp_path)["status"] == "finished"


@pytest.mark.parametrize(("judge", "status"), [({"left_out": "no weights"}, "finished"), ({"judge": {}}, "failed")])
def test_a_job_whose_judge_was_left_out_is_finished_without_its_metric(config, tmp_path, judge, status):
    value = sweeps.run_job(lambda config: measure(tmp_path, {"score": judge}, **{"train/loss": 1.0}), config)
    assert value is None or math.isnan(value)
    assert record(tmp_path)["status"] == status


def test_a_mistake_told_in_a_sentence_is_a_failure(config, tmp_path, capsys):
    def train(config):
        raise UserError("Nothing fits.")

    assert math.isnan(sweeps.run_job(train, config))
    assert (record(tmp_path)["status"], record(tmp_path)["error"]) == ("failed", "Nothing fits.")
    assert capsys.readouterr().err == "error: Nothing fits.\n"


@pytest.mark.parametrize("metrics", [{"test/accuracy": math.nan}, {"test/accuracy": 0.1, "train/loss": math.nan}])
def test_a_job_that_turns_nan_is_a_failure(config, tmp_path, metrics):
    assert math.isnan(sweeps.run_job(lambda config: measure(tmp_path, **metrics), config))
    assert record(tmp_path)["status"] == "failed"
    assert "is not a number" in record(tmp_path)["error"]


def test_optuna_is_told_of_a_failure_by_an_error(config, tmp_path):
    sweeps.HydraConfig.get().sweeper.storage = "sqlite:///it.db"
    with pytest.raises(sweeps.JobFailed):
        sweeps.run_job(lambda config: measure(tmp_path, **{"test/accuracy": math.nan}), config)


@pytest.mark.parametrize("stop", [SystemExit(130), KeyboardInterrupt()])
def test_being_asked_to_stop_stops_the_sweep(config, stop):
    def train(config):
        raise stop

    with pytest.raises(type(stop)):
        sweeps.run_job(train, config)


def test_a_single_run_is_left_alone(config):
    sweeps.HydraConfig.get().mode = RunMode.RUN
    with pytest.raises(UserError, match="its own"):
        sweeps.run_job(lambda config: (_ for _ in ()).throw(UserError("its own")), config)


def test_what_takes_denormals_otherwise_than_a_job_before_gets_its_own_process(config, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "FLUSHED_HERE", set())
    where = []
    monkeypatch.setattr(sweeps, "train_in_own_process", lambda folder: where.append("own"))
    for flush in (True, True, False, True):
        measure(tmp_path)
        sweeps.run_job(lambda config: where.append("here"), config | {"flush_denormals": flush})
    assert where == ["here", "here", "own", "here"]


def test_what_has_several_ranks_gets_its_own_process():
    assert not sweeps.on_several_ranks(TRAINER)
    for change in ({"strategy": {"_target_": "DDPStrategy"}}, {"devices": -1}, {"devices": "auto"}, {"num_nodes": 2}):
        assert sweeps.on_several_ranks(TRAINER | change)


def test_the_command_of_a_job_is_no_sweep():
    assert sweeps.job_arguments(["seed=1", "launcher=joblib"]) == ["seed=1"]
    assert sweeps.job_arguments(["sweep=it", "seed=1"]) == ["sweep=it", "seed=1", "hydra.mode=RUN"]


def own_process(monkeypatch, tmp_path, lines):
    program = tmp_path / "program.py"
    program.write_text(lines)
    monkeypatch.setattr(sys, "argv", [str(program)])


def test_a_process_that_fails_leaves_what_it_said(monkeypatch, tmp_path, capsys):
    own_process(monkeypatch, tmp_path, "import sys; sys.exit('one\\ntwo')")
    with pytest.raises(sweeps.OwnProcessFailed) as failed:
        sweeps.train_in_own_process(tmp_path / "it's")
    assert (failed.value.said, failed.value.last_line) == ("one\ntwo\n", "two")
    assert capsys.readouterr().err == "one\ntwo\n"


def test_a_process_that_was_asked_to_stop_stops_the_sweep(monkeypatch, tmp_path):
    own_process(monkeypatch, tmp_path, "import sys; sys.exit(143)")
    with pytest.raises(SystemExit) as stopped:
        sweeps.train_in_own_process(tmp_path)
    assert stopped.value.code == 143


def test_a_signal_to_the_sweep_is_handed_to_the_job_and_stops_both(monkeypatch, tmp_path):
    own_process(
        monkeypatch,
        tmp_path,
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\ntime.sleep(60)\n",
    )
    before = signal.getsignal(signal.SIGINT)  # a shell that starts the tests in the background has it ignored

    def interrupt():
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SystemExit) as stopped:
        sweeps.train_in_own_process(tmp_path)
    assert stopped.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before


def search(direction: object) -> Any:
    """Hydra's config of a search, as far as its direction goes."""
    return OmegaConf.create({"hydra": {"sweeper": {"direction": direction}}}, flags={"allow_objects": True})


CLUSTERS = ["sweep=infogan_digits"]
ERROR = ["experiment=resnet_digits", "datamodule.val_size=9", "optimized_metric=val/error"]


@pytest.mark.parametrize(
    ("task", "asked", "direction"),
    [(CLUSTERS, None, "maximize"), (ERROR, None, "minimize"), (CLUSTERS, "maximize", "maximize"),
     (ERROR, Direction.minimize, "minimize")],
)  # fmt: skip
def test_a_search_looks_for_the_better_values_of_its_metric(task, asked, direction):
    config = search(asked)
    sweeps.follow_metric(config, compose_job("train", task))
    assert config.hydra.sweeper.direction == direction


@pytest.mark.parametrize(
    ("task", "asked", "sentence"),
    [
        (
            CLUSTERS,
            Direction.minimize,
            "direction is minimize, and of val/cluster_accuracy the larger is better: set hydra",
        ),
        (ERROR, "maximize", "direction is maximize, and of val/error the smaller is better: set .*=minimize, or"),
        ([*CLUSTERS, "optimized_metric=val/cluster_acuracy"], None, "which nothing in this run logs: .* did you mean"),
        (
            [*CLUSTERS, "optimized_metric=train/lr_d"],
            None,
            "optimized_metric is train/lr_d, of which neither larger nor smaller",
        ),
    ],
)
def test_a_search_for_the_worst_is_refused_before_it_starts(task, asked, sentence):
    with pytest.raises(UserError, match=sentence):
        sweeps.follow_metric(search(asked), compose_job("train", task))


def test_a_study_goes_on_in_its_direction(tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(study_name="study", storage=storage, direction="minimize")
    sweeper = {"study_name": "study", "storage": storage, "direction": "maximize"}
    with pytest.raises(UserError, match="Study study was begun to minimize its metric, and now it is to maximize it"):
        sweeps.go_on_with_study(OmegaConf.create({"hydra": {"sweeper": sweeper}}))


def test_a_study_is_of_one_setting():
    before = {"sweep": "it", "seed": "1", "trainer": "cpu", "datamodule.batch_size": "32"}
    same = ["sweep=it", "seed=1", "trainer=ddp", "datamodule.batch_size=32", "+a=interval(0,1)", "b=1,2"]
    sweeps.check_same_study("study", before, same)
    with pytest.raises(UserError, match="Study study was begun with seed=1, and now it is 2: give this one a name"):
        sweeps.check_same_study("study", before, [*same, "seed=2"])
    with pytest.raises(UserError, match=r"begun with c=\(not given\), and now it is 3"):
        sweeps.check_same_study("study", before, [*same, "c=3"])


def ending(monkeypatch, folder, error=None):
    monkeypatch.setattr(sweeps.SweepStart, "folder", folder)
    with sweeps.ending_with_a_table():
        if error:
            raise error


@pytest.mark.parametrize(("status", "code"), [("finished", None), ("failed", 1), ("interrupted", 1)])
def test_a_sweep_ends_as_its_jobs_did(monkeypatch, tmp_path, status, code, capsys):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    (tmp_path / "0" / "record.json").write_text(json.dumps({"status": status, "metrics": {}}))
    if code is None:
        ending(monkeypatch, tmp_path)
    else:
        with pytest.raises(SystemExit) as ended:
            ending(monkeypatch, tmp_path)
        assert ended.value.code == code
    assert f"1 jobs: 1 {status}" in capsys.readouterr().out


def test_what_an_earlier_command_has_left_does_not_fail_this_one(monkeypatch, tmp_path):
    """A study that was killed once has the dead trial's folder for ever."""
    for name, status in {"0": "interrupted", "1": "finished"}.items():
        (tmp_path / name / ".hydra").mkdir(parents=True)
        (tmp_path / name / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
        (tmp_path / name / "record.json").write_text(json.dumps({"status": status, "metrics": {}}))
    former = sweeps.begun_at(tmp_path)
    monkeypatch.setattr(sweeps.SweepStart, "former", former)
    ending(monkeypatch, tmp_path)
    os.utime(tmp_path / "0" / ".hydra" / "overrides.yaml")  # begun again by this command, and stopped again
    with pytest.raises(SystemExit) as ended:
        ending(monkeypatch, tmp_path)
    assert ended.value.code == 1


def test_ctrl_c_ends_with_the_table_and_its_own_code(monkeypatch, tmp_path, capsys):
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "0" / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    with pytest.raises(SystemExit) as ended:
        ending(monkeypatch, tmp_path, KeyboardInterrupt())
    assert ended.value.code == 130
    assert "1 jobs: 1 interrupted" in capsys.readouterr().out
    with pytest.raises(KeyboardInterrupt):
        ending(monkeypatch, None, KeyboardInterrupt())
