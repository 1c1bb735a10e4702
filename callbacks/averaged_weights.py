"""An exponential moving average of the weights, measured and sampled in their place."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor

from foundation.errors import UserError


class AveragedWeights(EMAWeightAveraging):
    """Lightning's average, with parameters and batch-norm statistics, updated after every iteration.

    Validation, test, the pictures at the end and every checkpoint's ``state_dict`` have the averaged weights; a run's
    record says so. A checkpoint keeps the trained ones beside them (``current_model_state``), so a resumed run goes
    on as if nothing had happened. What differs from Lightning: the average is swapped in for the whole of validation,
    so that the best checkpoint is the one that was measured, and the end of training keeps both; and how many weights
    it is the average of is counted on the host, where Lightning's asks the device twice an iteration and waits for it.

    Args:
        decay: the share of the former average that an iteration keeps.
        start: the first iteration, counted from 0, whose weights are averaged.
        bias_corrected: the average of t weights is one that began at zero, divided by 1 - decay^t. Without, it begins
            at the first weights, which keep a share of decay^(t - 1).
        parts: names of the module's parts that are averaged, the others staying as they were trained; None: all.
    """

    for_training_only = True

    def __init__(
        self, decay: float = 0.999, start: int = 0, bias_corrected: bool = False, parts: Sequence[str] | None = None
    ) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"callbacks.averaged_weights.decay is {decay}: give a number from 0 to below 1.")
        if parts is not None and not parts:
            raise UserError("callbacks.averaged_weights.parts is empty: name a part of the module, or null for all.")
        super().__init__(decay=decay, update_starting_at_step=start)
        self.decay, self.bias_corrected, self.averaged_parts = decay, bias_corrected, parts
        self.averaged = 0  # weights so far
        self.averaged_is_in_place = False

    def describe(self) -> str:
        how = [f"decay {self.decay}"] + ["bias-corrected"] * self.bias_corrected
        how += [] if self.averaged_parts is None else [f"{' and '.join(self.averaged_parts)} alone"]
        return f"averaged ({', '.join(how)})"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # The copy was made before the module moved to its device.
        assert self._average_model is not None
        self._average_model.to(pl_module.device)
        self.averaged_is_in_place = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert self._average_model is not None
        self.averaged = int(self._average_model.n_averaged)  # of a checkpoint

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step
        if done > self._latest_update_step and self.should_update(step_idx=done - 1):
            self._average(pl_module)
            self._latest_update_step = done

    @torch.no_grad()
    def _average(self, module: LightningModule) -> None:
        model = self._average_model
        assert model is not None
        averages = chain(model.module.parameters(), model.module.buffers())
        of_type: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
        for average, weight in zip(averages, chain(module.parameters(), module.buffers()), strict=True):
            of_type[average.dtype][0].append(average)
            of_type[average.dtype][1].append(weight)
        for them in of_type.values():
            self._towards(*them)
        self.averaged += 1
        model.n_averaged += 1

    def _towards(self, averages: list[Tensor], weights: list[Tensor]) -> None:
        """Of one type; counts and flags are those of the weights where the average is a corrected one."""
        is_floating = averages[0].is_floating_point()
        if not self.averaged or (self.bias_corrected and not is_floating):
            torch._foreach_copy_(averages, weights)  # pyright: ignore[reportPrivateImportUsage]
        elif self.bias_corrected:  # a step of this share keeps the average of t weights the corrected one
            share = (1 - self.decay) / (1 - self.decay ** (self.averaged + 1))
            torch._foreach_lerp_(averages, weights, share)  # pyright: ignore[reportPrivateImportUsage]
        elif is_floating:
            torch._foreach_mul_(averages, self.decay)  # pyright: ignore[reportPrivateImportUsage]
            shares = torch._foreach_mul(weights, 1 - self.decay)  # pyright: ignore[reportPrivateImportUsage]
            torch._foreach_add_(averages, shares)  # pyright: ignore[reportPrivateImportUsage]
        else:
            for average, weight in zip(averages, weights, strict=True):
                average.copy_(self.decay * average + (1 - self.decay) * weight)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def _swap(self, module: LightningModule) -> None:
        if self._average_model is not None:
            self._leave_the_rest(module)
            self._swap_models(module)
            self.averaged_is_in_place = not self.averaged_is_in_place

    def _leave_the_rest(self, module: LightningModule) -> None:
        """What is not averaged stands among the averages as it was trained."""
        if self._average_model is None or self.averaged_parts is None or self.averaged_is_in_place:
            return
        averages = self._average_model.module.state_dict()
        for name, trained in module.state_dict().items():
            if name.partition(".")[0] not in self.averaged_parts:
                averages[name].copy_(trained)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._leave_the_rest(pl_module)
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.averaged_is_in_place:
            current = checkpoint["state_dict"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = checkpoint["current_model_state"], current


def weights_of(trainer: Trainer) -> str:
    """Which weights the trainer's test measures, in words for a record."""
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return next((it.describe() for it in callbacks if isinstance(it, AveragedWeights)), "trained")


def check_averaging(callbacks: list[Any], checkpoint: dict[str, Any], path: Any) -> None:
    """Refuse to go on without the average from a checkpoint with one: its ``state_dict`` is not what was trained."""
    if "averaging_state" in checkpoint and not any(isinstance(it, WeightAveraging) for it in callbacks):
        raise UserError(
            f"{path} holds averaged weights, and the run to go on has no callbacks.averaged_weights: put it back, or "
            "start a new run without."
        )
