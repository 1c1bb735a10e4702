"""The network against torchvision's own detectors; its parts by hand; weights from elsewhere."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from foundation.errors import UserError
from lightning_modules.faster_rcnn import FasterRCNN
from lightning_modules.networks.detection_backbones import FrozenBatchNorm, Pyramid
from lightning_modules.networks.faster_rcnn import DetectionNetwork, RegionHeads, is_of_every_class, rows_by_name
from lightning_modules.networks.region_pooling import RegionAlign
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
    with pytest.raises(UserError, match="heads.head is 'conv': give linear, convolutions or vgg16"):
        RegionHeads(8, 2, "conv")  # type: ignore
