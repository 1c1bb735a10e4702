"""Lengths and limits by which nothing would be trained, validated or measured."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from callbacks.instruments.run_clock import RunClock
from foundation.errors import UserError
from foundation.length import Length
from launch.command_line import check_command_line, compose_job
from launch.length_check import LastCheck, monitors_of_validation, unfit_lengths
from launch.runs import build
from tests.lightning_modules.test_resnet import TINY

BEST = {"callbacks.best_checkpoint.monitor": "val/error"}


class Numbers(LightningDataModule):
    """Eleven batches of training, three of validation, two of the test."""

    val_size = 3

    def train_dataloader(self) -> DataLoader:
        return DataLoader(range(11))  # type: ignore

    def val_dataloader(self) -> DataLoader:
        return DataLoader(range(3))  # type: ignore

    def test_dataloader(self) -> DataLoader:
        return DataLoader(range(2))  # type: ignore


def trainer_of(node: dict[str, Any]) -> Any:
    length = Length.of({"max_steps": 4} | node)
    trainer: Any = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[RunClock(length)],
                           **{"max_steps": 4, **node})  # fmt: skip
    trainer.datamodule = Numbers()
    return trainer


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"max_steps": 0}, "trainer.max_steps is 0, which trains nothing: give more than 0 iterations."),
        ({"max_steps": -1}, "Nothing says how long to train: set trainer.max_steps, trainer.max_epochs or trainer.max_time."),
        ({"fast_dev_run": True}, "trainer.fast_dev_run saves and logs nothing: use debug=steps, which does, for a few iterations."),
        ({"limit_train_batches": 0}, "trainer.limit_train_batches=0 trains nothing: give a number of batches or a share above 0."),
        ({"val_check_interval": 0}, "trainer.val_check_interval is 0: give a number of iterations or a share of an epoch, or null for once an epoch."),
        ({"check_val_every_n_epoch": 0}, "trainer.check_val_every_n_epoch is 0: give a number of epochs, or null to count iterations over epochs."),
        ({"min_steps": 9}, "trainer.min_steps=9 is above trainer.max_steps=4: lower it, or leave it out."),
        ({"limit_val_batches": 0}, "callbacks.best_checkpoint.monitor is val/error, but trainer.limit_val_batches=0 leaves no validation: give 1 or more."),
    ],
)  # fmt: skip
def test_what_the_settings_leave_nothing_of_is_told(node, sentence):
    config = {"trainer": {"max_steps": 4} | node}
    assert list(unfit_lengths(config, trainer_of(node), BEST)) == [sentence]


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"limit_train_batches": 0.05}, "trainer.limit_train_batches=0.05 of 11 batches is not one: give a share of 0.091 or more"),
        ({"limit_val_batches": 0.3}, "trainer.limit_val_batches=0.3 of 3 batches is not one: give a share of 0.3334 or more"),
        ({"limit_test_batches": 0.4}, "trainer.limit_test_batches=0.4 of 2 batches is not one: give a share of 0.5 or more"),
        ({"val_check_interval": 12}, "trainer.val_check_interval=12 lies beyond an epoch of 11 batches"),
        ({"val_check_interval": 5, "limit_train_batches": 4}, "trainer.val_check_interval=5 lies beyond an epoch of 4 batches"),
        ({}, "monitor is val/error, but the first validation would come after iteration 11, and the run has 4: set trainer.check_val_every_n_epoch=null and trainer.val_check_interval to 4 or less"),
        ({"val_check_interval": 0.5}, "the first validation would come after iteration 5, and the run has 4"),
        ({"max_steps": -1, "max_epochs": 2, "check_val_every_n_epoch": 3}, "would come after iteration 33, and the run has 22"),
        ({"val_check_interval": 30, "check_val_every_n_epoch": None}, "would come after iteration 30, and the run has 4"),
    ],
)  # fmt: skip
def test_what_the_data_leave_nothing_of_is_told_before_anything_is_trained(node, sentence):
    check = LastCheck(BEST)
    check.when_passed = lambda: pytest.fail("it was refused")
    with pytest.raises(UserError) as refused:
        check.setup(trainer_of(node), None, "fit")  # type: ignore
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("node", "monitors"),
    [
        ({"limit_train_batches": 0.1, "limit_val_batches": 0.34, "limit_test_batches": 0.5}, {}),
        ({"val_check_interval": 4}, BEST),
        ({"val_check_interval": 3, "check_val_every_n_epoch": None}, BEST),
        ({"max_steps": -1, "max_epochs": 3, "check_val_every_n_epoch": 3}, BEST),
        ({"max_steps": -1, "max_epochs": -1}, BEST),  # by wall time
        ({}, {}),
    ],
)
def test_what_is_enough_passes(node, monitors):
    passed = []
    check = LastCheck(monitors)
    check.when_passed = lambda: passed.append(True)
    check.setup(trainer_of(node), None, "fit")  # type: ignore
    check.setup(trainer_of(node), None, "test")  # type: ignore
    assert passed == [True]


def test_an_interval_beyond_an_epoch_is_told_of_data_without_validation_too():
    """Lightning refuses it there as well."""
    trainer = trainer_of({"val_check_interval": 12})
    trainer.datamodule.val_size = 0
    with pytest.raises(UserError, match="trainer.val_check_interval=12 lies beyond an epoch of 11 batches"):
        LastCheck({}).setup(trainer, None, "fit")  # type: ignore


def test_monitors_are_those_of_validation():
    callbacks = [
        SimpleNamespace(monitor="val/error"),
        SimpleNamespace(monitor="train/loss"),
        SimpleNamespace(monitor=None),
    ]
    assert monitors_of_validation({"callbacks": {"a": 1, "b": 2, "c": 3}}, callbacks) == {
        "callbacks.a.monitor": "val/error"
    }


def test_a_share_of_a_small_set_ends_in_a_sentence(tmp_path):
    words = ["experiment=resnet_digits", "trainer=cpu", "logger=none", *TINY["resnet_digits"], "datamodule.batch_size=128",
             "trainer.limit_train_batches=0.05"]  # fmt: skip
    run = build(compose_job("train", words, str(tmp_path)))
    with pytest.raises(UserError, match="trainer.limit_train_batches=0.05 of 11 batches is not one"):
        run.trainer.fit(run.module, datamodule=run.datamodule)


@pytest.mark.parametrize("unsaid", ["null", "-1"])
def test_a_run_by_epochs_leaves_its_iterations_out(unsaid, tmp_path):
    words = ["experiment=resnet_digits", "trainer=cpu", "logger=none", *TINY["resnet_digits"]]
    (config,) = check_command_line("train", [*words, f"trainer.max_steps={unsaid}", "trainer.max_epochs=3"])
    trainer = build(config).trainer
    assert (trainer.max_steps, trainer.max_epochs) == (-1, 3)
