"""Sizes of the paper's table 2, a layer by hand, and where dropout stands."""

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d, relu

from foundation.errors import UserError
from lightning_modules.networks.densenet import CifarDenseNet, DenseLayer, Transition

# Depth, growth, BC -> parameters, those of the paper's table in millions behind them.
PARAMETERS = {
    (40, 12, False): (1_019_722, 1.0),
    (100, 12, False): (6_979_642, 7.0),
    (100, 24, False): (27_249_082, 27.2),
    (100, 12, True): (769_162, 0.8),
    (250, 24, True): (15_324_406, 15.3),
    (190, 40, True): (25_624_430, 25.6),
}


def built(depth: int, growth: int, bc: bool, **settings) -> CifarDenseNet:
    return CifarDenseNet(depth, growth, bottleneck=bc, compression=0.5 if bc else 1.0, **settings)


@pytest.mark.parametrize(("depth", "growth", "bc"), PARAMETERS)
def test_parameters_and_layers_are_the_paper_s(depth, growth, bc):
    with torch.device("meta"):
        network = built(depth, growth, bc)
    exact, millions = PARAMETERS[depth, growth, bc]
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == exact
    assert round(found / 1e6, 1) == millions
    assert sum(isinstance(part, nn.Conv2d | nn.Linear) for part in network.modules()) == depth


def test_three_blocks_at_full_half_and_quarter_size():
    network, shapes = built(10, 4, True), []
    for part in network.features:
        part.register_forward_hook(lambda _part, _inputs, output: shapes.append(tuple(output.shape[1:])))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(8, 32, 32), (12, 32, 32), (6, 16, 16), (10, 16, 16), (5, 8, 8), (9, 8, 8)]


@pytest.mark.parametrize("bottleneck", [True, False])
def test_a_layer_puts_what_is_new_behind_what_came_in(bottleneck):
    torch.manual_seed(0)
    layer = DenseLayer(6, 3, bottleneck, dropped=0.0).eval()
    x, scale = torch.randn(2, 6, 5, 5), (1 + 1e-5) ** 0.5
    new = layer.conv1(relu(x / scale)) if bottleneck else x
    torch.testing.assert_close(layer(x), torch.cat([x, layer.conv2(relu(new / scale))], dim=1))


def test_a_transition_halves_the_image():
    torch.manual_seed(0)
    transition = Transition(6, 3, dropped=0.0).eval()
    x = torch.randn(2, 6, 4, 4)
    expected = avg_pool2d(transition.conv(relu(x / (1 + 1e-5) ** 0.5)), 2)
    torch.testing.assert_close(transition(x), expected)


def test_dropout_is_behind_every_convolution_but_the_first(monkeypatch):
    seen = []

    def noted(x, share, training):
        seen.append((share, training))
        return x

    monkeypatch.setattr("lightning_modules.networks.densenet.dropout", noted)
    network = built(10, 4, True, dropout=0.2)
    network(torch.rand(2, 3, 8, 8))
    assert seen == [(0.2, True)] * 8  # two in each of three layers, one in each of two transitions
    network.eval()(torch.rand(2, 3, 8, 8))
    assert {training for _, training in seen[8:]} == {False}
    seen.clear()
    built(10, 4, True)(torch.rand(2, 3, 8, 8))
    assert not seen


def test_weights_start_as_in_he_et_al():
    torch.manual_seed(0)
    network = built(40, 12, False)
    last = network.features[-1]
    assert isinstance(last, DenseLayer)
    assert last.conv2.weight.std().item() == pytest.approx((2 / (9 * last.bn2.num_features)) ** 0.5, rel=0.02)
    assert not network.linear.bias.any()


@pytest.mark.parametrize(("asked", "message"), [
    ({"depth": 41}, r"depth is 41: with bottlenecks these nets have 6n \+ 4 layers, such as 40"),
    ({"depth": 41, "bottleneck": False}, r"depth is 41: without bottlenecks these nets have 3n \+ 4 layers, such as 40"),
    ({"depth": 3}, "depth is 3: .* such as 10"),
    ({"growth": 0}, "growth is 0: give a number of channels, 1 or more"),
    ({"compression": 0.0}, "compression is 0.0: give a share above 0, up to 1"),
    ({"dropout": 1.0}, "dropout is 1.0: give a share from 0 to below 1"),
])  # fmt: skip
def test_what_there_is_not_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        CifarDenseNet(**asked)
