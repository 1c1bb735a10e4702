"""wandb: what is in an offline run, how it ends, and what goes wrong without harm."""

import io
import json
import os
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import wandb
from omegaconf import OmegaConf
from wandb.util import get_core_path

import train
from callbacks.checkpoint import Interrupted
from callbacks.instruments.pictures import save_single
from foundation.errors import UserError
from foundation.protocols import said
from launch import wandb_run as module
from launch.command_line import compose_job
from launch.runs import build, instantiate
from launch.wandb_run import WandbRun, has_key, sweep_of, wandb_run
from tests.lightning_modules.test_infogan import TINY


def hide_keys(patch: pytest.MonkeyPatch) -> None:
    """No key in the environment nor in the home folder."""
    for name in [it for it in os.environ if it.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("NETRC", "no such file")


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    hide_keys(monkeypatch)


def records(segment: Path) -> list[dict]:
    """What wandb's own reader finds in an offline run that has ended."""
    (log,) = segment.glob("*.wandb")
    command = [get_core_path(), "leet", "inspect", "--json", "--no-observability", "--run-file", str(log)]
    for _ in range(100):  # wandb's service may still be writing
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found = [json.loads(line) for line in printed.splitlines()]
        if any(it["type"] == "exit" for it in found):  # a machine's figures may come after it
            return found
        time.sleep(0.05)
    raise AssertionError(f"{segment} has no end")


def of_kind(found: list[dict], kind: str) -> list[dict]:
    return [it[kind] for it in found if it["type"] == kind]


def history(found: list[dict]) -> list[dict]:
    return [it["item"] for it in of_kind(found, "history")]


def segments(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def tiny(folder: Path, *overrides: str) -> dict:
    words = ["trainer=cpu", "trainer.max_steps=4", "trainer.log_every_n_steps=2", *TINY["infogan_digits"], *overrides]
    return compose_job("train", words, str(folder))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A job of a sweep with wandb, as ``train.py`` makes it: its config, its wandb run's records, what was printed."""
    folder = tmp_path_factory.mktemp("runs") / "sweep" / "3"
    config = tiny(folder)
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create({"hydra": {"mode": "MULTIRUN"}}), folder / ".hydra" / "hydra.yaml")
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        hide_keys(patch)
        train.train(config)
    (segment,) = segments(folder)
    return config, records(segment), (out.getvalue(), err.getvalue())


def test_an_offline_run_holds_config_metrics_pictures_and_the_table(trained):
    config, found, printed = trained
    (run,) = of_kind(found, "run")
    written = run["config"]["update"]
    assert {key: written[key] for key in config} == config
    assert written["commit"]
    assert (run["project"], run["display_name"], run["run_group"]) == ("relight", "infogan_digits-seed0", "sweep")
    assert run["tags"] == ["infogan_digits", "infogan", "digits"]
    rows = history(found)
    assert [it["iteration"] for it in rows if "train/loss_g" in it] == [2, 4]
    assert {it["iteration"] for it in rows if "test/cluster_accuracy" in it} == {4}
    media = {key.removesuffix("._type"): it["iteration"] for it in rows for key in it if key.endswith("._type")}
    assert media == dict.fromkeys(shown_by(config), 4)
    (file,) = [it["test/clusters_table.path"] for it in rows if "test/clusters_table.path" in it]
    (folder,) = segments(Path(config["paths"]["run_dir"]))
    table = json.loads((folder / "files" / file).read_text())
    assert table["columns"][:3] == ["cluster", "matched_class", "class_0"]
    assert len(table["data"]) == 10
    out, err = printed
    assert err == ""
    assert out.count("wandb: no key is configured, so this run is kept offline; `wandb sync ") == 1


def shown_by(config: dict) -> set[str]:
    run = build(config)
    return set().union(*(said(it, what)(run.module) for it in run.callbacks for what in ("pictures", "tables")))


def test_what_a_callback_leaves_in_the_folder_is_shown_without_its_saying_so(tmp_path):
    logger = WandbRun("relight", str(tmp_path))
    job = SimpleNamespace(
        config={"name": "x", "lightning_module": {"_target_": "lightning_modules.infogan.InfoGAN"}},
        datamodule=None, trainer=SimpleNamespace(loggers=[logger], is_global_zero=True),
    )  # fmt: skip
    with wandb_run(job):
        logger.log_metrics({"train/loss": 1.0}, 4)
        for name in ("words-000002.png", "words-000004.png", "shown.png", "steps.gif"):
            save_single(torch.zeros(1, 4, 4), tmp_path / "images" / name)
        logger.log_image("images/shown", [str(tmp_path / "images" / "shown.png")], 5)
        (tmp_path / "sentences.csv").write_text('sentence,bleu,tokens\n"Ein, Satz",0.5,3\nnoch einer,,4\n')
        (tmp_path / "metrics.csv").write_text("epoch,step,train/loss\n0,4,1.0\n")
    rows = history(records(*segments(tmp_path)))
    media = {key.removesuffix("._type") for it in rows for key in it if key.endswith("._type")}
    assert media == {"images/shown", "images/words", "images/steps", "tables/sentences"}
    (file,) = [it["tables/sentences.path"] for it in rows if "tables/sentences.path" in it]
    table = json.loads((segments(tmp_path)[0] / "files" / file).read_text())
    assert table["columns"] == ["sentence", "bleu", "tokens"]
    assert table["data"] == [["Ein, Satz", 0.5, 3], ["noch einer", None, 4]]


def test_every_metric_stands_against_the_iteration(trained):
    config, found, _ = trained
    (every,) = [it for it in of_kind(found, "metric") if it.get("glob_name") == "*"]
    assert every["step_metric"] == "iteration"
    (header, *_) = (Path(config["paths"]["run_dir"]) / "metrics.csv").read_text().splitlines()
    keys = {key for it in history(found) for key in it if key.startswith(("train/", "test/")) and "clusters" not in key}
    assert keys == set(header.split(",")) - {"epoch", "step"}


def test_a_finished_run_ends_as_finished(trained):
    _, found, _ = trained
    assert of_kind(found, "exit")[0]["exit_code"] == 0
    assert {"status": "finished"} in [it["update"] for it in of_kind(found, "summary")]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ArithmeticError("no"), "failed", 1),
        (UserError("no"), "failed", 1),
        (Interrupted(15, 3), "interrupted", 255),
        (KeyboardInterrupt(), "interrupted", 255),
    ],
)
def test_a_run_that_does_not_finish_ends_as_what_it_is(tmp_path, error, status, code):
    logger = WandbRun("relight", str(tmp_path))
    job = SimpleNamespace(
        config={"name": "x", "lightning_module": {"_target_": "lightning_modules.infogan.InfoGAN"}},
        datamodule=SimpleNamespace(name="digits"),
        trainer=SimpleNamespace(loggers=[logger], is_global_zero=True),
    )
    with pytest.raises(type(error)), wandb_run(job):
        logger.log_metrics({"train/loss": 1.0}, 0)
        raise error
    found = records(*segments(tmp_path))
    assert of_kind(found, "exit")[0]["exit_code"] == code
    assert {"status": status} in [it["update"] for it in of_kind(found, "summary")]
    assert logger.run is None


def test_three_jobs_of_a_process_are_three_runs(tmp_path):
    for job in "012":
        logger = WandbRun("relight", str(tmp_path / job), name=job)
        logger.log_metrics({"train/loss": float(job)}, 9)
        logger.finish("finished", 0)
    found = [records(*segments(tmp_path / job)) for job in "012"]
    assert len({of_kind(it, "run")[0]["run_id"] for it in found}) == 3
    assert [history(it)[0]["train/loss"] for it in found] == [0.0, 1.0, 2.0]
    assert {history(it)[0]["iteration"] for it in found} == {10}


def test_a_resumed_run_is_the_same_run_in_two_segments(tmp_path, capsys):
    for _ in range(2):
        logger = WandbRun("relight", str(tmp_path))
        assert logger.experiment.offline
        logger.finish("finished", 0)
    ids = {of_kind(records(it), "run")[0]["run_id"] for it in segments(tmp_path)}
    assert ids == {(tmp_path / "wandb_id").read_text().strip()}
    assert len(segments(tmp_path)) == 2
    assert capsys.readouterr().out.count(f"kept offline; `wandb sync {tmp_path}/wandb/offline-run-*` sends it") == 2


def test_another_rank_opens_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module.rank_zero_only, "rank", 1)
    logger = WandbRun("relight", str(tmp_path))
    logger.log_metrics({"train/loss": 1.0}, 0)
    assert logger.experiment is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["disabled", "offline"])
def test_what_the_environment_asks_for_is_done(tmp_path, monkeypatch, capsys, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    logger = WandbRun("relight", str(tmp_path))
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish("finished", 0)
    assert len(segments(tmp_path)) == (mode == "offline")
    assert capsys.readouterr().out.count("WANDB_MODE is offline, so this run is kept offline") == (mode == "offline")


ENVIRONMENT = {
    "WANDB_PROJECT": "mine", "WANDB_NAME": "two words", "WANDB_RUN_GROUP": "a group", "WANDB_JOB_TYPE": "trial",
    "WANDB_NOTES": "50 % = half", "WANDB_TAGS": "first, second", "WANDB_RUN_ID": "abc123", "WANDB_ENTITY": "us",
}  # fmt: skip


def logged(folder: Path, *words: str) -> dict:
    """The wandb run that a command opens, as wandb has recorded it."""
    config = compose_job("train", ["logger.wandb.offline=true", *words], str(folder))
    job = SimpleNamespace(config=config, datamodule=None, trainer=SimpleNamespace(is_global_zero=True))
    job.trainer.loggers = [instantiate(config["logger"]["wandb"])]
    with wandb_run(job):
        pass
    (segment,) = folder.rglob("offline-run-*")
    (run,) = of_kind(records(segment), "run")
    return run


def test_the_environment_comes_before_the_config(tmp_path, monkeypatch, capsys):
    for name, value in (ENVIRONMENT | {"WANDB_DIR": str(tmp_path / "scratch" / "of us")}).items():
        monkeypatch.setenv(name, value)
    run = logged(tmp_path)
    found = [run[key] for key in ("project", "display_name", "run_group", "job_type", "notes", "run_id", "entity")]
    assert found == ["mine", "two words", "a group", "trial", "50 % = half", "abc123", "us"]
    assert run["tags"] == ["infogan_digits", "infogan", "NoneType", "first", "second"]
    assert len(segments(tmp_path / "scratch" / "of us")) == 1
    assert f"`wandb sync '{tmp_path}/scratch/of us/wandb'/offline-run-*-abc123` sends it" in capsys.readouterr().out


def test_the_command_line_comes_before_the_environment(tmp_path, monkeypatch):
    for name, value in (ENVIRONMENT | {"WANDB_MODE": "disabled", "WANDB_DIR": "/nowhere"}).items():
        monkeypatch.setenv(name, value)
    asked = {"project": "own", "name": "it", "group": "us", "job_type": "x", "notes": "y", "id": "z", "entity": "me",
             "tags": "[last]", "dir": tmp_path}  # fmt: skip
    run = logged(tmp_path, *(f"logger.wandb.{key}={value}" for key, value in asked.items()))
    found = [run[key] for key in ("project", "display_name", "run_group", "job_type", "notes", "run_id", "entity")]
    assert found == ["own", "it", "us", "x", "y", "z", "me"]
    assert run["tags"][3:] == ["last"]


def test_an_empty_variable_is_none(tmp_path, monkeypatch):
    for name in (*ENVIRONMENT, "WANDB_DIR", "WANDB_MODE"):
        monkeypatch.setenv(name, "")
    run = logged(tmp_path)
    assert (run["project"], run["tags"]) == ("relight", ["infogan_digits", "infogan", "NoneType"])
    assert run["run_id"] == (tmp_path / "wandb_id").read_text().strip()


UNTAKEN = {
    "logger.wandb.mode=onlin": "logger.wandb.mode=onlin is none of wandb's modes: give online, offline or disabled",
    "logger.wandb.project=a/b": "logger.wandb.project=a/b holds /, which wandb does not take: leave it out",
    f"logger.wandb.name={'n' * 129}": "logger.wandb.name=n+ has 129 characters, and wandb takes 128: shorten it",
    f"logger.wandb.group={'n' * 129}": "logger.wandb.group=n+ has 129 characters",
    f"logger.wandb.tags=[a,{'t' * 65}]": "logger.wandb.tags=t+ has 65 characters, and wandb takes 64: shorten it",
    "logger.wandb.id='a:b'": "logger.wandb.id=a:b holds :, which wandb does not take",
    "logger.wandb.id=' a'": "logger.wandb.id= a begins or ends with a blank",
}  # fmt: skip


@pytest.mark.parametrize("word", UNTAKEN)
def test_what_wandb_would_not_take_is_refused_before_anything_is_trained(word, tmp_path):
    node = compose_job("train", [word], str(tmp_path))["logger"]["wandb"]
    with pytest.raises(UserError, match=UNTAKEN[word]):
        instantiate(node)
    if "mode" not in word:
        assert instantiate(node | {"mode": "disabled"}).mode == "disabled"


def test_what_the_environment_asks_for_is_refused_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_TAGS", f"a,{'t' * 65}")
    monkeypatch.setenv("WANDB_PROJECT", "a:b")
    with pytest.raises(UserError) as told:
        instantiate(compose_job("train", [], str(tmp_path))["logger"]["wandb"])
    first, second = str(told.value).splitlines()
    assert first.startswith("WANDB_PROJECT=a:b holds :, which")
    assert second.startswith(f"WANDB_TAGS={'t' * 65} has 65 characters")


def test_jobs_of_a_sweep_are_not_one_wandb_run(tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create({"hydra": {"mode": "MULTIRUN"}}), tmp_path / ".hydra" / "hydra.yaml")
    with pytest.raises(UserError, match="logger.wandb.id=x would make one wandb run of all jobs of the sweep"):
        WandbRun("relight", str(tmp_path), id="x")


def test_a_tag_of_the_project_s_own_is_cut_aloud(capsys):
    assert module.cut_aloud("x" * 64) == "x" * 64
    assert capsys.readouterr().out == ""
    assert module.cut_aloud("x" * 65) == "x" * 64
    assert "is cut after 64 characters" in capsys.readouterr().out


def test_a_resumed_run_keeps_its_id_whatever_is_asked(tmp_path, capsys):
    (tmp_path / "wandb_id").write_text("first\n")
    logger = WandbRun("relight", str(tmp_path), id="second", offline=True)
    assert logger.experiment.id == "first"
    logger.finish("finished", 0)
    assert "wandb: this run goes on as first, as it began, and not as second." in capsys.readouterr().out


def test_a_key_without_a_network_costs_seconds_and_the_run_is_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr(module, "START_S", 2.0)
    start = time.monotonic()
    logger = WandbRun("relight", str(tmp_path))
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish("finished", 0)
    assert time.monotonic() - start < 20
    (row,) = history(records(*segments(tmp_path)))
    assert (row["iteration"], row["train/loss"]) == (1, 1.0)
    assert "wandb: it cannot be reached (" in capsys.readouterr().out


@pytest.mark.parametrize("when", ["at the start", "later"])
def test_a_broken_service_loses_no_training(tmp_path, monkeypatch, capsys, when):
    """The training goes on to its end, and metrics.csv is complete."""
    config = tiny(tmp_path)
    if when == "at the start":
        monkeypatch.setattr(wandb, "init", lambda **_: (_ for _ in ()).throw(OSError("no service here")))
    else:
        monkeypatch.setattr(wandb.Run, "log", lambda *_, **__: (_ for _ in ()).throw(BrokenPipeError("it died")))
    train.train(config)
    printed = capsys.readouterr().out
    told = "it does not start (no service here)" if when == "at the start" else "it has failed (it died)"
    assert printed.count(f"wandb: {told}") == 1
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4  # the heading, iterations 2 and 4, the test


def test_a_wandb_that_is_not_installed_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    WandbRun("relight", str(tmp_path)).log_metrics({"train/loss": 1.0}, 0)
    assert "wandb: it does not start (import of wandb halted" in capsys.readouterr().out


def test_a_key_is_found_where_wandb_keeps_it(monkeypatch, tmp_path):
    assert not has_key()
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "x")
        assert has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password x\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert has_key()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert not has_key()


def test_a_run_by_itself_has_no_group(tmp_path):
    assert sweep_of(tmp_path) is None
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create({"hydra": {"mode": "RUN"}}), tmp_path / ".hydra" / "hydra.yaml")
    assert sweep_of(tmp_path) is None
