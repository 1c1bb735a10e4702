"""A training that diverges stops with a sentence and leaves the checkpoint of before."""

import math

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader

from callbacks.checkpoint import Checkpoint
from callbacks.nan_guard import Diverged, NanGuard


class Diverges(LightningModule):
    """Its loss, and so its weight, is NaN from an iteration on."""

    def __init__(self, iteration):
        super().__init__()
        self.weight, self.iteration = torch.nn.Parameter(torch.ones(1)), iteration

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=0.1)

    def training_step(self, batch, batch_idx):
        loss = self.weight.sum() * (math.nan if self.trainer.global_step >= self.iteration else 1.0)
        self.log("train/loss", loss)
        return loss


def fit(folder, iteration, guard=True, save_every=2, log_every=3, steps=20, callbacks=()):
    module = Diverges(iteration)
    trainer = Trainer(accelerator="cpu", max_steps=steps, log_every_n_steps=log_every, logger=False,
                      callbacks=[*([NanGuard()] if guard else []), Checkpoint(str(folder / "checkpoints"), save_every),
                                 *callbacks], enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, DataLoader(torch.zeros(50, 1)))


def saved(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_names_loss_iteration_and_the_last_good_checkpoint(tmp_path):
    """Weights are NaN after iteration 8, saved at even ones, watched at every third: the NaN of 8 must not be kept."""
    with pytest.raises(Diverged) as told:
        fit(tmp_path, iteration=7)
    path = tmp_path / "checkpoints" / "last.ckpt"
    assert str(told.value) == (
        f"train/loss is nan after iteration 9: the training has diverged. The last good checkpoint is of iteration 6, {path}: "
        f"go on from there with other settings, as in python train.py resume={tmp_path} lightning_module.gradient_clip_norm=1"
    )
    assert saved(tmp_path)["global_step"] == 6
    assert saved(tmp_path)["state_dict"]["weight"].isfinite().all()


def test_says_where_nothing_was_saved_before(tmp_path):
    with pytest.raises(Diverged, match="No checkpoint was saved before"):
        fit(tmp_path, iteration=0, log_every=1)
    assert not (tmp_path / "checkpoints" / "last.ckpt").exists()


def test_what_the_last_iterations_did_is_seen_at_the_end(tmp_path):
    with pytest.raises(Diverged, match="a weight is nan after iteration 5: .* of iteration 4"):
        fit(tmp_path, iteration=4, steps=5)


def test_without_the_guard_a_checkpoint_stays_finite_all_the_same(tmp_path, capsys):
    fit(tmp_path, iteration=7, guard=False, save_every=4, steps=9)
    assert saved(tmp_path)["global_step"] == 4
    assert "a weight is not finite after iteration 8: " in capsys.readouterr().out


class Finite(Callback):
    def on_train_end(self, trainer, pl_module):
        assert trainer.global_step == 20


def test_a_training_that_is_well_is_left_alone(tmp_path):
    fit(tmp_path, iteration=99, callbacks=[Finite()])
    assert saved(tmp_path)["global_step"] == 20
