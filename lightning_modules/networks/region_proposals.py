"""The region proposal network of Faster R-CNN out of torchvision's parts, and how examples are drawn for its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from foundation.errors import UserError
from lightning_modules.networks.precision import at_least_single, out_of_autocast

Targets = list[dict[str, Tensor]]


@dataclass
class SampledAnchors:
    """What the RPN's losses are made of: the anchors drawn from all images of a batch, P of S around objects."""

    logits: Tensor  # [S], of being an object
    labels: Tensor  # [S], 1 where it is one, else 0
    deltas: Tensor  # [P, 4], predicted
    anchors: Tensor  # [P, 4]
    objects: Tensor  # [P, 4], the boxes to find from there


def in_full_precision(x: Tensor) -> tuple[Tensor, Any]:
    """The tensor in float32 or finer, and the context in which autocast leaves it so."""
    return at_least_single(x), out_of_autocast(x.device)


class Sampler(BalancedPositiveNegativeSampler):
    """Draws for an image from that image's generator; without generators as torchvision does, from the global one."""

    generators: Sequence[torch.Generator] | None = None

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """matched_idxs: of each image [N], -1 ignored, 0 background, else an object -> masks [N] of those drawn."""
        if self.generators is None:
            return super().__call__(matched_idxs)
        drawn: tuple[list[Tensor], list[Tensor]] = ([], [])
        for labels, generator in zip(matched_idxs, self.generators, strict=True):
            room = self.batch_size_per_image
            most = int(room * self.positive_fraction)
            for masks, wanted, limit in zip(drawn, (labels >= 1, labels == 0), (most, room), strict=True):
                found = torch.where(wanted)[0]
                taken = torch.randperm(len(found), generator=generator)[: min(limit, room)].to(found.device)
                masks.append(torch.zeros_like(wanted).index_fill_(0, found[taken], True))
                room -= len(taken)
        return drawn


CELL = 16  # pixels of the image, of a cell of the one map that the paper's nets have


class Anchors(AnchorGenerator):
    """In float32 whatever the features are: in bf16 a coordinate above 512 is rounded to 4 pixels."""

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        super().set_cell_anchors(torch.promote_types(dtype, torch.float32), device)


class ReleasedAnchors(Anchors):
    """Those of py-faster-rcnn: around the middle of a cell of 16 pixels, where torchvision's are around its corner, and
    with sides that are multiples of a cell's, reshaped to whole pixels (23 x 12, 16 x 16, 11 x 22).

    That code has the middle at 7.5, as it counts from the middles of pixels; where a box is its outline it is 8.
    """

    def generate_anchors(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        scales: Sequence[int],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008  # as torchvision calls it
    ) -> Tensor:
        """Left, top, right, bottom around the first cell, [ratios * scales, 4]; scales: square roots of areas."""
        sides = []
        for ratio in aspect_ratios:
            width = round(CELL / ratio**0.5)
            sides += [(width * it / CELL, round(width * ratio) * it / CELL) for it in scales]
        half = torch.tensor(sides, dtype=dtype, device=device) / 2
        return torch.cat([CELL / 2 - half, CELL / 2 + half], dim=1)

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """A cell is of 16 pixels also where a net's padding makes more cells than the image has room for (ZF)."""
        whole = [[torch.full_like(it, CELL) for it in pair] for pair in strides]
        return super().grid_anchors(grid_sizes, whole)


class ProposalHead(RPNHead):
    """Logits and deltas in float32: in bf16 many scores are ties, and a side is known to half a per cent."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = [], []
        for feature in x:
            hidden, context = in_full_precision(self.conv(feature))
            with context:
                logits.append(self.cls_logits(hidden))
                deltas.append(self.bbox_pred(hidden))
        return logits, deltas


class RegionProposals(RegionProposalNetwork):
    """torchvision's RPN, which gives its samples instead of losses, and may ignore anchors as the paper does.

    Numbers in pairs are for training and for what comes after it.

    Args:
        channels: of the feature maps.
        anchor_sizes: for each map, square roots of the anchors' areas in pixels of the resized image.
        aspect_ratios: heights by widths.
        convolutions: before the two outputs.
        anchors_per_image: drawn for the losses, at most half of them around objects.
        before_nms: the likeliest of each map.
        proposals: of an image that go on to the heads.
        min_score: of a proposal; min_side: of its box, in pixels of the resized image.
        ignore_cross_border: anchors that reach beyond the image are neither object nor background, nor a best one.
        released_anchors: the paper's code's instead of torchvision's; for nets with one map at a 16th of the image.
    """

    def __init__(
        self,
        channels: int,
        anchor_sizes: Sequence[Sequence[int]],
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        convolutions: int = 1,
        anchors_per_image: int = 256,
        before_nms: Sequence[int] = (2000, 1000),
        proposals: Sequence[int] = (2000, 1000),
        nms: float = 0.7,
        min_score: float = 0.0,
        min_side: float = 1e-3,
        ignore_cross_border: bool = False,
        released_anchors: bool = False,
    ) -> None:
        for key, pair in {"before_nms": before_nms, "proposals": proposals}.items():
            if len(pair) != 2 or min(pair) < 1:
                raise UserError(f"network.rpn.{key} is {list(pair)}: give two numbers, for training and after it.")
        if len({len(sizes) for sizes in anchor_sizes}) != 1:
            raise UserError("network.rpn.anchor_sizes has lists of other lengths: give every map as many sizes.")
        kind = ReleasedAnchors if released_anchors else Anchors
        anchors = kind(tuple(map(tuple, anchor_sizes)), (tuple(aspect_ratios),) * len(anchor_sizes))
        super().__init__(
            anchors, ProposalHead(channels, anchors.num_anchors_per_location()[0], convolutions),
            fg_iou_thresh=0.7, bg_iou_thresh=0.3, batch_size_per_image=anchors_per_image, positive_fraction=0.5,
            pre_nms_top_n={"training": before_nms[0], "testing": before_nms[1]},
            post_nms_top_n={"training": proposals[0], "testing": proposals[1]}, nms_thresh=nms, score_thresh=min_score,
        )  # fmt: skip
        self.fg_bg_sampler = Sampler(anchors_per_image, 0.5)
        self.min_size, self.ignore_cross_border = min_side, ignore_cross_border

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, images: ImageList, features: Mapping[str, Tensor], targets: Targets | None = None
    ) -> tuple[list[Tensor], list[Tensor], SampledAnchors | None]:
        """Of each image the proposals [N, 4], the likeliest first, and how likely each is, [N] in [0, 1]; with targets
        what the losses need, too."""
        maps = list(features.values())
        logits, deltas = self.head(maps)
        anchors = self.anchor_generator(images, maps)
        in_level = [it[0].numel() for it in logits]
        logits, deltas = concat_box_prediction_layers(logits, deltas)
        # Proposals are constants to the heads' losses: the approximate joint training of section 3.2.
        boxes = self.box_coder.decode(deltas.detach(), anchors).view(len(anchors), -1, 4)
        proposals, scores = self.filter_proposals(boxes, logits, images.image_sizes, in_level)
        if targets is None:
            return proposals, scores, None
        labels, objects = self.label(anchors, targets, images.image_sizes)
        positive, negative = (torch.where(torch.cat(it))[0] for it in self.fg_bg_sampler(labels))
        drawn = torch.cat([positive, negative])
        return proposals, scores, SampledAnchors(
            logits.flatten()[drawn], torch.cat(labels)[drawn],
            deltas[positive], torch.cat(anchors)[positive], torch.cat(objects)[positive],
        )  # fmt: skip

    def label(
        self, anchors: list[Tensor], targets: Targets, sizes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image's anchors: 1 object, 0 background, -1 neither [A]; and the object's box [A, 4]."""
        if not self.ignore_cross_border:
            return self.assign_targets_to_anchors(anchors, targets)
        labels, objects = [], []
        for boxes, target, (height, width) in zip(anchors, targets, sizes, strict=True):
            inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
            labels.append(torch.full_like(boxes[:, 0], -1))
            objects.append(torch.zeros_like(boxes))
            if inside.any():
                found = self.assign_targets_to_anchors([boxes[inside]], [target])
                labels[-1][inside], objects[-1][inside] = found[0][0], found[1][0]
        return labels, objects
