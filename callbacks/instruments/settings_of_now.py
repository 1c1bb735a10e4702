"""A resumed run trains by the settings that it is asked for now."""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

from lightning import Callback, LightningModule, Trainer

from lightning_modules.schedules import Schedule


class SettingsOfNow(Callback):
    """Keeps what a checkpoint holds of former settings from taking the place of those that a resume is given.

    An optimiser's state has its learning rate, betas and weight decay beside the moments, a schedule's all that it was
    made with, a callback's its patience. What was learned is restored: moments, the iteration, the best value so far.
    The rest is as the config says it: groups of parameters have the numbers that their optimiser was made with, and a
    schedule is taken to its iteration anew. Every run has one, before all callbacks that go by such a setting.
    """

    def __init__(self) -> None:
        self.checkpoint: dict[str, Any] | None = None  # what Lightning restores from, until it has

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self.checkpoint, self.schedules = checkpoint, checkpoint["lr_schedulers"]
        checkpoint["lr_schedulers"] = []
        callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        keep_states_by_class(checkpoint["callbacks"], [it.state_key for it in callbacks])
        self.settings = [(callback, dict(settings_of(callback))) for callback in callbacks]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """When callbacks are restored, and optimisers are made and not restored yet."""
        if self.checkpoint is None:
            return
        for callback, settings in self.settings:
            for name, value in settings.items():
                setattr(callback, name, value)
        for state, optimizer in zip(self.checkpoint["optimizer_states"], trainer.optimizers, strict=True):
            pairs = zip(state["param_groups"], optimizer.param_groups, strict=True)
            state["param_groups"] = [as_made | {"params": saved["params"]} for saved, as_made in pairs]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.checkpoint is None:
            return
        for number, config in enumerate(trainer.lr_scheduler_configs):
            former = self.schedules[number] if number < len(self.schedules) else {}
            take_to(config.scheduler, {"last_epoch": trainer.global_step} | former)
        self.checkpoint = None


def settings_of(callback: Callback) -> Iterator[tuple[str, Any]]:
    """What it was made with, as far as it keeps that under the same name."""
    for kind in type(callback).__mro__[:-1]:
        for name in inspect.signature(kind.__init__).parameters:
            if name in vars(callback):
                yield name, getattr(callback, name)


def keep_states_by_class(states: dict[str, Any], keys: list[str]) -> None:
    """Lightning finds a callback's state by its settings; where these have changed, it gets its own all the same."""
    for key in set(keys) - states.keys():
        (kind, *_), unclaimed = key.split("{"), states.keys() - set(keys)
        former = [it for it in unclaimed if it.split("{")[0] == kind]
        if len(former) == 1:
            states[key] = states.pop(former[0])


def take_to(schedule: Any, former: dict[str, Any]) -> None:
    """Have a schedule that has just been made stand where it does after as many iterations as the former one."""
    if isinstance(schedule, Schedule):
        schedule.load_state_dict(former)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of an optimiser that has not stepped
        for _ in range(former["last_epoch"]):  # torch's go from one iteration to the next
            schedule.step()
