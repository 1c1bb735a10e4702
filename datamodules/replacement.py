"""A table that takes another's place while a trainer is at work: when it may, and what Lightning then asks for anew."""

from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.fabric.utilities.data import _set_sampler_epoch

from foundation.errors import UserError


def loop_over(trainer: Trainer, split: str) -> Any:
    """Lightning's loop that has asked for the loader of a split; None where none has."""
    fit = trainer.fit_loop
    loops = {
        ("fit", "train"): fit,
        ("fit", "val"): fit.epoch_loop.val_loop,
        ("validate", "val"): trainer.validate_loop,
        ("test", "test"): trainer.test_loop,
    }
    loop: Any = loops.get((getattr(trainer.state.fn, "value", ""), split))
    return loop if loop is not None and loop._combined_loader is not None else None


def reader_of(trainer: Trainer, split: str) -> str | None:
    """What is in the middle of a split, in words; None where another table may take its place."""
    loop = loop_over(trainer, split)
    if loop is None:
        return None
    if split != "train":
        done = loop._data_fetcher is None or loop._data_fetcher.done
        return "an evaluation" if trainer.evaluating and not done else None
    begun = loop.epoch_loop.batch_progress.current.ready > 0
    ended = loop.epoch_loop._is_training_done or (trainer.should_stop and loop._can_stop_early)
    return "an epoch" if begun and not ended else None


def is_trained_on(trainer: Trainer) -> bool:
    """Whether a fit has begun to read: what is changed from then on has to be in its checkpoints."""
    return trainer.state.fn == "fit" and (trainer.sanity_checking or trainer.fit_loop._combined_loader is not None)


def read_anew(trainer: Trainer, split: str) -> None:
    """Lightning asks for a loader and counts its batches once a fit; here it does both again."""
    loop, epochs = loop_over(trainer, split), trainer.fit_loop.epoch_progress.current
    if loop is None or trainer.state.fn != "fit":
        return
    loop._combined_loader = None
    try:
        loop.setup_data()
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(str(error).strip()) from None  # such as a val_check_interval above the batches that are left
    loaders: Any = loop._combined_loader
    for loader in loaders.flattened:
        _set_sampler_epoch(loader, epochs.processed)  # pyright: ignore[reportAttributeAccessIssue]


def differs_between_ranks(trainer: Trainer, fingerprint: str) -> bool:
    """fingerprint: of this rank's table, in hexadecimal digits. The answer is the same on every rank."""
    if not dist.is_initialized():
        return False
    own = torch.tensor(int(fingerprint[:15], 16), device=trainer.strategy.root_device)
    every: Any = trainer.strategy.all_gather(own)
    return bool((every != every[0]).any())
