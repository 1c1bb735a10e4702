"""Sweeps as a person starts them, in forks of a process that has torch; the ranks that they start import it anew."""

import csv
import json
import math
import platform
import shlex
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from tests.forks import run_in_fork
from tests.lightning_modules.test_infogan import TINY

ROOT = Path(__file__).resolve().parent.parent
FAIL = ["+callbacks.fail._target_=tests.failing.FailOnRank", "+callbacks.note._target_=tests.failing.NoteRank",
        "+callbacks.note.folder=${paths.run_dir}"]  # fmt: skip
SIZE = ["trainer.max_steps=6", "logger=none", *TINY["infogan_digits"], *FAIL]


def command(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def table_of(sweep: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((sweep / "sweep.csv").open(newline="")))


def records_of(sweep: Path) -> list[dict]:
    return [json.loads((Path(ROOT / row["folder"]) / "record.json").read_text()) for row in table_of(sweep)]


def sweep_on_ranks(folder: Path, *swept: str) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Rank 1 of the job with seed 3 fails in iteration 3."""
    done = run_in_fork("train.py", "-m", *swept, *SIZE, f"paths.output_dir={folder}", "+callbacks.fail.rank=1",
                       "+callbacks.fail.iteration=${seed}")  # fmt: skip
    (sweep,) = (folder / "sweeps" / "infogan_digits").iterdir()
    return sweep, done


def notes_of(sweep: Path) -> dict[str, dict]:
    return {it.parent.name + it.stem: json.loads(it.read_text()) for it in sweep.glob("*/rank*.json")}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A job on two ranks, and one on one rank, which has no rank 1 to fail."""
    return sweep_on_ranks(tmp_path_factory.mktemp("ranks"), "trainer=ddp_cpu,cpu", "seed=3")


def test_a_failed_rank_fails_its_job_and_no_other(ranks):
    sweep, done = ranks
    assert done.returncode == 1, done.stderr
    assert [it["status"] for it in table_of(sweep)] == ["failed", "finished"]
    failed, finished = records_of(sweep)
    assert (failed["status"], finished["status"]) == ("failed", "finished")
    assert "ArithmeticError: this rank was told to fail" in failed["traceback"]
    assert "ArithmeticError: this rank was told to fail" in done.stderr


def test_a_sweep_ends_with_its_table(ranks):
    sweep, done = ranks
    failed, finished = table_of(sweep)
    assert (failed["job"], failed["overrides"]) == ("0", "trainer=ddp_cpu")
    assert failed["metric"] == finished["metric"] == "test/cluster_accuracy"
    assert math.isnan(float(failed["value"]))
    assert 0 < float(finished["value"]) < 1
    assert "2 jobs: 1 failed, 1 finished" in done.stdout
    assert "trainer=ddp_cpu  nan " in done.stdout
    assert (sweep / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_the_ranks_of_a_job_train_the_same_in_one_folder(ranks):
    sweep, _ = ranks
    assert {it.name for it in sweep.iterdir()} == {"0", "1", "multirun.yaml", "sweep.csv", "sweep.png"}
    notes = notes_of(sweep)
    assert notes.keys() == {"0rank0", "0rank1", "1rank0"}
    assert {it["seed"] for it in notes.values()} == {3}
    assert {it["denormals_are_flushed"] for it in notes.values()} == {True}
    assert notes["0rank0"]["port"] == notes["0rank1"]["port"] is not None
    assert (sweep / "0" / ".hydra" / "overrides.yaml").exists()


def test_a_job_on_several_ranks_leaves_nothing_behind(ranks):
    sweep, _ = ranks
    assert notes_of(sweep)["1rank0"]["port"] is None
    alive = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(sweep) not in alive


def test_a_record_names_the_command_of_its_job_alone(ranks):
    first, second = (it["command"] for it in records_of(ranks[0]))
    assert first.startswith("train.py trainer=ddp_cpu seed=3 trainer.max_steps=6")
    place, subdir = shlex.split(first)[-2:]
    assert place.endswith("/0'")
    assert subdir == "hydra.output_subdir=null"
    assert second.startswith("train.py trainer=cpu seed=3 trainer.max_steps=6")


@pytest.mark.slow
def test_jobs_on_several_ranks_follow_one_that_failed(tmp_path):
    sweep, done = sweep_on_ranks(tmp_path, "trainer=ddp_cpu", "seed=99,3,98")
    assert done.returncode == 1
    assert [it["status"] for it in table_of(sweep)] == ["finished", "failed", "finished"]
    notes = notes_of(sweep)
    assert [notes[f"{job}rank{rank}"]["seed"] for job in range(3) for rank in range(2)] == [99, 99, 3, 3, 98, 98]
    assert len({it["port"] for it in notes.values()}) == 3
    assert len({it["threads"] for it in notes.values()}) == 1
    assert len({it["pid"] for it in notes.values()}) == 6


def leave_killed_job(folder: Path, seed: int) -> None:
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(f"- seed={seed}\n")
    record = {"status": "running", "pid": 2**22 + 1, "host": platform.node(), "metrics": {}, "overrides": []}
    (folder / "record.json").write_text(json.dumps(record))


def test_a_study_goes_on_where_it_was_killed(tmp_path):
    """Two trials are done, one was running; of four in all two are missing, of which one fails."""
    folder = tmp_path / "sweeps" / "infogan_digits" / "study"
    folder.mkdir(parents=True)
    words = ["trainer=cpu", *SIZE, "trainer.val_check_interval=6", f"paths.output_dir={tmp_path}",
             "+callbacks.fail.rank=0"]  # fmt: skip
    storage = f"sqlite:///{folder}/study.db"
    study = optuna.create_study(study_name="study", storage=storage, direction="maximize")
    rates = optuna.distributions.LogUniformDistribution(2e-4, 5e-3)
    keys = {"lightning_module.optimizer_g.lr": rates,
            "lightning_module.optimizer_d.lr": optuna.distributions.LogUniformDistribution(5e-5, 1e-3),
            "lightning_module.mutual_information_weight": optuna.distributions.LogUniformDistribution(0.1, 5.0),
            "+callbacks.fail.iteration": optuna.distributions.IntUniformDistribution(2, 12, step=10)}  # fmt: skip
    for value in (0.5, 0.6, None):
        trial = study.ask(keys)
        for word in ["sweep=infogan_digits", *words]:
            trial.set_user_attr(*word.replace("${paths.run_dir}", r"$\{paths.run_dir\}").split("=", 1))
        if value is not None:
            study.tell(trial, value)
    leave_killed_job(folder / "0", trial.number)
    done = run_in_fork("train.py", "sweep=infogan_digits", *words, "+callbacks.fail.iteration=range(2,12,10)",
                       "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.seed=1")  # fmt: skip
    assert "Study study: 2 of 4 trials are done" in done.stdout, done.stderr
    trials = optuna.load_study(study_name="study", storage=storage).trials
    states = [it.state.name for it in trials]
    assert states[:3] == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert sorted(states[3:]) == ["COMPLETE", "FAIL"]
    assert done.returncode == 1
    dead, *rows = table_of(folder)
    assert dead["status"] == "interrupted"
    assert [it["status"] for it in rows] == [{"COMPLETE": "finished", "FAIL": "failed"}[it] for it in states[3:]]
    assert {it["metric"] for it in rows} == {"val/cluster_accuracy"}
    notes = [json.loads((Path(it["folder"]) / "rank0.json").read_text()) for it in rows]
    assert [it["lr"] for it in notes] == [it.params["lightning_module.optimizer_g.lr"] for it in trials[3:]]
    assert (folder / "sweep.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_run_side_by_side(launcher, tmp_path):
    done = command("-m", f"launcher={launcher}", "seed=3,99", "trainer=cpu", *SIZE, f"paths.output_dir={tmp_path}",
                   "+callbacks.fail.rank=0", "+callbacks.fail.iteration=${seed}")  # fmt: skip
    assert done.returncode == 1, done.stderr
    (sweep,) = (tmp_path / "sweeps" / "infogan_digits").iterdir()
    assert [it["status"] for it in table_of(sweep)] == ["failed", "finished"]
    notes = [json.loads((sweep / job / "rank0.json").read_text()) for job in "01"]
    assert notes[0]["pid"] != notes[1]["pid"]
    failed, finished = records_of(sweep)
    assert "ArithmeticError: this rank was told to fail" in failed["traceback"]
    assert finished["command"].startswith("train.py seed=99 trainer=cpu")
