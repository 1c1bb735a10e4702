"""The network against torchvision's own detectors; its parts by hand; weights from elsewhere."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet101, vgg16
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from foundation.errors import UserError
from launch.initial_weights import own_name
from lightning_modules.faster_rcnn import FasterRCNN
from lightning_modules.networks.detection_backbones import (
    VGG16,
    ZF,
    FrozenBatchNorm,
    NormAroundPlaces,
    Pixels,
    Pyramid,
    ResNetToLayer3,
)
from lightning_modules.networks.faster_rcnn import DetectionNetwork, RegionHeads, is_of_every_class, rows_by_name
from lightning_modules.networks.region_pooling import RegionAlign, RegionWarp
from lightning_modules.networks.region_proposals import RegionProposals, Sampler

ONE_EACH = [[32], [64], [128], [256], [512]]
SIDES = {"min_size": 64, "max_size": 96}
FEW = {"before_nms": [60, 50], "proposals": [60, 50]}  # to be quick; the numbers' own tests are torchvision's
FEW_REGIONS = 32
PARAMETERS = {  # of torchvision's documentation, for 91 outputs and without the statistics of batch norm
    "fasterrcnn_resnet50_fpn": 41_755_286,
    "fasterrcnn_resnet50_fpn_v2": 43_712_278,
    "fasterrcnn_mobilenet_v3_large_320_fpn": 19_386_354,
    "maskrcnn_resnet50_fpn": 44_401_393,
}


def resnet50(norm: str = "batch", **heads: Any) -> DetectionNetwork:
    heads = {"min_score": 0.0, "regions_per_image": FEW_REGIONS, "max_detections": 10, **heads}
    backbone = Pyramid("resnet50", norm=norm, trainable_layers=5)  # type: ignore
    return DetectionNetwork(backbone, RegionProposals(256, ONE_EACH, **FEW), RegionHeads(256, 90, **heads), **SIDES)


def version_2() -> DetectionNetwork:
    backbone = Pyramid("resnet50", norm="batch", norm_in_pyramid=True, trainable_layers=5)
    heads = RegionHeads(
        256, 90, "convolutions", norm="batch", min_score=0.0, regions_per_image=FEW_REGIONS, max_detections=10
    )
    return DetectionNetwork(backbone, RegionProposals(256, ONE_EACH, convolutions=2, **FEW), heads, **SIDES)


def mobilenet(norm: str = "batch") -> DetectionNetwork:
    backbone = Pyramid("mobilenet_v3_large", norm=norm, trainable_layers=6)  # type: ignore
    rpn = RegionProposals(256, [[32, 64, 128, 256, 512]] * 3, min_score=0.05, **FEW)
    heads = RegionHeads(256, 90, min_score=0.0, regions_per_image=FEW_REGIONS, max_detections=10)
    return DetectionNetwork(backbone, rpn, heads, **SIDES)


OURS: dict[str, Callable[..., DetectionNetwork]] = {
    "fasterrcnn_resnet50_fpn": resnet50,
    "fasterrcnn_resnet50_fpn_v2": version_2,
    "fasterrcnn_mobilenet_v3_large_320_fpn": mobilenet,
    "maskrcnn_resnet50_fpn": lambda norm="batch": resnet50(norm, masks=True),
}


def filled(model: nn.Module) -> dict[str, Tensor]:
    """Weights for a model on the meta device: random ones of a size that keeps activations near 1."""
    torch.manual_seed(0)
    state = {}
    for name, it in model.state_dict().items():
        if it.ndim > 1:
            state[name] = torch.randn(it.shape).mul_((1.5 / it[0].numel()) ** 0.5)
        elif name.endswith(("running_var", ".weight")):
            state[name] = torch.rand(it.shape) * 0.4 + 0.6
        else:
            state[name] = torch.zeros(it.shape, dtype=it.dtype)
    return state


def twins(name: str) -> tuple[DetectionNetwork, nn.Module]:
    """Ours and torchvision's with the same weights."""
    options: Any = {"weights": None, "weights_backbone": None, "box_score_thresh": 0.0, **SIDES,
                    "box_batch_size_per_image": FEW_REGIONS, "box_detections_per_img": 10}  # fmt: skip
    for key in ("rpn_pre_nms_top_n", "rpn_post_nms_top_n"):
        options |= {f"{key}_train": 60, f"{key}_test": 50}
    with torch.device("meta"):
        ours, theirs = OURS[name](), getattr(detection, name)(**options)
    state = {name: it.double() if it.is_floating_point() else it for name, it in filled(theirs).items()}
    for model in (ours, theirs):
        model.load_state_dict(state, assign=True)
    return ours, theirs


def batch() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """An image with two objects and one of another shape with none."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 60, 90 - 20 * it, generator=generator, dtype=torch.float64) for it in (0, 1)]
    masks = torch.zeros(2, 60, 90, dtype=torch.uint8)
    masks[0, 12:40, 10:60] = masks[1, 5:50, 35:80] = 1
    boxes = torch.tensor([[10.0, 12, 60, 40], [35, 5, 80, 50]], dtype=torch.float64)
    some = {"boxes": boxes, "labels": torch.tensor([1, 17]), "masks": masks}
    none = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0, :, :70]}
    return images, [some, none]


@pytest.mark.parametrize("name", OURS)
def test_the_same_weights_give_torchvision_s_detections_and_losses(name):
    """In float64: scores that differ by rounding alone would change places."""
    ours, theirs = twins(name)
    images, targets = batch()
    with torch.no_grad():
        found, expected = ours.eval()(images), theirs.eval()(images)
        for one, other in zip(found, expected, strict=True):
            assert len(one["scores"]) > 5
            assert one.keys() == other.keys()
            for key, values in other.items():
                torch.testing.assert_close(one[key], values, rtol=1e-6, atol=1e-6)
        torch.manual_seed(1)
        wanted = theirs.train()(images, targets)
        torch.manual_seed(1)
        got = losses_of(ours.train(), images, targets)
    assert {key: value.item() for key, value in got.items()} == pytest.approx(
        {key: value.item() for key, value in wanted.items()}, rel=1e-6
    )


def losses_of(network: DetectionNetwork, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """As the module has them on one rank."""
    module: Any = FasterRCNN(network, optimizer=torch.optim.SGD)
    module._trainer = SimpleNamespace(strategy=SimpleNamespace(reduce=lambda value, reduce_op: value))
    return module.losses(*network(images, targets))


@pytest.mark.parametrize("name", OURS)
def test_as_many_parameters_as_torchvision_says(name):
    options = {} if name.endswith("v2") else {"norm": "frozen"}
    with torch.device("meta"):
        network = OURS[name](**options)
    assert network.published == name
    assert sum(it.numel() for it in network.parameters()) == PARAMETERS[name]


class TestRegionAlign:
    maps = {"0": torch.randn(2, 5, 32, 24), "1": torch.randn(2, 5, 16, 12), "2": torch.randn(2, 5, 8, 6),
            "pool": torch.randn(2, 5, 4, 3)}  # fmt: skip
    shapes = [(128, 96), (120, 90)]

    def boxes(self, *counts: int) -> list[Tensor]:
        """Some of them beyond the image, some less than a pixel wide."""
        generator = torch.Generator().manual_seed(0)
        found = []
        for count in counts:
            corners = torch.rand(count, 2, generator=generator) * 120 - 10
            sides = torch.rand(count, 2, generator=generator).square() * 130 + 0.2
            found.append(torch.cat([corners, corners + sides], dim=1))
        return found

    def test_is_torchvision_s_with_its_gradient(self):
        ours, theirs = RegionAlign(7, 60), MultiScaleRoIAlign(["0", "1", "2"], 7, 2, canonical_scale=60)
        gradient = torch.randn(50, 5, 7, 7)
        results = []
        for pool in (ours, theirs):
            maps = {name: it.double().requires_grad_() for name, it in self.maps.items()}
            features = pool(maps, [it.double() for it in self.boxes(20, 30)], self.shapes)
            features.backward(gradient.double())
            results.append([features, *(maps[name].grad for name in "012")])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    def test_keeps_the_precision_of_its_maps_and_takes_no_boxes(self):
        half = {name: it.bfloat16() for name, it in self.maps.items()}
        features = RegionAlign(7, 60)(half, self.boxes(0, 4), self.shapes)
        whole = RegionAlign(7, 60)({name: it.float() for name, it in half.items()}, self.boxes(0, 4), self.shapes)
        assert features.dtype == torch.bfloat16
        assert torch.equal(features, whole.bfloat16())
        assert RegionAlign(14, 60)(self.maps, self.boxes(0, 0), self.shapes).shape == (0, 5, 14, 14)


class TestRegionWarp:
    """On an image whose first colour is the column and whose second is the row of a pixel's centre."""

    image = torch.stack([torch.arange(30).expand(20, 30) + 0.5, torch.arange(20)[:, None].expand(20, 30) + 0.5])[None]

    def crop(self, side: int, context: int, *box: float) -> Tensor:
        return RegionWarp(side, context)({"0": self.image}, [torch.tensor([box])], None)[0]

    def test_a_box_of_whole_pixels_is_cut_out(self):
        assert torch.equal(self.crop(4, 0, 6, 3, 10, 7), self.image[0, :, 3:7, 6:10])

    def test_is_stretched_to_one_size_each_pixel_the_mean_of_what_it_covers(self):
        """8 x 2 pixels to 2 x 2: columns 6 to 13 in two halves, whose centres are at 8 and 12; rows 3.5 and 4.5."""
        columns, rows = self.crop(2, 0, 6, 3, 14, 5)
        torch.testing.assert_close(columns, torch.tensor([[8.0, 12.0]] * 2))
        torch.testing.assert_close(rows, torch.tensor([[3.5, 3.5], [4.5, 4.5]]))

    def test_context_lies_around_the_box(self):
        """2 x 2 pixels to 4 of 6, one more on every side: what lies in the box is in the middle."""
        found = self.crop(6, 1, 8, 8, 12, 12)
        assert torch.equal(found, self.image[0, :, 7:13, 7:13])

    def test_beyond_the_image_is_its_mean_colour(self):
        found = self.crop(6, 1, 0, 0, 4, 4)
        torch.testing.assert_close(found[:, 1:, 1:], self.image[0, :, :5, :5])
        assert self.crop(10, 3, 0, 0, 4, 4)[:, :2, :2].abs().max() == 0

    def test_keeps_the_precision_and_takes_no_boxes(self):
        warp, images = RegionWarp(4, 0), {"0": self.image.expand(2, 2, 20, 30).bfloat16()}
        found = warp(images, [torch.empty(0, 4), torch.tensor([[6.0, 3, 10, 7]])], None)
        assert (found.dtype, found.shape) == (torch.bfloat16, (1, 2, 4, 4))
        assert warp(images, [torch.empty(0, 4)] * 2, None).shape == (0, 2, 4, 4)

    @pytest.mark.parametrize(("side", "context"), [(0, 0), (4, 2), (4, -1)])
    def test_a_crop_of_nothing_is_refused(self, side, context):
        with pytest.raises(UserError, match=f"network.heads.crop is {side} and context {context}"):
            RegionWarp(side, context)

    def test_a_net_of_its_own_looks_at_each_crop(self):
        """What is said of a region depends on no other, and on nothing but its crop."""
        torch.manual_seed(0)
        heads = RegionHeads(3, 2, "crops", width=8, norm="batch", crop=16, context=2, min_score=0.0)
        network = DetectionNetwork(Pixels(), None, heads, min_size=32, max_size=32).eval()
        images = [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]
        given = [{"boxes": torch.tensor([[4.0, 4, 20, 24], [8, 2, 30, 30]]), "scores": torch.ones(2)}] * 2
        with torch.no_grad():
            features = network.features(network.transform(images)[0])
            logits, deltas = heads.predict(features, [it["boxes"] for it in given], [(32, 32)] * 2)
            changed = {"0": features["0"].clone()}
            changed["0"][1] = 0
            others, _ = heads.predict(changed, [it["boxes"] for it in given], [(32, 32)] * 2)
        assert (logits.shape, deltas.shape) == ((4, 3), (4, 12))
        assert torch.equal(others[:2], logits[:2])
        assert not torch.equal(others[2:], logits[2:])
        assert len(network(images, proposals=given)) == 2
        with pytest.raises(UserError, match="heads.head is crops, a net of its own: give network.heads norm=batch"):
            RegionHeads(3, 2, "crops")


class TestSampler:
    labels = [torch.tensor([1.0] * 30 + [0.0] * 50 + [-1.0] * 20), torch.tensor([3, 0, 0, 0, -1, 0])]

    def drawn(self, sampler: Sampler, *seeds: int) -> list[Tensor]:
        sampler.generators = [torch.Generator().manual_seed(it) for it in seeds]
        objects, background = sampler(self.labels)
        for chosen, others, labels in zip(objects, background, self.labels, strict=True):
            assert (labels[chosen] >= 1).all()
            assert (labels[others] == 0).all()
        return [torch.stack(it) for it in zip(objects, background, strict=True)]

    def test_draws_the_share_of_objects_and_fills_up_with_background(self):
        first, second = self.drawn(Sampler(40, 0.25), 0, 0)
        assert first.sum(1).tolist() == [10, 30]
        assert second.sum(1).tolist() == [1, 4]  # there are no more
        assert self.drawn(Sampler(100, 0.5), 0, 0)[0].sum(1).tolist() == [30, 50]

    def test_an_image_s_draws_are_its_generator_s(self):
        sampler = Sampler(8, 0.5)
        one, again = self.drawn(sampler, 5, 1), self.drawn(sampler, 5, 2)
        assert torch.equal(one[0], again[0])
        assert not torch.equal(one[0], self.drawn(sampler, 6, 1)[0])

    def test_without_generators_it_is_torchvision_s(self):
        torch.manual_seed(0)
        ours = Sampler(8, 0.5)(self.labels)
        torch.manual_seed(0)
        theirs = super(Sampler, Sampler(8, 0.5)).__call__(self.labels)
        assert all(torch.equal(a, b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True))


class TestAnchors:
    def rpn(self, **options: Any) -> RegionProposals:
        return RegionProposals(4, [[16]], [0.5, 1.0, 2.0], **options)

    def test_by_hand(self):
        """Of side 16 on the 2 x 3 places of a map whose cells are 8 pixels high and 10 wide; heights by widths."""
        images = ImageList(torch.zeros(1, 3, 16, 30), [(16, 30)])
        (anchors,) = self.rpn().anchor_generator(images, [torch.zeros(1, 4, 2, 3)])
        assert anchors[:3].tolist() == [[-11, -6, 11, 6], [-8, -8, 8, 8], [-6, -11, 6, 11]]
        assert anchors[3].tolist() == [-1, -6, 21, 6]
        assert anchors[-1].tolist() == [14, -3, 26, 19]

    def test_are_exact_beside_features_in_half_precision(self):
        images = ImageList(torch.zeros(1, 3, 16, 1600), [(16, 1600)])
        generator = self.rpn().anchor_generator
        (whole,) = generator(images, [torch.zeros(1, 4, 1, 100)])
        (half,) = generator(images, [torch.zeros(1, 4, 1, 100, dtype=torch.bfloat16)])
        assert torch.equal(whole, half)

    def test_the_released_code_s(self):
        """What py-faster-rcnn's generate_anchors() gives for its defaults, in order; it counts last pixels as inside."""
        theirs = [[-84, -40, 99, 55], [-176, -88, 191, 103], [-360, -184, 375, 199],
                  [-56, -56, 71, 71], [-120, -120, 135, 135], [-248, -248, 263, 263],
                  [-36, -80, 51, 95], [-80, -168, 95, 183], [-168, -344, 183, 359]]  # fmt: skip
        rpn = RegionProposals(4, [[128, 256, 512]], released_anchors=True)
        images = ImageList(torch.zeros(1, 3, 32, 48), [(32, 48)])
        (anchors,) = rpn.anchor_generator(images, [torch.zeros(1, 4, 2, 4)])  # a cell more than there is room for
        outlines = torch.tensor(theirs) + torch.tensor([0, 0, 1, 1])
        assert torch.equal(anchors[:9], outlines.float())
        assert (anchors[:9, :2] + anchors[:9, 2:] == 16).all()  # the middle of a cell, 7.5 by their count
        assert torch.equal(anchors[9:18], anchors[:9] + torch.tensor([16.0, 0, 16, 0]))
        assert torch.equal(anchors[-9:], anchors[:9] + torch.tensor([48.0, 16, 48, 16]))

    def test_labels_by_hand(self):
        objects = torch.tensor([[0.0, 0, 10, 10], [40, 40, 60, 60]])
        anchors = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 5], [0, 0, 10, 2], [40, 40, 60, 45], [42, 40, 60, 43]])
        # Overlaps 0.8: an object; 0.5: neither; 0.2: background; 0.25: the second object's best; 0.135: background.
        (labels,), (matched,) = self.rpn().label([anchors], [{"boxes": objects}], [(100, 100)])
        assert labels.tolist() == [1, -1, 0, 1, 0]
        assert torch.equal(matched[[0, 3]], objects)

    def test_those_across_the_border_are_ignored_and_no_object_s_best(self):
        objects = torch.tensor([[0.0, 0, 10, 10]])
        anchors = torch.tensor([[-1.0, 0, 10, 10], [0, 0, 10, 4], [0, 0, 4, 4], [20, 20, 30, 31]])
        rpn = self.rpn(ignore_cross_border=True)
        (labels,), (matched,) = rpn.label([anchors], [{"boxes": objects}], [(30, 30)])
        assert labels.tolist() == [-1, 1, 0, -1]
        assert torch.equal(matched[1], objects[0])
        (labels,), _ = rpn.label([anchors[:1]], [{"boxes": objects}], [(30, 30)])
        assert labels.tolist() == [-1]
        assert self.rpn().label([anchors], [{"boxes": objects}], [(30, 30)])[0][0].tolist()[0] == 1

    def test_uneven_lists_are_refused(self):
        with pytest.raises(UserError, match="anchor_sizes has lists of other lengths"):
            RegionProposals(4, [[16], [32, 64]])
        with pytest.raises(UserError, match=r"rpn.proposals is \[100\]: give two numbers"):
            RegionProposals(4, [[16]], proposals=[100])
        with pytest.raises(UserError, match=r"anchor_sizes has 1 lists for 4 feature maps"):
            DetectionNetwork(Pyramid("small", 8, "batch", trainable_layers=4), RegionProposals(8, [[16]]),
                             RegionHeads(8, 2))  # fmt: skip


def small(num_classes: int = 3) -> DetectionNetwork:
    torch.manual_seed(0)
    backbone = Pyramid("small", 8, "batch", trainable_layers=4)
    rpn = RegionProposals(8, [[8], [16], [32], [64]], before_nms=[20, 20], proposals=[10, 10])
    heads = RegionHeads(8, num_classes, width=8)
    return DetectionNetwork(backbone, rpn, heads, **SIDES)


class TestNorm:
    def test_frozen_is_torchvision_s_and_keeps_half_precision(self):
        ours, theirs = FrozenBatchNorm(6), FrozenBatchNorm2d(6)
        state = {name: torch.rand(6) + 0.1 for name in theirs.state_dict()}
        ours.load_state_dict(state)
        theirs.load_state_dict(state)
        x = torch.randn(2, 6, 4, 4)
        torch.testing.assert_close(ours(x), theirs(x))
        assert ours(x.bfloat16()).dtype == torch.bfloat16
        assert theirs(x.bfloat16()).dtype == torch.float32

    @pytest.mark.parametrize(
        ("norm", "kind"), [("batch", nn.BatchNorm2d), ("sync", nn.SyncBatchNorm), ("group", nn.GroupNorm)]
    )
    def test_is_what_was_asked_for(self, norm, kind):
        backbone = Pyramid("mobilenet_v3_large", 16, norm, norm_in_pyramid=True, trainable_layers=6)
        norms = [type(it) for it in backbone.modules() if "Norm" in type(it).__name__ and not list(it.children())]
        assert set(norms) == {kind}
        assert len(norms) == 46 + 4

    def test_frozen_layers_are_the_first(self):
        backbone = Pyramid("resnet18", 8, "batch", trainable_layers=3)
        fixed = {name.split(".")[1] for name, it in backbone.named_parameters() if not it.requires_grad}
        assert fixed == {"conv1", "bn1", "layer1"}
        mobile = Pyramid("mobilenet_v3_large", 8, "batch", trainable_layers=3)
        fixed = {int(name.split(".")[1]) for name, it in mobile.named_parameters() if not it.requires_grad}
        assert fixed == set(range(7))
        with pytest.raises(UserError, match="trainable_layers is 6: give 0 to 5"):
            Pyramid("resnet18", 8, "batch", trainable_layers=6)


class TestThePapersNets:
    """One map at a sixteenth of the image, and heads that begin with a classifier's layers."""

    @pytest.mark.parametrize(
        ("backbone", "channels", "shape"),
        [(VGG16, 512, (4, 6)), (ZF, 256, (5, 7)), (lambda: ResNetToLayer3("resnet50", "batch"), 1024, (4, 6))],
    )
    def test_give_one_map(self, backbone, channels, shape):
        with torch.device("meta"):
            net = backbone()
            (features,) = net(torch.zeros(1, 3, 64, 96)).values()
        assert features.shape == (1, channels, *shape)
        assert net.out_channels == channels

    def test_zf_s_norm_by_hand(self):
        """A place of 2 with a neighbour of 4 and one of 1: m is 21 / 9 there."""
        x = torch.zeros(1, 2, 4, 4)
        x[0, 0, 0, 0], x[0, 0, 0, 1], x[0, 0, 1, 1] = 2.0, 4.0, -1.0
        x[0, 1] = 7.0
        found = NormAroundPlaces(3, 0.6, 0.75)(x)
        assert found[0, 0, 0, 0].item() == pytest.approx(2 * (1 + 0.6 * 21 / 9) ** -0.75)
        assert found[0, 0, 1, 1].item() == pytest.approx(-((1 + 0.6 * 21 / 9) ** -0.75))
        assert found[0, 1, 1, 1].item() == pytest.approx(7 * (1 + 0.6 * 49) ** -0.75)
        assert found[0, 1, 0, 0].item() == pytest.approx(7 * (1 + 0.6 * 49 * 4 / 9) ** -0.75)  # beyond the map it is 0
        half = NormAroundPlaces()(x.bfloat16() * 100)
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), NormAroundPlaces()(x * 100), rtol=0.01, atol=0)

    @pytest.mark.parametrize(
        ("backbone", "fixed"),
        [(lambda: VGG16(3), {"0", "2", "5", "7"}), (lambda: ZF(3), {"conv1", "conv2"}),
         (lambda: ResNetToLayer3("resnet50", "batch", 2), {"conv1", "bn1", "layer1"})],
    )  # fmt: skip
    def test_fix_the_first_layers(self, backbone, fixed):
        with torch.device("meta"):
            net = backbone()
        assert {name.split(".")[1] for name, it in net.named_parameters() if not it.requires_grad} == fixed

    @pytest.mark.parametrize(("head", "channels", "width"), [("vgg16", 8, 16), ("zf", 8, 16), ("layer4", 1024, 2048)])
    def test_heads_begin_as_the_paper_s(self, head, channels, width):
        heads = RegionHeads(channels, 20, head, width, norm="batch")
        side = 16 * heads.box_roi_pool.side
        boxes = [torch.tensor([[0.0, 0, 100, 60], [20, 20, 90, 90]])]
        features = {"0": torch.randn(1, channels, side // 16, side // 16)}
        logits, deltas = heads.eval().predict(features, boxes, [(side, side)])
        assert (logits.shape, deltas.shape) == ((2, 21), (2, 84))
        last = heads.box_predictor
        for layer, std in ((last.cls_score, 0.01), (last.bbox_pred, 0.001)):
            assert layer.weight.std().item() == pytest.approx(std, rel=0.15)
            assert not layer.bias.any()

    def test_vgg16_s_heads_begin_with_the_classifier_s_linear_layers(self):
        with torch.device("meta"):
            network = DetectionNetwork(VGG16(), RegionProposals(512, [[128]]), RegionHeads(512, 20, "vgg16", 4096))
            module, classifier = FasterRCNN(network, optimizer=torch.optim.SGD), vgg16(weights=None)
        own, theirs = module.state_dict(), classifier.state_dict()
        taken = {name: own_name(name, own, module.initial_prefixes) for name in theirs}
        assert taken["classifier.0.weight"] == "network.roi_heads.box_head.1.weight"
        assert taken["classifier.3.bias"] == "network.roi_heads.box_head.4.bias"
        assert {name for name, here in taken.items() if here not in own} == {"classifier.6.weight", "classifier.6.bias"}
        assert all(own[here].shape == theirs[name].shape for name, here in taken.items() if here in own)

    def test_zf_begins_with_layers_by_their_names_in_caffe(self):
        shapes = {"conv1": (96, 3, 7, 7), "conv2": (256, 96, 5, 5), "conv3": (384, 256, 3, 3), "conv4": (384, 384, 3, 3),
                  "conv5": (256, 384, 3, 3), "fc6": (4096, 256 * 6 * 6), "fc7": (4096, 4096)}  # fmt: skip
        with torch.device("meta"):
            network = DetectionNetwork(ZF(), RegionProposals(256, [[128]]), RegionHeads(256, 20, "zf", 4096))
            module = FasterRCNN(network, optimizer=torch.optim.SGD)
        own = module.state_dict()
        for layer, shape in shapes.items():
            for part, wanted in {"weight": shape, "bias": shape[:1]}.items():
                assert own[own_name(f"{layer}.{part}", own, module.initial_prefixes)].shape == wanted
        begun = {own_name(f"{it}.{part}", own, module.initial_prefixes) for it in shapes for part in ("weight", "bias")}
        assert {it for it in own if it not in begun} == {it for it in own if ".rpn." in it or "box_predictor" in it}

    def test_a_resnet_s_heads_begin_with_its_last_stage(self):
        with torch.device("meta"):
            heads = RegionHeads(1024, 20, "layer4", 2048, norm="frozen")
            network = DetectionNetwork(ResNetToLayer3("resnet101"), RegionProposals(1024, [[128]]), heads)
            module = FasterRCNN(network, optimizer=torch.optim.SGD)
            theirs = resnet101(weights=None).state_dict()
        own = module.state_dict()
        taken = {own_name(name, own, module.initial_prefixes): it for name, it in theirs.items()}
        begun = {name for name, it in own.items() if name in taken and taken[name].shape == it.shape}
        assert {name for name in own if name not in begun} == {
            name for name in own if ".rpn." in name or "box_predictor" in name
        }
        assert module.refuses_to_begin(begun) is None
        some = {it for it in begun if "layer4.2" not in it}
        assert "network.heads.norm is frozen" in (module.refuses_to_begin(some) or "")
        assert "network.backbone.norm is frozen" in (module.refuses_to_begin(set()) or "")

    def test_a_stage_that_does_not_fit_is_refused(self):
        for options in ({"norm": None}, {"norm": "frozen", "width": 1024}):
            with pytest.raises(
                UserError, match="head is layer4, a stage of a ResNet: give network.heads channels=1024"
            ):
                RegionHeads(1024, 2, "layer4", **{"width": 2048, **options})  # type: ignore
        with pytest.raises(UserError, match="backbone.name is 'resnet18': did you mean 'resnet1"):
            ResNetToLayer3("resnet18")


def test_rows_of_classes_are_found_by_their_names():
    """Boxes have four outputs a class; the background keeps its row, and what is not there stays as it was."""
    given, own = small(num_classes=7).state_dict(), small().state_dict()
    there, here = ["N/A", "Traffic Light", "cat", "dog", "cat", "N/A", "bus"], ["bus", "zebra", "traffic_light"]
    scores, boxes = (f"roi_heads.box_predictor.{it}.weight" for it in ("cls_score", "bbox_pred"))
    taken, names = rows_by_name(scores, given[scores], own[scores], there, here)
    assert names == ["bus", "traffic_light"]
    assert torch.equal(taken, torch.stack([given[scores][0], given[scores][7], own[scores][2], given[scores][2]]))
    taken = rows_by_name(boxes, given[boxes], own[boxes], there, here)[0].view(4, 4, 8)
    theirs, mine = given[boxes].view(8, 4, 8), own[boxes].view(4, 4, 8)
    assert torch.equal(taken, torch.stack([theirs[0], theirs[7], mine[2], theirs[2]]))
    assert rows_by_name(scores, given[scores], own[scores], there, ["cat"] * 3)[0][3].equal(
        given[scores][3]
    )  # the first
    assert rows_by_name(scores, given[scores], own[scores], there[:3], here) == (given[scores], [])  # other numbers
    assert [it for it in given if is_of_every_class(it)] == [
        f"roi_heads.box_predictor.{it}"
        for it in ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias")
    ]


def test_a_frozen_norm_has_the_epsilon_that_is_asked_for():
    with torch.device("meta"):
        networks = {it: Pyramid("resnet50", frozen_eps=it) for it in (1e-5, 0.0)}
    for eps, network in networks.items():
        assert {it.eps for it in network.modules() if isinstance(it, FrozenBatchNorm)} == {eps}


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"backbone.name is 'resnet51'; did you mean"):
        Pyramid("resnet51")
    with pytest.raises(UserError, match="backbone.norm is 'layer': give one of frozen, batch, sync, group"):
        Pyramid("small", norm="layer")  # type: ignore
    with pytest.raises(UserError, match="heads.head is 'conv': give linear, convolutions, vgg16, zf, layer4"):
        RegionHeads(8, 2, "conv")  # type: ignore
