"""Faster R-CNN's network out of torchvision's detection parts (Ren et al. 2015, arXiv:1506.01497); with masks, Mask
R-CNN's.

Weights are named as in torchvision's detectors and mean the same. What differs is said at each part: the precision of
boxes and scores, where random draws come from, and that training gives what the losses are made of, not the losses.
"""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, project_masks_on_boxes

from foundation.errors import UserError, did_you_mean
from lightning_modules.networks.detection_backbones import (
    VGG16,
    ZF,
    Norm,
    Pixels,
    Pyramid,
    ResNetToLayer3,
    SmallResNet,
    last_stage,
    norm_layer,
)
from lightning_modules.networks.fixed_numbers import Keys, a_pixel, at, draw, side_by_side
from lightning_modules.networks.products import with_own_linears
from lightning_modules.networks.region_pooling import RegionAlign, RegionPool, RegionWarp
from lightning_modules.networks.region_proposals import (
    RegionProposals,
    SampledAnchors,
    Sampler,
    Targets,
    in_full_precision,
)
from lightning_modules.networks.resizing import Resize, Size, resized_boxes, size_of

LAST = re.compile(r"cls_score|bbox_pred|mask_fcn_logits")  # layers with outputs for every class
Backbone = Pyramid | VGG16 | ZF | ResNetToLayer3 | Pixels
Head = Literal["linear", "convolutions", "vgg16", "zf", "layer4", "crops"]
POOLED = {"vgg16": 7, "zf": 6, "layer4": 14}  # cells of a region's side where it is pooled as in the paper
Detections = list[dict[str, Tensor]]
Proposals = list[dict[str, Tensor]]  # of each image boxes [N, 4] in its own pixels, the best first, and scores [N]
PARTS = ("backbone", "rpn", "heads")


@dataclass
class SampledRegions:
    """What the heads' losses are made of: the proposals drawn from all images of a batch, F of R around objects.

    Where their numbers are fixed, some count and others do not.
    """

    logits: Tensor  # [R, K + 1], class 0 is the background
    labels: Tensor  # [R]
    deltas: Tensor  # [F, 4], predicted for the true class
    proposals: Tensor  # [F, 4]
    objects: Tensor  # [F, 4]
    mask_logits: Tensor | None = None  # [F, 28, 28], of the true class
    masks: Tensor | None = None  # [F, 28, 28] in [0, 1]; those of objects alone, as mask_logits
    counts: Tensor | None = None  # bool [R]; None: all do
    around_objects: Tensor | None = None  # bool [F]

    @property
    def drawn(self) -> int | Tensor:
        """How many count."""
        return len(self.labels) if self.counts is None else self.counts.sum()


class RegionHeads(RoIHeads):
    """torchvision's heads, which give their samples instead of losses; logits and deltas are float32.

    Args:
        channels: of the feature maps.
        num_classes: without the background. None stands for the data's, which ``launch.runs`` puts in its place.
        head: ``linear`` (two layers), ``convolutions`` (four and a linear layer); with Fast R-CNN's pooling and the
            paper's initial values of the last layers ``vgg16`` and ``zf`` (the classifiers' two linear layers) and
            ``layer4`` (a ResNet's last stage, 2,048 wide); ``crops``: R-CNN's, a small net on each region cropped from
            the image, for the backbone ``Pixels``.
        width: of the linear layers.
        norm: after the head's convolutions, as of a backbone; None leaves it out. ``layer4`` asks for one.
        canonical_size: a proposal of that side is read from the map at a sixteenth of the image, one of half the side
            from the next finer.
        crop, context: side of a crop in pixels, and how many of them on each side lie around the region.
        regions_per_image: drawn for the losses, at most a quarter of them around objects.
        min_score, nms, max_detections: which detections of an image are kept; NMS is within a class.
        masks: a mask for every detection (Mask R-CNN).
    """

    def __init__(
        self,
        channels: int,
        num_classes: int | None,
        head: Head = "linear",
        width: int = 1024,
        norm: Norm | None = None,
        canonical_size: int = 224,
        crop: int = 227,
        context: int = 16,
        regions_per_image: int = 512,
        min_score: float = 0.05,
        nms: float = 0.5,
        max_detections: int = 100,
        masks: bool = False,
    ) -> None:
        if num_classes is None:
            raise UserError("network.heads.num_classes is null, and the data name no classes: give their number.")
        super().__init__(
            pooling(head, canonical_size, crop, context),
            with_own_linears(box_head(head, channels, width, norm)),
            FastRCNNPredictor(width, num_classes + 1), fg_iou_thresh=0.5, bg_iou_thresh=0.5,
            batch_size_per_image=regions_per_image, positive_fraction=0.25, bbox_reg_weights=None,
            score_thresh=min_score, nms_thresh=nms, detections_per_img=max_detections,
        )  # fmt: skip
        self.num_classes = num_classes
        self.fg_bg_sampler = Sampler(regions_per_image, 0.25)
        if head in POOLED:
            for layer, std in ((self.box_predictor.cls_score, 0.01), (self.box_predictor.bbox_pred, 0.001)):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)
        if masks:
            self.mask_roi_pool = RegionAlign(14, canonical_size)
            self.mask_head = MaskRCNNHeads(channels, (256,) * 4, dilation=1)
            self.mask_predictor = MaskRCNNPredictor(256, 256, num_classes + 1)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: Targets | None = None,
    ) -> tuple[Detections, SampledRegions | None]:
        if targets is not None:
            return [], self.sample(features, proposals, image_shapes, targets)
        logits, deltas = self.predict(features, proposals, image_shapes)
        found = self.postprocess_detections(logits, deltas, proposals, image_shapes)
        detections = [{"boxes": b, "scores": s, "labels": k} for b, s, k in zip(*found, strict=True)]
        if self.has_mask():
            masks = self.predict_masks(features, found[0], image_shapes)
            for detection, mask in zip(detections, maskrcnn_inference(masks, found[2]), strict=True):
                detection["masks"] = mask
        return detections, None

    def sample(
        self, features: Mapping[str, Tensor], proposals: list[Tensor], sizes: list[tuple[int, int]], targets: Targets
    ) -> SampledRegions:
        if (keys := self.fg_bg_sampler.keys) is not None:
            return self.drawn_by(keys, features, proposals, sizes, targets)
        proposals, matches, labels, _ = self.select_training_samples(proposals, targets)
        logits, deltas = self.predict(features, proposals, sizes)
        foreground = [torch.where(it > 0)[0] for it in labels]
        boxes = [it[chosen] for it, chosen in zip(proposals, foreground, strict=True)]
        matches = [it[chosen] for it, chosen in zip(matches, foreground, strict=True)]
        objects = [target["boxes"][it] for target, it in zip(targets, matches, strict=True)]
        of_all = torch.cat(labels)
        rows = torch.where(of_all > 0)[0]
        classes = of_all[rows]
        sampled = SampledRegions(
            logits, of_all, deltas.unflatten(1, (-1, 4))[rows, classes], torch.cat(boxes), torch.cat(objects)
        )
        if self.has_mask():
            sampled.mask_logits, sampled.masks = self.sample_masks(features, boxes, sizes, targets, matches, classes)
        return sampled

    def sample_masks(
        self, features: Mapping[str, Tensor], boxes: list[Tensor], sizes: list[Size], targets: Targets,
        matches: list[Tensor], classes: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Of each box around an object that mask's logits and what they should be, [F, 28, 28]. classes: [F]."""
        logits = self.predict_masks(features, boxes, sizes)
        side, parts = logits.shape[-1], zip(targets, boxes, matches, strict=True)
        masks = torch.cat([project_masks_on_boxes(it["masks"], b, m, side) for it, b, m in parts])
        return logits[torch.arange(len(classes), device=classes.device), classes], masks

    def drawn_by(
        self, keys: Keys, features: Mapping[str, Tensor], proposals: list[Tensor], sizes: list[Size], targets: Targets
    ) -> SampledRegions:
        """As many of every image, some of which do not count; with masks the host waits once, for how many objects."""
        self.check_targets(targets)
        objects = [it["boxes"].to(proposals[0].dtype) for it in targets]
        own = self.add_gt_proposals(proposals, objects)
        matched, labels = self.assign_targets_to_proposals(own, objects, [it["labels"] for it in targets])
        pixel, none = a_pixel(own[0]), labels[0].new_zeros(())
        of_images, sampler = side_by_side(labels, none - 1), self.fg_bg_sampler
        drawn = draw(
            keys.of("regions", of_images.shape[1]), of_images, sampler.batch_size_per_image, sampler.positive_fraction
        )
        boxes, around = drawn.of(side_by_side(own, pixel)), drawn.around_objects
        classes = drawn.of(of_images).clamp(min=0)
        some = side_by_side([*objects, pixel.unsqueeze(0)], pixel)[:-1]  # there is one to point at
        matches = drawn.of_objects(side_by_side(matched, none))
        first = boxes[:, : around.shape[1]]
        found = torch.where(around.unsqueeze(2), at(some, matches), first)
        logits, deltas = self.predict(features, [*boxes], sizes)
        of_true_class = deltas.unflatten(1, (-1, 4)).unflatten(0, classes.shape)[:, : around.shape[1]]
        true = classes[:, : around.shape[1], None, None].expand(-1, -1, 1, 4)
        sampled = SampledRegions(
            logits, classes.flatten(), of_true_class.gather(2, true).flatten(0, 2), first.flatten(0, 1),
            found.flatten(0, 1), counts=drawn.counts.flatten(), around_objects=around.flatten(),
        )  # fmt: skip
        if self.has_mask():
            numbers = around.sum(dim=1).tolist()
            boxes, kept, named = ([row[:it] for row, it in zip(rows, numbers, strict=True)]
                                  for rows in (first, matches, classes))  # fmt: skip
            sampled.mask_logits, sampled.masks = self.sample_masks(
                features, boxes, sizes, targets, kept, torch.cat(named)
            )
        return sampled

    def predict(
        self, features: Mapping[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """Class logits [R, K + 1] and box deltas [R, 4 (K + 1)]."""
        hidden, context = in_full_precision(self.box_head(self.box_roi_pool(features, boxes, sizes)))
        with context:
            return self.box_predictor(hidden)

    def predict_masks(
        self, features: Mapping[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]
    ) -> Tensor:
        """Mask logits of every class, [R, K + 1, 28, 28]."""
        pool, head, predictor = (getattr(self, f"mask_{part}") for part in ("roi_pool", "head", "predictor"))
        return in_full_precision(predictor(head(pool(features, boxes, sizes))))[0]


def pooling(head: str, canonical_size: int, crop: int, context: int) -> nn.Module:
    """What reads regions for a head."""
    if head == "crops":
        return RegionWarp(crop, context)
    return RegionPool(POOLED[head]) if head in POOLED else RegionAlign(7, canonical_size)


def box_head(head: str, channels: int, width: int, norm: Norm | None) -> nn.Module:
    """Features of regions [R, channels, side, side] -> [R, width]; the side is 7, what ``POOLED`` says, or a crop's."""
    if head == "linear":
        return TwoMLPHead(49 * channels, width)
    if head == "convolutions":
        layer = None if norm is None else norm_layer(norm)
        return FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [width], norm_layer=layer)
    if head == "vgg16":
        return nn.Sequential(nn.Flatten(), nn.Linear(49 * channels, width), nn.ReLU(inplace=True), nn.Dropout(),
                             nn.Linear(width, width), nn.ReLU(inplace=True), nn.Dropout())  # fmt: skip
    if head == "zf":
        return nn.Sequential(OrderedDict(
            flat=nn.Flatten(), fc6=nn.Linear(36 * channels, width), relu6=nn.ReLU(inplace=True), drop6=nn.Dropout(),
            fc7=nn.Linear(width, width), relu7=nn.ReLU(inplace=True), drop7=nn.Dropout(),
        ))  # fmt: skip
    if head == "layer4":
        if (channels, width) != (1024, 2048) or norm is None:
            raise UserError(
                "network.heads.head is layer4, a stage of a ResNet: give network.heads channels=1024, width=2048 and "
                "norm=frozen (or batch, sync, group)."
            )
        return last_stage(norm)
    if head == "crops":
        if norm is None:
            raise UserError("network.heads.head is crops, a net of its own: give network.heads norm=batch (or group).")
        net = SmallResNet(norm_layer(norm))
        return nn.Sequential(OrderedDict(
            net.named_children(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(net.channels, width),
            relu_fc=nn.ReLU(inplace=True),
        ))  # fmt: skip
    raise UserError(f"network.heads.head is {head!r}: give {', '.join(get_args(Head))}.")


class DetectionNetwork(nn.Module):
    """Images -> detections; with targets what the losses are made of.

    Args:
        rpn: None: proposals come from elsewhere (Fast R-CNN).
        heads: None: regions are proposed, and nothing is detected.
        fixed: parts that keep their weights, of backbone, rpn and heads; norms in them go by what they have learned.
            Nothing is sampled for the losses of a part that is fixed.
        min_size, max_size: an image's short side becomes min_size, unless the long one would exceed max_size.
        size_divisible: heights and widths of batches are filled up to multiples of it. Fewer sizes with a greater one.
        mean, std: of the channels, for pixels in [0, 1].
    """

    def __init__(
        self,
        backbone: Backbone,
        rpn: RegionProposals | None,
        heads: RegionHeads | None,
        *,
        fixed: Sequence[str] = (),
        min_size: int = 800,
        max_size: int = 1333,
        size_divisible: int = 32,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        if size_divisible < 1:
            raise UserError(f"network.size_divisible is {size_divisible}: give pixels, 1 or more (torchvision: 32).")
        self.transform = Resize(min_size, max_size, list(mean), list(std), size_divisible)
        self.backbone, self.rpn, self.roi_heads = backbone, rpn, heads
        self.num_classes = 0 if heads is None else heads.num_classes
        self.memory_format, self.fixed = torch.contiguous_format, tuple(fixed)
        if rpn is not None and (sizes := len(rpn.anchor_generator.sizes)) != backbone.maps:
            raise UserError(
                f"network.rpn.anchor_sizes has {sizes} lists for {backbone.maps} feature maps: give one for each."
            )
        for name in self.fixed:
            if name not in PARTS:
                raise UserError(f"network.fixed names {name!r}; {did_you_mean(name, PARTS)}")
            if (part := self.part(name)) is None:
                raise UserError(f"network.fixed names {name}, and network.{name} is null: leave one of them out.")
            part.requires_grad_(False)
        if not self.learns("rpn") and not self.learns("heads"):
            raise UserError("network.rpn and network.heads are both null or fixed: leave one of them to be trained.")
        self.train()  # a fit begins in the mode that a module has

    def part(self, name: str) -> nn.Module | None:
        return self.roi_heads if name == "heads" else getattr(self, name)

    def learns(self, name: str) -> bool:
        """Whether that part is there and trained."""
        return self.part(name) is not None and name not in self.fixed

    def train(self, mode: bool = True) -> "DetectionNetwork":
        super().train(mode)
        for name in self.fixed:
            if (part := self.part(name)) is not None:
                part.eval()
        return self

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Targets | None = None,
        draws: Sequence[torch.Generator] | Keys | None = None,
        proposals: Proposals | None = None,
    ) -> Detections | tuple[SampledAnchors | None, SampledRegions | None]:
        """images: [3, H, W] each, in [0, 1]. draws: what anchors and regions are drawn by in training, generators, one
        an image, or keys, for which the host does not wait. proposals: what the heads are trained on instead of the
        RPN's own; without an RPN also what they look at afterwards.

        Detections are in the images' own pixels: boxes [N, 4], scores [N], labels [N] from 1 on, and masks
        [N, 1, H, W] in [0, 1].
        """
        if targets is None:
            return self.look(images, proposals)[0]
        for part in (self.rpn, self.roi_heads):
            if part is not None:
                sampler: Any = part.fg_bg_sampler
                sampler.keys = draws if isinstance(draws, Keys) else None
                sampler.generators = None if isinstance(draws, Keys) else draws
        resized, targets = self.transform(list(images), targets)
        features = self.features(resized)
        boxes, anchors, regions = in_pixels_of(resized, images, proposals), None, None
        if self.rpn is not None and (boxes is None or self.learns("rpn")):
            own, _, anchors = self.rpn(resized, features, targets if self.learns("rpn") else None)
            boxes = own if boxes is None else boxes
        if self.roi_heads is not None and self.learns("heads"):
            assert boxes is not None
            _, regions = self.roi_heads(features, boxes, resized.image_sizes, targets)
        return anchors, regions

    def look(self, images: Sequence[Tensor], proposals: Proposals | None = None) -> tuple[Detections, Proposals]:
        """Detections, none without heads, and what they were looked for in, both in the images' own pixels: the RPN's
        proposals, or those that are given to a network without one."""
        resized, _ = self.transform(list(images))
        features = self.features(resized)
        if self.rpn is not None:
            boxes, scores, _ = self.rpn(resized, features)
            sizes = zip(boxes, resized.image_sizes, map(size_of, images), strict=True)
            own = [resized_boxes(it, now, before) for it, now, before in sizes]
            proposals = [{"boxes": b, "scores": s} for b, s in zip(own, scores, strict=True)]
        else:
            boxes = in_pixels_of(resized, images, proposals)
        assert boxes is not None
        assert proposals is not None
        if self.roi_heads is None:
            return [], proposals
        detections, _ = self.roi_heads(features, boxes, resized.image_sizes)
        return self.transform.postprocess(detections, resized.image_sizes, [*map(size_of, images)]), proposals

    def features(self, resized: ImageList) -> dict[str, Tensor]:
        return self.backbone(resized.tensors.contiguous(memory_format=self.memory_format))

    @property
    def published(self) -> str | None:
        """What torchvision calls the same network, if it has it."""
        if self.rpn is None or self.roi_heads is None:
            return None
        with_masks = self.roi_heads.has_mask()
        names = {
            ("resnet50", TwoMLPHead, False): "fasterrcnn_resnet50_fpn",
            ("resnet50", TwoMLPHead, True): "maskrcnn_resnet50_fpn",
            ("resnet50", FastRCNNConvFCHead, False): "fasterrcnn_resnet50_fpn_v2",
            ("mobilenet_v3_large", TwoMLPHead, False): "fasterrcnn_mobilenet_v3_large_320_fpn",
        }
        return names.get((self.backbone.name, type(self.roi_heads.box_head), with_masks))


def in_pixels_of(resized: ImageList, images: Sequence[Tensor], proposals: Proposals | None) -> list[Tensor] | None:
    """Boxes in images' own pixels as they lie in the resized ones."""
    if proposals is None:
        return None
    sizes = zip(proposals, map(size_of, images), resized.image_sizes, strict=True)
    return [resized_boxes(it["boxes"], before, now) for it, before, now in sizes]


def is_of_every_class(name: str) -> bool:
    """Whether a weight has rows for the background and every class."""
    return "roi_heads." in name and LAST.search(name) is not None


def rows_by_name(
    name: str, weights: Tensor, own: Tensor, there: Sequence[str], here: Sequence[str]
) -> tuple[Tensor, list[str]]:
    """A weight with rows for every class, begun with those rows from elsewhere that are of the same classes; the others
    stay as they are. Also the classes that they were taken for.

    weights, own: [outputs (K + 1), ...]; there, here: the K names, the background's left out. A detector of other
    numbers than its names say is left alone.
    """
    outputs = 4 if "bbox_pred" in name else 1
    if len(weights) != outputs * (len(there) + 1) or weights.shape[1:] != own.shape[1:]:
        return weights, []
    places = {alike(it): place for place, it in reversed([*enumerate(there, start=1)])}
    pairs = [(place, places[alike(it)]) for place, it in enumerate(here, start=1) if alike(it) in places]
    mine, theirs = zip((0, 0), *pairs, strict=True)
    rows = own.clone().unflatten(0, (-1, outputs))
    rows[list(mine)] = weights.unflatten(0, (-1, outputs))[list(theirs)].to(rows)
    return rows.flatten(0, 1), [here[place - 1] for place, _ in pairs]


def alike(name: str) -> str:
    """A class's name without what people write in several ways: case, blanks, hyphens."""
    return re.sub(r"[\W_]+", "", name).casefold()
