"""``trainer.precision=auto`` is one choice of a run: the same on every rank, and after every resume."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision

from foundation.records import read_record

CHOICES = ("32-true", "bf16-mixed")


class ChosenPrecision(Callback):
    """Every run has one.

    Args:
        asked: ``trainer.precision``; only ``auto`` is a choice.
        milliseconds: what it was chosen by, see ``launch/precision.py``.
    """

    def __init__(self, asked: Any, milliseconds: Mapping[str, Any] | None) -> None:
        self.asked, self.milliseconds = asked, milliseconds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ranks on other processors would choose otherwise: rank 0 chooses for all."""
        if self.asked == "auto":
            use_precision(trainer, trainer.strategy.broadcast(trainer.precision))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["precision"] = trainer.precision


def keep_precision(trainer: Trainer, checkpoint: Mapping[str, Any], folder: Path) -> None:
    """Where ``auto`` was asked for, compute as the run did; checkpoints of before do not say it, its record does."""
    if any(it.asked == "auto" for it in parts_of(trainer)):
        record = read_record(folder)
        told = [checkpoint, *reversed(record.get("resumes", [])), record]
        use_precision(trainer, next((it["precision"] for it in told if "precision" in it), None))


def use_precision(trainer: Trainer, precision: Any) -> None:
    if precision in CHOICES and precision != trainer.precision:
        device = trainer.strategy.root_device.type
        trainer.strategy.precision_plugin = (
            Precision() if precision == CHOICES[0] else MixedPrecision(precision, device)
        )


def measured_for(trainer: Any) -> dict[str, Any]:
    """``precision_ms`` for the record: what ``auto`` was chosen by; nothing where it was not."""
    told = [it.milliseconds for it in parts_of(trainer) if it.asked == "auto" and it.milliseconds]
    return {"precision_ms": told[0]} if told else {}


def parts_of(trainer: Any) -> list[ChosenPrecision]:
    return [it for it in trainer.callbacks if isinstance(it, ChosenPrecision)]
