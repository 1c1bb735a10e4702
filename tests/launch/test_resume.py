"""What a resume makes of its words; that the numbers go on is tests/test_resume.py's."""

import json
import os
import platform

import pytest
import torch
from omegaconf import OmegaConf

from foundation.errors import UserError
from launch.command_line import compose_job, split_arguments
from launch.resume import newest_unfinished, note_command, prepare


def write_run(folder, status="interrupted", started_at="2026-01-01", checkpoint=True, overrides=(), alive=False):
    (folder / ".hydra").mkdir(parents=True)
    config = compose_job("train", list(overrides), str(folder))
    OmegaConf.save(OmegaConf.create(config), folder / ".hydra" / "config.yaml")
    OmegaConf.save(OmegaConf.create(list(overrides)), folder / ".hydra" / "overrides.yaml")
    record = {
        "status": status,
        "started_at": started_at,
        "pid": os.getpid(),
        "host": platform.node() if alive else "elsewhere",
    }
    (folder / "record.json").write_text(json.dumps(record))
    (folder / "checkpoints").mkdir()
    if checkpoint:
        state = {"state_dict": {}, "loops": {}, "optimizer_states": [], "global_step": 50}
        torch.save(state, folder / "checkpoints" / "last.ckpt")
    return folder


def test_resume_is_taken_out_of_the_words():
    assert split_arguments(["seed=1", "resume=a/b", "x=y"]) == ("a/b", ["seed=1", "x=y"])
    assert split_arguments(["seed=1"]) == (None, ["seed=1"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["resume=a", "-m"], "leave out -m"),
        (["resume=a", "--cfg", "job"], "resume= takes settings alone: leave out --cfg"),
        (["resume=a", "hydra.run.dir=b"], "hydra.run.dir=b: a resumed run goes on in its own folder"),
        (["resume="], "names one folder"),
        (["resume=a", "resume=b"], "names one folder"),
    ],
)
def test_words_that_make_no_sense_are_told(words, sentence):
    with pytest.raises(UserError, match=sentence):
        split_arguments(words)


def test_a_run_of_an_experiment_of_one_s_own_goes_on_with_other_settings(tmp_path):
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    lines = "# @package _global_\ndefaults:\n  - infogan_digits\nname: mine\n"
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(lines)
    places = [f"hydra.searchpath=['file://{tmp_path}/own']"]
    run = write_run(tmp_path / "a=b (ü)", overrides=[*places, "experiment=mine"])
    OmegaConf.save(OmegaConf.create(["experiment=mine"]), run / ".hydra" / "overrides.yaml")
    of_hydra = OmegaConf.create({"hydra": {"overrides": {"hydra": [*places, "hydra.mode=RUN"]}}})
    OmegaConf.save(of_hydra, run / ".hydra" / "hydra.yaml")
    config, _ = prepare(str(run), ["datamodule.eval_batch_size=7"])
    assert (config["name"], config["datamodule"]["eval_batch_size"]) == ("mine", 7)


def test_the_run_s_own_config_has_its_way_but_for_what_is_overridden_now(tmp_path):
    run = write_run(tmp_path / "run", overrides=["datamodule.batch_size=32", "seed=3"])
    saved = OmegaConf.load(run / ".hydra" / "config.yaml")
    saved.lightning_module.noise_size = 17  # as if the defaults had changed since
    OmegaConf.save(saved, run / ".hydra" / "config.yaml")
    config, _ = prepare(str(run), ["trainer=ddp_cpu", "datamodule.eval_batch_size=7"])
    assert config["datamodule"]["batch_size"] == 32
    assert config["datamodule"]["eval_batch_size"] == 7
    assert config["seed"] == config["datamodule"]["seed"] == 3
    assert config["lightning_module"]["noise_size"] == 17
    assert config["trainer"]["strategy"]["process_group_backend"] == "gloo"
    assert config["trainer"]["devices"] == 2
    assert config["paths"]["run_dir"] == str(run)


def test_a_key_overridden_before_can_be_overridden_again(tmp_path):
    run = write_run(tmp_path / "run", overrides=["trainer.max_steps=50"])
    assert prepare(str(run), [])[0]["trainer"]["max_steps"] == 50
    assert prepare(str(run), ["trainer.max_steps=70"])[0]["trainer"]["max_steps"] == 70


def test_what_earlier_resumes_were_given_still_holds(tmp_path):
    run = write_run(tmp_path / "run", overrides=["trainer.max_steps=50"])
    note_command(run, ["trainer.max_steps=90", "datamodule.eval_batch_size=7"])
    note_command(run, ["trainer.max_steps=80"])
    config = prepare(str(run), [])[0]
    assert (config["trainer"]["max_steps"], config["datamodule"]["eval_batch_size"]) == (80, 7)
    config = prepare(str(run), ["datamodule.eval_batch_size=9"])[0]
    assert (config["trainer"]["max_steps"], config["datamodule"]["eval_batch_size"]) == (80, 9)
    assert len(list((run / "resumes").iterdir())) == 2  # a command is noted when its run is taken up


def test_latest_is_the_newest_that_did_not_finish(tmp_path):
    folder = tmp_path / "infogan_digits"
    write_run(folder / "a", started_at="2026-01-01")
    write_run(folder / "b", started_at="2026-01-03", status="running")
    write_run(folder / "c", started_at="2026-01-04", status="finished")
    write_run(folder / "d", started_at="2026-01-05", checkpoint=False)
    write_run(folder / "e", started_at="2026-01-06", status="running", alive=True)
    assert newest_unfinished([f"paths.output_dir={tmp_path}"]) == folder / "b"
    with pytest.raises(UserError, match="holds no unfinished run of infogan_mnist"):
        newest_unfinished([f"paths.output_dir={tmp_path}", "experiment=infogan_mnist"])


def test_a_run_without_a_checkpoint_is_told(tmp_path):
    run = write_run(tmp_path / "run", checkpoint=False)
    with pytest.raises(UserError, match="has no checkpoint 'last'"):
        prepare(str(run), [])


def test_what_cannot_go_on_is_told(tmp_path):
    finished = write_run(tmp_path / "finished", status="finished", overrides=["trainer.max_steps=50"])
    with pytest.raises(UserError, match="is finished after 50 iterations: set trainer.max_steps above 50"):
        prepare(str(finished), [])
    assert prepare(str(finished), ["trainer.max_steps=60"])[0]["trainer"]["max_steps"] == 60
    begun = write_run(tmp_path / "begun", overrides=["trainer.max_steps=70"])
    with pytest.raises(UserError, match="has come so far after 50 iterations: set trainer.max_steps above 50"):
        prepare(str(begun), ["trainer.max_steps=40"])
    running = write_run(tmp_path / "running", status="running", alive=True)
    with pytest.raises(UserError, match=f"is being trained by process {os.getpid()}"):
        prepare(str(running), [])
    stopped = write_run(tmp_path / "stopped")
    for fixed in ("seed=3", "experiment=infogan_mnist"):
        with pytest.raises(UserError, match="keeps its seed and experiment"):
            prepare(str(stopped), [fixed])
    with pytest.raises(UserError, match="The command line cannot be read"):
        prepare(str(stopped), ["trainer.max_steps=[3"])
