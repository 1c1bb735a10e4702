"""The paper's equations by hand and as torchvision has them; what a step minimises, in float32 and in bf16, on any ranks."""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback
from omegaconf import OmegaConf
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import fastrcnn_loss

from finished.predictors import predictor_of
from foundation.errors import UserError
from foundation.protocols import DetectsObjects, DetectsObjectsInImages, ProposesRegions, ProposesRegionsInImages
from launch.command_line import compose_job
from launch.runs import build, instantiate, load_proposals, load_run
from lightning_modules.faster_rcnn import (
    REGION_WEIGHTS,
    FasterRCNN,
    box_coordinates,
    box_loss,
    class_loss,
    objectness_loss,
    smooth_l1,
)
from lightning_modules.networks.detection_backbones import Pyramid
from lightning_modules.networks.faster_rcnn import DetectionNetwork, RegionHeads
from lightning_modules.networks.region_proposals import RegionProposals
from lightning_modules.schedules import WarmUpAndDrops
from tests.datamodules.test_shapes import write_tiny
from tests.forks import run_in_fork

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SMALL = ["trainer.precision=32-true", "datamodule.batch_size=2", "lightning_module.network.min_size=32",
         "lightning_module.network.max_size=64"]  # fmt: skip
NARROW = "lightning_module.network.heads.width=8"
FILES = [*SMALL, "datamodule.num_workers=0", "datamodule.eval_batch_size=2"]
FEW = ["lightning_module.network.rpn.before_nms=[20,20]", "lightning_module.network.rpn.proposals=[10,10]"]
LIGHT = [*FILES, NARROW, *FEW]
THIN = [*LIGHT, "lightning_module.network.backbone.name=small", "lightning_module.network.backbone.norm=batch",
        "lightning_module.network.backbone.trainable_layers=4", "init_from=null",
        "lightning_module.network.backbone.channels=16", "lightning_module.network.rpn.channels=16",
        "lightning_module.network.heads.channels=16",
        "lightning_module.network.rpn.anchor_sizes=[[8],[16],[32],[64]]"]  # fmt: skip
RESNET = [
    *(it for it in LIGHT if "width" not in it),
    "init_from=null",
    "lightning_module.network.backbone={name:resnet50,norm:batch}",
    "lightning_module.network.heads={norm:batch,regions_per_image:4}",
    "lightning_module.network.rpn.proposals=[4,4]",
]
SCENES = [*SMALL, "datamodule.size=32", "datamodule.digit_sizes=[10,20]", "datamodule.train_size=8",
          "datamodule.test_size=4"]  # fmt: skip
PROPOSED = "datamodule.proposals.file=${paths.data_dir}/proposals.safetensors"  # of test_shapes.py, test_voc.py
TINY = {
    "faster_rcnn_coco": THIN,
    "faster_rcnn_coco_v2": THIN,
    "faster_rcnn_coco_mobilenet": THIN,
    "faster_rcnn_coco_overfit": THIN,
    "faster_rcnn_folder": THIN,
    "faster_rcnn_folder_tuned": THIN,
    "mask_rcnn_coco": THIN,
    "faster_rcnn_coco_vgg16": [*LIGHT, "init_from=null"],
    "faster_rcnn_coco_resnet101": RESNET,
    "faster_rcnn_voc_vgg16": [*LIGHT, "init_from=null"],
    "faster_rcnn_voc_zf": [*LIGHT, "init_from=null"],
    "faster_rcnn_voc0712_vgg16": [*LIGHT, "init_from=null"],
    "faster_rcnn_voc0712_resnet101": RESNET,
    "rpn_voc": [*FILES, *FEW, "init_from=null"],
    "fast_rcnn_voc": [*FILES, NARROW, "init_from=null", PROPOSED],
    "faster_rcnn_voc_step3": [*LIGHT, "lightning_module.network.fixed=[]"],
    "faster_rcnn_voc_step4": [*LIGHT, PROPOSED, "lightning_module.network.fixed=[]"],
    "faster_rcnn_shapes": [*SCENES, NARROW],
    "rpn_shapes": SCENES,
    "fast_rcnn_shapes": [*SCENES, NARROW, PROPOSED],
    "rcnn_shapes": [*SCENES, NARROW, PROPOSED, "lightning_module.network.heads.crop=16",
                    "lightning_module.network.heads.context=1"],
    "faster_rcnn_shapes_step3": [*SCENES, NARROW, "lightning_module.network.fixed=[]"],
    "faster_rcnn_shapes_step4": [*SCENES, NARROW, PROPOSED, "lightning_module.network.fixed=[]"],
}  # fmt: skip


def boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 100
    return torch.cat(
        [corners, corners + 2 + 50 * torch.rand(count, 2, generator=generator, dtype=torch.float64)], dim=1
    )


class TestEquations:
    def test_coordinates_by_hand(self):
        anchor, box = torch.tensor([[10.0, 20, 30, 60]]), torch.tensor([[15.0, 30, 55, 50]])
        # Centres (20, 40) and (35, 40), sizes (20, 40) and (40, 20).
        expected = [0.75, 0.0, 0.693147, -0.693147]
        assert box_coordinates(box, anchor)[0].tolist() == pytest.approx(expected, abs=1e-6)
        assert box_coordinates(box, anchor, REGION_WEIGHTS)[0].tolist() == pytest.approx(
            [7.5, 0.0, 3.465736, -3.465736], abs=1e-6
        )

    @pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), REGION_WEIGHTS])
    def test_coordinates_are_torchvision_s_and_lead_back_to_the_box(self, weights):
        objects, anchors, coder = boxes(50), boxes(50, seed=1), BoxCoder(weights)
        coordinates = box_coordinates(objects, anchors, weights)
        torch.testing.assert_close(coordinates, coder.encode_single(objects, anchors))
        torch.testing.assert_close(coder.decode_single(coordinates, anchors), objects)

    def test_smooth_l1_by_hand(self):
        difference = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.25, 3.0])
        assert smooth_l1(difference, 1.0).tolist() == [1.5, 0.5, 0.125, 0.0, 0.03125, 2.5]
        torch.testing.assert_close(
            smooth_l1(difference, 1 / 9),
            nn.functional.smooth_l1_loss(difference, torch.zeros(6), beta=1 / 9, reduction="none"),
        )

    def test_losses_of_regions_are_torchvision_s(self):
        torch.manual_seed(0)
        logits, labels = torch.randn(9, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 0, 2, 0, 1])
        deltas, proposals, objects = torch.randn(9, 16, dtype=torch.float64), boxes(9), boxes(9, seed=1)
        targets = BoxCoder(REGION_WEIGHTS).encode_single(objects, proposals)
        expected = fastrcnn_loss(logits, deltas, [labels], [targets])
        around = torch.where(labels > 0)[0]
        of_true_class = deltas.view(9, 4, 4)[around, labels[around]]
        found = (
            class_loss(logits, labels),
            box_loss(of_true_class, objects[around], proposals[around], 1 / 9, REGION_WEIGHTS),
        )
        assert [it.item() / 9 for it in found] == pytest.approx([it.item() for it in expected])

    def test_objectness_by_hand(self):
        logits, labels = torch.tensor([0.0, 0.0, 50.0]), torch.tensor([1.0, 0.0, 1.0])
        assert objectness_loss(logits, labels).item() == pytest.approx(2 * 0.693147)


class TestSchedule:
    def rates(self, experiment: str, iterations: list[int]) -> list[float]:
        config = compose_job("train", [f"experiment={experiment}"])["lightning_module"]
        optimizer = instantiate(config["optimizer"])([nn.Parameter(torch.zeros(()))])
        schedule = instantiate(config["scheduler"])(optimizer)
        found = []
        for iteration in iterations:
            schedule.last_epoch = iteration
            found.append(schedule.get_lr()[0])
        return found

    def test_torchvision_s_by_iterations(self):
        """Epochs of 118,287 images in batches of 16: drops after 16 and 22 of 26."""
        epoch = 118_287 // 16
        asked = [0, 500, 1000, 16 * epoch - 1, 16 * epoch, 22 * epoch, 26 * epoch - 1]
        assert self.rates("faster_rcnn_coco", asked) == pytest.approx([2e-5, 0.01001, 0.02, 0.02, 2e-3, 2e-4, 2e-4])
        assert compose_job("train", ["experiment=faster_rcnn_coco"])["trainer"]["max_steps"] == 26 * epoch

    def test_the_papers(self):
        assert self.rates("faster_rcnn_coco_vgg16", [0, 239_999, 240_000]) == pytest.approx([3e-3, 3e-3, 3e-4])
        assert self.rates("faster_rcnn_coco_resnet101", [0, 239_999, 240_000]) == pytest.approx([1e-3, 1e-3, 1e-4])


def small(**options: Any) -> FasterRCNN:
    """For images of 64 pixels."""
    torch.manual_seed(0)
    backbone = Pyramid("small", 16, "group", trainable_layers=4)
    rpn = RegionProposals(16, [[12], [24], [48], [64]], anchors_per_image=32, before_nms=[50, 50], proposals=[40, 20])
    heads = RegionHeads(16, 2, width=16, canonical_size=32, regions_per_image=32, masks=options.pop("masks", False))
    network = DetectionNetwork(backbone, rpn, heads, min_size=64, max_size=64)
    module = FasterRCNN(network, optimizer=options.pop("optimizer", SGD), **options)
    module._trainer = SimpleNamespace(  # type: ignore
        strategy=SimpleNamespace(reduce=lambda value, reduce_op: value), log_every_n_steps=1000, global_step=0,
        state=SimpleNamespace(fn="test"), datamodule=None,
    )  # fmt: skip
    return module


def with_parts(*fixed: str, rpn: bool = True, heads: bool = True, **network: Any) -> FasterRCNN:
    """``small`` with or without its parts."""
    module = small()
    whole = module.network
    parts: Any = whole.backbone, whole.rpn if rpn else None, whole.roi_heads if heads else None
    module.network = DetectionNetwork(*parts, fixed=fixed, min_size=64, max_size=64, **network)
    module.num_classes = module.network.num_classes
    return module


def two_images() -> dict[str, Any]:
    """Rectangles on noise."""
    generator = torch.Generator().manual_seed(3)
    images = [0.3 * torch.rand(3, 64, 64, generator=generator) for _ in range(2)]
    places = [[(8, 10, 40, 34, 1), (44, 40, 62, 60, 2)], [(20, 6, 60, 30, 2)]]
    targets = []
    for image, objects in zip(images, places, strict=True):
        masks = torch.zeros(len(objects), 64, 64, dtype=torch.uint8)
        for mask, (left, top, right, bottom, label) in zip(masks, objects, strict=True):
            image[label - 1, top:bottom, left:right] += 0.7
            mask[top:bottom, left:right] = 1
        targets.append({"boxes": torch.tensor([it[:4] for it in objects], dtype=torch.float32),
                        "labels": torch.tensor([it[4] for it in objects]), "masks": masks})  # fmt: skip
    return {"index": torch.tensor([4, 9]), "image": images, "target": targets}


SGD = partial(torch.optim.SGD, lr=0.02, momentum=0.9)


class TestTraining:
    def test_twenty_steps_on_two_images_lower_their_loss(self):
        module, batch = small(), two_images()
        module.setup("test")
        (optimizer,), _ = module.configure_optimizers()
        losses = []
        for iteration in range(20):
            module.trainer.global_step = iteration  # type: ignore
            loss = module.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-5:]) < 0.7 * sum(losses[:5])

    def test_an_image_s_draws_are_a_function_of_seed_iteration_and_index(self):
        module, batch = small(), two_images()
        first = module.training_step(batch, 0).item()
        torch.manual_seed(5)
        assert module.training_step(batch, 0).item() == first
        module.trainer.global_step = 1  # type: ignore
        assert module.training_step(batch, 0).item() != first
        module.trainer.global_step, module.seed = 0, 1  # type: ignore
        assert module.training_step(batch, 0).item() != first

    def test_losses_in_bf16_are_within_its_error(self):
        """Sampled alike, since proposals move by less than the overlaps' distance from the thresholds."""
        module, batch = small(masks=True), two_images()
        whole = self.parts(module, batch)
        with torch.autocast("cpu", torch.bfloat16):
            half = self.parts(module, batch)
        assert all(it.dtype == torch.float32 for it in half.values())
        for name, value in whole.items():
            assert half[name].item() == pytest.approx(value.item(), rel=0.02), name

    def parts(self, module: FasterRCNN, batch: dict[str, Any]) -> dict[str, Tensor]:
        return module.losses(*module.network(batch["image"], batch["target"], module.generators(batch["index"])))

    def test_an_image_without_objects_is_background_alone(self):
        module, batch = small(masks=True), two_images()
        batch["target"] = [{name: it[:0] for name, it in target.items()} for target in batch["target"]]
        parts = self.parts(module, batch)
        assert {name for name, value in parts.items() if value.item() == 0} == {
            "loss_rpn_box_reg", "loss_box_reg", "loss_mask",
        }  # fmt: skip
        torch.stack([*parts.values()]).sum().backward()
        assert all(it.grad is not None and it.grad.isfinite().all() for it in module.parameters())

    def test_biases_learn_at_their_own_rate_which_the_schedule_lowers_with_the_other(self):
        module = small(bias_rate=2.0)
        (optimizer,), _ = module.configure_optimizers()
        weights, biases = optimizer.param_groups
        assert (weights["lr"], biases["lr"]) == (0.02, 0.04)
        assert all(it.ndim == 1 for it in biases["params"])
        assert len(weights["params"]) + len(biases["params"]) == len(list(module.parameters()))
        named = {name for name, it in module.named_parameters() if any(it is one for one in biases["params"])}
        assert named == {name for name, _ in module.named_parameters() if name.endswith(".bias")}
        WarmUpAndDrops(optimizer, warmup=0, drops=[0])
        assert (weights["lr"], biases["lr"]) == pytest.approx((0.002, 0.004))

    def test_lambda_weighs_the_boxes_of_the_rpn_alone(self):
        once, twice = (self.parts(small(balance=it), two_images()) for it in (1.0, 2.0))
        ratios = {name: twice[name].item() / once[name].item() for name in once}
        assert ratios == pytest.approx(dict.fromkeys(once, 1.0) | {"loss_rpn_box_reg": 2.0})

    def test_frozen_layers_get_no_optimiser(self):
        module = small()
        module.network.backbone.body.conv1.requires_grad_(False)  # type: ignore
        (optimizer,), _ = module.configure_optimizers()
        (group,) = optimizer.param_groups
        assert len(group["params"]) == len(list(module.parameters())) - 1


GIVEN = [{"boxes": torch.tensor([[10.0, 10, 38, 34], [0, 0, 20, 20], [40, 42, 60, 62]]),
          "scores": torch.tensor([0.9, 0.5, 0.1])}] * 2  # fmt: skip


class TestParts:
    """Fast R-CNN, which has no RPN; an RPN alone; and parts that are fixed while others learn."""

    losses = {"rpn": ["loss_objectness", "loss_rpn_box_reg"], "heads": ["loss_classifier", "loss_box_reg"]}

    def stepped(self, module: FasterRCNN, **more: Any) -> dict[str, float]:
        """What a step has changed, by the parts of the network: the largest difference of a weight or a statistic."""
        before = {name: it.clone() for name, it in module.state_dict().items()}
        (optimizer,), _ = module.configure_optimizers()
        module.training_step(two_images() | more, 0).backward()
        optimizer.step()
        moved = dict.fromkeys(["backbone", "rpn", "roi_heads"], 0.0)
        for name, it in module.state_dict().items():
            part = name.split(".")[1]
            moved[part] = max(moved[part], float((it - before[name]).abs().max()))
        return moved

    def test_only_the_losses_of_what_is_trained(self):
        both = [*self.losses["rpn"], *self.losses["heads"]]
        for module, expected in (
            (with_parts(), both), (with_parts(heads=False), self.losses["rpn"]),
            (with_parts(rpn=False), self.losses["heads"]), (with_parts("rpn"), self.losses["heads"]),
            (with_parts("backbone", "heads"), self.losses["rpn"]), (with_parts("backbone"), both),
        ):  # fmt: skip
            batch = two_images()
            sampled = module.network(batch["image"], batch["target"], module.generators(batch["index"]), GIVEN)
            assert [*module.losses(*sampled)] == expected
            assert module.metrics("train").keys() == {"train/loss", *(f"train/{it}" for it in expected)}

    @pytest.mark.parametrize(
        ("fixed", "learns"), [(("backbone",), ("rpn", "roi_heads")), (("backbone", "heads"), ("rpn",)),
                              (("backbone", "rpn"), ("roi_heads",))],
    )  # fmt: skip
    def test_fixed_parts_stay_to_the_bit_their_statistics_too(self, fixed, learns):
        module = with_parts(*fixed)
        backbone = Pyramid("small", 16, "batch", norm_in_pyramid=True, trainable_layers=4)
        whole = module.network
        module.network = DetectionNetwork(backbone, whole.rpn, whole.roi_heads, fixed=fixed, min_size=64, max_size=64)
        moved = self.stepped(module)
        assert {part for part, by in moved.items() if by > 0} == {*learns}
        assert {it for it in module.network.modules() if it.training}.isdisjoint(backbone.modules())
        (optimizer,), _ = module.configure_optimizers()
        assert all(it.requires_grad for group in optimizer.param_groups for it in group["params"])

    def test_heads_are_trained_on_the_proposals_that_are_given(self):
        """Of each image all three and its objects are drawn, since fewer are there than there is room for."""
        module, batch = with_parts(rpn=False), two_images()
        _, regions = module.network(batch["image"], batch["target"], module.generators(batch["index"]), GIVEN)
        assert regions is not None
        assert len(regions.labels) == 3 + 2 + 3 + 1
        # Around the first object the first proposal and itself, around the second the third; in the other image itself.
        assert regions.labels.sum() == 1 + 1 + 2 + 2 + 2
        assert [10.0, 10.0, 38.0, 34.0] in regions.proposals.tolist()

    def test_given_proposals_are_scaled_with_their_images(self):
        """An image of 32 x 64 pixels is looked at as one of 64 x 128: the same answer as of an image of that size."""
        module = with_parts(rpn=False)
        module.network.transform.max_size = 128
        module.network.roi_heads.score_thresh = 0.0  # type: ignore
        module.eval()
        image = torch.rand(3, 64, 128, generator=torch.Generator().manual_seed(0))
        smaller = nn.functional.interpolate(image[None], scale_factor=0.5)[0]
        larger = nn.functional.interpolate(smaller[None], scale_factor=2.0, mode="bilinear", align_corners=False)[0]
        boxes = torch.tensor([[4.0, 6, 40, 50], [60, 8, 120, 60]])
        found, told = (
            module.look([it], [{"boxes": given, "scores": torch.ones(2)}])
            for it, given in ((larger, boxes), (smaller, boxes / 2))
        )
        assert len(found[0][0]["boxes"]) > 0
        torch.testing.assert_close(found[0][0]["boxes"], told[0][0]["boxes"] * 2, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found[0][0]["scores"], told[0][0]["scores"], rtol=1e-4, atol=1e-5)
        assert torch.equal(told[1][0]["boxes"], boxes / 2)

    def test_steps_tell_what_they_proposed_in_pixels_of_the_image(self):
        module = with_parts(heads=False).eval()
        batch = {"index": torch.tensor([0]), "image_id": torch.tensor([5]), "image": [torch.rand(3, 32, 16)]}
        told = module.validation_step(batch, 0)
        assert told.keys() == {"index", "image_id", "proposals"}
        (proposals,) = told["proposals"]
        assert 0 < len(proposals["boxes"]) == len(proposals["scores"]) <= 20
        assert (proposals["boxes"].amax(0) <= torch.tensor([16.0, 32, 16, 32])).all()
        assert torch.equal(proposals["scores"], proposals["scores"].sort(descending=True).values)
        assert 0 <= proposals["scores"][-1] <= proposals["scores"][0] <= 1
        again = module.propose_regions(batch["image"])
        assert torch.equal(again[0]["boxes"], proposals["boxes"])

    def test_a_network_with_an_rpn_is_measured_by_its_own_proposals(self):
        module, image = with_parts("backbone", "rpn").eval(), [torch.rand(3, 64, 64)]
        own = module.look(image)[1][0]["boxes"]
        assert torch.equal(module.look(image, GIVEN[:1])[1][0]["boxes"], own)
        assert len(own) != 3

    def test_says_what_it_can_do(self):
        assert with_parts().capabilities() == {ProposesRegionsInImages, DetectsObjectsInImages}
        assert with_parts(heads=False).capabilities() == {ProposesRegionsInImages}
        fast = with_parts(rpn=False)
        assert (fast.capabilities(), fast.needs_proposals) == ({ProposesRegions, DetectsObjects}, True)
        assert with_parts(heads=False).num_classes == 0
        takes = {it.takes_proposals for it in (fast, with_parts(), with_parts("backbone", "rpn"))}
        assert takes == {True}
        assert not with_parts(heads=False).takes_proposals
        assert not with_parts("backbone", "heads").takes_proposals

    def test_images_of_one_s_own_come_without_proposals_and_are_refused(self):
        with pytest.raises(UserError, match="a run of FasterRCNN, which looks for objects in regions that its data"):
            predictor_of(with_parts(rpn=False), "a run")
        with pytest.raises(UserError, match="a run is a run of FasterRCNN, which does not tell what is in an image"):
            predictor_of(with_parts(heads=False), "a run")

    def test_fixed_parts_begin_with_what_has_been_learned(self):
        module = with_parts("backbone", "heads")
        own = {name for name in module.state_dict() if "rpn" not in name}
        assert module.refuses_to_begin(own) is None
        sentence = module.refuses_to_begin({it for it in own if "cls_score" not in it})
        assert sentence is not None
        assert "fixed keeps backbone and heads as they begin" in sentence
        assert f"of {len(own)} such weights 2 begin with none: set init_from" in sentence

    @pytest.mark.parametrize(
        ("fixed", "parts", "sentence"),
        [
            (["neck"], {}, "network.fixed names 'neck'"),
            (["rpn"], {"rpn": False}, "network.fixed names rpn, and network.rpn is null"),
            (["rpn", "heads"], {}, "both null or fixed: leave one of them"),
            ([], {"rpn": False, "heads": False}, "both null or fixed: leave one of them"),
            (["heads"], {"rpn": False}, "both null or fixed: leave one of them"),
        ],
    )
    def test_what_would_train_nothing_is_refused(self, fixed, parts, sentence):
        with pytest.raises(UserError, match=sentence):
            with_parts(*fixed, **parts)


class TestDetections:
    def test_carry_the_data_s_category_ids_and_are_float32_in_bf16_too(self):
        module = small(masks=True).eval()
        module.category_ids = [17, 90]
        module.network.roi_heads.score_thresh = 0.0
        images = [torch.rand(3, 40, 80), torch.rand(3, 64, 50)]
        with torch.autocast("cpu", torch.bfloat16):
            found = module.detect_objects(images)
        for image, it in zip(images, found, strict=True):
            assert set(it["labels"].tolist()) <= {17, 90}
            assert len(it["labels"]) > 0
            assert it["scores"].dtype == it["boxes"].dtype == torch.float32
            assert len(it["scores"].unique()) == len(it["scores"])  # rounded to bf16 many would be the same
            assert it["masks"].dtype == torch.bool
            assert it["masks"].shape == (len(it["boxes"]), *image.shape[1:])
            assert (it["boxes"].amax(0) <= torch.tensor([image.shape[2], image.shape[1]] * 2)).all()

    def test_no_image_gives_none(self):
        assert small().eval().detect_objects([]) == []

    def test_names_and_ids_come_from_the_data_and_go_into_checkpoints(self):
        module = small()
        module.trainer.datamodule = SimpleNamespace(class_names=("car", "cat"), category_ids=(3, 17))  # type: ignore
        module.setup("test")
        checkpoint: dict[str, Any] = {}
        module.on_save_checkpoint(checkpoint)
        assert checkpoint == {"class_names": ["car", "cat"], "category_ids": [3, 17]}
        other = small()
        other.on_load_checkpoint(checkpoint)
        assert (other.class_names, other.category_ids) == (["car", "cat"], [3, 17])


@pytest.mark.parametrize("key", ["beta", "balance", "bias_rate"])
@pytest.mark.parametrize("number", [0, -1.0, float("nan")])
def test_a_number_that_is_not_above_0_is_refused(key, number):
    with pytest.raises(UserError, match=f"lightning_module.{key} is {number}: give a number above 0"):
        small(**{key: number})


# --- alternating training ------------------------------------------------------------------------------------


def run_of(folder: Path, experiment: str, *overrides: str) -> tuple[Path, Any]:
    """A run as its command leaves it, and its module as it began: two iterations and a test."""
    tiny = [it for it in TINY[experiment] if it != PROPOSED and ".fixed=" not in it]
    told = [f"experiment={experiment}", *tiny, *overrides, "trainer=cpu", "trainer.max_steps=2", "logger=none"]
    config = compose_job("train", told, str(folder))
    run: Any = build(config)
    begun = {}

    class Remembers(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            begun.update({name: it.clone() for name, it in pl_module.state_dict().items()})

    run.trainer.callbacks.append(Remembers())
    run.trainer.fit(run.module, datamodule=run.datamodule)
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    (folder / ".hydra").mkdir()
    saved = OmegaConf.to_yaml(OmegaConf.create(config)).replace(str(folder), "${paths.run_dir}")
    (folder / ".hydra" / "config.yaml").write_text(saved)
    return folder, begun


def weights(folder: Path, *parts: str) -> dict[str, Tensor]:
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: it for name, it in state.items() if name.split(".")[1] in parts}


def test_four_commands_one_after_another(tmp_path):
    """What each begins with, what it keeps to the bit, where it looks, and what its record says of that."""
    one, _ = run_of(tmp_path / "1", "rpn_shapes")
    two, _ = run_of(tmp_path / "2", "fast_rcnn_shapes", f"datamodule.proposals.run={one}")
    three, at_third = run_of(tmp_path / "3", "faster_rcnn_shapes_step3", f"init_from={two}")
    four, at_fourth = run_of(tmp_path / "4", "faster_rcnn_shapes_step4", f"datamodule.proposals.run={three}")
    same: Any = partial(torch.testing.assert_close, rtol=0, atol=0)
    same(
        {name: at_third[name] for name in weights(two, "backbone", "roi_heads")}, weights(two, "backbone", "roi_heads")
    )
    same(weights(three, "backbone", "roi_heads"), weights(two, "backbone", "roi_heads"))
    same({name: at_fourth[name] for name in weights(three, "backbone", "rpn", "roi_heads")},
         weights(three, "backbone", "rpn", "roi_heads"))  # fmt: skip
    same(weights(four, "backbone", "rpn"), weights(two, "backbone") | weights(three, "rpn"))
    assert not torch.equal(*(weights(it, "rpn")["network.rpn.head.cls_logits.weight"] for it in (one, three)))
    for before, after, name in ((two, four, "roi_heads"), (one, two, "backbone")):
        assert any(not torch.equal(it, weights(after, name)[key]) for key, it in weights(before, name).items())

    inputs = {it: json.loads((it / "record.json").read_text())["inputs"] for it in (two, three, four)}
    assert inputs[two]["datamodule.proposals"]["experiment"] == "rpn_shapes"
    assert inputs[three]["init_from"]["experiment"] == "fast_rcnn_shapes"
    assert {it["run"] for it in inputs[four].values()} == {"3"}
    assert inputs[four].keys() == {"datamodule.proposals", "init_from"}

    module, _, datamodule = load_run(three)
    datamodule.setup()
    scene = datamodule.tables["test"].example(2).image / 255  # type: ignore
    with torch.no_grad():
        (found,) = module.propose_regions([scene])  # type: ignore
    saved = load_proposals(str(three), most=[200, 200])
    boxes, scores = saved.rows("test", 2, 200)
    torch.testing.assert_close(boxes, found["boxes"], rtol=1e-4, atol=1e-3)  # a batch of one rounds otherwise
    torch.testing.assert_close(scores, found["scores"], rtol=1e-4, atol=1e-5)
    assert {split: len(it[0]) for split, it in saved.listed.items()} == {"train": 8, "test": 4}


def test_steps_that_begin_with_nothing_are_refused(tmp_path):
    for experiment, sentence in (
        (
            "faster_rcnn_shapes_step3",
            "fixed keeps backbone and heads as they begin, and of .* begin with none: set init",
        ),
        ("faster_rcnn_shapes_step4", "datamodule.proposals: run and file are both null: give the folder of a finished"),
        ("fast_rcnn_shapes", "datamodule.proposals: run and file are both null: give the folder of a finished"),
        ("rcnn_shapes", "datamodule.proposals: run and file are both null: give the folder of a finished"),
    ):
        with pytest.raises(UserError, match=sentence):
            build(compose_job("train", [f"experiment={experiment}", "trainer=cpu", "logger=none"], str(tmp_path)))


# --- ranks ---------------------------------------------------------------------------------------------------


NORMS = {"faster_rcnn_shapes": "lightning_module.network.backbone.norm=group",
         "rcnn_shapes": "lightning_module.network.heads.norm=group"}  # fmt: skip


def trained_on(world_size: int, experiment: str, folder: Path) -> None:
    """Writes the weights after three iterations in float64, without statistics of a batch, of which a rank sees half."""
    overrides = [f"experiment={experiment}", *TINY[experiment], f"paths.data_dir={folder}", "trainer.precision=64-true",
                 NORMS[experiment], "datamodule.batch_size=4", "trainer.max_steps=3",
                 "trainer=cpu" if world_size == 1 else "trainer=ddp_cpu", f"trainer.devices={world_size}",
                 "logger=none", "callbacks=default", "~callbacks.progress", "~callbacks.proposal_recall",
                 "+trainer.enable_progress_bar=false", "paper=null", "trainer.log_every_n_steps=1"]  # fmt: skip
    overrides += ["+trainer.strategy.start_method=fork"] if world_size > 1 else []
    run: Any = build(compose_job("train", overrides, str(folder / f"{experiment}{world_size}")))
    run.module.double()
    run.trainer.fit(run.module, datamodule=run.datamodule)
    losses = {key: float(it) for key, it in run.trainer.callback_metrics.items() if key.startswith("train/loss")}
    name = f"{experiment}{world_size}"
    (folder / f"{name}.json").write_text(json.dumps(losses))
    torch.save(torch.cat([it.detach().flatten() for it in run.module.parameters()]), folder / f"{name}.pt")


@pytest.mark.parametrize("experiment", NORMS)
def test_two_ranks_take_the_steps_of_one(experiment, tmp_path, monkeypatch):
    """In a process of its own, where no backward pass has run before it forks; R-CNN on proposals that are given."""
    write_tiny(tmp_path, monkeypatch)
    done = run_in_fork("-m", "tests.lightning_modules.test_faster_rcnn", experiment, tmp_path)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{experiment}{it}.pt") for it in (1, 2))
    assert one.dtype == torch.float64
    torch.testing.assert_close(one, two, rtol=0, atol=1e-10)
    losses = [json.loads((tmp_path / f"{experiment}{it}.json").read_text()) for it in (1, 2)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # Lightning keeps what is logged in float32


def main(experiment: str, folder: Path) -> None:
    torch.set_num_threads(1)
    for world_size in (2, 1):
        trained_on(world_size, experiment, folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
