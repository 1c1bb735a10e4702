"""The best is the best: by the direction that the metric declares, also when a run goes on."""

from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from callbacks.best_checkpoint import BestCheckpoint
from foundation.metrics import Directions
from foundation.protocols import said

CURVE = [0.5, 0.2, 0.9, 0.4]  # of a metric, after each of four iterations


class Follows(LightningModule):
    """Its metrics take CURVE's values, whatever it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def metrics(self, stage: str) -> Directions:
        return {"val/error": "min", "val/accuracy": "max"} if stage == "val" else {}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight.sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        value = torch.tensor(CURVE[self.global_step - 1])
        self.log_dict({"val/error": value, "val/accuracy": value})

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def trainer_with(*callbacks: Any, max_steps: int = 4) -> Trainer:
    saves = any(isinstance(it, ModelCheckpoint) for it in callbacks)
    return Trainer(accelerator="cpu", callbacks=[*callbacks], logger=False, max_steps=max_steps, enable_checkpointing=saves,
                   val_check_interval=1, check_val_every_n_epoch=None, num_sanity_val_steps=0,
                   enable_progress_bar=False, enable_model_summary=False)  # fmt: skip


def loader() -> Any:
    return DataLoader(list(range(100)))


@pytest.mark.parametrize(("metric", "iteration"), [("val/error", 2), ("val/accuracy", 3)])
def test_the_best_is_kept_whichever_direction_that_is(tmp_path, metric, iteration):
    callback = BestCheckpoint(metric, dirpath=str(tmp_path), filename="best", enable_version_counter=False)
    trainer_with(callback).fit(Follows(), loader(), loader())
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == iteration
    assert callback.best_model_score == pytest.approx(CURVE[iteration - 1])


def test_a_run_that_goes_on_knows_the_best_of_before_under_lightning_s_own_name(tmp_path):
    kept = {"dirpath": str(tmp_path), "filename": "best", "enable_version_counter": False}
    of_lightning = ModelCheckpoint(monitor="val/error", mode="min", **kept)  # as a run of before has it
    trainer = trainer_with(of_lightning, max_steps=2)
    trainer.fit(Follows(), loader(), loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    callback = BestCheckpoint("val/error", **kept)
    trainer_with(callback).fit(Follows(), loader(), loader(), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert callback.state_key == of_lightning.state_key
    assert callback.best_model_score == pytest.approx(0.2)
    assert torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"] == 2


def test_it_says_what_it_goes_by_and_that_it_measures_nothing():
    callback = BestCheckpoint("val/error")
    assert (said(callback, "monitor"), said(callback, "mode")) == ("val/error", None)
    assert said(BestCheckpoint, "for_training_only")
