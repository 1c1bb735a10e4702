"""How many of the objects an image's proposals find, exact on any number of ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from torchvision.ops import box_iou

from callbacks.instruments.measurement import Measurement
from foundation.errors import UserError
from foundation.metrics import Directions, in_stage
from foundation.protocols import AnnotatesObjects, ProposesRegions

THRESHOLDS = tuple(it / 100 for it in range(50, 100, 5))  # .5, .55, ... .95


def overlaps_found(proposals: Tensor, objects: Tensor) -> Tensor:
    """By how much each object's own proposal overlaps it, [G] float64; 0 where none does.

    proposals: [N, 4]; objects: [G, 4]. A proposal finds one object: the pair that overlaps most goes first, then the
    pair that does of what is left (Hosang et al. 2016, and py-faster-rcnn's ``evaluate_recall``).
    """
    overlaps, found = box_iou(proposals.double(), objects.double()), torch.zeros(len(objects), dtype=torch.float64)
    for _ in range(min(overlaps.shape)):
        proposal, which = divmod(int(overlaps.argmax()), len(objects))
        if overlaps[proposal, which] <= 0:
            break
        found[which] = overlaps[proposal, which]
        overlaps[proposal], overlaps[:, which] = -1, -1
    return found


class ProposalRecallMetric(Metric):
    """Keeps for each object and each number of proposals the overlap that it is found with, at the object's place.

    An image that is seen twice counts once; one that is not seen, and a crowd, not at all.

    Args:
        ground_truth: of the whole split, in COCO's format (``AnnotatesObjects``).
        counts: how many proposals of an image, the first ones, are looked at.
    """

    full_state_update = False
    overlaps: Tensor

    def __init__(self, ground_truth: Mapping[str, Any], counts: Sequence[int], **metric: Any) -> None:
        super().__init__(**metric)
        self.counts = list(counts)
        objects = [it for it in ground_truth["annotations"] if not it.get("iscrowd", 0)]
        self.places: dict[int, list[int]] = {it["id"]: [] for it in ground_truth["images"]}
        for place, it in enumerate(objects):
            self.places[it["image_id"]].append(place)
        corners = torch.tensor([it["bbox"] for it in objects], dtype=torch.float64).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        self.objects = corners
        unseen = torch.full((len(self.counts), len(objects)), -1.0, dtype=torch.float64)
        self.add_state("overlaps", unseen, dist_reduce_fx="max")

    def update(self, image_id: Tensor, proposals: Sequence[Mapping[str, Tensor]]) -> None:
        """image_id: [B] int64; proposals: B, as ``ProposesRegions`` gives them."""
        for image, found in zip(image_id.tolist(), proposals, strict=True):
            if image not in self.places:
                raise UserError(
                    f"There are proposals in image {image}, which is not one of the {len(self.places)} images of the "
                    "ground truth: image_id must be the data set's id of the image, not its place in the split."
                )
            places, boxes = self.places[image], found["boxes"].detach().cpu()
            for row, count in zip(self.overlaps, self.counts, strict=True):
                row[places] = overlaps_found(boxes[:count], self.objects[places]).to(row)

    def compute(self) -> dict[str, float]:
        """NaN where there was no object."""
        rows = self.overlaps.reshape(len(self.counts), -1).cpu()
        seen, figures = rows[0] >= 0, {}
        for count, row in zip(self.counts, rows, strict=True):
            recalls = [float((row[seen] >= it).double().mean()) for it in THRESHOLDS]
            figures[f"proposal_recall_{count}"] = recalls[0]
            figures[f"proposal_average_recall_{count}"] = sum(recalls) / len(recalls)
        return figures


class ProposalRecall(Measurement):
    """Logs ``<stage>/proposal_recall_300``, the share of objects that one of an image's first 300 proposals overlaps by
    half or more, and ``<stage>/proposal_average_recall_300``, the mean of that share over overlaps of .5, .55, ... .95.

    Args:
        counts: how many proposals are looked at; of an image that has fewer, all.
    """

    metric: ProposalRecallMetric
    requires = ProposesRegions
    requires_data = AnnotatesObjects

    def __init__(self, counts: Sequence[int] = (50, 100, 300, 1000)) -> None:
        if not counts or min(counts) < 1 or len(set(counts)) < len(counts):
            raise UserError(
                f"callbacks.proposal_recall.counts is {list(counts)}: give numbers of proposals, 1 or more, each once."
            )
        self.counts = list(counts)

    def metrics(self, module: Any, stage: str) -> Directions:
        names = [f"proposal_{kind}_{count}" for count in self.counts for kind in ("recall", "average_recall")]
        return in_stage(stage, dict.fromkeys(names, "max")) if stage != "train" else {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, "val")

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start(trainer, "test")

    def _start(self, trainer: Trainer, stage: str) -> None:
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        metric = ProposalRecallMetric(datamodule.coco_ground_truth(stage), self.counts)
        self.metric = metric.to(trainer.strategy.root_device)  # where ranks meet

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["image_id"], outputs["proposals"])
