"""Errors of a linear classifier whose features are masked, by hand; tests/test_ranks.py has them on 1, 2 and 3 processes."""

import csv

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from callbacks import deepcloak
from callbacks.deepcloak import DeepCloak
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError
from foundation.protocols import ClassifiesImages
from lightning_modules.attacks.gradient import FastGradient, ProjectedGradient
from lightning_modules.networks.deepcloak import masking

SCALES = torch.tensor([1.0, 4.0, 2.0, 0.5])  # how far FGM moves each feature, by its budget
WEIGHTS = torch.tensor([0.5, 1.0, -1.0, 0.25])  # of class 1
ATTACKS = {"fgm": FastGradient("linf"), "pgd": ProjectedGradient("linf", steps=20)}


def centred(images):
    """uint8 [B, 1, 2, 2] -> [B, 4] in [-0.5, 0.5]."""
    return images.flatten(1) / 255 - 0.5


class Grey(ImageDataModule):
    """Images of four pixels that are neither dark nor bright, so that no attack leaves their range."""

    name, image_shape, num_classes = "grey", (1, 2, 2), 2

    def __init__(self, label_by, **splits):
        super().__init__(**splits)
        self.label_by = label_by

    def load(self):
        generator, tables = torch.Generator().manual_seed(0), {}
        for split, size in (("train", 30), ("test", 41)):
            images = torch.randint(100, 156, (size, 1, 2, 2), generator=generator, dtype=torch.uint8)
            tables[split] = ImageTable(images, (centred(images) @ self.label_by > 0).long())
        return tables


class Weighed(LightningModule):
    """Features are pixels, counted from half-grey, by their scales; class 1 where their weighted sum is above 0."""

    num_classes, class_names, image_shape = 2, None, (1, 2, 2)

    def __init__(self, scales=SCALES, weights=WEIGHTS):
        super().__init__()
        self.scale, self.linear = nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.scale.weight.copy_(torch.diag(scales))
            self.linear.weight.copy_(torch.stack([-weights, weights]))

    def capabilities(self):
        return {ClassifiesImages}

    def class_logits(self, images):
        return self.linear(self.scale(images.flatten(1) - 0.5))

    def test_step(self, batch, batch_idx):
        return {"index": batch["index"], "logits": self.class_logits(batch["image"]), "label": batch["label"]}


def measured(folder, module=None, label_by=SCALES * WEIGHTS, **arguments):
    module = module or Weighed()
    callback = DeepCloak(str(folder), **{"attacks": ATTACKS, "shares": [25, 50, 75], "powers": [2, 10]} | arguments)
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, inference_mode=False)  # fmt: skip
    datamodule = Grey(label_by, batch_size=10, eval_batch_size=7)
    trainer.test(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(module, "test").keys()
    tables = {}
    for name in ("deepcloak", "deepcloak_features"):
        with (folder / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    return {key: float(value) for key, value in trainer.callback_metrics.items()}, tables, datamodule, callback


def error_by_hand(table, masked: list[int], budget: float) -> float:
    """Attacked by L-infinity, a linear margin falls by the budget times the sum of its absolute weights. What is replayed
    is no weaker: the signs of the unmasked net are those of the masked one."""
    weights = SCALES * WEIGHTS
    weights[masked] = 0
    margins = centred(table.images) @ weights * (2 * table.labels - 1)
    return float((margins - budget * weights.abs().sum() < 0).float().mean())


def test_errors_by_hand(tmp_path):
    """The features go in the order of their scales: 1, 2, 0, 3."""
    found, tables, datamodule, _ = measured(tmp_path)
    table, order = datamodule.tables["test"], [1, 2, 0, 3]
    errors = {}
    for share in (0, 25, 50, 75):
        masked = order[: share // 25]
        assert found[f"test/error_masked{share}"] == pytest.approx(error_by_hand(table, masked, 0))
        for power in (2, 10):
            errors[share, power] = error_by_hand(table, masked, power / 255)
            for way in ("transfer_fgm_linf", "fgm_linf", "pgd20x1_linf"):
                key = f"test/error_masked{share}_{way}_{power}of255"
                assert found[key] == pytest.approx(errors[share, power]), key
    assert len(set(errors.values())) >= 5
    rows = tables["deepcloak"]
    assert len(rows) == 4 * (1 + 2 * 3)
    for row in rows:
        share, power = int(float(row["masked_percent"])), row["power_of_255"]
        assert int(row["masked_features"]) == share // 25
        if power:
            assert float(row["gain"]) == pytest.approx(errors[0, int(power)] - errors[share, int(power)])
    assert (tmp_path / "deepcloak.png").stat().st_size > 1000


def test_features_are_scored_on_training_images_at_their_own_power(tmp_path):
    _, tables, *_ = measured(tmp_path, score_power=5, score_examples=17)
    rows = tables["deepcloak_features"]
    assert [int(row["feature"]) for row in rows] == [1, 2, 0, 3]
    for row in rows:
        assert float(row["mean_distance"]) == pytest.approx(5 / 255 * float(SCALES[int(row["feature"])]), rel=1e-5)


def test_replayed_images_are_made_once_and_without_a_mask(tmp_path, monkeypatch):
    module, made = Weighed(), []

    def spy(logits_of, examples, budget, restart=0):
        made.append((float(budget[0]), len(module.linear._forward_pre_hooks)))
        return FastGradient("linf")(logits_of, examples, budget, restart)

    monkeypatch.setattr(spy, "name", "fgm_linf", raising=False)
    monkeypatch.setattr(deepcloak, "REPLAYED", spy)
    measured(tmp_path, module)
    assert {masks for _, masks in made} == {0}
    of_training, of_test = -(-30 // 7), -(-41 // 7)
    budgets = [round(budget * 255) for budget, _ in made]
    assert budgets == [10] * of_training + [2, 10] * of_test  # whatever shares there are


class Loudest(Weighed):
    """Goes by the one feature of two that is larger: no gradient passes by the other."""

    def class_logits(self, images):
        first, second = (self.linear(self.scale(images.flatten(1) - 0.5))).unbind(1)
        margin = torch.where(first.abs() >= second.abs(), first, second)
        return torch.stack([-margin, margin], dim=1)


def test_what_is_replayed_leaves_alone_what_the_mask_lays_open(tmp_path):
    """The unmasked net goes by pixel 0, the masked one by pixel 1, of which the labels are."""
    module, label_by = Loudest(torch.tensor([1000.0, 1.0, 0.0, 0.0])), torch.tensor([0.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        module.linear.weight.copy_(torch.eye(2, 4))
    found, *_ = measured(tmp_path, module, label_by, shares=[25], powers=[10])
    assert found["test/error_masked0_fgm_linf_10of255"] == found["test/error_masked0_transfer_fgm_linf_10of255"]
    assert found["test/error_masked25"] == found["test/error_masked25_transfer_fgm_linf_10of255"] == 0
    assert found["test/error_masked25_fgm_linf_10of255"] > 0.2
    assert found["test/error_masked25_pgd20x1_linf_10of255"] == found["test/error_masked25_fgm_linf_10of255"]


def test_some_test_images_of_all_batches(tmp_path):
    _, _, datamodule, callback = measured(tmp_path, examples=13)
    assert int(callback.metric.examples) == 13
    assert int(callback.sensitivity.examples) == len(datamodule.tables["train"]) == 30


def test_the_module_is_afterwards_as_it_was(tmp_path):
    module, before = Weighed().train(), torch.get_rng_state()
    measured(tmp_path, module)
    assert all(it.grad is None and it.requires_grad for it in module.parameters())
    assert not any(it._forward_pre_hooks for it in module.modules())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_named_layer_is_masked_instead(tmp_path):
    """What ``scale`` reads are pixels, which are moved alike."""
    _, tables, *_, callback = measured(tmp_path, layer="scale", shares=[25])
    distances = [float(row["mean_distance"]) for row in tables["deepcloak_features"]]
    assert distances == pytest.approx([10 / 255] * 4, rel=1e-5)
    assert callback.describe_for_record()["deepcloak"]["masked"] == "what scale reads"


class Compiled(Weighed):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(self.scale, self.linear)
        self.network.compile(backend="eager")

    def class_logits(self, images):
        return self.network(images.flatten(1) - 0.5)


def test_a_compiled_network_is_masked_too(tmp_path):
    """As compiled, it passes by what has been hung on its layers since."""
    module, images = Compiled(), torch.rand(2, 1, 2, 2)
    before = module.class_logits(images)
    with masking(module.linear, torch.ones(4, dtype=torch.bool)):
        assert torch.equal(module.class_logits(images), before)
    expected, *_ = measured(tmp_path / "as it is")
    assert measured(tmp_path / "compiled", module)[0] == expected


def test_a_layer_is_looked_for_before_anything_begins(tmp_path):
    with pytest.raises(UserError, match="callbacks.deepcloak.layer is linar, and Weighed .* did you mean 'linear'"):
        measured(tmp_path, layer="linar")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"attacks": {}}, "callbacks.deepcloak.attacks is empty"),
        ({"attacks": ATTACKS | {"again": FastGradient("linf")}}, "attacks has fgm_linf twice"),
        ({"attacks": {"fgm": FastGradient("l2")}}, "attacks has fgm_l2, and powers are of linf: give it norm=linf"),
        ({"shares": []}, r"shares is \[\]: give a list of numbers from 0 to 100"),
        ({"shares": 5}, "shares is 5: give a list of numbers from 0 to 100"),
        ({"shares": [5, 101]}, r"shares is \[5, 101\]: give a list of numbers from 0 to 100"),
        ({"shares": ["a"]}, r"shares is \['a'\]: give a list of numbers"),
        ({"shares": [5, 1]}, r"shares is \[5, 1\]: give numbers in ascending order"),
        ({"shares": [1, 1]}, r"shares is \[1, 1\]: give numbers in ascending order"),
        ({"powers": [0]}, r"powers is \[0\]: give a list of numbers from above 0 to 255"),
        ({"powers": [1.0, 1.0000001]}, "differ in six digits"),
        ({"powers": [float("nan")]}, r"powers is \[nan\]"),
        ({"score_power": 0}, "score_power is 0: give a number from above 0 to 255"),
        ({"score_power": "ten"}, "score_power is ten: give a number"),
        ({"score_power": None}, "score_power is None: give a number"),
        ({"examples": 0}, "callbacks.deepcloak.examples is 0: give a whole number of 1 or more, or null for all"),
        ({"score_examples": 0.5}, "callbacks.deepcloak.score_examples is 0.5: give a whole number"),
    ],
)
def test_wrong_words_get_a_sentence(tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        DeepCloak(str(tmp_path), **{"attacks": ATTACKS} | arguments)
