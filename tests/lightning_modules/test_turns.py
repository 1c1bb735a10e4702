"""The counted step, clipping, schedules and who moves in whose turn, on the smallest two players."""

from copy import deepcopy
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from foundation.protocols import WholeIteration
from lightning_modules.turns import Player
from lightning_modules.two_player import TwoPlayer
from tests.lightning_modules.alone import alone, step_alone


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

    def discriminator_loss(self, inputs):
        self.turn("d")
        return {"loss": (self.discriminator.weight + 1).square().sum() + 0 * self.generator.weight.sum()}

    def generator_loss(self, inputs):
        self.turn("g")
        return {"loss": (self.generator.weight - 1).square().sum() + self.discriminator.weight.sum()}


def fit(module, max_steps, folder, *callbacks, batches=4, checkpoint=None, **settings):
    settings = {"precision": "32-true", "accelerator": "cpu", "log_every_n_steps": 1} | settings
    trainer = Trainer(max_steps=max_steps, max_epochs=-1, default_root_dir=folder, callbacks=list(callbacks), logger=False,
                      enable_progress_bar=False, enable_model_summary=False, **settings)  # fmt: skip
    trainer.fit(module, DataLoader([{"x": torch.zeros(1)}] * batches), ckpt_path=checkpoint)  # type: ignore
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

    def squared_error(self, inputs):
        return {"loss": (self.discriminator(torch.ones(1, 1)) - 1).square().sum().float()}


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


class Draws(Scalars):
    """Each iteration's number goes in, a row and two more numbers come out."""

    def host_inputs(self, batch, iteration):
        return batch | {"number": torch.tensor(float(iteration))}

    def discriminator_loss(self, inputs):
        told = {"row": inputs["x"], "number": inputs["number"], "twice": 2 * self.discriminator.weight.sum()}
        return super().discriminator_loss(inputs) | told


class Remembers(Callback):
    def __init__(self):
        self.outputs = []

    def on_train_batch_end(self, trainer, pl_module, outputs, *_):
        self.outputs.append(outputs)


def test_an_iteration_is_keyed_by_its_number_whatever_the_epochs(tmp_path):
    for batches in (4, 2):
        seen = Remembers()
        fit(Draws(), 6, tmp_path, seen, enable_checkpointing=False, batches=batches)
        assert [int(it["number"]) for it in seen.outputs] == list(range(6))


def test_what_losses_tell_is_logged_where_it_is_a_number_and_comes_back_without_a_graph(tmp_path):
    seen = Remembers()
    trainer = fit(Draws(), 4, tmp_path, seen, enable_checkpointing=False, log_every_n_steps=2)
    assert trainer.callback_metrics.keys() == {"train/loss_d", "train/loss_g", "train/number", "train/twice"}
    assert float(trainer.callback_metrics["train/number"]) == 3
    for outputs in seen.outputs:
        assert outputs.keys() == {"loss_d", "loss_g", "number", "twice", "row"}
        assert not any(it.requires_grad for it in outputs.values())


def test_a_step_is_three_parts_of_which_two_can_be_taken_alone(tmp_path):
    """The device's part neither counts nor logs."""
    module, plain = Draws(), Draws()
    fit(plain, 3, tmp_path, enable_checkpointing=False)
    assert isinstance(alone(module), WholeIteration)
    for iteration in range(3):
        step_alone(module, {"x": torch.zeros(1, 1)}, iteration)
    assert module.discriminator.weight.item() == plain.discriminator.weight.item()
    assert module.generator.weight.item() == plain.generator.weight.item()


# --- checkpoints -----------------------------------------------------------------------------------------------


def test_checkpoints_that_lightning_has_counted_go_on(tmp_path):
    """As they were written for a method with one optimiser before its iterations were counted here."""
    saves = {"every_n_train_steps": 3, "dirpath": tmp_path, "filename": "{step}", "save_top_k": -1}
    whole = fit(Solo(), 6, tmp_path, ModelCheckpoint(**saves))  # type: ignore
    path = tmp_path / "step=3.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    loops = checkpoint["loops"]["fit_loop"]
    ours, lightning_s = (loops[f"epoch_loop.{it}"] for it in (
        "manual_optimization.optim_step_progress", "automatic_optimization.optim_progress"))  # fmt: skip
    lightning_s["optimizer"]["step"], ours["total"] = deepcopy(ours), {"ready": 0, "completed": 0}
    torch.save(checkpoint, path)
    longer = fit(Solo(), 6, tmp_path, checkpoint=path)
    assert longer.global_step == whole.global_step == 6
    assert longer.current_epoch == whole.current_epoch
    assert longer.model.discriminator.weight.item() == whole.model.discriminator.weight.item()  # type: ignore


def test_an_interrupted_run_goes_on_from_its_own(tmp_path):
    saves = {"every_n_train_steps": 3, "dirpath": tmp_path, "filename": "{step}", "save_top_k": -1}
    whole = fit(Twice(), 6, tmp_path, ModelCheckpoint(**saves))  # type: ignore
    longer = fit(Twice(), 6, tmp_path, checkpoint=tmp_path / "step=3.ckpt")
    assert longer.global_step == 6
    assert longer.model.generator.weight.item() == whole.model.generator.weight.item()  # type: ignore
