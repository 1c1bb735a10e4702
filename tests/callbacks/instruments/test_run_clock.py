from typing import Any

import pytest
from lightning import Callback, Trainer

from callbacks.instruments.run_clock import RunClock, counted_iterations, epochs_done
from foundation.length import Length
from tests.datamodules.test_splits import Listener, Numbers, when


class Reader(Callback):
    """What the clock says after each batch, and at the end."""

    def __init__(self) -> None:
        self.iterations: list[float] = []
        self.epochs: list[float | None] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.iterations.append(counted_iterations(trainer))
        self.epochs.append(epochs_done(trainer))

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self.epochs.append(epochs_done(trainer))


@pytest.mark.parametrize(("hook", "epoch"), [("epoch_start", 1), ("epoch_end", 0)])
def test_epochs_to_come_are_as_long_as_the_data_have_become(hook, epoch):
    reader = Reader()
    trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False,
                      callbacks=[RunClock(Length(epochs=3)), reader])  # fmt: skip
    trainer.fit(Listener(when(hook, epoch, "train", 0, 9)), datamodule=Numbers())
    assert trainer.global_step == 10
    assert reader.iterations == [18] * 6 + [10] * 4
    assert reader.epochs == [*(round(number / 6, 4) for number in range(1, 7)), 1.5, 2, 2.5, 3, 3]


def test_a_run_that_goes_on_knows_where_its_epoch_began():
    clock, resumed = RunClock(Length(epochs=3)), RunClock(Length(epochs=3))
    clock.epoch_began = 2, 40
    resumed.load_state_dict(clock.state_dict())
    assert resumed.epoch_began == (2, 40)
    resumed.load_state_dict({"seconds": 1.0})  # of a checkpoint from before
    assert resumed.epoch_began == (2, 40)
