"""PASCAL VOC's mean average precision of a detector, exact on any number of ranks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.instruments.coco_evaluation import Packed, check_images
from callbacks.instruments.detections import MeasuresDetections
from callbacks.instruments.pictures import log_table
from callbacks.instruments.tables import write_table
from callbacks.instruments.voc_evaluation import FIGURES, VocEvaluation, evaluate_voc
from callbacks.mean_average_precision import MeanAveragePrecisionMetric
from foundation.metrics import Directions, in_stage


class VocAveragePrecisionMetric(MeanAveragePrecisionMetric):
    """``voc07_map`` (11 points) and ``voc12_map`` (the area), gathered and evaluated where COCO's figures are."""

    evaluation: VocEvaluation | None = None
    """After ``compute`` on the first rank."""

    def figures_of(self, found: Packed) -> dict[str, float]:
        check_images(found, self.ground_truth, self.whole)
        self.evaluation = evaluate_voc(found, self.ground_truth)
        return self.evaluation.figures


class VocAveragePrecision(MeasuresDetections):
    """Logs ``<stage>/voc07_map``, by VOC's rule of 2007 to 2009, and ``<stage>/voc12_map``, by that since 2010.

    ``voc_average_precision.csv`` has a row a class: how many objects there are to be found, how many are difficult, and
    the average precision by both rules. Every image of the split must be measured; with limited batches the figures are
    those of the images that were. What the rules are: ``callbacks.instruments.voc_evaluation``.

    Args:
        folder: where the table goes.
    """

    metric: VocAveragePrecisionMetric

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def metrics(self, module: Any, stage: str) -> Directions:
        return in_stage(stage, dict.fromkeys(FIGURES, "max")) if stage != "train" else {}

    def tables(self, module: Any) -> set[str]:
        return {"test/voc_average_precision_table"}

    def metric_of(self, ground_truth: Mapping[str, Any], whole: bool) -> VocAveragePrecisionMetric:
        return VocAveragePrecisionMetric(ground_truth, whole=whole)

    @rank_zero_only
    def write(self, trainer: Trainer, module: Any) -> None:
        if self.metric.evaluation is None:
            return
        rows = self.metric.evaluation.classes
        path = self.folder / "voc_average_precision.csv"
        cells = [["" if value != value else value for value in row.values()] for row in rows]  # NaN
        write_table(path, [list(rows[0]), *cells])
        log_table(trainer, "test/voc_average_precision_table", path)
