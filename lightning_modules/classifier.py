"""The base of the classifiers: loss and optimiser only."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from foundation.errors import UserError
from foundation.logged_iterations import is_logged
from foundation.metrics import Directions
from foundation.protocols import ClassifiesImages
from lightning_modules.networks.precision import at_least_single

Batch = dict[str, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


class Classifier(LightningModule):
    """Cross-entropy of a network's logits; the schedule steps once an iteration, whatever the number of ranks.

    Args:
        network: images [B, C, H, W], normalised -> logits [B, num_classes]; has ``image_shape`` and ``num_classes``.
        mean, std: of the channels, for pixels in [0, 1]; one value for all channels or one for each.
        optimizer: makes an optimiser out of parameters.
        scheduler: makes a schedule out of an optimiser.
        label_smoothing: the share of the target that is spread over all classes.
        channels_last: the layout in which a network's convolutions are fastest in half precision.
        compile_mode: of ``torch.compile``, such as default or reduce-overhead; None leaves the network as it is.
        seed: unused by the loss; subclasses draw with it.
    """

    needs_labels = True

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        optimizer: OptimizerFactory,
        scheduler: SchedulerFactory | None = None,
        label_smoothing: float = 0.0,
        channels_last: bool = False,
        compile_mode: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.network, self.optimizer, self.scheduler = network, optimizer, scheduler
        self.label_smoothing, self.compile_mode, self.seed = label_smoothing, compile_mode, seed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.image_shape: tuple[int, ...] = tuple(network.image_shape)  # pyright: ignore[reportArgumentType, reportCallIssue]
        self.num_classes: int = network.num_classes  # pyright: ignore[reportAttributeAccessIssue]
        self.class_names: list[str] | None = None  # of the data that it was trained on
        self._check(mean, std)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(std).view(-1, 1, 1).reciprocal(), persistent=False)

    def capabilities(self) -> set[type]:
        return {ClassifiesImages}

    def metrics(self, stage: str) -> Directions:
        return {"train/loss": "min"} if stage == "train" else {}

    def class_logits(self, images: Tensor) -> Tensor:
        """images: [B, C, H, W] in [0, 1] -> [B, num_classes] float32 (or double)."""
        normalized = (images - self.mean) * self.scale
        logits = self.network(normalized.contiguous(memory_format=self.memory_format))
        return at_least_single(logits)

    forward = class_logits

    def training_step(self, batch: Batch, batch_idx: int) -> Batch:
        logits, label = self.class_logits(batch["image"]), batch["label"]
        loss = cross_entropy(logits, label, label_smoothing=self.label_smoothing)
        if is_logged(self.trainer, self.trainer.global_step + 1):
            self.log("train/loss", loss.detach(), batch_size=1, sync_dist=True)
        return {"loss": loss, "index": batch["index"], "logits": logits, "label": label}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        return {"index": batch["index"], "logits": self.class_logits(batch["image"]), "label": batch["label"]}

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return [optimizer], []
        return [optimizer], [{"scheduler": self.scheduler(optimizer), "interval": "step"}]

    def setup(self, stage: str) -> None:
        self.network.to(memory_format=self.memory_format)  # pyright: ignore[reportCallIssue, reportArgumentType]
        if names := getattr(getattr(self.trainer, "datamodule", None), "class_names", None):
            self.class_names = list(names)
        if self.compile_mode is not None and stage == "fit":
            self.network.compile(mode=self.compile_mode)  # in place, so that checkpoints keep their keys

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.class_names = checkpoint["class_names"]

    def _check(self, mean: Sequence[float], std: Sequence[float]) -> None:
        channels = self.image_shape[0]
        for key, values in {"mean": mean, "std": std}.items():
            if len(values) not in (1, channels):
                raise UserError(
                    f"lightning_module.{key} has {len(values)} values for images of {channels} channel(s): give one, "
                    "or one a channel."
                )
        if min(std) <= 0:
            raise UserError(f"lightning_module.std is {list(std)}: give numbers above 0.")
        if not 0 <= self.label_smoothing < 1:
            raise UserError(
                f"lightning_module.label_smoothing is {self.label_smoothing}: give a share from 0 to below 1."
            )
