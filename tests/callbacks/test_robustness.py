"""Errors under attack of a linear classifier, by hand; tests/test_ranks.py has them on 1, 2 and 3 processes."""

import csv
import math

import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from torch import nn

from callbacks.instruments.examples import evenly_chosen
from callbacks.robustness import Robustness
from datamodules.digits import DigitsDataModule
from foundation.errors import UserError
from foundation.protocols import ClassifiesImages
from lightning_modules.attacks.gradient import FastGradient, ProjectedGradient


class Brightness(LightningModule):
    """Class 0 where the first pixel is below a half, else class 1; other labels are never right."""

    num_classes, class_names, image_shape = 10, None, (1, 8, 8)

    def __init__(self):
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))

    def capabilities(self):
        return {ClassifiesImages}

    def class_logits(self, images):
        first = images[:, 0, 0, 0]
        logits = images.new_full((len(images), 10), -50.0) + self.parameter
        return logits.index_add(1, torch.tensor([0, 1]), torch.stack([50.5 - first, 49.5 + first], dim=1))

    def test_step(self, batch, batch_idx):
        return {"index": batch["index"], "logits": self.class_logits(batch["image"]), "label": batch["label"]}


FGM = {"fgm": FastGradient("l2")}
PGD = {"pgd": ProjectedGradient("linf", steps=4, step_size=0.5)}
BUDGETS = {"l2": [0.25, 0.75], "linf": [0.1, 0.6]}


def measured(folder, attacks, **arguments):
    callback, module = Robustness(str(folder), attacks, BUDGETS, **arguments), Brightness()
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, inference_mode=False)  # fmt: skip
    datamodule = DigitsDataModule(batch_size=128, eval_batch_size=64)
    trainer.test(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(module, "test").keys()
    tables = {}
    for name in ("robustness", "perturbations"):
        with (folder / f"{name}.csv").open(newline="") as file:
            tables[name] = list(csv.DictReader(file))
    return {key: float(value) for key, value in trainer.callback_metrics.items()}, tables, datamodule


def test_a_zero_is_taken_for_another_class_once_its_first_pixel_can_be_bright(tmp_path):
    """All digits have a black first pixel, so zeros are right and all else is wrong; half a pixel's way flips a zero."""
    found, tables, datamodule = measured(tmp_path, FGM | PGD, bisections=12)
    labels = datamodule.tables["test"].labels
    zeros = int((labels == 0).sum())
    clean, everything = 1 - zeros / len(labels), 1.0
    assert found["test/error_fgm_l2_0.25"] == pytest.approx(clean)
    assert found["test/error_fgm_l2_0.75"] == everything
    assert found["test/error_pgd4x1_linf_0.1"] == pytest.approx(clean)
    assert found["test/error_pgd4x1_linf_0.6"] == everything
    assert found["test/censored_fgm_l2"] == 0
    rows = [row for row in tables["robustness"] if row["attack"] == "fgm_l2"]
    assert [float(row["budget"]) for row in rows] == [0, 0.25, 0.75]
    assert float(rows[0]["error"]) == pytest.approx(clean)
    images = datamodule.tables["test"][torch.arange(len(labels))]["image"].double() / 255
    mean_norm = float(images.flatten(1).norm(dim=1).mean())
    assert float(rows[1]["budget_by_mean_norm"]) == pytest.approx(0.25 / mean_norm, rel=1e-5)
    smallest = [float(row["fgm_l2"]) for row in tables["perturbations"]]
    assert all(it == 0 for it, label in zip(smallest, labels.tolist(), strict=True) if label)
    for it, label in zip(smallest, labels.tolist(), strict=True):
        assert label or it == pytest.approx(0.5, abs=1e-3)
    for name in ("robustness.png", "images/perturbations_fgm_l2.png", "images/perturbations_pgd4x1_linf.png"):
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize(("examples", "shown", "columns"), [(20, 8, 8), (5, 8, 5), (5, 0, None)])
def test_the_picture_is_of_as_many_as_are_asked_for_whatever_a_batch_has(tmp_path, examples, shown, columns):
    measured(tmp_path, FGM, examples=examples, shown=shown)  # three or four of 20 in a batch
    path = tmp_path / "images" / "perturbations_fgm_l2.png"
    if columns is None:
        assert not path.exists()
    else:
        width, height = Image.open(path).size
        assert width / height == pytest.approx(columns / 3, rel=0.02)


def test_what_no_budget_reaches_is_censored(tmp_path):
    callback_budgets = {"l2": [0.1, 0.2]}
    callback = Robustness(str(tmp_path), FGM, callback_budgets, examples=37)
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, inference_mode=False)  # fmt: skip
    datamodule = DigitsDataModule(batch_size=128, eval_batch_size=64)
    trainer.test(Brightness(), datamodule, verbose=False)
    labels = datamodule.tables["test"].labels
    chosen = evenly_chosen(torch.arange(360), 360, 37)
    zeros = int((labels[chosen] == 0).sum())
    assert zeros > 0
    assert float(trainer.callback_metrics["test/censored_fgm_l2"]) == pytest.approx(zeros / 37)
    with (tmp_path / "perturbations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == chosen.nonzero().flatten().tolist()
    assert sum(math.isinf(float(row["fgm_l2"])) for row in rows) == zeros


def test_the_module_is_afterwards_as_it_was(tmp_path):
    module, callback = Brightness(), Robustness(str(tmp_path), PGD, BUDGETS, examples=8)
    before = torch.get_rng_state()
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, inference_mode=False)  # fmt: skip
    trainer.test(module, DigitsDataModule(batch_size=128, eval_batch_size=64), verbose=False)
    assert module.parameter.grad is None
    assert module.parameter.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("attacks", "arguments", "sentence"),
    [
        ({}, {}, "callbacks.robustness.attacks is empty"),
        (FGM | {"again": FastGradient("l2")}, {}, "attacks has fgm_l2 twice"),
        (FGM, {"budgets": {"l2": []}}, r"budgets.l2 is empty: give norms of perturbations"),
        (FGM, {"budgets": {"l2": [-0.5, 1.0]}}, r"budgets.l2 is \[-0.5, 1.0\]: give numbers of 0 or more"),
        (FGM, {"budgets": {"l2": [1.0, 0.5]}}, "in ascending order"),
        (FGM, {"budgets": {"l1": [1.0]}}, "has no norm 'l1'"),
        (FGM, {"budgets": {"linf": [1.0]}}, "budgets has none in l2, which fgm_l2 needs"),
        (FGM, {"budgets": {"l2": [0.1234567, 0.12345671]}}, "give numbers that differ in six digits"),
        (FGM, {"examples": 0}, "callbacks.robustness.examples is 0: give 1 or more, or null"),
        (FGM, {"bisections": -1}, "callbacks.robustness.bisections is -1: give 0 or more"),
    ],
)
def test_wrong_words_get_a_sentence(tmp_path, attacks, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Robustness(str(tmp_path), attacks, **{"budgets": BUDGETS} | arguments)
