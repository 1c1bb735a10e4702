"""The rates that iterations were made with, with and without manual optimisation."""

import csv

import torch
from lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.learning_rates import LearningRates
from launch.command_line import compose_job
from launch.metrics_file import MetricsFile
from launch.runs import build
from tests.lightning_modules.test_infogan import TINY


class Scheduled(LightningModule):
    """Halves its rate every iteration."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD([self.weight], lr=0.8)
        halved = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        return [optimizer], [{"scheduler": halved, "interval": "step"}]

    def training_step(self, batch, batch_idx):
        return self.weight.sum()


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_rate_is_the_one_an_iteration_was_made_with(tmp_path):
    callback = LearningRates()
    trainer = Trainer(accelerator="cpu", max_steps=4, log_every_n_steps=2, logger=MetricsFile(str(tmp_path)),
                      callbacks=[callback], enable_progress_bar=False, enable_model_summary=False,
                      enable_checkpointing=False)  # fmt: skip
    module = Scheduled()
    trainer.fit(module, DataLoader(torch.zeros(4, 1)))
    assert [(row["step"], float(row["train/lr"])) for row in rows(tmp_path)] == [("1", 0.4000000059604645), ("3", 0.10000000149011612)]  # fmt: skip
    assert set(trainer.callback_metrics) == callback.metrics(module, "train").keys() == {"train/lr"}
    assert callback.metrics(module, "val") == {}


def test_each_player_has_its_rate(tmp_path):
    overrides = ["trainer=cpu", "trainer.max_steps=2", "trainer.log_every_n_steps=1", "logger=csv",
                 "lightning_module.optimizer_g.lr=0.003", *TINY["infogan_digits"]]  # fmt: skip
    run = build(compose_job("train", overrides, str(tmp_path)))
    run.trainer.fit(run.module, datamodule=run.datamodule)
    rates = {key: float(run.trainer.callback_metrics[key]) for key in ("train/lr_d", "train/lr_g")}
    expected = {f"train/lr_{name}": run.config["lightning_module"][f"optimizer_{name}"]["lr"] for name in "dg"}
    torch.testing.assert_close(rates, expected, rtol=1e-6, atol=0)
