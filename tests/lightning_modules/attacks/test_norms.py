"""Sizes, balls and proximal steps against cases worked by hand and brute force."""

import pytest
import torch

from lightning_modules.attacks.norms import drawn_in_ball, into_ball, near_in_linf, size, steepest


def test_sizes_by_hand():
    perturbation = torch.tensor([[[3.0, -4.0]], [[0.0, 0.5]]])
    assert size(perturbation, "l2").tolist() == [5.0, 0.5]
    assert size(perturbation, "linf").tolist() == [4.0, 0.5]


def test_each_example_is_brought_into_its_own_ball_and_those_inside_stay():
    perturbation, budget = torch.tensor([[3.0, -4.0], [0.3, 0.4]]), torch.tensor([1.0, 1.0])
    torch.testing.assert_close(into_ball(perturbation, "l2", budget), torch.tensor([[0.6, -0.8], [0.3, 0.4]]))
    budget = torch.tensor([3.5, 0.3])
    torch.testing.assert_close(into_ball(perturbation, "linf", budget), torch.tensor([[3.0, -3.5], [0.3, 0.3]]))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_nothing_of_that_size_goes_further_along_the_gradient_and_a_flat_loss_has_no_direction(norm):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(1, 5, generator=generator)
    others = torch.randn(1000, 5, generator=generator)
    others = others / size(others, norm).unsqueeze(1)
    best = steepest(gradient, norm)
    assert float(size(best, norm)) == pytest.approx(1)
    assert float((best * gradient).sum()) >= float((others * gradient).sum(1).max())
    assert not steepest(torch.zeros(2, 3), norm).any()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_what_is_drawn_lies_in_the_ball_and_fills_it(norm):
    generator = torch.Generator().manual_seed(0)
    sizes = size(torch.stack([drawn_in_ball((3,), norm, generator) for _ in range(4000)]), norm)
    assert float(sizes.max()) <= 1 + 1e-6
    # In three dimensions half of a ball's volume lies beyond the cube root of a half.
    assert float((sizes > 0.5 ** (1 / 3)).float().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("weight", [0.1, 1.0, 7.0])
def test_the_proximal_step_is_the_best_of_a_fine_grid(weight):
    vector = torch.tensor([[0.9, -0.4, 0.2]], dtype=torch.float64)
    found = near_in_linf(vector, weight)

    def objective(u):
        return weight / 2 * u.abs().amax(-1) ** 2 + 0.5 * (u - vector).square().sum(-1)

    axis = torch.linspace(-1, 1, 101, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis, axis)
    assert float(objective(found)) <= float(objective(grid).min())
    near = found + 1e-3 * torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(objective(found)) <= float(objective(near).min())


def test_the_threshold_satisfies_its_equation_for_each_example():
    vectors = torch.randn(6, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tau = near_in_linf(vectors, 3.0).abs().amax(1)
    cut = (vectors.abs() - tau.unsqueeze(1)).clamp_min(0).sum(1)
    torch.testing.assert_close(cut, 3.0 * tau)
