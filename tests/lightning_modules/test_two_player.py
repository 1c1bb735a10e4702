"""The counted step, clipping, schedules and who moves in whose turn, on the smallest two players."""

from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from lightning_modules.two_player import Player, TwoPlayer


class Scalars(TwoPlayer):
    """G wants its weight at 1, D wants its own at -1; each loss looks at both."""

    def __init__(self, **settings):
        sgd = partial(torch.optim.SGD, lr=0.25)
        super().__init__(
            nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False), optimizer_g=sgd, optimizer_d=sgd, **settings
        )
        for player in (self.generator, self.discriminator):
            nn.init.zeros_(player.weight)
        self.seen: list[tuple[str, bool, bool]] = []

    def turn(self, name):
        self.seen.append((name, self.generator.weight.requires_grad, self.discriminator.weight.requires_grad))

    def discriminator_loss(self, batch):
        self.turn("d")
        return (self.discriminator.weight + 1).square().sum() + 0 * self.generator.weight.sum()

    def generator_loss(self, batch):
        self.turn("g")
        return (self.generator.weight - 1).square().sum() + self.discriminator.weight.sum()


def fit(module, max_steps, folder, *callbacks, batches=4, **settings):
    settings = {"precision": "32-true", "accelerator": "cpu", "log_every_n_steps": 1} | settings
    trainer = Trainer(max_steps=max_steps, max_epochs=-1, default_root_dir=folder, callbacks=list(callbacks), logger=False,
                      enable_progress_bar=False, enable_model_summary=False, **settings)  # fmt: skip
    trainer.fit(module, DataLoader(torch.zeros(batches, 1), batch_size=1))
    return trainer


class CountIterations(Callback):
    def __init__(self):
        self.iterations = 0

    def on_train_batch_end(self, *arguments):
        self.iterations += 1


def test_ten_steps_are_ten_iterations(tmp_path):
    counter = CountIterations()
    trainer = fit(Scalars(), 10, tmp_path, counter, enable_checkpointing=False)
    assert counter.iterations == trainer.global_step == 10


def test_checkpoints_come_every_three_iterations(tmp_path):
    saved = ModelCheckpoint(dirpath=tmp_path, filename="{step}", every_n_train_steps=3, save_top_k=-1)
    fit(Scalars(), 10, tmp_path, saved)
    assert sorted(path.name for path in Path(tmp_path).glob("*.ckpt")) == ["step=3.ckpt", "step=6.ckpt", "step=9.ckpt"]


def test_each_player_moves_in_its_turn_alone(tmp_path):
    module = Scalars()
    fit(module, 1, tmp_path, enable_checkpointing=False)
    assert module.seen == [("d", False, True), ("g", True, False)]
    # lr 0.25 on (w + 1)^2 from 0: w = -0.5; G's loss adds w of D with gradient 1, which must not reach D.
    assert module.discriminator.weight.item() == pytest.approx(-0.5)
    assert module.generator.weight.item() == pytest.approx(0.5)
    assert module.generator.weight.requires_grad
    assert module.discriminator.weight.requires_grad


class Twice(Scalars):
    """G takes two steps in its turn."""

    def players(self):
        return super().players() | {
            "g": Player(list(self.generator.parameters()), self.optimizer_g, self.generator_loss, steps=2)
        }


class Solo(Scalars):
    """D plays alone."""

    def players(self):
        return {"d": super().players()["d"]}


def test_a_turn_of_two_steps_is_one_iteration(tmp_path):
    module = Twice()
    trainer = fit(module, 3, tmp_path, enable_checkpointing=False)
    assert trainer.global_step == 3
    assert [name for name, *_ in module.seen] == ["d", "g", "g"] * 3
    # (w - 1) is halved by each step of lr 0.25 on (w - 1)^2.
    assert module.generator.weight.item() == pytest.approx(1 - 0.5**6)


def test_one_player_alone_is_trained_too(tmp_path):
    module = Solo()
    trainer = fit(module, 2, tmp_path, enable_checkpointing=False)
    assert trainer.global_step == 2
    assert module.discriminator.weight.item() == pytest.approx(-1 + 0.5**2)
    assert module.generator.weight.item() == 0


class SharedNetwork(Scalars):
    """D's network moves in both turns; each time its output, 1 times the weight, is wanted at 1."""

    def players(self):
        weights = list(self.discriminator.parameters())
        return {
            "d": Player(weights, self.optimizer_d, self.squared_error),
            "q": Player(weights, self.optimizer_d, self.squared_error),
        }

    def squared_error(self, batch):
        return (self.discriminator(torch.ones(1, 1)) - 1).square().sum().float()


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_later_turn_sees_what_an_earlier_one_moved(tmp_path, precision):
    module = SharedNetwork()
    fit(module, 1, tmp_path, enable_checkpointing=False, precision=precision)
    # lr 0.25 on (w - 1)^2 halves the distance: 0, 1/2, 3/4. With the first turn's weight again it would be 0, 1/2, 1.
    assert module.discriminator.weight.item() == 0.75


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 1e-6), ("bf16-mixed", 1e-6)])
def test_gradients_are_clipped_to_the_norm(tmp_path, precision, tolerance):
    module = Scalars(gradient_clip_norm=0.4)
    fit(module, 1, tmp_path, enable_checkpointing=False, precision=precision)
    assert module.discriminator.weight.item() == pytest.approx(-0.1, abs=tolerance)  # 0.25 * 0.4 of gradient 2
    assert module.generator.weight.item() == pytest.approx(0.1, abs=tolerance)


def test_schedules_step_once_an_iteration(tmp_path):
    module = Scalars(scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.1))
    trainer = fit(module, 3, tmp_path, enable_checkpointing=False)
    assert [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers] == pytest.approx([0.25e-3] * 2)


def test_losses_are_logged_under_declared_keys(tmp_path):
    module = Scalars()
    trainer = fit(module, 1, tmp_path, enable_checkpointing=False)
    assert set(trainer.callback_metrics) == module.metrics("train").keys() == {"train/loss_d", "train/loss_g"}
    assert float(trainer.callback_metrics["train/loss_d"]) == 1


def test_draws_are_keyed_by_iteration(tmp_path):
    class Draws(Scalars):
        def discriminator_loss(self, batch):
            self.drawn = [*getattr(self, "drawn", []), torch.rand(1, generator=self.iteration_generator("x")).item()]
            return super().discriminator_loss(batch)

    first, second = Draws(seed=1), Draws(seed=1)
    fit(first, 6, tmp_path, enable_checkpointing=False, batches=4)
    fit(second, 6, tmp_path, enable_checkpointing=False, batches=2)
    assert first.drawn == second.drawn
    assert len(set(first.drawn)) == 6
