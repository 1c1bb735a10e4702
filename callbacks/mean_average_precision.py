"""COCO's mean average precision of a detector, exact on any number of ranks."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.coco_evaluation import (
    FIGURES,
    Evaluation,
    Packed,
    broadcast_from_first,
    check_images,
    encode,
    evaluate,
    gather_on_first,
    merge,
)
from callbacks.instruments.detection_confusion import confusion_of
from callbacks.instruments.detections import MeasuresDetections
from callbacks.instruments.pictures import draw_counts, log_picture, log_table, shortened
from callbacks.instruments.tables import write_table
from foundation.errors import UserError
from foundation.metrics import Directions, in_stage
from foundation.whole_files import whole, write_whole

PREFIXES = {"boxes": "", "masks": "mask_"}
BACKGROUND = "(background)"
SUFFIXES = {"boxes": "", "masks": "_masks"}


class MeanAveragePrecisionMetric(Metric):
    """COCO's twelve figures for boxes, and with the prefix ``mask_`` for masks.

    The detections of each rank are a few flat arrays in the CPU's memory, which the first rank gathers in one exchange.
    It leaves out duplicates of an image, evaluates, and gives the figures to all. Average precision is no mean over
    images, so nothing can be reduced before.

    Args:
        ground_truth: of the whole split, in COCO's format (``AnnotatesObjects``).
        masks: measure them beside the boxes.
        whole: every image of the ground truth must have been seen; else only those that were are measured.
    """

    full_state_update = False
    images: list[Tensor]
    detections: list[Tensor]
    mask_lengths: list[Tensor]
    mask_bytes: list[Tensor]

    def __init__(self, ground_truth: Mapping[str, Any], masks: bool = False, whole: bool = True, **metric: Any) -> None:
        super().__init__(sync_on_compute=False, **metric)  # compute exchanges what it needs by itself
        self.ground_truth, self.whole = ground_truth, whole
        self.kinds = ["boxes", "masks"] if masks else ["boxes"]
        self.evaluations: dict[str, Evaluation] = {}
        """After ``compute`` on the first rank: of boxes and masks."""
        for state in ("images", "detections", "mask_lengths", "mask_bytes"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(self, image_id: Tensor, detections: Sequence[Mapping[str, Any]]) -> None:
        """image_id: [B] int64; detections: B, as ``DetectsObjects`` gives them."""
        for number, found in zip(image_id.tolist(), detections, strict=True):
            boxes, scores, labels = found["boxes"], found["scores"], found["labels"]
            if scores.dtype not in (torch.float32, torch.float64):
                raise UserError(
                    f"The scores of the detections are {scores.dtype}, in which many are the same and have no order: "
                    "compute them in float32."
                )
            size = [0, 0]
            if "masks" in self.kinds:
                encoded = encode(found.get("masks"))
                size = encoded[0]["size"] if encoded else size
                texts = [it["counts"] for it in encoded]
                self.mask_lengths.append(torch.tensor([len(it) for it in texts], dtype=torch.int64))
                self.mask_bytes.append(torch.from_numpy(np.frombuffer(b"".join(texts), np.uint8).copy()))
            self.images.append(torch.tensor([[number, len(boxes), *size]]))
            columns = [boxes.reshape(-1, 4), scores[:, None], labels[:, None]]
            self.detections.append(torch.cat([it.detach().cpu().double() for it in columns], dim=1))

    def compute(self) -> dict[str, float]:
        """The same on every rank; NaN for a figure that no object counts for."""
        shares, answer = gather_on_first(self.packed(), self.process_group), None
        if shares is not None:
            try:
                answer = self.figures_of(merge(shares))
            except UserError as mistake:
                answer = mistake  # the other ranks wait for an answer
        answer = broadcast_from_first(answer, self.process_group)
        if isinstance(answer, UserError):
            raise answer
        return answer

    def packed(self) -> Packed:
        """What this rank has seen."""
        empty = {
            "images": torch.empty(0, 4, dtype=torch.int64),
            "detections": torch.empty(0, 6, dtype=torch.float64),
            "mask_lengths": torch.empty(0, dtype=torch.int64),
            "mask_bytes": torch.empty(0, dtype=torch.uint8),
        }
        return Packed(**{name: torch.cat([none, *getattr(self, name)]).numpy() for name, none in empty.items()})

    def figures_of(self, found: Packed) -> dict[str, float]:
        """Called on the first rank with what all have seen."""
        check_images(found, self.ground_truth, self.whole)
        self.evaluations = {kind: evaluate(found, self.ground_truth, kind) for kind in self.kinds}
        return {
            PREFIXES[kind] + name: value
            for kind, evaluation in self.evaluations.items()
            for name, value in evaluation.figures.items()
        }


class MeanAveragePrecision(MeasuresDetections):
    """Logs COCO's twelve figures, ``<stage>/map`` to ``<stage>/mar_large``, and writes what the test found.

    ``average_precision.csv`` has a row a class, ``detections.json`` the detections as COCO's evaluation server takes
    them, ``confusion.csv`` and its picture what is taken for what (``instruments.detection_confusion``); with masks
    there are ``average_precision_masks.csv`` and ``detections_masks.json`` beside them. Every image of the split must
    be measured; with limited batches (``trainer.limit_test_batches``) the figures are those of the images that were.

    Args:
        folder: where the table and the detections go.
        masks: measure masks beside boxes, as ``<stage>/mask_map`` and so on.
        write_detections: some 100 bytes each.
        confusion_min_score: detections of a lower score are left out of what is taken for what.
    """

    metric: MeanAveragePrecisionMetric

    def __init__(
        self, folder: str, masks: bool = False, write_detections: bool = True, confusion_min_score: float = 0.5
    ) -> None:
        if not 0 <= confusion_min_score <= 1:
            raise UserError(
                f"callbacks.mean_average_precision.confusion_min_score is {confusion_min_score}: give a score from 0 "
                "to 1."
            )
        self.confusion_min_score = confusion_min_score
        self.folder, self.masks, self.write_detections = Path(folder), masks, write_detections
        self.kinds = ["boxes", "masks"] if masks else ["boxes"]

    def metrics(self, module: Any, stage: str) -> Directions:
        names = [PREFIXES[kind] + name for kind in self.kinds for name in FIGURES]
        return in_stage(stage, dict.fromkeys(names, "max")) if stage != "train" else {}

    def tables(self, module: Any) -> set[str]:
        return {f"test/average_precision{SUFFIXES[kind]}_table" for kind in self.kinds} | {"test/confusion_table"}

    def pictures(self, module: Any) -> set[str]:
        return {"test/confusion"}

    def metric_of(self, ground_truth: Mapping[str, Any], whole: bool) -> MeanAveragePrecisionMetric:
        return MeanAveragePrecisionMetric(ground_truth, self.masks, whole)

    @rank_zero_only
    def write(self, trainer: Trainer, module: Any) -> None:
        for kind, evaluation in self.metric.evaluations.items():
            path = self.folder / f"average_precision{SUFFIXES[kind]}.csv"
            with whole(path) as unfinished, unfinished.open("w", newline="") as file:
                table = csv.DictWriter(file, list(evaluation.classes[0]))
                table.writeheader()
                for row in evaluation.classes:
                    table.writerow({key: "" if value != value else value for key, value in row.items()})  # NaN
            log_table(trainer, f"test/average_precision{SUFFIXES[kind]}_table", path)
            if self.write_detections:
                write_whole(self.folder / f"detections{SUFFIXES[kind]}.json", json.dumps(evaluation.results))
        if self.metric.evaluations:
            found = self.metric.evaluations["boxes"].found  # also where there are masks
            self._write_confusion(trainer, confusion_of(found, self.metric.ground_truth, self.confusion_min_score))

    def _write_confusion(self, trainer: Trainer, counts: Tensor) -> None:
        categories = sorted(self.metric.ground_truth["categories"], key=lambda it: it["id"])
        names = [it["name"] for it in categories]
        rows: list[list[Any]] = [["class", *(f"detected_{name}" for name in names), "missed"]]
        rows += [[name, *line] for name, line in zip([*names, BACKGROUND], counts.tolist(), strict=True)]
        write_table(self.folder / "confusion.csv", rows)
        picture = self.folder / "confusion.png"
        short = [shortened(it, 16) for it in names]
        draw_counts(
            counts, picture, rows=[*short, BACKGROUND], columns=[*short, "missed"], title="What is taken for what",
            of_rows="object", of_columns=f"detected, score from {self.confusion_min_score:g}",
        )  # fmt: skip
        log_picture(trainer, "test/confusion", picture)
        log_table(trainer, "test/confusion_table", self.folder / "confusion.csv")
