"""The surrogate, its maximiser and the certificate against losses whose worst case can be worked out; training."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from datamodules.rings import RingsDataModule
from foundation.errors import UserError
from foundation.run_files import read_table
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import build, instantiate
from lightning_modules.wrm import (
    Budget,
    Gamma,
    ascend,
    certificate,
    curvature_bound,
    input_gradient,
    largest_curvature,
    robust_surrogate,
    step_shares,
    table_in_memory,
    transport_cost,
)

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SMALL = [
    "datamodule.batch_size=8",
    "trainer.precision=32-true",
    "lightning_module.steps=2",
    "callbacks.certificate={gap_steps: 2, gap_starts: 2, gap_examples: 3, sweep: [1.0], curvature_examples: 2}",
]
FEW_ATTACKS = [
    "callbacks.robustness={examples: 2, bisections: 1}",
    "callbacks.robustness.attacks.pgd_l2.steps=2",
    "callbacks.robustness.attacks.pgd_linf.steps=2",
]
TINY = {
    "wrm_synthetic": [*SMALL, "datamodule.train_size=60", "datamodule.test_size=40"],
    "wrm_digits": [*SMALL, *FEW_ATTACKS],
    "wrm_mnist": [
        *SMALL,
        *FEW_ATTACKS,
        "lightning_module.network.convolutions=[{channels: 4, kernel: 8, stride: 4}, {channels: 4, kernel: 6, stride: 1}]",
    ],
}

TINY["wrm_cifar10"] = [
    *SMALL, *FEW_ATTACKS, "lightning_module.network.network.depth=8", "lightning_module.network.network.width=4",
    "lightning_module.scheduler.drops=[10]",
]  # fmt: skip

SLOPE = torch.tensor([3.0, -4.0], dtype=torch.float64)  # of norm 5


def linear(x):
    return x @ SLOPE


class TestEquations:
    def test_costs_by_hand(self):
        moved, inputs = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[4.0, -2.0], [0.0, 0.5]])
        assert transport_cost(moved, inputs).tolist() == [25.0, 0.25]
        assert transport_cost(moved, inputs, "linf").tolist() == [16.0, 0.25]

    def test_of_a_linear_loss_the_maximiser_lies_a_by_two_gamma_away(self):
        """z* = x0 + a / (2 gamma), phi = l(x0) + |a|^2 / (4 gamma)."""
        inputs, gamma = torch.tensor([[1.0, 1.0], [0.0, -2.0]], dtype=torch.float64), 0.7
        moved = ascend(linear, inputs, gamma)
        torch.testing.assert_close(moved, inputs + SLOPE / (2 * gamma))
        phi = robust_surrogate(linear(moved), transport_cost(moved, inputs), gamma)
        torch.testing.assert_close(phi, linear(inputs) + 25 / (4 * gamma))

    def test_of_a_quadratic_loss_the_ascent_converges_to_the_maximiser(self):
        """z* = (2 gamma I - H)^-1 2 gamma x0."""
        hessian = torch.tensor([[1.0, 0.5], [0.5, -1.0]], dtype=torch.float64)
        inputs, gamma = torch.tensor([[1.0, -2.0]], dtype=torch.float64), 1.5
        moved = ascend(lambda x: 0.5 * (x @ hessian * x).sum(1), inputs, gamma, steps=300)
        best = torch.linalg.solve(2 * gamma * torch.eye(2, dtype=torch.float64) - hessian, 2 * gamma * inputs.T).T
        torch.testing.assert_close(moved, best, rtol=1e-6, atol=0)

    def test_the_l_infinity_cost_of_a_linear_loss(self):
        """All coordinates move by the same |u| = ||a||_1 / (2 gamma); phi = l(x0) + ||a||_1^2 / (4 gamma)."""
        inputs, gamma = torch.tensor([[1.0, 1.0]], dtype=torch.float64), 0.7
        moved = ascend(linear, inputs, gamma, steps=2000, norm="linf")
        phi = robust_surrogate(linear(moved), transport_cost(moved, inputs, "linf"), gamma)
        assert float(phi) == pytest.approx(-1 + 49 / (4 * gamma), rel=1e-3)

    def test_the_steps_are_those_of_the_released_code(self):
        """There the loss is scaled by 1 / (2 gamma): x + g, then 1 / sqrt(t + 2) (g - (x - x0))."""
        assert step_shares(3) == pytest.approx([1, 1 / math.sqrt(2), 1 / math.sqrt(3), 0.5])
        inputs, gamma = torch.tensor([[0.3, -0.2]], dtype=torch.float64), 0.3846
        scale = 1 / (2 * gamma)

        def loss(x):
            return torch.sin(3 * x).sum(1) + x[:, 0] * x[:, 1]

        moved = inputs + scale * input_gradient(loss, inputs)
        for t in range(15):
            moved = moved + (scale * input_gradient(loss, moved) - (moved - inputs)) / math.sqrt(t + 2)
        torch.testing.assert_close(ascend(loss, inputs, gamma, steps=15), moved)

    @pytest.mark.parametrize("norm", ["l2", "linf"])
    def test_an_example_moves_as_it_would_alone(self, norm):
        inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

        def loss(x):
            return torch.sin(x).sum(1)

        together = ascend(loss, inputs, 0.9, norm=norm)
        torch.testing.assert_close(ascend(loss, inputs[3:4], 0.9, norm=norm), together[3:4])

    def test_the_gradient_of_the_surrogate_is_the_loss_s_at_the_maximiser(self):
        """Danskin: by finite differences of phi, not through z*."""
        inputs = torch.tensor([[0.4, -0.3]], dtype=torch.float64)

        def phi(weight):
            def loss(x):
                return (weight * torch.tanh(x)).sum(1)

            moved = ascend(loss, inputs, 2.0, steps=4000)
            return robust_surrogate(loss(moved), transport_cost(moved, inputs), 2.0), moved

        weight = torch.tensor([0.8, -0.5], dtype=torch.float64)
        for number in range(2):
            nudge = torch.zeros(2, dtype=torch.float64)
            nudge[number] = 1e-4
            slope = (phi(weight + nudge)[0] - phi(weight - nudge)[0]) / 2e-4
            assert float(slope) == pytest.approx(float(torch.tanh(phi(weight)[1])[0, number]), rel=1e-4)

    def test_the_certificate_holds_and_is_tight_at_the_distance_reached(self):
        """Of a linear loss the worst within rho is l + |a| sqrt(rho)."""
        gamma, loss = 0.7, 2.0
        phi = loss + 25 / (4 * gamma)
        for rho in (0.0, 1.0, 5.0, 30.0):
            assert certificate(rho, gamma, phi) >= loss + 5 * math.sqrt(rho) - 1e-12
        reached = (5 / (2 * gamma)) ** 2
        assert certificate(reached, gamma, phi) == pytest.approx(loss + 5 * math.sqrt(reached))


@pytest.mark.parametrize("values", [[3.0, 1.0, -2.0], [1.0, 0.5, -4.0], [-1.0, -2.0, -3.0], [1.0, 0.0, -1.0],
                                    [2.0, 2.0, 2.0], [-2.0, -2.0, -2.0], [0.0, 0.0, 0.0]])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_largest_eigenvalue_whatever_its_sign(values, dtype):
    hessian = torch.diag(torch.tensor(values, dtype=dtype))
    generator = torch.Generator().manual_seed(0)
    inputs, start = torch.randn(2, 4, 3, generator=generator, dtype=dtype).unbind(0)
    found = largest_curvature(lambda x: 0.5 * (x @ hessian * x).sum(1), inputs, start)
    torch.testing.assert_close(found, torch.full((4,), max(values), dtype=dtype), rtol=1e-5, atol=1e-6)


def test_the_largest_eigenvalue_beside_one_of_the_other_sign_that_is_as_large():
    """Where power iteration turns for ever between the two and says something in between."""
    generator = torch.Generator().manual_seed(0)
    values = torch.linspace(-1, 1, 400, dtype=torch.float64) ** 5
    inputs, start = torch.randn(2, 3, 400, generator=generator, dtype=torch.float64).unbind(0)
    found = largest_curvature(lambda x: 0.5 * (x.square() * values).sum(1), inputs, start, iterations=20)
    assert 0.98 < float(found.min()) <= float(found.max()) <= 1 + 1e-9


def test_a_loss_that_bends_nowhere_and_no_example_at_all():
    inputs = torch.ones(2, 3)
    assert largest_curvature(lambda x: x.sum(1), inputs, inputs).tolist() == [0.0, 0.0]
    assert largest_curvature(lambda x: x.square().sum(1), inputs[:0], inputs[:0]).tolist() == []


def test_the_bound_of_two_layers_by_hand():
    """alpha: 2, then 2 * 3; beta: 1/1 * 2^2 = 4, then 3 * 4; sqrt(2) * 12 + 36."""
    assert curvature_bound([2.0, 3.0], [1.0, 1.0], [1.0, 0.0]) == pytest.approx(12 * math.sqrt(2) + 36)


# --- training ---------------------------------------------------------------------------------------------------------

PLANE = ["experiment=wrm_synthetic", "datamodule.train_size=600", "datamodule.test_size=400", "trainer=cpu",
         "logger=none", "callbacks=[classification]", "paper.metric=null", "trainer.log_every_n_steps=5"]  # fmt: skip


def trained(tmp_path, *overrides: str, steps: int = 10) -> Any:
    """The module after some iterations, and its trainer."""
    run = build(compose_job("train", [*PLANE, f"trainer.max_steps={steps}", *overrides], str(tmp_path)))
    run.trainer.fit(run.module, run.datamodule)
    return run


def weights(run: Any) -> torch.Tensor:
    return torch.cat([it.detach().flatten() for it in run.module.network.parameters()])


def test_an_iteration_is_a_step_on_what_the_ascent_has_found(tmp_path):
    """Written out, from the same weights and batch."""
    run = build(compose_job("train", [*PLANE, "trainer.max_steps=1"], str(tmp_path)))
    network = instantiate(compose_job("train", PLANE)["lightning_module"]["network"])
    network.load_state_dict(run.module.network.state_dict())
    run.datamodule.prepare_data()
    run.datamodule.setup("fit")
    batch = next(iter(run.datamodule.train_dataloader()))
    x, label = batch["point"].float(), batch["label"]
    moved = x
    for number in range(16):
        moved = moved.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(cross_entropy(network(moved), label, reduction="sum"), moved)
        moved = moved + (gradient / 4 - (moved - x)) / math.sqrt(max(number + 1, 1))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    cross_entropy(network(moved.detach()), label).backward()
    optimizer.step()
    run.trainer.fit(run.module, run.datamodule)
    expected = torch.cat([it.detach().flatten() for it in network.parameters()])
    torch.testing.assert_close(weights(run), expected, rtol=1e-5, atol=1e-6)


def test_a_high_price_is_empirical_risk_minimisation(tmp_path):
    dear = trained(tmp_path, "lightning_module.gamma.absolute=1e9")
    plain = trained(tmp_path, "lightning_module.training=erm")
    torch.testing.assert_close(weights(dear), weights(plain), rtol=0, atol=1e-5)
    assert not torch.allclose(weights(dear), weights(trained(tmp_path)), rtol=0, atol=1e-3)


def test_the_certificate_of_training_points_holds_for_the_worst_that_is_found_of_test_points(tmp_path):
    """Up to two standard errors at every price; it is tight at the module's own, and a lower line would not hold."""
    given = ["experiment=wrm_synthetic", "datamodule.train_size=3000", "datamodule.test_size=1500", "trainer=cpu",
             "logger=none", "callbacks=[classification,certificate]", "callbacks.certificate.sweep_examples=null",
             "callbacks.certificate.gap_steps=30", "trainer.max_steps=300"]  # fmt: skip
    run = build(compose_job("train", given, str(tmp_path)))
    run.trainer.fit(run.module, run.datamodule)
    run.trainer.test(run.module, run.datamodule, verbose=False)
    assert float(run.trainer.callback_metrics["test/error"]) < 0.02
    _, rows = read_table(tmp_path / "certificate.csv")
    above = [(loss - line) / error for _, _, loss, error, line, _ in rows]
    assert max(above) < 2
    assert rows[3][0] == 2.0  # gamma
    assert abs(above[3]) == min(map(abs, above))
    assert min(above) < -10


def test_relative_and_absolute_prices_are_the_same_where_they_agree(tmp_path):
    relative = trained(tmp_path, "lightning_module.gamma={absolute: null, relative: 1.5}")
    norms = relative.datamodule.tables["train"][torch.arange(600)]["point"].norm(dim=1)
    gamma = 1.5 * float(norms.double().mean())
    assert float(relative.module.gamma) == pytest.approx(gamma, rel=1e-6)
    assert float(relative.trainer.callback_metrics["train/gamma"]) == pytest.approx(gamma, rel=1e-6)
    absolute = trained(tmp_path, f"lightning_module.gamma={{absolute: {float(relative.module.gamma)}, relative: null}}")
    torch.testing.assert_close(weights(relative), weights(absolute), rtol=0, atol=1e-6)


def test_data_that_are_read_from_a_disk_are_not_all_read_for_their_mean_norm():
    rings = RingsDataModule(20, 10, batch_size=4)
    rings.prepare_data()
    rings.setup("fit")
    assert table_in_memory(rings) is rings.tables["train"]
    assert table_in_memory(SimpleNamespace(tables={"train": TensorDataset(torch.zeros(3))}, eval_batch_size=1)) is None
    assert table_in_memory(SimpleNamespace()) is None


def test_a_run_that_goes_on_with_another_price_pays_it(tmp_path):
    """The checkpoint holds E||X||_2; the price is the config's."""
    cheap = trained(tmp_path, "lightning_module.gamma={absolute: null, relative: 0.5}")
    config = compose_job("train", [*PLANE, "lightning_module.gamma={absolute: null, relative: 2.0}"])
    dear = instantiate(config["lightning_module"])
    dear.load_state_dict(cheap.module.state_dict())
    assert float(dear.gamma) == pytest.approx(4 * float(cheap.module.gamma))


@pytest.mark.parametrize("training", ["fgm", "ifgm", "pgd"])
def test_the_baselines_move_as_far_as_their_budget(tmp_path, training):
    run = trained(tmp_path, f"lightning_module.training={training}", "lightning_module.budget.rho=0.07")
    found = run.trainer.callback_metrics
    assert 0.069 < float(found["train/rho_hat"]) < 0.07 * (1 + 1e-5)  # steps that turn do not reach the edge
    erm = trained(tmp_path, "lightning_module.training=erm")
    assert not torch.allclose(weights(run), weights(erm), rtol=0, atol=1e-3)


def test_layers_are_at_rest_while_examples_move_and_train_afterwards():
    from functools import partial

    from torch import nn

    from lightning_modules.wrm import WRM

    class Normalized(nn.Module):
        point_size, num_classes = 2, 2

        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ELU(), nn.Dropout(0.5), nn.Linear(4, 2))

        def forward(self, points):
            return self.layers(points)

    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    module = WRM(Normalized(), gamma=Gamma(absolute=1.0), optimizer=optimizer, seed=0).train()
    norm, x, label = module.network.layers[1], torch.randn(6, 2), torch.tensor([0, 1] * 3)
    module.loss({"point": x, "label": label, "index": torch.arange(6)})
    assert int(norm.num_batches_tracked) == 1  # of the outer step alone
    assert all(part.training for part in module.modules())


class TestWrongWords:
    @pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
    def test_a_price_is_above_0(self, value):
        with pytest.raises(UserError, match=r"lightning_module.gamma is .*: give a number above 0"):
            Gamma(absolute=value)

    @pytest.mark.parametrize("both", [{}, {"absolute": 1.0, "relative": 1.0}])
    def test_a_price_is_one_of_two(self, both):
        with pytest.raises(UserError, match="takes one of absolute and relative"):
            Gamma(**both)

    def test_a_budget_is_one_of_two_and_above_0(self):
        with pytest.raises(UserError, match="takes one of absolute and rho"):
            Budget(absolute=1.0, rho=1.0)
        with pytest.raises(UserError, match=r"budget.rho is -1.0: give a number above 0"):
            Budget(rho=-1.0)
        assert Budget(rho=0.25).norm() == 0.5

    @pytest.mark.parametrize(
        ("override", "sentence"),
        [
            ("lightning_module.training=pgd", "training=pgd needs lightning_module.budget: set its absolute"),
            ("lightning_module.training=fgsm", "lightning_module.training is 'fgsm', which is not one of wrm, erm"),
            ("lightning_module.cost=l1", "lightning_module.cost is 'l1', which is not one of l2, linf"),
            ("lightning_module.steps=-1", "lightning_module.steps is -1: give 0 or more"),
            ("lightning_module.gamma.absolute=0", "lightning_module.gamma is 0"),
            ("lightning_module.network.activation=gelu", "activation is gelu; "),
            ("callbacks=[classification,robustness]", "robustness needs a module that is ClassifiesImages"),
            ("lightning_module.network.sizes=[3,4,2]", "points of 3 coordinates, but datamodule rings gives 2"),
        ],
    )
    def test_each_gets_a_sentence(self, override, sentence):
        self.refused([*PLANE, override], sentence)

    def test_points_and_images_are_told_apart(self):
        plane = ["experiment=wrm_synthetic", "datamodule=digits", "trainer=cpu"]
        self.refused([*plane, "logger=none"], "WRM reads points, and datamodule digits gives images")
        images = ["experiment=wrm_digits", "datamodule=rings", "trainer=cpu"]
        self.refused([*images, "logger=none"], "WRM reads images, and datamodule rings gives points")

    def refused(self, overrides, sentence):
        config = compose_job("train", overrides)
        with pytest.raises(UserError, match=sentence):
            check_config(config, TrainConfig)
            build(config)
