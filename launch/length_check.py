"""Is anything trained, validated and measured at all? What a trainer's lengths and limits leave of it.

A run that has learned nothing would otherwise end as finished, and one whose validation never comes keeps no best.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer

from callbacks.instruments.run_clock import length_of
from foundation.errors import UserError
from foundation.length import Length
from foundation.protocols import said
from foundation.published import chosen

OF_SCHEDULE = "lightning_module.scheduler.monitor"
"""The key of the metric that a schedule goes by, where it goes by one."""
NOT_ZERO = {
    "val_check_interval": "a number of iterations or a share of an epoch, or null for once an epoch",
    "check_val_every_n_epoch": "a number of epochs, or null to count iterations over epochs",
}


def monitors_of_validation(config: Mapping[str, Any], callbacks: Sequence[Any]) -> dict[str, str]:
    """Metrics of validation that callbacks and a schedule go by, by the keys that name them."""
    named = zip(config["callbacks"], callbacks, strict=True)
    monitors = {f"callbacks.{name}.monitor": said(it, "monitor") for name, it in named}
    monitors |= {OF_SCHEDULE: chosen(config, OF_SCHEDULE)}
    return {key: metric for key, metric in monitors.items() if metric is not None and metric.startswith("val/")}


def unfit_lengths(config: Mapping[str, Any], trainer: Trainer, monitors: Mapping[str, str]) -> Iterator[str]:
    """What the settings say by themselves. monitors: metrics of validation by the keys that name them."""
    node = config["trainer"]
    yield from Length.of(node).problems()
    if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
        yield "trainer.fast_dev_run saves and logs nothing: use debug=steps, which does, for a few iterations."
        return
    if trainer.limit_train_batches == 0:
        yield "trainer.limit_train_batches=0 trains nothing: give a number of batches or a share above 0."
    for key, what in NOT_ZERO.items():
        if node.get(key) == 0:
            yield f"trainer.{key} is 0: give {what}."
    for least, most in (("min_steps", "max_steps"), ("min_epochs", "max_epochs")):
        if (node.get(least) or 0) > (node.get(most) or -1) > 0:
            yield f"trainer.{least}={node[least]} is above trainer.{most}={node[most]}: lower it, or leave it out."
    if trainer.limit_val_batches == 0:
        for key, metric in monitors.items():
            yield f"{key} is {metric}, but trainer.limit_val_batches=0 leaves no validation: give 1 or more."


class LastCheck(Callback):
    """Refuses what the data's numbers of batches make of the settings, when they are known and nothing is trained.

    Args:
        monitors: of callbacks, metrics of validation by the keys that name them.
    """

    def __init__(self, monitors: Mapping[str, str]) -> None:
        self.monitors = monitors
        self.begun = False
        """Whether a fit has come as far as training, its checkpoint restored."""
        self.when_passed: Callable[[], None] = lambda: None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if problems := [*unfit_batches(trainer, self.monitors)]:
            raise UserError("\n".join(problems))
        self.when_passed()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begun = True


def unfit_batches(trainer: Any, monitors: Mapping[str, str]) -> Iterator[str]:
    for split in ("train", "val", "test"):
        limit = getattr(trainer, f"limit_{split}_batches")
        if (
            isinstance(limit, float)
            and 0 < limit < 1
            and int(limit * (there := batches_of(trainer, split))) == 0 < there
        ):
            yield (
                f"trainer.limit_{split}_batches={limit} of {there} batches is not one: give a share of "
                f"{math.ceil(1e4 / there) / 1e4} or more, or a number of batches."
            )
            return
    interval, an_epoch = trainer.val_check_interval, trainer.check_val_every_n_epoch is not None
    validates = said(trainer.datamodule, "val_size") > 0 and trainer.limit_val_batches != 0
    by_epochs = isinstance(interval, int) and an_epoch and trainer.limit_val_batches != 0  # Lightning looks at no more
    if not by_epochs and not (validates and monitors):
        return
    batches = limited(batches_of(trainer, "train"), trainer.limit_train_batches)
    if by_epochs and interval > batches:
        yield (
            f"trainer.val_check_interval={interval} lies beyond an epoch of {batches} batches, so that nothing would "
            "be validated: set trainer.check_val_every_n_epoch=null to count iterations over epochs, or give "
            f"{batches} or less."
        )
        return
    if not validates:
        return
    first, total = first_validation(trainer, batches), iterations_asked(trainer, batches)
    if first > total:
        for key, metric in monitors.items():
            yield (
                f"{key} is {metric}, but the first validation would come after iteration {first}, and the run has "
                f"{total:g}: set trainer.check_val_every_n_epoch=null and trainer.val_check_interval to {total:g} or "
                "less, or train longer."
            )


def batches_of(trainer: Any, split: str) -> int:
    loader = getattr(trainer.datamodule, f"{split}_dataloader")()
    return len(loader) if loader else 0


def limited(batches: int, limit: float) -> int:
    return min(batches, limit) if isinstance(limit, int) else int(batches * limit)


def first_validation(trainer: Any, batches: int) -> int:
    """The iteration after which it comes, of epochs of so many batches."""
    interval = trainer.val_check_interval
    inside = interval if isinstance(interval, int) else max(int(batches * interval), 1)
    before = ((trainer.check_val_every_n_epoch or 1) - 1) * batches
    return math.ceil((before + inside) / trainer.accumulate_grad_batches)


def iterations_asked(trainer: Any, batches: int) -> float:
    """Infinite where it is by wall time alone."""
    length = length_of(trainer)
    in_epochs = (length.epochs or math.inf) * math.ceil(batches / trainer.accumulate_grad_batches)
    return min(length.iterations or math.inf, in_epochs)
