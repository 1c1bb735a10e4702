"""The paper's nets, and bounds on how curved their loss is."""

import math

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from lightning_modules.networks.smooth import (
    ACTIVATIONS,
    SmoothConvolutions,
    SmoothPerceptron,
    largest_singular_value,
    operator_norms,
)


def test_the_paper_s_net_has_710218_parameters():
    net = SmoothConvolutions()
    assert sum(it.numel() for it in net.parameters()) == 710_218
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_net_of_the_plane_has_two_four_two_two_units():
    net = SmoothPerceptron()
    assert [tuple(it.weight.shape) for it in net.layers if isinstance(it, nn.Linear)] == [(4, 2), (2, 4), (2, 2)]
    assert [type(it) for it in net.layers] == [nn.Linear, nn.ELU, nn.Linear, nn.ELU, nn.Linear]


@pytest.mark.parametrize("name", ["elu", "softplus", "tanh"])
def test_activations_are_as_steep_and_as_curved_as_said(name):
    x = torch.linspace(-6, 6, 200_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ACTIVATIONS[name].layer()(x).sum(), x)
    change = (slope.diff() / x.detach().diff()).abs()
    assert float(slope.abs().max()) == pytest.approx(ACTIVATIONS[name].slope, abs=3e-3)
    assert float(change.max()) == pytest.approx(ACTIVATIONS[name].curvature, rel=1e-3)


def test_a_convolution_s_norm_is_that_of_its_matrix():
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    columns = torch.eye(2 * 25, dtype=torch.float64).view(50, 2, 5, 5)
    matrix = (layer(columns) - layer(torch.zeros(1, 2, 5, 5, dtype=torch.float64))).flatten(1)
    found = largest_singular_value(layer, torch.Size([1, 2, 5, 5]))
    assert found == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-4)


def test_a_largest_value_that_stands_out_by_a_hundredth_is_found_among_many():
    """Power iteration rests at 1 for long, since the start lies along the one direction by a thirtieth."""
    size, generator = 800, torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    values = torch.linspace(0.99, 1, size, dtype=torch.float64)
    values[0] = 1.01
    layer = nn.Linear(size, size).double()
    layer.weight.data = basis * values @ basis.T
    assert 1.01 / 1.001 <= largest_singular_value(layer, torch.Size([1, size])) <= 1.01 + 1e-9
    layer.weight.data.zero_()
    assert largest_singular_value(layer, torch.Size([1, size])) == 0


def test_norms_are_those_of_the_layers_in_their_order_and_nothing_is_changed():
    torch.manual_seed(0)
    net = SmoothPerceptron((3, 5, 2))
    norms = operator_norms(net, (3,))
    for norm, layer in zip(norms, (net.layers[0], net.layers[2]), strict=True):
        exact = float(torch.linalg.matrix_norm(layer.weight, 2))
        assert exact <= norm == pytest.approx(1.001 * exact, rel=1e-3)
    assert net.layers[0].weight.dtype == torch.float32
    assert net.layers[0].weight.requires_grad


def test_a_kink_has_no_bound():
    assert ACTIVATIONS["relu"].curvature == math.inf


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="activation is eluu; did you mean 'elu'"):
        SmoothPerceptron(activation="eluu")
    with pytest.raises(UserError, match="convolutions leave nothing of images of"):
        SmoothConvolutions(image_shape=(1, 8, 8))
    with pytest.raises(UserError, match="sizes are"):
        SmoothPerceptron(sizes=[2])
