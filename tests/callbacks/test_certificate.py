"""The certificate of classifiers whose worst case can be worked out; tests/test_ranks.py has it on 1, 2 and 3 processes."""

import csv
import math

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn

from callbacks.certificate import Certificate, TransportMetric, has_kink, in_view
from datamodules.rings import RingsDataModule
from foundation.errors import UserError
from foundation.protocols import PenalizesTransport

GAMMA, SLOPE = 2.0, torch.tensor([3.0, -4.0])  # of norm 5


class Penalized(LightningModule):
    """A loss of points instead of a network."""

    gamma, cost, steps, num_classes, class_names = GAMMA, "l2", 15, 2, None
    knows_curvature_bound = True

    def __init__(self, bend=0.0, bound=0.0):
        super().__init__()
        self.bend, self.bound, self.parameter = bend, bound, nn.Parameter(torch.zeros(1))

    def capabilities(self):
        return {PenalizesTransport}

    def inputs_of(self, batch):
        return batch["point"]

    def losses_of(self, label):
        return lambda x: x @ SLOPE + self.bend / 2 * x.square().sum(1) + 100

    def curvature_bound(self):
        return self.bound

    def test_step(self, batch, batch_idx):
        return {"index": batch["index"]}


SMALL = {"sweep_examples": 20, "gap_examples": 20, "gap_steps": 5, "curvature_examples": 10}


def measured(folder, module, **arguments):
    callback, datamodule = (
        Certificate(str(folder), **SMALL | arguments),
        RingsDataModule(50, 40, batch_size=8, eval_batch_size=16),
    )
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, inference_mode=False)  # fmt: skip
    datamodule.trainer = trainer
    datamodule.prepare_data()
    datamodule.setup("fit")
    trainer.test(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(module, "test").keys()
    with (folder / "certificate.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: float(value) for key, value in trainer.callback_metrics.items()}, rows, datamodule


def test_of_a_linear_loss(tmp_path):
    """z - z0 = a / (2 gamma): rho_hat = |a|^2 / (4 gamma^2), phi = mean loss of the training points + |a|^2 / (4 gamma).

    At gamma' the test points have mean loss + |a|^2 / (2 gamma') at rho |a|^2 / (4 gamma'^2).
    """
    found, rows, datamodule = measured(tmp_path, Penalized(), sweep=[0.5, 1.0, 2.0])
    everything = torch.arange(50)
    on_training = float((datamodule.tables["train"][everything]["point"] @ SLOPE + 100).double().mean())
    on_test = float((datamodule.tables["test"][everything[:40:2]]["point"] @ SLOPE + 100).double().mean())
    assert found["test/rho_hat"] == pytest.approx(25 / (4 * GAMMA**2), rel=1e-5)
    assert found["test/phi"] == pytest.approx(on_training + 25 / (4 * GAMMA), rel=1e-5)
    assert (found["test/inner_gap"], found["test/concave_share"]) == (pytest.approx(0, abs=1e-3), 1.0)
    gaps = []
    for share, row in zip([0.5, 1.0, 2.0], rows, strict=True):
        gamma = share * GAMMA
        assert float(row["gamma_of_worst_case"]) == gamma
        assert float(row["rho"]) == pytest.approx(25 / (4 * gamma**2), rel=1e-5)
        assert float(row["test_loss"]) == pytest.approx(on_test + 25 / (2 * gamma), rel=1e-5)
        line = GAMMA * 25 / (4 * gamma**2) + found["test/phi"]
        assert float(row["certificate"]) == pytest.approx(line, rel=1e-5)
        gaps.append(line - float(row["test_loss"]))
    assert found["test/certificate_gap"] == pytest.approx(min(gaps), abs=1e-3)
    assert {row["status"] for row in rows} == {"proved"}  # the bound of 0 lies below 2 gamma
    assert (tmp_path / "certificate.png").stat().st_size > 1000


def test_a_loss_that_bends_more_than_the_price_is_found_out(tmp_path):
    """H = 5 I against 2 gamma = 4: no maximum, an ascent that is cut short, and a bound that proves nothing."""
    found, rows, _ = measured(tmp_path, Penalized(bend=5.0, bound=5.0), sweep=[1.0])
    assert found["test/concave_share"] == 0.0
    assert found["test/inner_gap"] > 1
    assert found["test/lzz_bound"] == 5.0
    assert {row["status"] for row in rows} == {"estimated"}


def test_what_is_far_beyond_the_distance_reached_is_left_to_the_table():
    points = [{"rho": 50.0}, {"rho": 4.0}, {"rho": 0.5}]
    assert in_view(points, 1.0) == points[1:]
    assert in_view(points, 0.0) == points  # an ascent that goes nowhere on training data


def test_means_and_standard_errors_by_hand():
    metric = TransportMetric()
    metric.update(torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.0]), 2.0)
    metric.update(torch.tensor([5.0]), torch.tensor([1.0]), 2.0)
    found = metric.compute()
    assert (found["loss"], found["rho"], found["phi"]) == (3.0, 0.5, 2.0)
    assert found["standard_error"] == pytest.approx(math.sqrt((4 + 1 + 1) / 3 / 3))  # of 0, 3 and 3 about 2


@pytest.mark.filterwarnings("error:The ``compute`` method of metric")
def test_the_ascent_is_of_the_module_s_own_cost(tmp_path):
    """In L-infinity no curvature is asked for, which is of the L2 cost."""
    module = Penalized()
    module.cost = "linf"
    found, _, _ = measured(tmp_path, module, sweep=[1.0])
    assert "test/concave_share" not in found
    assert found["test/rho_hat"] > 0


def test_kinks_are_told_once(tmp_path, capsys):
    module = Penalized()
    module.kinked = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    measured(tmp_path, module, sweep=[1.0])
    told = capsys.readouterr().out
    assert told.count("certificate: MaxPool2d and ReLU have kinks, so that no gamma makes") == 1
    assert "estimate" in told
    kinked = [nn.SELU(), nn.Hardswish(), nn.MaxPool1d(2), nn.ELU(alpha=0.5)]
    assert [has_kink(it) for it in kinked] == [True] * 4
    assert [has_kink(it) for it in (nn.ELU(), nn.CELU(0.5), nn.GELU(), nn.AvgPool2d(2))] == [False] * 4


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sweep": []}, r"callbacks.certificate.sweep is \[\]: give numbers above 0"),
        ({"sweep": [1.0, 0.0]}, r"sweep is \[1.0, 0.0\]"),
        ({"sweep": [math.inf]}, "sweep is"),
        ({"gap_starts": 0}, "callbacks.certificate.gap_starts is 0: give 1 or more"),
        ({"sweep_examples": -1}, "callbacks.certificate.sweep_examples is -1"),
    ],
)
def test_wrong_words_get_a_sentence(tmp_path, arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        Certificate(str(tmp_path), **arguments)
