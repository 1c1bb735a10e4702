"""Networks that say what an image shows, by which generated images are scored.

Scores by different judges cannot be compared, so each logs under names of its own. Those from ImageNet are in
``inception.py``.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from callbacks.instruments.downloads import once_a_machine
from foundation.checkpoints import fingerprint
from foundation.errors import UserError
from foundation.metrics import Directions, in_stage
from foundation.protocols import ClassifiesImages, said, serves


class Judge(nn.Module):
    """images: uint8 [B, C, H, W] -> logits [B, K], and features [B, D] where it has some to measure a distance in.

    Made without a network connection; ``fetch`` brings to the machine what has to be downloaded, ``load`` reads it.
    """

    score: str
    """The metric's name behind ``<stage>/``."""
    distance: str | None = None
    """That of the Fréchet distance; None for a judge without features."""
    classes: int
    features: int | None = None

    def unavailable_because(self) -> str | None:
        """Why it cannot judge here, as far as can be known without a network; None where it may be able to."""
        return None

    def fetch(self) -> str | None:
        """Download what is missing, once a machine; says why that was not possible."""
        return None

    def load(self) -> None:
        """Read the weights; changes no random state."""

    @abstractmethod
    def refusal(self, image_shape: Sequence[int]) -> str | None:
        """Why it cannot look at images of this shape (channels, height, width); None where it can."""

    @abstractmethod
    def describe_for_record(self) -> dict[str, Any]:
        """What a record says of it, once it is loaded."""


class ClassifierJudge(Judge):
    """A module that ``ClassifiesImages``, such as that of a finished run; works without a network connection.

    It has no features that every classifier has, so there is no distance.
    """

    score = "classifier_score"

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not serves(module, ClassifiesImages):
            raise UserError(
                f"callbacks.classifier_score.judge is {type(module).__name__}, which classifies no images and "
                "cannot judge: name a classifier's run, such as one of experiment=resnet_mnist."
            )
        self.module: Any = module.requires_grad_(False)
        self.classes: int = self.module.num_classes
        self.dtype = next(module.parameters()).dtype

    def refusal(self, image_shape: Sequence[int]) -> str | None:
        if tuple(image_shape) == tuple(self.module.image_shape):
            return None
        return (
            f"its judge tells images of (channels, height, width) {tuple(self.module.image_shape)} apart, and the "
            f"module makes {tuple(image_shape)}"
        )

    def describe_for_record(self) -> dict[str, Any]:
        return {"network": type(self.module).__name__, "weights_sha256": fingerprint(self.module.state_dict())}

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        return self.module.class_logits(images.to(self.dtype) / 255), None


class Judged(Callback):
    """The base of what measures by a judge. Without the judge's weights nothing is measured, and the run goes on.

    Args:
        judge: one of ``instruments``, or a classifier.
    """

    def __init__(self, judge: Judge | nn.Module) -> None:
        self.judge = judge if isinstance(judge, Judge) else ClassifierJudge(judge)
        self.unavailable_because = self.judge.unavailable_because()
        self.is_ready = self.is_told = False

    @abstractmethod
    def names(self, stage: str) -> Directions:
        """What it logs in a stage, without ``<stage>/``, given its judge."""

    @abstractmethod
    def how(self) -> dict[str, Any]:
        """What a record says beside the judge."""

    def metrics(self, module: Any, stage: str) -> Directions:
        return {} if self.unavailable_because else in_stage(stage, self.names(stage))

    def unavailable_metrics(self, module: Any, stage: str) -> Directions:
        """The keys that are not logged for want of the judge's weights."""
        return in_stage(stage, self.names(stage)) if self.unavailable_because else {}

    def refusal(self, module: Any) -> str | None:
        """Why this module's images cannot be judged, before anything starts."""
        shape = said(module, "image_shape")
        return self.judge.refusal(shape) if shape else None

    def describe_for_record(self) -> dict[str, Any]:
        if self.is_ready:
            return {self.judge.score: {"judge": self.judge.describe_for_record(), **self.how()}}
        return {self.judge.score: {"left_out": reason}} if (reason := self.unavailable_because) else {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not self.unavailable_because and not self.is_ready:
            self.unavailable_because = once_a_machine(self.judge.fetch, trainer)
        if self.unavailable_because:
            self._leave_out(trainer, pl_module)
            return
        if not self.is_ready:
            self.judge.load()
            self.is_ready = True
        self.judge.to(trainer.strategy.root_device)

    def _leave_out(self, trainer: Any, module: Any) -> None:
        """Say once that nothing will be measured; what would go by it cannot go on."""
        reason = self.unavailable_because
        if trainer.is_global_zero and not self.is_told:
            print(f"{self.judge.score} is left out: {reason}.", flush=True)
        self.is_told = True
        for callback in trainer.callbacks:
            if (monitor := said(callback, "monitor")) in self.unavailable_metrics(module, "val"):
                raise UserError(f"{type(callback).__name__} goes by {monitor}, which is left out: {reason}.")
