"""Steps by hand, what does not decay, and a run that goes on."""

import copy

import pytest
import torch
from torch import nn

from lightning_modules.uncorrected_adam import UncorrectedAdam

RATE, DECAY, EPSILON = 0.1, 0.01, 1e-6


def by_hand(start: float, gradients: list[float], decay: float) -> float:
    m = v = 0.0
    theta = start
    for it in gradients:
        m = 0.9 * m + 0.1 * it
        v = 0.999 * v + 0.001 * it**2
        theta -= RATE * (m / (v**0.5 + EPSILON) + decay * theta)
    return theta


@pytest.mark.parametrize("fused", [False, True])
def test_steps_are_the_released_ones(fused):
    weight, bias = nn.Parameter(torch.full((1, 1), 0.5)), nn.Parameter(torch.full((1,), 0.5))
    optimizer = UncorrectedAdam([bias, weight], lr=RATE, eps=EPSILON, weight_decay=DECAY, fused=fused)
    gradients = [0.3, -0.2, 0.05, 1.0]
    for it in gradients:
        weight.grad, bias.grad = torch.full((1, 1), it), torch.full((1,), it)
        optimizer.step()
    assert weight.item() == pytest.approx(by_hand(0.5, gradients, DECAY), abs=1e-6)
    assert bias.item() == pytest.approx(by_hand(0.5, gradients, 0.0), abs=1e-6)


def test_the_first_step_is_not_corrected():
    """m is a tenth of the gradient and the root of v its 31.6th: 3.16 times the rate, and not once as of Adam."""
    weight = nn.Parameter(torch.zeros(1, 1))
    optimizer = UncorrectedAdam([weight], lr=RATE, weight_decay=0.0)
    weight.grad = torch.full((1, 1), 2.0)
    optimizer.step()
    assert weight.item() == pytest.approx(-RATE * 0.1 / 0.001**0.5, rel=1e-4)


def test_only_matrices_decay():
    network = nn.Sequential(nn.Embedding(3, 2), nn.LayerNorm(2), nn.Linear(2, 2))
    optimizer = UncorrectedAdam(network.parameters())
    decay = {id(it): group["weight_decay"] for group in optimizer.param_groups for it in group["params"]}
    assert {name: decay[id(it)] for name, it in network.named_parameters()} == {
        "0.weight": 0.01, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.01, "2.bias": 0.0,
    }  # fmt: skip


def test_it_goes_on_from_a_state():
    torch.manual_seed(0)
    gradients = torch.randn(6, 2, 2)

    def stepped(weight: nn.Parameter, optimizer: UncorrectedAdam, some: torch.Tensor) -> None:
        for it in some:
            weight.grad = it.clone()
            optimizer.step()

    whole = nn.Parameter(torch.ones(2, 2))
    stepped(whole, UncorrectedAdam([whole], lr=RATE), gradients)
    first = nn.Parameter(torch.ones(2, 2))
    optimizer = UncorrectedAdam([first], lr=RATE)
    stepped(first, optimizer, gradients[:3])
    second = nn.Parameter(first.detach().clone())
    resumed = UncorrectedAdam([second], lr=RATE)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    stepped(second, resumed, gradients[3:])
    assert torch.equal(whole, second)


def test_a_parameter_without_a_gradient_stays():
    moved, still = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = UncorrectedAdam([moved, still])
    moved.grad = torch.ones(2, 2)
    optimizer.step()
    assert torch.equal(still, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))
