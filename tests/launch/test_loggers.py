import netrc

import pytest
import wandb

from launch import loggers
from launch.loggers import MetricsFile, has_key, wandb_logger


@pytest.fixture(autouse=True)
def no_key(monkeypatch, tmp_path):
    """No key in the environment nor in the home folder."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)

    def no_file():
        raise FileNotFoundError

    monkeypatch.setattr(netrc, "netrc", no_file)


def test_without_a_key_a_run_is_kept_offline_and_resumed_as_the_same_run(tmp_path, capsys):
    ids = []
    for _ in range(2):
        logger = wandb_logger(project="relight", save_dir=str(tmp_path))
        assert logger.experiment.settings._offline
        ids.append(logger.experiment.id)
        wandb.finish()
    assert ids[0] == ids[1] == (tmp_path / "wandb_id").read_text().strip()
    assert capsys.readouterr().out.count(f"kept offline; `wandb sync {tmp_path}/wandb/offline-*` sends it") == 2
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2  # a segment for each start


def test_a_key_is_found_where_wandb_keeps_it(monkeypatch):
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "x")
    assert has_key()
    monkeypatch.delenv("WANDB_API_KEY")
    known = type(
        "Known", (), {"authenticators": lambda self, host: ("user", None, "key") if host == "api.wandb.ai" else None}
    )
    monkeypatch.setattr(loggers.netrc, "netrc", known)
    assert has_key()


def test_a_resumed_metrics_file_keeps_the_rows_before_its_checkpoint(tmp_path):
    first = MetricsFile(str(tmp_path))
    for step in (4, 9, 14):
        first.log_metrics({"epoch": 0, "train/loss": step / 10}, step)
    first.save()
    second = MetricsFile(str(tmp_path))
    second.go_on_from(10)  # iterations; steps count from 0
    second.log_metrics({"epoch": 1, "train/loss": 7.0, "test/new": 1.0}, 14)
    second.save()
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "epoch,step,test/new,train/loss", "0,4,,0.4", "0,9,,0.9", "1,14,1.0,7.0"]  # fmt: skip
