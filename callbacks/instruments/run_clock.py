"""How far a trainer is on the way that ``foundation/length.py`` reads from its config, and the end by wall time."""

import math
import time
from collections.abc import Mapping
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from foundation.errors import UserError
from foundation.length import Length
from lightning_modules.schedules import Schedule


class RunClock(Callback):
    """Counts the time of training, validation included, over all starts of a run; ends it when ``max_time`` is spent.

    A run that would end before it is first logged is logged in every iteration. Every run has one. Lightning's own
    Timer may stop between the batches of one gradient, and each rank has its own; here rank 0's time is everybody's,
    since schedules follow it.
    """

    def __init__(self, length: Length) -> None:
        self.length = length
        self.before = 0.0  # seconds of the run's earlier starts
        self.started: float | None = None
        self.agreed = 0.0  # seconds, the same on all ranks; of the last iteration's end
        self.epoch_began = 0, 0  # this epoch's number, and the iterations before it

    def seconds(self) -> float:
        """Trained so far, by this rank's clock."""
        return self.before + (0.0 if self.started is None else time.monotonic() - self.started)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that had come to its end and was interrupted in its test is at its end again.
        spent = self.length.seconds is not None and self.before >= self.length.seconds
        trainer.should_stop = spent or any(
            has_had_enough(it.state_dict(), it.patience) for it in trainer.early_stopping_callbacks
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.monotonic()
        if counted_iterations(trainer) < trainer.log_every_n_steps:  # pyright: ignore[reportAttributeAccessIssue]
            trainer.log_every_n_steps = 1  # pyright: ignore[reportAttributeAccessIssue]
        for config in trainer.lr_scheduler_configs:
            if isinstance(config.scheduler, Schedule):
                config.scheduler.follow(lambda: expected_iterations(trainer))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_began = trainer.current_epoch, trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.length.seconds is not None and not gradient_is_unfinished(trainer):
            self.agreed = trainer.strategy.broadcast(self.seconds())
            trainer.should_stop |= self.agreed >= self.length.seconds

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:
            raise UserError(
                "Not one iteration was trained: the data gave no batch, or something ended the run at once."
            )
        self.before, self.started = self.seconds(), None

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds(), "epoch_began": list(self.epoch_began)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = self.agreed = state_dict["seconds"]
        epoch, iterations = state_dict.get("epoch_began", self.epoch_began)
        self.epoch_began = epoch, iterations


def gradient_is_unfinished(trainer: Trainer) -> bool:
    """After a batch: whether its gradient waits for those of more batches (trainer.accumulate_grad_batches)."""
    return trainer.fit_loop._should_accumulate()


def clock_of(trainer: Trainer) -> RunClock | None:
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next((it for it in callbacks if isinstance(it, RunClock)), None)


def length_of(trainer: Trainer) -> Length:
    """What a trainer is asked for."""
    clock = clock_of(trainer)
    return clock.length if clock else Length.of({"max_steps": trainer.max_steps, "max_epochs": trainer.max_epochs})


def done_by(trainer: Trainer) -> Length:
    """How far it has come; epochs are those that were trained to their last batch."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches, clock = trainer.fit_loop.epoch_loop.batch_progress, clock_of(trainer)
    return Length(
        iterations=trainer.global_step,
        epochs=epochs.started if batches.is_last_batch else epochs.processed,
        seconds=clock.agreed if clock else None,
    )


def done_in(checkpoint: Mapping[str, Any]) -> Length:
    """The same of a checkpoint."""
    loops, callbacks = checkpoint["loops"].get("fit_loop"), checkpoint.get("callbacks") or {}
    epochs = None
    if loops:
        ended = loops["epoch_loop.batch_progress"]["is_last_batch"]
        epochs = loops["epoch_progress"]["current"]["started" if ended else "processed"]
    return Length(checkpoint["global_step"], epochs, callbacks.get(RunClock.__qualname__, {}).get("seconds"))


def has_had_enough(stopping: Mapping[str, Any], patience: int) -> bool:
    """Whether early stopping, by its state, has ended the run and would again."""
    reason = EarlyStoppingReason(stopping.get("stopping_reason", EarlyStoppingReason.NOT_STOPPED))
    if reason is EarlyStoppingReason.PATIENCE_EXHAUSTED:
        return stopping["wait_count"] >= patience
    return reason is not EarlyStoppingReason.NOT_STOPPED


def was_the_last(trainer: Trainer) -> bool:
    """After a batch: whether the run ends with it."""
    stops = trainer.should_stop and trainer.fit_loop._can_stop_early
    return stops or length_of(trainer).reached(done_by(trainer)) is not None


def epochs_done(trainer: Trainer) -> float | None:
    """With the share of the epoch in progress; None where the data does not say how many batches it has."""
    epochs: Any = trainer.fit_loop.epoch_progress.current
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress
    if math.isinf(trainer.num_training_batches):
        return None
    if not progress.current.processed:
        return epochs.processed
    if progress.is_last_batch:
        return epochs.started
    return round(epochs.started - 1 + progress.current.processed / trainer.num_training_batches, 4)


def counted_iterations(trainer: Trainer) -> float:
    """Of the whole run as it is asked in iterations and epochs; infinite where it is in wall time alone.

    Epochs to come count as long as this one: data that change may make them longer or shorter."""
    length, clock, batches = length_of(trainer), clock_of(trainer), trainer.num_training_batches
    an_epoch = batches if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)
    epoch, before = clock.epoch_began if clock else (0, 0)
    in_epochs = before + (length.epochs - epoch) * an_epoch if length.epochs else math.inf
    return min(length.iterations or math.inf, in_epochs)


def expected_iterations(trainer: Trainer) -> float:
    """Of the whole run; with a budget of wall time what its pace so far leads one to expect."""
    clock, expected = clock_of(trainer), counted_iterations(trainer)
    if clock and clock.length.seconds and clock.agreed:
        return min(expected, trainer.global_step * clock.length.seconds / clock.agreed)
    return expected
