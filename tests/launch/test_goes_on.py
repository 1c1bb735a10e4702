"""Which folder the same command goes on in. No training."""

import json
import os
import platform

import pytest
from omegaconf import OmegaConf

from foundation.errors import UserError
from foundation.records import is_training, job_of_now, mark_of
from launch.command_line import compose_job
from launch.goes_on import begun, is_finished, is_single, job_is_begun, no_empty_folder
from launch.resume import prepare

DEAD = 2**22 + 1  # above any process's number


def leave_run(folder, *words: str, **record) -> None:
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(list(words)), folder / ".hydra" / "overrides.yaml")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    told = {"status": "running", "host": platform.node(), "pid": DEAD, "overrides": list(words)} | record
    (folder / "record.json").write_text(json.dumps(told))


@pytest.fixture
def config(tmp_path):
    return compose_job("train", [f"paths.output_dir={tmp_path}"], str(tmp_path / "none"))


def test_a_command_that_names_its_folder_goes_on_there(tmp_path, config):
    place = f"hydra.run.dir={tmp_path / 'mine'}"
    assert begun(["seed=1", place], config) is None
    leave_run(tmp_path / "mine", "trainer=cpu", "seed=1")
    assert begun([place, "seed=1", "trainer=cpu"], config) == tmp_path / "mine"
    assert not is_finished(tmp_path / "mine")
    with pytest.raises(UserError, match=r"mine holds a run of another command \(trainer=cpu seed=1\): name another"):
        begun([place, "seed=2"], config)
    (tmp_path / "mine" / "checkpoints" / "last.ckpt").unlink()
    assert begun([place, "seed=1", "trainer=cpu"], config) is None  # nothing was trained there


def test_one_that_is_being_trained_is_left_alone(tmp_path, config):
    mine = {"pid": os.getpid(), "process": mark_of(os.getpid())}
    leave_run(tmp_path / "mine", **mine)
    with pytest.raises(UserError, match=f"is being trained by process {os.getpid()}"):
        begun([f"hydra.run.dir={tmp_path / 'mine'}"], config)
    record = {"status": "running", "host": platform.node(), **mine}
    assert is_training(record)
    assert not is_training(record | {"process": "another boot 17"})  # a container's first process, started again


@pytest.mark.parametrize("again", [{}, {"SLURM_RESTART_COUNT": "1"}])
def test_a_job_that_slurm_puts_back_finds_its_run(tmp_path, config, monkeypatch, again):
    folder = tmp_path / "infogan_digits"
    leave_run(folder / "before", "seed=1", job="slurm 7", started_at="2026-01-01")
    leave_run(folder / "own", "seed=1", job="slurm 8", started_at="2026-01-01")
    leave_run(folder / "other", "seed=2", job="slurm 8", started_at="2026-01-02")
    assert begun(["seed=1"], config) is None
    for name, value in {"SLURM_JOB_ID": "8", "SLURM_JOB_NAME": "train.sh", **again}.items():
        monkeypatch.setenv(name, value)
    assert begun(["seed=1"], config) == folder / "own"
    assert begun(["seed=3"], config) is None
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert job_of_now() is None  # at a prompt the same command again is another run


def test_a_sweep_s_job_goes_on_and_another_sweep_s_is_refused(tmp_path):
    assert not job_is_begun(tmp_path / "0", ["seed=1"])
    leave_run(tmp_path / "0", "seed=1", "trainer=cpu", status="interrupted")
    assert job_is_begun(tmp_path / "0", ["trainer=cpu", "seed=1", "launcher=joblib"])
    with pytest.raises(UserError, match="holds a job of another sweep, which differs in seed: name another folder"):
        job_is_begun(tmp_path / "0", ["trainer=cpu", "seed=2"])


def test_one_run_is_told_from_a_sweep():
    assert is_single(["seed=1"])
    assert is_single(["sweep=infogan_digits", "hydra.mode=RUN"])
    assert not any(is_single([it]) for it in ("-m", "--multirun", "sweep=infogan_digits", "hydra.mode=MULTIRUN"))


def test_a_resumed_run_stays_in_its_folder(tmp_path):
    with pytest.raises(UserError, match="paths.run_dir=b: a resumed run stays in its folder"):
        prepare(str(tmp_path), ["paths.run_dir=b"])


def test_a_refused_command_leaves_no_empty_folder(tmp_path):
    for name in ("empty", "kept"):
        (tmp_path / name / ".hydra").mkdir(parents=True)
    (tmp_path / "kept" / "metrics.csv").touch()
    for name in ("empty", "kept"):
        with pytest.raises(UserError), no_empty_folder(tmp_path / name):
            raise UserError("no")
    assert [it.name for it in tmp_path.iterdir()] == ["kept"]
