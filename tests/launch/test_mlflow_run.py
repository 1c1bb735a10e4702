"""MLflow through Lightning's logger, read back by MLflow's own client. Without MLflow only its absence is told."""

import importlib.util
import re
import socket
import threading
from pathlib import Path

import pytest
import torch
from PIL import Image

from foundation.errors import UserError
from launch.mlflow_run import MLflow
from relight import train
from tests.lightning_modules import test_resnet

INSTALLED = importlib.util.find_spec("mlflow") is not None
with_mlflow = pytest.mark.skipif(not INSTALLED, reason="pip install '.[mlflow]'")


@pytest.fixture(autouse=True)
def _no_choice_of_the_environment(monkeypatch):
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(variable, raising=False)


def logger_in(folder: Path, **settings) -> MLflow:
    return MLflow(str(folder / "run"), str(folder / "mlruns"), "some", "it", **settings)


def history(logger: MLflow, key: str) -> list[tuple[int, float]]:
    return [(it.step, it.value) for it in logger.experiment.get_metric_history(logger.run_id, key)]


def artifacts(logger: MLflow, folder: str | None = None) -> list[str]:
    found = []
    for it in logger.experiment.list_artifacts(logger.run_id, folder):
        found += artifacts(logger, it.path) if it.is_dir else [it.path]
    return found


def named(artifact: str) -> str:
    """Without a picture's time and number; releases of MLflow have different signs between the parts."""
    key, *parts = re.split("[+%]", artifact)
    return " ".join([re.sub("[~#]", "/", key), *parts[:2]])


@with_mlflow
def test_a_run_shows_figures_pictures_and_tables_beside_metrics_csv_and_other_loggers(tmp_path):
    small = [*test_resnet.TINY["resnet_digits"], "trainer=cpu", "logger=[mlflow,tensorboard]", "trainer.max_steps=3"]
    metrics = train("resnet_digits", [*small, f"paths.output_dir={tmp_path}"])
    logger = MLflow(str(metrics.folder), str(tmp_path / "mlruns"), "relight", "it")  # goes on as the same run
    run = logger.experiment.get_run(logger.run_id)
    assert (run.data.tags["mlflow.runName"], run.info.status) == ("resnet_digits-seed0", "FINISHED")
    assert [step for step, _ in history(logger, "train/loss")] == [1, 2, 3]
    assert history(logger, "test/error") == [(3, pytest.approx(metrics["test/error"]))]
    kept = artifacts(logger)
    assert [named(it) for it in kept if it.startswith("images/") and it.endswith(".png")] == [
        "images/test/classes step 3"
    ]
    assert [it for it in kept if it.endswith(".csv")] == ["test/classes_table-3.csv"]
    assert (metrics.folder / "metrics.csv").exists()
    assert (metrics.folder / "tensorboard").is_dir()


@with_mlflow
def test_pictures_and_tables_are_those_of_the_files(tmp_path):
    logger = logger_in(tmp_path)
    Image.new("RGB", (4, 3), "red").save(tmp_path / "it.gif")
    Image.new("RGB", (4, 3), "red").save(tmp_path / "it.png")
    logger.log_video("moving", [str(tmp_path / "it.gif")], 5)
    logger.log_image("still", [str(tmp_path / "it.png"), str(tmp_path / "it.png")], 5)
    logger.log_table("table", ["a,b", "c"], [["x\ny", 0.5], [None, 3]], 5)
    logger.log_metrics({"train/loss": torch.tensor(2.0)}, 4)
    assert {named(it) for it in artifacts(logger)} == {
        "images/still/0 step 5", "images/still/1 step 5", "moving/it.gif", "table-5.csv",
    }  # fmt: skip
    text = Path(logger.experiment.download_artifacts(logger.run_id, "table-5.csv")).read_text()
    assert text == '"a,b",c\n"x\ny",0.5\n,3\n'
    assert history(logger, "train/loss") == [(5, 2.0)]


@with_mlflow
def test_a_run_that_goes_on_is_the_same_run(tmp_path):
    first = logger_in(tmp_path)
    first.log_metrics({"a": 1.0}, 0)
    first.finalize("failed")
    assert first.experiment.get_run(first.run_id).info.status == "FAILED"
    second = logger_in(tmp_path)
    second.log_metrics({"a": 2.0}, 1)
    second.finalize("success")
    assert second.run_id == first.run_id
    assert history(second, "a") == [(1, 1.0), (2, 2.0)]
    assert second.experiment.get_run(first.run_id).info.status == "FINISHED"


@with_mlflow
def test_what_cannot_be_reached_is_told_before_training(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            UserError, match=rf"^logger.mlflow.tracking_uri={uri} cannot be reached \(.+\): name"
        ) as told:
            logger_in(tmp_path, tracking_uri=uri)
    assert "\n" not in str(told.value)
    with pytest.raises(UserError, match=r"^logger.mlflow.tracking_uri=nonsense://x cannot be reached"):
        logger_in(tmp_path, tracking_uri="nonsense://x")
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(UserError, match=r"^logger.mlflow.store=\S+mlruns cannot be reached \(.+\): name"):
        logger_in(tmp_path)
    assert not (tmp_path / "run").exists()


@with_mlflow
def test_a_store_that_fails_later_costs_a_line(tmp_path, monkeypatch, capsys):
    logger = logger_in(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)

    def broken(*_, **__):
        raise OSError("the disk is gone\nand more")

    monkeypatch.setattr(logger.experiment, "log_batch", broken)
    logger.log_metrics({"a": 1.0}, 1)
    logger.log_metrics({"a": 1.0}, 2)
    logger.finalize("success")
    told = "mlflow: it has failed (the disk is gone); from here on this run is logged to files alone.\n"
    assert capsys.readouterr().out == told


@with_mlflow
def test_nothing_is_sent_anywhere(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise AssertionError(f"a connection by {threading.current_thread().name}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    logger = logger_in(tmp_path)
    logger.log_metrics({"a": 1.0}, 0)
    logger.finalize("success")
    assert history(logger, "a") == [(1, 1.0)]


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.loggers.mlflow._MLFLOW_AVAILABLE", False)
    with pytest.raises(UserError, match=r"^logger=mlflow needs MLflow, .*: pip install '.\[mlflow\]'$"):
        logger_in(tmp_path)
