"""Faster R-CNN: object detection with region proposal networks (Ren, He, Girshick & Sun 2015, arXiv:1506.01497).

    python train.py experiment=faster_rcnn_shapes      # scenes of handwritten digits, a quarter of an hour on two cores
    python train.py experiment=faster_rcnn_coco trainer=ddp
    python train.py experiment=mask_rcnn_coco trainer=ddp

A region proposal network looks at every place of a feature map for anchors, boxes of a few sizes and shapes, that hold
an object, and corrects them; what it proposes is classified and corrected once more from the same features. The
networks are in ``networks/faster_rcnn.py``; this file holds what they are trained for (eq. 1 and 2) and the recipe.
Without its RPN the network is Fast R-CNN, which looks at regions that the data give; with one that crops them, R-CNN.
What is reached and each departure from the paper: docs/methods/faster_rcnn.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim import Optimizer
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from foundation.errors import UserError
from foundation.metrics import Directions, in_stage
from foundation.protocols import (
    AnnotatesObjects,
    DetectsObjects,
    DetectsObjectsInImages,
    ProposesRegions,
    ProposesRegionsInImages,
)
from foundation.randomness import keyed_generator
from lightning_modules.across_ranks import mean_without_gradient
from lightning_modules.networks.detection_backbones import FrozenBatchNorm
from lightning_modules.networks.faster_rcnn import (
    DetectionNetwork,
    Proposals,
    SampledRegions,
    is_of_every_class,
    rows_by_name,
)
from lightning_modules.networks.fixed_numbers import Keys
from lightning_modules.networks.region_proposals import SampledAnchors
from lightning_modules.optimized import Batch, Optimized, OptimizerFactory

TRAINED_WITHOUT_EPSILON = ("fasterrcnn_resnet50_fpn_coco-258fb6c6.pth", "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # one by the deviations of the heads' coordinates: 0.1, 0.1, 0.2, 0.2


def box_coordinates(boxes: Tensor, anchors: Tensor, weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0)) -> Tensor:
    """t of eq. 2: where boxes lie seen from their anchors, [N, 4].

    boxes, anchors: [N, 4] left, top, right, bottom. t: the centre's distance by the anchor's size, and the logarithm of
    the size by the anchor's.
    """
    sizes, anchor_sizes = boxes[:, 2:] - boxes[:, :2], anchors[:, 2:] - anchors[:, :2]
    centres, anchor_centres = boxes[:, :2] + sizes / 2, anchors[:, :2] + anchor_sizes / 2
    coordinates = torch.cat([(centres - anchor_centres) / anchor_sizes, (sizes / anchor_sizes).log()], dim=1)
    return torch.stack([it * weight for it, weight in zip(coordinates.unbind(1), weights, strict=True)], dim=1)


def smooth_l1(difference: Tensor, beta: float) -> Tensor:
    """R of eq. 1 (Fast R-CNN's eq. 3, where beta is 1): a parabola up to beta, from there a line. Elementwise."""
    size = difference.abs()
    return torch.where(size < beta, size.square() / (2 * beta), size - beta / 2)


def objectness_loss(logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
    """The sum of L_cls of eq. 1 over the anchors drawn, log loss of object against background, or over those that count
    (bool). All: [S]."""
    if counts is None:
        return binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    return (binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none") * counts).sum()


def class_loss(logits: Tensor, labels: Tensor, counts: Tensor | None = None) -> Tensor:
    """The sum of the log loss over the regions drawn, or over those that count (bool [R]). logits: [R, K + 1]; labels:
    [R], 0 the background."""
    if counts is None:
        return cross_entropy(logits, labels, reduction="sum")
    return (cross_entropy(logits, labels, reduction="none") * counts).sum()


def box_loss(
    deltas: Tensor,
    boxes: Tensor,
    anchors: Tensor,
    beta: float,
    weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    counts: Tensor | None = None,
) -> Tensor:
    """The sum of L_reg of eq. 1 over anchors around objects, R(t - t*), or over those that count (bool [P]). Others:
    [P, 4]."""
    sizes = smooth_l1(deltas - box_coordinates(boxes, anchors, weights), beta)
    return sizes.sum() if counts is None else (sizes * counts.unsqueeze(1)).sum()


def names_of_rows(last: Mapping[str, Tensor]) -> list[str] | None:
    """The classes of a detector that does not say them: COCO's, where it has torchvision's 91 rows of them."""
    scores = next((it for name, it in last.items() if "cls_score" in name), None)
    coco: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return coco[1:] if scores is not None and len(scores) == len(coco) else None


def classes_in_words(taken: Sequence[str], of: Sequence[str], most: int = 10) -> str:
    """Which classes begin with rows from elsewhere, and which at random."""
    kinds = {"by their names": list(taken), "at random": [it for it in of if it not in taken]}
    told = [f"{len(names)} {how} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
            for how, names in kinds.items() if names]  # fmt: skip
    return f"of {len(of)} classes {' and '.join(told)}"


class FasterRCNN(Optimized):
    """Minimises the losses of those parts of the network that are trained: the RPN's and the heads' at once (section
    3.2, approximate joint training), or one of them (the steps of alternating training).

    Args:
        network: images [3, H, W] in [0, 1], of any sizes -> detections, or what the losses are made of.
        optimizer: makes an optimiser out of those parameters that are trained.
        beta: where the loss of coordinates becomes linear.
        balance: lambda of eq. 1, where both sums are divided by the number of anchors drawn.
        bias_rate: biases learn at so many times the optimiser's rate.
        channels_last: the layout in which convolutions are fastest in half precision.
        optimized: see ``Optimized``; seed is also that of the anchors and regions that are drawn.
    """

    requires_data = AnnotatesObjects
    # Of torchvision's detectors, of its classifiers, of a run of ``ResNet`` on one of them; then those layers of a
    # classifier that heads begin with: VGG-16's two, a ResNet's last stage, and ZF's by their names in Caffe.
    initial_prefixes = (
        ("", "network."), ("features.", "network.backbone.body."), ("", "network.backbone.body."),
        ("network.net.", "network.backbone.body."), ("classifier.0.", "network.roi_heads.box_head.1."),
        ("classifier.3.", "network.roi_heads.box_head.4."), ("", "network.roi_heads.box_head."),
        ("network.net.", "network.roi_heads.box_head."),
    )  # fmt: skip

    def __init__(
        self,
        network: DetectionNetwork,
        *,
        optimizer: OptimizerFactory,
        beta: float = 1 / 9,
        balance: float = 1.0,
        bias_rate: float = 1.0,
        channels_last: bool = True,
        **optimized: Any,
    ) -> None:
        super().__init__(**optimized)
        for key, number in {"beta": beta, "balance": balance, "bias_rate": bias_rate}.items():
            if not number > 0:
                raise UserError(f"lightning_module.{key} is {number}: give a number above 0.")
        self.network, self.optimizer = network, optimizer
        self.beta, self.balance, self.bias_rate, self.channels_last = beta, balance, bias_rate, channels_last
        self.num_classes = network.num_classes
        self.class_names: list[str] | None = None  # of the data that it was trained on, labels from 1 on
        self.category_ids = list(range(1, self.num_classes + 1))  # what the data call them
        self.begun: str | None = None

    # --- training ----------------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        draws = self.draws(batch["index"])
        anchors, regions = self.network(batch["image"], batch["target"], draws, batch.get("proposals"))
        parts = self.losses(anchors, regions)
        loss = torch.stack([*parts.values()]).sum()
        self.log_training(self.trainer.global_step + 1, {"loss": loss, **parts})
        return loss

    def losses(self, anchors: SampledAnchors | None, regions: SampledRegions | None) -> dict[str, Tensor]:
        """Eq. 1 for the anchors, its like for the regions; each a mean over what was drawn from the global batch."""
        parts: dict[str, Tensor] = {}
        if anchors is not None:
            drawn = self.mean_over_ranks(anchors.drawn)
            parts["loss_objectness"] = objectness_loss(anchors.logits, anchors.labels, anchors.counts) / drawn
            of_anchors = (anchors.deltas, anchors.objects, anchors.anchors, self.beta)
            boxes = box_loss(*of_anchors, counts=anchors.around_objects)
            parts["loss_rpn_box_reg"] = self.balance * (boxes / drawn)
        if regions is not None:
            read = self.mean_over_ranks(regions.drawn)
            of_regions = (regions.deltas, regions.objects, regions.proposals, self.beta, REGION_WEIGHTS)
            parts["loss_classifier"] = class_loss(regions.logits, regions.labels, regions.counts) / read
            parts["loss_box_reg"] = box_loss(*of_regions, counts=regions.around_objects) / read
            if regions.mask_logits is not None and regions.masks is not None:
                mask_loss = binary_cross_entropy_with_logits(regions.mask_logits, regions.masks, reduction="sum")
                parts["loss_mask"] = mask_loss / self.mean_over_ranks(regions.masks.numel())
        return parts

    def mean_over_ranks(self, count: int | Tensor) -> Tensor:
        """At least 1: a batch may have nothing to draw from. A sum by it, averaged over ranks, is the global mean."""
        if not isinstance(count, Tensor):
            count = torch.full((), count, device=self.device)
        return mean_without_gradient(self.trainer, count.to(torch.float32)).clamp(min=1)

    def draws(self, index: Tensor) -> list[torch.Generator] | Keys:
        """What an image's anchors and regions are drawn by, a function of (seed, iteration, index). A CPU knows at once
        how many boxes it draws from, and has a generator for each image; any other device has keys."""
        return self.generators(index) if index.device.type == "cpu" else self.keys(index)

    def generators(self, index: Tensor) -> list[torch.Generator]:
        return [keyed_generator(self.seed, "sampling", self.trainer.global_step, it) for it in index.tolist()]

    def keys(self, index: Tensor) -> Keys:
        return Keys(self.seed, self.trainer.global_step, index)

    def make_optimizers(self) -> list[Optimizer]:
        trained = {name: it for name, it in self.named_parameters() if it.requires_grad}
        if self.bias_rate == 1:
            return [self.optimizer(trained.values())]
        kinds = [[it for name, it in trained.items() if name.endswith("bias") == of_biases] for of_biases in (0, 1)]
        groups: Any = [{"params": them} for them in kinds]
        optimizer = self.optimizer(groups)
        biases = optimizer.param_groups[1]
        biases["lr"] = self.bias_rate * biases["lr"]  # schedules multiply what each group begins with
        return [optimizer]

    # --- weights and categories --------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        datamodule = getattr(self.trainer, "datamodule", None)
        if names := getattr(datamodule, "class_names", None):
            self.class_names = list(names)
        if ids := getattr(datamodule, "category_ids", None):
            self.category_ids = list(ids)
        if self.channels_last:
            self.network.memory_format = torch.channels_last
            self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def adopted(
        self, weights: dict[str, Tensor], file: str, class_names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        backbone = self.network.backbone
        if file in TRAINED_WITHOUT_EPSILON and backbone.norm == "frozen" and backbone.frozen_eps:
            raise UserError(
                f"{file} was trained without an epsilon in its norms, which are frozen here: set "
                "lightning_module.network.backbone.frozen_eps=0."
            )
        own, last = self.state_dict(), {name: it for name, it in weights.items() if is_of_every_class(name)}
        if not last or self.class_names is None:
            return weights
        there = class_names or names_of_rows(last)
        if there is None:
            same = all(it.shape == own[name].shape for name, it in last.items())
            self.begun = (
                "its last layers by the places of their classes, whose names are not known there" if same else None
            )
            return weights
        found, taken = {}, []
        for name, it in last.items():
            found[name], taken = rows_by_name(name, it, own[name], there, self.class_names)
        self.begun = classes_in_words(taken, self.class_names)
        return weights | found

    def refuses_to_begin(self, taken: set[str]) -> str | None:
        parts = {"network.backbone.body": "backbone", "network.roi_heads.box_head.layer4": "heads"}
        frozen = {
            f"{name}.{it}": parts[place]
            for place in parts
            for name, part in self.named_modules()
            if name.startswith(f"{place}.") and isinstance(part, FrozenBatchNorm)
            for it in part.state_dict()
        }
        if lost := [it for it in frozen if it not in taken]:
            return (
                f"lightning_module.network.{frozen[lost[0]]}.norm is frozen, which keeps what weights have learned, "
                f"and of {len(frozen)} such weights {len(lost)} begin with none: set init_from to weights for "
                "network.backbone.body, or the norm to batch or group."
            )
        fixed = {name for name in self.state_dict() if self.is_fixed(name)}
        if missing := fixed - taken:
            return (
                f"lightning_module.network.fixed keeps {' and '.join(self.network.fixed)} as they begin, and of "
                f"{len(fixed)} such weights {len(missing)} begin with none: set init_from to a run that has trained "
                "them."
            )
        return None

    def is_fixed(self, weight: str) -> bool:
        """Whether a weight of that name belongs to a part that keeps what it has learned."""
        parts = tuple(f"network.{'roi_heads' if it == 'heads' else it}." for it in self.network.fixed)
        return weight.startswith(parts) and not weight.endswith("num_batches_tracked")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"class_names": self.class_names, "category_ids": self.category_ids}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.class_names, self.category_ids = checkpoint["class_names"], checkpoint["category_ids"]

    # --- what callbacks ask ------------------------------------------------------------------------------------

    @property
    def needs_proposals(self) -> bool:
        """The data give the regions that are looked at."""
        return self.network.rpn is None

    @property
    def takes_proposals(self) -> bool:
        return self.needs_proposals or self.network.learns("heads")

    def capabilities(self) -> set[type]:
        detects = self.network.roi_heads is not None
        if self.needs_proposals:
            return {ProposesRegions, DetectsObjects}
        return {ProposesRegionsInImages} | ({DetectsObjectsInImages} if detects else set())

    def metrics(self, stage: str) -> Directions:
        names = ["loss_objectness", "loss_rpn_box_reg"] if self.network.learns("rpn") else []
        if (heads := self.network.roi_heads) is not None and self.network.learns("heads"):
            names += ["loss_classifier", "loss_box_reg", *(["loss_mask"] if heads.has_mask() else [])]
        return {**super().metrics(stage), **(in_stage(stage, dict.fromkeys(names, "min")) if stage == "train" else {})}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        detections, proposals = self.look(batch["image"], batch.get("proposals"))
        told = {"index": batch["index"], "image_id": batch["image_id"], "proposals": proposals}
        return told if self.network.roi_heads is None else told | {"detections": detections}

    test_step = validation_step

    def detect_objects(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        return self.look(images)[0]

    def propose_regions(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        return self.look(images)[1]

    @torch.no_grad()
    def look(
        self, images: Sequence[Tensor], proposals: Proposals | None = None
    ) -> tuple[list[dict[str, Any]], Proposals]:
        """As of the network, with labels as the data call them."""
        if not len(images):  # a rank without a share of the batch
            return [], []
        ids = torch.tensor([0, *self.category_ids], device=images[0].device)
        found: Any
        found, proposals = self.network.look(images, proposals)
        for detections in found:
            detections["labels"] = ids[detections["labels"]]
            if "masks" in detections:
                detections["masks"] = detections["masks"][:, 0] > 0.5
        return found, proposals
