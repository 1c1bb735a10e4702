"""The base of the classifiers, whatever they read: labels and loss only."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from lightning_modules.micro_batches import Inputs
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told


def wrong_of(told: Told) -> tuple[Tensor, int]:
    """How many of a batch's examples were taken for another class, and how many these are."""
    return (told["logits"].argmax(dim=1) != told["label"]).sum(), len(told["label"])


class Classifier(TakesTurns):
    """Cross-entropy of a network's logits. What goes into the network is an heir's matter (``logits``).

    Args:
        network: has ``num_classes``, unless they are given.
        optimizer: makes an optimiser out of parameters.
        num_classes: None: the network's.
        label_smoothing: the share of the target that is spread over all classes.
        compile_mode: of ``torch.compile``, such as default or reduce-overhead; None leaves the network as it is.
        turns: see ``TakesTurns``.
    """

    needs_labels = True

    def __init__(
        self,
        network: nn.Module,
        *,
        optimizer: OptimizerFactory,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        compile_mode: str | None = None,
        **turns: Any,
    ) -> None:
        super().__init__(**turns)
        if not 0 <= label_smoothing < 1:
            raise UserError(f"lightning_module.label_smoothing is {label_smoothing}: give a share from 0 to below 1.")
        self.network, self.optimizer = network, optimizer
        self.label_smoothing, self.compile_mode = label_smoothing, compile_mode
        self.num_classes: int = num_classes or network.num_classes  # pyright: ignore[reportAttributeAccessIssue]
        self.class_names: list[str] | None = None  # of the data that it was trained on

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """[B, num_classes] float32 (or double) of what a batch holds."""

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def loss(self, inputs: Inputs) -> Told:
        logits = self.logits(inputs)
        loss = cross_entropy(logits, inputs["label"], label_smoothing=self.label_smoothing)
        return {"loss": loss, "index": inputs["index"], "logits": logits, "label": inputs["label"]}

    def training_figures(self) -> dict[str, Callable[[Any], tuple[Tensor, int]]]:
        """Also the error, of the examples as they were augmented."""
        return super().training_figures() | {"error": wrong_of}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        return {"index": batch["index"], "logits": self.logits(batch), "label": batch["label"]}

    test_step = validation_step

    def setup(self, stage: str) -> None:
        if names := getattr(getattr(self.trainer, "datamodule", None), "class_names", None):
            self.class_names = list(names)
        if self.compile_mode is not None and stage == "fit":
            self.network.compile(mode=self.compile_mode)  # in place, so that checkpoints keep their keys

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.class_names = checkpoint["class_names"]
