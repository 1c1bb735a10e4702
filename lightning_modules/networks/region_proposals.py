"""The region proposal network of Faster R-CNN out of torchvision's parts, and how examples are drawn for its losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers

from foundation.errors import UserError
from lightning_modules.networks.fixed_numbers import Keys, at, draw, likeliest
from lightning_modules.networks.precision import at_least_single, out_of_autocast

Targets = list[dict[str, Tensor]]


@dataclass
class SampledAnchors:
    """What the RPN's losses are made of: the anchors drawn from all images of a batch, P of S around objects.

    Where their numbers are fixed, some count and others do not.
    """

    logits: Tensor  # [S], of being an object
    labels: Tensor  # [S], 1 where it is one, else 0
    deltas: Tensor  # [P, 4], predicted
    anchors: Tensor  # [P, 4]
    objects: Tensor  # [P, 4], the boxes to find from there
    counts: Tensor | None = None  # bool [S]; None: all do
    around_objects: Tensor | None = None  # bool [P]

    @property
    def drawn(self) -> int | Tensor:
        """How many count."""
        return len(self.labels) if self.counts is None else self.counts.sum()


def in_full_precision(x: Tensor) -> tuple[Tensor, Any]:
    """The tensor in float32 or finer, and the context in which autocast leaves it so."""
    return at_least_single(x), out_of_autocast(x.device)


class Sampler(BalancedPositiveNegativeSampler):
    """Draws for an image from that image's generator; without generators as torchvision does, from the global one.

    How many are drawn is asked for of every image. Where the host should not wait for that, there are keys instead, and
    whoever has the labels draws by them (``fixed_numbers``).
    """

    generators: Sequence[torch.Generator] | None = None
    keys: Keys | None = None

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


class BestOfEach(Matcher):
    """torchvision's, in which nobody asks how many boxes are the best of an object."""

    def set_low_quality_matches_(self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor) -> None:
        best = (match_quality_matrix == match_quality_matrix.amax(dim=1, keepdim=True)).any(dim=0)
        matches.copy_(torch.where(best, all_matches, matches))


class Corrections(BoxCoder):
    """torchvision's of weights 1, without the halves that it sends to the device each time."""

    def __init__(self) -> None:
        super().__init__((1.0, 1.0, 1.0, 1.0))

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """t of eq. 2 and the anchors it is seen from, [N, 4] both -> boxes [N, 4]."""
        boxes = boxes.to(rel_codes.dtype)
        sizes = boxes[:, 2:] - boxes[:, :2]
        centres = rel_codes[:, :2] * sizes + (boxes[:, :2] + 0.5 * sizes)
        halves = 0.5 * (rel_codes[:, 2:].clamp(max=self.bbox_xform_clip).exp() * sizes)
        return torch.cat([centres - halves, centres + halves], dim=1)


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
        self.box_coder = Corrections()
        self.proposal_matcher = BestOfEach(0.7, 0.3, allow_low_quality_matches=True)
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
        keys = self.fg_bg_sampler.keys if self.training else None
        if keys is not None and self.nms_thresh < 1:
            proposals, scores = self.likeliest_proposals(boxes, logits, images.image_sizes, in_level)
        else:
            proposals, scores = self.filter_proposals(boxes, logits, images.image_sizes, in_level)
        if targets is None:
            return proposals, scores, None
        labels, objects = self.label(anchors, targets, images.image_sizes)
        if keys is not None:
            return proposals, scores, self.drawn_by(keys, logits, deltas, anchors[0], labels, objects)
        positive, negative = (torch.where(torch.cat(it))[0] for it in self.fg_bg_sampler(labels))
        drawn = torch.cat([positive, negative])
        return proposals, scores, SampledAnchors(
            logits.flatten()[drawn], torch.cat(labels)[drawn],
            deltas[positive], torch.cat(anchors)[positive], torch.cat(objects)[positive],
        )  # fmt: skip

    def drawn_by(
        self, keys: Keys, logits: Tensor, deltas: Tensor, anchors: Tensor, labels: list[Tensor], objects: list[Tensor]
    ) -> SampledAnchors:
        """As many of every image, some of which do not count. anchors: [A, 4], which all images have alike."""
        sampler, images = self.fg_bg_sampler, len(labels)
        of_images = torch.stack(labels)
        drawn = draw(
            keys.of("anchors", len(anchors)), of_images, sampler.batch_size_per_image, sampler.positive_fraction
        )
        around = drawn.around_objects
        boxes = drawn.of_objects(anchors.expand(images, -1, -1))
        found = torch.where(around.unsqueeze(2), drawn.of_objects(torch.stack(objects)), boxes)
        return SampledAnchors(
            drawn.of(logits.view(images, -1)).flatten(), drawn.of(of_images).flatten(),
            drawn.of_objects(deltas.view(images, -1, 4)).flatten(0, 1), boxes.flatten(0, 1), found.flatten(0, 1),
            drawn.counts.flatten(), around.flatten(),
        )  # fmt: skip

    def likeliest_proposals(
        self, boxes: Tensor, logits: Tensor, sizes: list[tuple[int, int]], in_level: list[int]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """``filter_proposals`` of a GPU, whose host waits once an image: for the number that NMS leaves over."""
        logits = logits.detach().view(len(boxes), -1)
        likely = self._get_top_n_idx(logits, in_level)
        boxes, scores = at(boxes, likely), at(logits, likely).sigmoid()
        counts = [min(self.pre_nms_top_n(), it) for it in in_level]
        levels = torch.cat([torch.full((count,), it, device=boxes.device) for it, count in enumerate(counts)])
        for of_image, (height, width) in zip(boxes, sizes, strict=True):
            of_image[:, 0::2].clamp_(0, width)
            of_image[:, 1::2].clamp_(0, height)
        wanted = (boxes[..., 2:] - boxes[..., :2] >= self.min_size).all(2) & (scores >= self.score_thresh)
        settings: Any = {"longest": max(map(max, sizes)), "overlap": self.nms_thresh, "most": self.post_nms_top_n()}
        parts = [*zip(boxes, scores, wanted, strict=True)]
        kept = [likeliest(own, how_likely, levels, it, **settings) for own, how_likely, it in parts]
        pairs = [(own[places], how_likely[places]) for (own, how_likely, _), places in zip(parts, kept, strict=True)]
        return [own for own, _ in pairs], [how_likely for _, how_likely in pairs]

    def label(
        self, anchors: list[Tensor], targets: Targets, sizes: list[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Of each image's anchors: 1 object, 0 background, -1 neither [A]; and the object's box [A, 4]."""
        if not self.ignore_cross_border:
            return self.assign_targets_to_anchors(anchors, targets)
        inside = [
            (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= width) & (boxes[:, 3] <= height)
            for boxes, (height, width) in zip(anchors, sizes, strict=True)
        ]
        pairs = [*zip(anchors, inside, strict=True)]
        # Those across the border become a point beyond the image, which is nobody's best and overlaps nothing.
        labels, objects = self.assign_targets_to_anchors([torch.where(it[:, None], b, -1) for b, it in pairs], targets)
        return (
            [torch.where(it, found.to(b.dtype), -1) for found, (b, it) in zip(labels, pairs, strict=True)],
            [found.to(b.dtype) for found, (b, _) in zip(objects, pairs, strict=True)],
        )
