"""Violations, arcs and moduli of linear nets, whose closed forms are known; tests/test_ranks.py has them on several ranks."""

import csv
import math

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from callbacks.oracle_violations import OracleViolations
from datamodules.digits import DigitsDataModule
from datamodules.features import FeaturesDataModule
from foundation.errors import UserError
from foundation.protocols import ClassifiesImages, ClassifiesPoints
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import build
from lightning_modules.attacks.gradient import FastGradient, ProjectedGradient
from lightning_modules.oracles.norm import NormOracle
from lightning_modules.oracles.synthetic import SyntheticOracle
from tests.finished_runs import finished_run
from tests.lightning_modules import test_infogan, test_resnet
from tests.lightning_modules.test_oracle_robustness import TINY

BUDGETS, OMEGA = [0.5, 1.0, 2.0], {"steps": 10, "restarts": 1}


class Linear(LightningModule):
    """Margin w x, with the weights that it is given."""

    num_classes, class_names = 2, None

    def __init__(self, weights, shape=(4,)):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        if len(shape) == 1:
            self.point_size = shape[0]
        else:
            self.image_shape = shape

    def capabilities(self):
        return {ClassifiesPoints if hasattr(self, "point_size") else ClassifiesImages}

    def class_logits(self, inputs):
        margin = inputs.flatten(1) @ self.weights
        return torch.stack([torch.zeros_like(margin), margin], dim=1)

    def test_step(self, batch, batch_idx):
        inputs = batch["point"] if "point" in batch else batch["image"]
        return {"index": batch["index"], "logits": self.class_logits(inputs), "label": batch["label"]}


def measured(folder, module, callback, datamodule):
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, inference_mode=False)  # fmt: skip
    trainer.test(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(module, "test").keys()
    with (folder / "oracle_distances.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    return {key[5:]: float(value) for key, value in trainer.callback_metrics.items()}, rows


def features(**settings):
    return FeaturesDataModule(necessary=3, unnecessary=1, leak=0.5, train_size=50, test_size=300, batch_size=10,
                              eval_batch_size=70, **settings)  # fmt: skip


def against_three(folder, attacks=None, deltas=(0.0,), **settings):
    attacks = attacks or {"pgd": ProjectedGradient("l2", 20)}
    return OracleViolations(str(folder), SyntheticOracle(3, 1), attacks, list(deltas), BUDGETS, omega=OMEGA, **settings)


@pytest.mark.parametrize("weight", [0.8, -1.7])
def test_along_one_unnecessary_feature_the_distance_is_the_margin_by_its_weight(tmp_path, weight):
    """|m| / |w_u|: a violation at any budget above it and at none below, at distance 0 for the oracle."""
    module = Linear([1.0, 1.0, 1.0, weight])
    found, rows = measured(tmp_path, module, against_three(tmp_path, bisections=20), data := features())
    table = data.tables["test"][torch.arange(300)]
    margin = table["point"] @ module.weights.detach()
    right = (margin > 0) == (table["label"] == 1)
    expected = (margin / weight).abs()
    for row, distance, is_right in zip(rows, expected.tolist(), right.tolist(), strict=True):
        assert row["correct"] == is_right
        if is_right:
            smallest = distance if distance <= 2 else math.inf
            assert row["pgd20x1_l2_d0_norm"] == pytest.approx(smallest, rel=1e-3, abs=1e-4)
            assert row["pgd20x1_l2_d0_distance"] == (0 if distance <= 2 else math.inf)
    for budget in BUDGETS:
        share = float((expected[right] < budget).double().mean())
        assert found[f"violation_rate_pgd20x1_l2_d0_b{budget:g}"] == pytest.approx(share)
    clamped = float(expected[right].clamp_max(2).mean())
    assert found["input_arc_pgd20x1_l2_d0_b2"] == pytest.approx(clamped, rel=1e-3)
    assert found["input_censored_pgd20x1_l2_d0_b2"] == pytest.approx(float((expected[right] > 2).double().mean()))
    assert found["null_gradient_share"] == pytest.approx(abs(weight) / (3 + abs(weight)))
    # Logits 0 and m: the farthest within budget 2 at d2 = 0.
    assert found["omega_ascent10x1_l2_d0_b2"] == pytest.approx(2 * abs(weight), rel=1e-5)


def test_of_a_net_that_sees_what_the_oracle_sees_none_is_found_and_the_modulus_is_0(tmp_path):
    found, rows = measured(tmp_path, Linear([1.0, 1.0, 1.0, 0.0]), against_three(tmp_path), features())
    assert all(found[f"violation_rate_pgd20x1_l2_d0_b{it:g}"] == 0 for it in BUDGETS)
    assert found["omega_ascent10x1_l2_d0_b2"] == 0
    assert found["null_gradient_share"] == 0
    assert found["input_censored_pgd20x1_l2_d0_b2"] == 1
    assert all(row["correct"] == 1 for row in rows)


def test_the_oracle_s_own_distance_and_arca(tmp_path):
    """Weights (1, 0, 0, 0): the decision changes where the first coordinate does, at d2 = |x_1|, unless the oracle's
    label changes before; what was found at distance 0 would count at a larger one."""
    found, rows = measured(
        tmp_path, Linear([1.0, 0.0, 0.0, 0.0]), against_three(tmp_path, deltas=[0.0, 1.0, 2.0]), data := features()
    )
    assert found["violation_rate_pgd20x1_l2_d0_b2"] == 0
    assert 0 < found["violation_rate_pgd20x1_l2_d1_b2"] <= found["violation_rate_pgd20x1_l2_d2_b2"] < 1
    points = data.tables["test"][torch.arange(300)]["point"]
    for row, first in zip(rows, points[:, 0].abs().tolist(), strict=True):
        if row["correct"] and math.isfinite(row["pgd20x1_l2_d2_distance"]):
            assert row["pgd20x1_l2_d2_distance"] >= first - 1e-5
    accuracy = sum(row["correct"] for row in rows) / 300
    assert found["arca_pgd20x1_l2_d2_b2"] == pytest.approx(accuracy * found["arc_pgd20x1_l2_d2_b2"])
    assert found["omega_ascent10x1_l2_d1_b2"] == pytest.approx(1, rel=1e-4)  # d1 is |x_1 - x_1'|


def test_of_one_example_and_of_a_net_that_is_always_wrong(tmp_path):
    """Wrong ones count as 0 in ``arca``; what is only of those that are right is no number then."""
    found, rows = measured(
        tmp_path, Linear([-1.0, -1.0, -1.0, 0.0]), against_three(tmp_path, deltas=[0.0, 1.0], examples=1), features()
    )
    assert [row["correct"] for row in rows] == [0]
    assert found["arca_pgd20x1_l2_d1_b2"] == 0
    assert math.isnan(found["arc_pgd20x1_l2_d1_b2"])
    assert math.isnan(found["violation_rate_pgd20x1_l2_d0_b2"])


def test_without_an_oracle_points_have_no_bounds_and_several_distances_may_be_asked_about(tmp_path):
    """Weights (1, 1, 1, 1): the plane is |m| / 2 away; along the last coordinate alone it is |m|."""
    free = {"attack": FastGradient("l2"), "budgets": [2.0]}  # of a linear net one step is the shortest way
    callback = against_three(tmp_path, deltas=[0.0, 0.1], unconstrained=free, bisections=20)
    found, rows = measured(tmp_path, module := Linear([1.0] * 4), callback, data := features())
    margin = (data.tables["test"][torch.arange(300)]["point"] @ module.weights.detach()).abs() / 2
    for row, distance in zip(rows, margin.tolist(), strict=True):
        if row["correct"]:
            smallest = distance if distance <= 2 else math.inf
            assert row["unconstrained_fgm_l2"] == pytest.approx(smallest, rel=1e-3, abs=1e-4)
    assert 1 < found["times_unconstrained_pgd20x1_l2_median"] <= 2 + 1e-3


def test_the_picture_shows_both_decisions(tmp_path):
    callback = against_three(tmp_path)
    measured(tmp_path, Linear([1.0, 1.0, 1.0, 0.5]), callback, features())
    assert (tmp_path / "oracle_plane.png").stat().st_size > 3000
    assert callback.pictures(Linear([1.0] * 4)) == {"test/oracle_plane"}


# --- images -----------------------------------------------------------------------------------------------------------


class FirstPixel(Linear):
    """Class 0 where the first pixel is below a half, else class 1; other labels are never right."""

    num_classes = 10

    def __init__(self):
        super().__init__([0.0], (1, 8, 8))

    def class_logits(self, images):
        first = images[:, 0, 0, 0]
        logits = images.new_full((len(images), 10), -50.0) + self.weights
        return logits.index_add(1, torch.tensor([0, 1]), torch.stack([50.5 - first, 49.5 + first], dim=1))


def test_the_norm_as_an_oracle_and_the_paper_s_arc(tmp_path):
    """All digits have a black first pixel, so zeros are right, and half a pixel's way flips each: step 128 of 255."""
    attacks = {"pgd": ProjectedGradient("l2", 5, 0.5, random_start=False)}
    paper = {"tau": 12, "unit": 11, "attacks": {"fgm": FastGradient("linf"), "pgd": ProjectedGradient("linf", 4, 0.5)}}
    callback = OracleViolations(
        str(tmp_path), NormOracle("l2"), attacks, [0.25, 0.75], omega=OMEGA, paper=paper, bisections=12
    )
    found, rows = measured(
        tmp_path, FirstPixel(), callback, data := DigitsDataModule(batch_size=128, eval_batch_size=64)
    )
    zeros = float((data.tables["test"].labels == 0).double().mean())
    assert found["violation_rate_pgd5x1_l2_d0.25"] == 0
    assert found["violation_rate_pgd5x1_l2_d0.75"] == 1
    assert found["arc_pgd5x1_l2_d0.75"] == pytest.approx(0.5, abs=1e-3)
    assert found["arca_pgd5x1_l2_d0.75"] == pytest.approx(zeros * found["arc_pgd5x1_l2_d0.75"])
    assert found["censored_pgd5x1_l2_d0.75"] == 0
    for attack in ("fgm_linf", "pgd4x1_linf"):  # 11 * 11 / 255 < 1/2 < 12 * 11 / 255
        assert found[f"arc_paper_{attack}_t12_u11"] == 12
        assert found[f"arca_paper_{attack}_t12_u11"] == pytest.approx(zeros * 12 / 13)
    assert 0.99 < found["omega_ascent10x1_l2_d0.25"] / (0.25 * math.sqrt(2)) <= 1 + 1e-6  # what ten steps find
    assert (tmp_path / "images" / "oracle_violations_pgd5x1_l2.png").stat().st_size > 500
    assert len(rows) == 360


def test_what_tau_does_not_reach_counts_as_the_step_behind_it(tmp_path):
    paper = {"tau": 3, "unit": 1, "attacks": {"fgm": FastGradient("linf")}}
    callback = OracleViolations(
        str(tmp_path), NormOracle("l2"), {"fgm": FastGradient("l2")}, [0.1], paper=paper, examples=40
    )
    found, _ = measured(tmp_path, FirstPixel(), callback, DigitsDataModule(batch_size=128, eval_batch_size=64))
    assert found["arc_paper_fgm_linf_t3"] == 4


MANIFOLD = ["experiment=oracle_digits", *TINY["oracle_digits"], "oracle@callbacks.oracle_violations.oracle=manifold",
            "+callbacks.oracle_violations.unconstrained={attack: ${callbacks.oracle_violations.attacks.pgd}, budgets: [1.0, 4.0]}",
            "callbacks.oracle_violations.examples=20", "trainer=cpu", "logger=none", "trainer.max_steps=2"]  # fmt: skip
GENERATOR = "callbacks.oracle_violations.oracle.generator.run"
JUDGE = "callbacks.oracle_violations.oracle.second_judge={{_target_: launch.runs.load_module, run: {}}}"


def test_on_the_manifold_of_a_finished_run(tmp_path):
    """Its hash is in the record, a second judge is asked, and nothing leaves the codes' ball."""
    generator = finished_run(tmp_path / "gan", "experiment=infogan_digits", *test_infogan.TINY["infogan_digits"])
    judge = finished_run(tmp_path / "judge", "experiment=resnet_digits", *test_resnet.TINY["resnet_digits"])
    given = [
        *MANIFOLD,
        f"{GENERATOR}={generator}",
        JUDGE.format(judge),
        "callbacks.oracle_violations.deltas=[1.0,30.0]",
    ]
    config = compose_job("train", given, str(tmp_path / "run"))
    check_config(config, TrainConfig)
    run = build(config)
    assert {key.rpartition(".")[2] for key in run.inputs} == {"generator", "second_judge"}
    assert all(len(it["weights_sha256"]) == 64 for it in run.inputs.values())
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    found = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    name = "pgd3x1_l2"
    assert 0 <= found[f"test/violation_rate_{name}_d1"] <= found[f"test/violation_rate_{name}_d30"] <= 1
    assert f"test/arca_{name}_d30" not in found  # nobody knows which class a category is
    assert {f"test/second_judge_disagrees_{name}", f"test/times_unconstrained_{name}_median"} <= found.keys()
    with (tmp_path / "run" / "oracle_distances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        moved = math.isfinite(float(row[f"{name}_distance"]))
        assert moved == (float(row[f"{name}_moved_l2"]) > 0)


def test_a_run_that_is_no_generator_and_none_at_all(tmp_path):
    judge = finished_run(tmp_path / "judge", "experiment=resnet_digits", *test_resnet.TINY["resnet_digits"])
    for run, sentence in (
        (judge, "is ResNet, which makes no images of codes"),
        ("null", "run is null: give the folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            build(compose_job("train", [*MANIFOLD, f"{GENERATOR}={run}"], str(tmp_path / "run")))


class TestWrongWords:
    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            ({"attacks": {}}, "attacks is empty"),
            ({"attacks": {"a": FastGradient("l2"), "b": FastGradient("l2")}}, "attacks has fgm_l2 twice"),
            ({"attacks": {"a": FastGradient("l2"), "b": FastGradient("linf")}}, "budgets are of one norm"),
            ({"deltas": []}, "deltas is empty"),
            ({"deltas": [-0.1]}, r"deltas is \[-0.1\]: give numbers of 0 or more"),
            ({"deltas": [1.0, 0.5]}, "deltas is .*in ascending order"),
            ({"budgets": None}, "SyntheticOracle does not see every difference: give norms of the input"),
            ({"budgets": [0.0, 1.0]}, "budgets begins with 0: begin above 0"),
            ({"budgets": [-1.0]}, "budgets is .*: give numbers of 0 or more"),
            ({"examples": 0}, "examples is 0: give 1 or more"),
            ({"bisections": -1}, "bisections is -1"),
            ({"omega": {"steps": 0, "restarts": 1}}, "omega.steps is 0: give 1 or more"),
            (
                {"unconstrained": {"attack": "pgd", "budgets": [1.0]}},
                "unconstrained has 'pgd', which is no attack",
            ),
            ({"paper": {"tau": True, "unit": 1, "attacks": {}}}, "paper.tau is True"),
            (
                {"paper": {"tau": 1, "unit": 1, "attacks": {"a": FastGradient("linf"), "b": FastGradient("linf")}}},
                "paper.attacks has fgm_linf twice",
            ),
            ({"paper": {"tau": 0, "unit": 1, "attacks": {}}}, "paper.tau is 0: give a whole number, 1 or more"),
            ({"paper": {"tau": 10, "unit": 0, "attacks": {}}}, "paper.unit is 0"),
            ({"paper": {"tau": 100, "unit": 8, "attacks": {}}}, "go beyond a pixel's whole range"),
            ({"paper": {"tau": 10, "unit": 1, "attacks": {"a": FastGradient("l2")}}}, "ARC_inf is of linf"),
            ({"paper": {"tau": 10, "unit": 1}}, "paper is .*: give tau, unit and attacks, or set it to null"),
            ({"paper": {"tau": 10, "unit": 1, "attacks": "text"}}, "paper.attacks is 'text': name attacks of linf"),
            ({"attacks": {"pgd": "text"}}, "attacks has 'text', which is no attack"),
            ({"omega": {"steps": 0.5, "restarts": 1}}, "omega.steps is 0.5: give 1 or more"),
            (
                {"unconstrained": {"attack": FastGradient("l2"), "budgets": "text"}},
                "budgets is 'text': give a list of numbers",
            ),
            ({"oracle": NormOracle("l2")}, "the distance of NormOracle is a norm itself: set it to null"),
            ({"oracle": NormOracle("l2"), "budgets": None, "deltas": [0.0, 1.0]}, "deltas begins with 0"),
            (
                {"oracle": NormOracle("linf"), "budgets": None, "deltas": [1.0]},
                "moves in l2; NormOracle measures in linf",
            ),
        ],
    )
    def test_each_gets_a_sentence(self, given, sentence, tmp_path):
        whole = {
            "oracle": SyntheticOracle(3, 1),
            "attacks": {"fgm": FastGradient("l2")},
            "deltas": [0.0],
            "budgets": [1.0],
        }
        with pytest.raises(UserError, match=sentence):
            OracleViolations(str(tmp_path), **(whole | given))

    def test_an_oracle_of_other_inputs_and_a_layer_that_is_not_there(self, tmp_path):
        assert "knows points of 4 coordinates" in str(against_three(tmp_path).refusal(Linear([1.0] * 5, (5,))))
        assert against_three(tmp_path).refusal(Linear([1.0] * 4)) is None
        with pytest.raises(UserError, match="callbacks.oracle_violations.layer: Linear has no layer 'nowhere'"):
            against_three(tmp_path, layer="nowhere").metrics(Linear([1.0] * 4), "test")
