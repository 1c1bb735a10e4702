"""What measures a detector against all annotations of a split."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from foundation.protocols import AnnotatesObjects, DetectsObjects


class MeasuresDetections(Measurement):
    """Gives its metric a split's annotations and each batch's detections."""

    requires = DetectsObjects
    requires_data = AnnotatesObjects

    @abstractmethod
    def metric_of(self, ground_truth: Mapping[str, Any], whole: bool) -> Metric:
        """A metric of these; whole: every image of the split has to be measured."""

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, "val", trainer.limit_val_batches)

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, "test", trainer.limit_test_batches)

    def _start(self, trainer: Trainer, stage: str, limit: float) -> None:
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        whole = isinstance(limit, float) and limit == 1.0  # the whole number 1 is a single batch
        self.metric = self.metric_of(datamodule.coco_ground_truth(stage), whole)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["image_id"], outputs["detections"])
