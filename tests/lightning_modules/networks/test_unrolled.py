"""An unrolled layer computes what an ordinary one does, and gets its gradient."""

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.networks.unrolled import UnrolledLinear, unrolled


class Recurrence(nn.Module):
    """Two layers that take turns; the second one's last output is not used."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = UnrolledLinear(4, 3), UnrolledLinear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs: [T, B, 2]."""
        state, seen = inputs.new_zeros(inputs.shape[1], 2), []
        for now in inputs:
            seen.append(self.into(torch.cat([now, state], dim=1)).tanh())
            state = self.out(seen[-1])
        return torch.stack(seen)


def gradients(network: nn.Module, inputs: Tensor) -> list[Tensor]:
    network.zero_grad()
    network(inputs).square().sum().backward()
    return [parameter.grad.clone() for parameter in network.parameters()]


class TestGradients:
    torch.manual_seed(0)
    network = Recurrence().double()
    inputs = torch.randn(5, 6, 2, dtype=torch.float64)

    def test_are_those_of_an_ordinary_layer(self):
        inputs = self.inputs.clone().requires_grad_()
        expected = [*gradients(self.network, inputs), inputs.grad.clone()]
        inputs.grad = None
        with unrolled(self.network):
            outputs = self.network(inputs)
        self.network.zero_grad()
        outputs.square().sum().backward()
        found = [*(parameter.grad for parameter in self.network.parameters()), inputs.grad]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    def test_are_right_where_a_pass_follows_another_before_either_goes_back(self):
        expected = gradients(self.network, self.inputs)
        self.network.zero_grad()
        losses = []
        for _ in range(2):
            with unrolled(self.network):
                losses.append(self.network(self.inputs).square().sum())
        sum(losses).backward()
        found = [parameter.grad / 2 for parameter in self.network.parameters()]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    def test_in_half_precision_are_single_and_close(self):
        network, inputs = Recurrence(), torch.randn(5, 64, 2)
        expected = gradients(network, inputs)
        with torch.autocast("cpu", torch.bfloat16), unrolled(network):
            outputs = network(inputs)
        network.zero_grad()
        outputs.float().square().sum().backward()
        for parameter, gradient in zip(network.parameters(), expected, strict=True):
            assert parameter.grad.dtype == torch.float32
            assert float((parameter.grad - gradient).norm() / gradient.norm()) < 0.02


def test_outputs_are_the_same_bit_for_bit():
    network, inputs = Recurrence(), torch.randn(3, 2, 2)
    expected = network(inputs)
    with unrolled(network):
        assert torch.equal(network(inputs), expected)
    with torch.no_grad(), unrolled(network):
        assert torch.equal(network(inputs), expected)


def test_nothing_is_left_behind_by_a_pass_that_fails():
    network = Recurrence()
    with pytest.raises(RuntimeError, match="shape"), unrolled(network):
        network(torch.zeros(1, 2, 5))
    assert network.into.uses is None
    assert all(it.grad_fn is None for it in network.parameters())


class TestPartsOfTheGraph:
    """Only some gradients are asked for, as an attack on the pixels does."""

    torch.manual_seed(0)
    network = Recurrence().double()
    inputs = torch.randn(5, 6, 2, dtype=torch.float64, requires_grad=True)

    def loss(self) -> Tensor:
        with unrolled(self.network):
            return self.network(self.inputs).square().sum()

    def test_the_inputs_before_the_parameters(self):
        expected = gradients(self.network, self.inputs)
        self.network.zero_grad()
        loss = self.loss()
        torch.autograd.grad(loss, self.inputs, retain_graph=True)
        loss.backward()
        found = [parameter.grad for parameter in self.network.parameters()]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("order", [(0, 2), (2, 0)])
    def test_one_layer_and_then_the_other(self, order):
        expected, parameters = gradients(self.network, self.inputs), list(self.network.parameters())
        loss = self.loss()
        for number in order:
            (found,) = torch.autograd.grad(loss, parameters[number], retain_graph=True)
            torch.testing.assert_close(found, expected[number], rtol=1e-12, atol=1e-12)

    def test_nothing_is_kept_of_a_pass_whose_parameters_were_not_asked_for(self):
        with unrolled(self.network):
            loss = self.network(self.inputs).square().sum()
            uses = [self.network.into.uses, self.network.out.uses]
        torch.autograd.grad(loss, self.inputs)
        assert [it.pairs for it in uses if it is not None] == [[], []]
