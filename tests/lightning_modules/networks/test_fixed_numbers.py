"""A training step for whose draws the host does not wait: the same boxes and losses as torchvision's ways lead to."""

from collections import Counter
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign

from benchmarks.same_numbers import ROOT
from benchmarks.waits import Waits
from datamodules.detection import flip_target
from foundation.errors import UserError
from lightning_modules.faster_rcnn import FasterRCNN
from lightning_modules.networks.detection_backbones import FrozenBatchNorm, Pyramid, ResNetToLayer3, last_stage
from lightning_modules.networks.faster_rcnn import DetectionNetwork, RegionHeads
from lightning_modules.networks.fixed_numbers import Keys, draw
from lightning_modules.networks.region_pooling import RegionAlign
from lightning_modules.networks.region_proposals import Corrections, RegionProposals
from lightning_modules.networks.resizing import Resize, resized_boxes

LABELS = torch.tensor([[1.0] * 30 + [0.0] * 50 + [-1.0] * 20, [3, 0, 0, 0, -1, 0] + [-1] * 94])


class TestDraws:
    keys = partial(Keys, 0, 7)

    def drawn(self, index: list[int], labels: Tensor = LABELS, count: int = 40, share: float = 0.25) -> Any:
        return draw(self.keys(torch.tensor(index)).of("anchors", labels.shape[1]), labels, count, share)

    def test_the_share_of_objects_then_background_and_nothing_else_counts(self):
        drawn = self.drawn([4, 9])
        kinds = drawn.of(LABELS)
        assert drawn.counts.sum(1).tolist() == [40, 5]
        assert drawn.around_objects.sum(1).tolist() == [10, 1]
        for found, counts, objects in zip(kinds, drawn.counts, (10, 1), strict=True):
            assert (found[:objects] >= 1).all()
            assert (found[objects:][counts[objects:]] == 0).all()
        assert all(len(set(row.tolist())) == 40 for row in drawn.places)

    def test_fewer_boxes_than_are_asked_for(self):
        drawn = self.drawn([1], LABELS[:1, :35], count=64, share=0.5)
        assert drawn.places.shape == (1, 35)
        assert drawn.counts.sum() == 35
        assert drawn.around_objects.sum() == 30

    def test_an_image_s_draws_are_its_index_s_whatever_stands_beside_it(self):
        both, alone = self.drawn([4, 9]), self.drawn([9], LABELS[1:, :6], count=5)
        assert both.places[1][both.counts[1]].sort()[0].tolist() == alone.places[0][alone.counts[0]].sort()[0].tolist()
        assert not torch.equal(self.drawn([4] * 2, LABELS[:1].repeat(2, 1)).places, both.places)
        others = [keys.of("anchors", 50) for keys in (Keys(1, 7, torch.tensor([4])), Keys(0, 8, torch.tensor([4])))]
        same = self.keys(torch.tensor([4])).of("anchors", 50)
        assert not any(torch.equal(it, same) for it in (*others, self.keys(torch.tensor([4])).of("regions", 50)))

    def test_each_is_drawn_as_often_as_any_other(self):
        """10 of 30 objects and 30 of 50 of background, for 3,000 images: within 5 deviations."""
        drawn = self.drawn(list(range(3000)), LABELS[:1].expand(3000, -1))
        times = torch.zeros(100).index_add_(0, drawn.places[drawn.counts], torch.ones(3000 * 40))
        for part, chance in ((times[:30], 1 / 3), (times[30:80], 3 / 5), (times[80:], 0.0)):
            deviation = (3000 * chance * (1 - chance)) ** 0.5
            assert (part - 3000 * chance).abs().max() <= 5 * deviation


def module_of(count: int, **heads: Any) -> FasterRCNN:
    """For images of 64 pixels, in float64; it draws so many anchors and regions of an image."""
    torch.manual_seed(0)
    rpn = RegionProposals(8, [[12], [24], [48], [64]], anchors_per_image=count, before_nms=[50, 50], proposals=[40, 20])
    network = DetectionNetwork(Pyramid("small", 8, "group", trainable_layers=4), rpn,
                               RegionHeads(8, 2, width=8, canonical_size=32, regions_per_image=count, **heads),
                               min_size=64, max_size=80)  # fmt: skip
    module = FasterRCNN(network, optimizer=torch.optim.SGD).double()
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value)
    module._trainer = SimpleNamespace(strategy=strategy, global_step=3)  # type: ignore
    return module


def batch() -> dict[str, Any]:
    """An image with two objects and one of another shape with none."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 60, 90 - 20 * it, generator=generator, dtype=torch.float64) for it in (0, 1)]
    masks = torch.zeros(2, 60, 90, dtype=torch.uint8)
    masks[0, 12:40, 10:60] = masks[1, 5:50, 35:80] = 1
    boxes = torch.tensor([[10.0, 12, 60, 40], [35, 5, 80, 50]], dtype=torch.float64)
    some = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    none = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0, :, :70]}
    return {"index": torch.tensor([4, 9]), "image": images, "target": [some, none]}


def losses(module: FasterRCNN, draws: Any, of: dict[str, Any]) -> dict[str, Tensor]:
    return module.losses(*module.network(of["image"], of["target"], draws, of.get("proposals")))


@pytest.mark.parametrize("heads", [{}, {"masks": True}])
def test_where_all_is_drawn_losses_and_gradients_are_those_of_drawing_one_by_one(heads):
    of, found = batch(), []
    for way in (FasterRCNN.generators, FasterRCNN.keys):
        module = module_of(4000, **heads)
        parts = losses(module, way(module, of["index"]), of)
        torch.stack([*parts.values()]).sum().backward()
        found.append(({name: it.item() for name, it in parts.items()},
                      {name: it.grad for name, it in module.named_parameters()}))  # fmt: skip
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)  # one of them is a float32
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-6, atol=1e-9)


def test_as_many_are_drawn_and_the_same_for_an_image_beside_any_other():
    module, of = module_of(32), batch()
    anchors, regions = module.network(of["image"], of["target"], module.keys(of["index"]))
    assert anchors.labels.shape == regions.labels.shape == (64,)
    assert (int(anchors.drawn), int(regions.drawn)) == (64, 64)
    assert anchors.around_objects.sum() == (anchors.labels[anchors.counts] == 1).sum() > 0
    assert regions.around_objects.sum() == (regions.labels > 0).sum() > 0
    one = {key: it[:1] for key, it in of.items()}
    alone, _ = module.network(one["image"], one["target"], module.keys(one["index"]))
    torch.testing.assert_close(alone.logits, anchors.logits[:32])
    torch.testing.assert_close(alone.objects, anchors.objects[:16])


def test_two_ranks_with_an_image_each_take_the_step_of_one():
    """The mean of what two halves of a batch give is what the batch gives: draws do not know of the other image, and
    sums are divided by what is drawn on average."""
    of = batch()
    of["image"] = [of["image"][0], of["image"][0].flip(1)]
    found = []
    for part in (slice(0, 2), slice(0, 1), slice(1, 2)):
        module = module_of(32)
        parts = losses(module, module.keys(of["index"][part]), {key: it[part] for key, it in of.items()})
        torch.stack([*parts.values()]).sum().backward()
        found.append(torch.cat([it.grad.flatten() for it in module.parameters() if it.grad is not None]))
    torch.testing.assert_close(found[0], (found[1] + found[2]) / 2, rtol=1e-6, atol=1e-9)


def test_without_any_object_in_a_batch_the_losses_and_gradients_are_finite():
    module, of = module_of(32, masks=True), batch()
    of["target"] = [of["target"][1], of["target"][1] | {"masks": of["target"][0]["masks"][:0]}][::-1]
    parts = losses(module, module.keys(of["index"]), of)
    assert {name for name, it in parts.items() if it == 0} == {"loss_rpn_box_reg", "loss_box_reg", "loss_mask"}
    torch.stack([*parts.values()]).sum().backward()
    assert all(it.grad is not None and it.grad.isfinite().all() for it in module.parameters())


@pytest.mark.parametrize(("options", "more"), [({}, {}), ({"masks": True}, {"reads": 1})])
@pytest.mark.parametrize("across", [False, True])
def test_the_host_waits_once_an_image_for_nms(monkeypatch, across, options, more):
    """As on a GPU: torchvision's own ways wait 35 times for one image and 350 times for 16."""
    monkeypatch.setattr(RegionAlign, "by_products", RegionAlign.by_kernels)
    module, of = module_of(32, **options), batch()
    module.network.rpn.ignore_cross_border = across  # type: ignore
    losses(module, module.keys(of["index"]), of)  # means and anchors go to the device once
    with Waits(ROOT) as counted:
        torch.stack([*losses(module, module.keys(of["index"]), of).values()]).sum().backward()
    kinds = Counter[str]()
    for (_, kind), number in counted.found.items():
        kinds[kind] += number
    assert kinds == {"NMS": 2} | more


@pytest.mark.parametrize("counts", [(0, 0), (0, 5)])
def test_images_of_which_nothing_is_proposed(counts):
    """Fast R-CNN on given regions and images without objects: as drawing one by one has it."""
    found = []
    for way in (FasterRCNN.generators, FasterRCNN.keys):
        module, of = module_of(32), batch()
        module.network = DetectionNetwork(module.network.backbone, None, module.network.roi_heads,
                                          min_size=64, max_size=80)  # fmt: skip
        of["target"] = [{key: it[:0] for key, it in target.items()} for target in of["target"]]
        box = torch.tensor([[1.0, 2, 30, 40]], dtype=torch.float64)
        of["proposals"] = [{"boxes": box.repeat(it, 1), "scores": torch.ones(it)} for it in counts]
        found.append({name: it.item() for name, it in losses(module, way(module, of["index"]), of).items()})
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert (found[0]["loss_classifier"] > 0) == (sum(counts) > 0)


@pytest.mark.parametrize("settings", [{}, {"min_side": 9, "min_score": 0.4}, {"min_score": 0.999}, {"nms": 0.1}])
def test_proposals_are_torchvision_s(settings):
    torch.manual_seed(0)
    rpn = RegionProposals(4, [[16], [32]], before_nms=[60, 50], proposals=[40, 20], **settings)
    corners = torch.rand(2, 300, 2, dtype=torch.float64) * 100 - 10
    boxes = torch.cat([corners, corners + torch.rand(2, 300, 2, dtype=torch.float64) * 40], dim=2)
    asked: Any = (torch.randn(600, 1, dtype=torch.float64), [(80, 90), (70, 60)], [250, 50])
    found, expected = (way(boxes.clone(), *asked) for way in (rpn.likeliest_proposals, rpn.filter_proposals))
    assert settings.get("min_score") == 0.999 or all(len(it) > 5 for it in expected[0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_corrected_boxes_are_torchvision_s_to_the_bit(dtype):
    torch.manual_seed(0)
    corners = torch.rand(1003, 2, dtype=dtype) * 700
    boxes, deltas = (
        torch.cat([corners, corners + 1 + 100 * torch.rand(1003, 2)], 1),
        3 * torch.randn(1003, 4, dtype=dtype),
    )
    asked = deltas, [boxes[:400], boxes[400:]]
    assert torch.equal(Corrections().decode(*asked), BoxCoder((1.0, 1.0, 1.0, 1.0)).decode(*asked))


@pytest.mark.parametrize("across", [False, True])
def test_labels_are_torchvision_s(across):
    """Those across the border as in a loop that matches the others alone."""
    torch.manual_seed(0)
    corners = torch.rand(500, 2) * 100 - 10
    anchors = [torch.cat([corners, corners + torch.rand(500, 2) * 60 + 1], dim=1)] * 3
    places = torch.rand(6, 2) * 50
    objects = torch.cat([places, places + torch.rand(6, 2) * 30 + 2], dim=1)
    targets = [{"boxes": it} for it in (objects, objects[:0], objects[:1] + 1000)]  # the last overlaps with nothing
    sizes = [(90, 100), (90, 100), (90, 100)]
    rpn = RegionProposals(4, [[16]], ignore_cross_border=across)
    theirs = RegionProposalNetwork(rpn.anchor_generator, rpn.head, 0.7, 0.3, 256, 0.5, {}, {}, 0.7)
    inside = [(it >= 0).all(1) & (it[:, 2] <= 100) & (it[:, 3] <= 90) | (not across) for it in anchors]
    expected = theirs.assign_targets_to_anchors([b[it] for b, it in zip(anchors, inside, strict=True)], targets)
    found = rpn.label(anchors, targets, sizes)
    for number, it in enumerate(inside):
        assert torch.equal(found[0][number][it], expected[0][number])
        assert (found[0][number][~it] == -1).all()
        assert torch.equal(found[1][number][it], expected[1][number])


def test_each_map_asked_for_all_regions_gives_torchvision_s_features_and_gradients():
    torch.manual_seed(0)
    corners = [torch.rand(it, 2, dtype=torch.float64) * 120 - 10 for it in (20, 30)]
    boxes = [
        torch.cat([it, it + torch.rand(len(it), 2, dtype=torch.float64).square() * 130 + 0.2], 1) for it in corners
    ]
    shapes, gradient = [(128, 96), (120, 90)], torch.randn(50, 5, 7, 7, dtype=torch.float64)
    results = []
    for ours in (True, False):
        torch.manual_seed(1)
        maps = [torch.randn(2, 5, 32 >> it, 24 >> it, dtype=torch.float64).requires_grad_() for it in range(3)]
        if ours:
            features = RegionAlign(7, 60).by_kernels(maps, boxes, [1 / 4, 1 / 8, 1 / 16])
        else:
            pool = MultiScaleRoIAlign(["0", "1", "2"], 7, 2, canonical_scale=60)
            features = pool({str(number): it for number, it in enumerate(maps)}, boxes, shapes)
        features.backward(gradient)
        results.append([features.detach(), *(it.grad for it in maps)])
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)


class TestSizes:
    def test_pixels_and_boxes_are_torchvision_s_to_the_bit(self):
        torch.manual_seed(0)
        sizes = [(427, 640), (333, 500), (31, 97)]
        images = [torch.rand(3, *it) for it in sizes]
        targets = [{"boxes": torch.rand(7, 4) * 300, "masks": torch.ones(7, *it, dtype=torch.uint8)} for it in sizes]
        settings = (64, 96, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 32)
        found, expected = (kind(*settings)(images, targets) for kind in (Resize, GeneralizedRCNNTransform))
        assert torch.equal(found[0].tensors, expected[0].tensors)
        assert found[0].image_sizes == expected[0].image_sizes
        for one, other in zip(found[1], expected[1], strict=True):
            assert all(torch.equal(one[key], other[key]) for key in ("boxes", "masks"))
        for boxes in (torch.rand(50, 4) * 1000, torch.rand(50, 4, dtype=torch.float64)):
            assert torch.equal(
                resized_boxes(boxes, (427, 640), (800, 1199)), resize_boxes(boxes, [427, 640], [800, 1199])
            )

    def test_flipped_boxes_by_hand(self):
        flipped = flip_target({"boxes": torch.tensor([[1.0, 2, 4, 8]])}, (10, 20))
        assert flipped["boxes"].tolist() == [[16, 2, 19, 8]]

    def test_batches_are_filled_up_to_multiples(self):
        module = module_of(32)
        for multiple, shape in ((32, (64, 96)), (128, (128, 128)), (1, (53, 80))):
            parts: Any = module.network.backbone, module.network.rpn, module.network.roi_heads
            network = DetectionNetwork(*parts, min_size=64, max_size=80, size_divisible=multiple)
            resized, _ = network.transform([torch.rand(3, 60, 90)])
            assert resized.tensors.shape[2:] == shape
        with pytest.raises(UserError, match="network.size_divisible is 0: give pixels, 1 or more"):
            DetectionNetwork(*parts, size_divisible=0)


class TestFrozenNorms:
    """Scale and shift are made for all layers at once, and are never those of before."""

    def network(self) -> Pyramid:
        torch.manual_seed(0)
        backbone = Pyramid("small", 8, "frozen", trainable_layers=4)
        for it in backbone.modules():
            if isinstance(it, FrozenBatchNorm):
                it.running_var.uniform_(0.5, 2)
                it.running_mean.normal_()
        return backbone

    def by_themselves(self, backbone: Pyramid, x: Tensor) -> dict[str, Tensor]:
        """The same without what makes them at once."""
        hooks, backbone._forward_pre_hooks = backbone._forward_pre_hooks, type(backbone._forward_pre_hooks)()
        try:
            return backbone(x)
        finally:
            backbone._forward_pre_hooks = hooks

    def check(self, backbone: Pyramid, x: Tensor) -> Tensor:
        found, expected = backbone(x), self.by_themselves(backbone, x)
        assert all(torch.equal(found[key], it) for key, it in expected.items())
        assert all(it.for_one_pass is None for it in backbone.modules() if isinstance(it, FrozenBatchNorm))
        return found["0"]

    def test_whatever_happens_between_two_passes(self):
        backbone, x = self.network(), torch.rand(1, 3, 32, 32)
        seen = [self.check(backbone, x)]
        backbone.load_state_dict({k: 1.5 * v if k.endswith("var") else v for k, v in backbone.state_dict().items()})
        seen.append(self.check(backbone, x))
        for it in backbone.modules():
            if isinstance(it, FrozenBatchNorm):
                it.running_mean.data.mul_(3)  # as an average is swapped in, which no counter sees
        with torch.inference_mode():
            seen.append(self.check(backbone, x).clone())
        assert not any(torch.equal(one, other) for one, other in pairwise(seen))
        self.check(backbone, x.requires_grad_()).sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            assert self.check(backbone, x).dtype == torch.bfloat16
        assert self.check(backbone.double(), x.double()).dtype == torch.float64

    @pytest.mark.parametrize(
        ("part", "shape"),
        [(lambda: Pyramid("resnet50", 8), (3, 32, 32)), (lambda: ResNetToLayer3("resnet50"), (3, 32, 32)),
         (lambda: last_stage("frozen"), (1024, 4, 4))],
    )  # fmt: skip
    def test_one_root_for_all_layers(self, part, shape):
        network = part()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen, torch.no_grad():
            network(torch.rand(1, *shape))
        assert sum(it.count for it in seen.key_averages() if it.key == "aten::rsqrt") == 1
