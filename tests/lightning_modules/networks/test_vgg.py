"""Sizes of the nets, stage by stage."""

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from lightning_modules.networks.vgg import CifarVGG

KNOWN = {11: 9_231_114, 13: 9_416_010, 16: 14_728_266, 19: 20_040_522}  # with biases, which batch norm takes away


@pytest.mark.parametrize("depth", KNOWN)
def test_parameters_are_those_that_are_known_without_the_idle_biases(depth):
    with torch.device("meta"):
        network = CifarVGG(depth)
    biases = sum(it.out_channels for it in network.modules() if isinstance(it, nn.Conv2d))
    assert sum(it.numel() for it in network.parameters()) + biases == KNOWN[depth]
    assert depth != 16 or biases == 4_224


def test_thirteen_convolutions_in_five_stages_each_at_half_the_size():
    network, shapes = CifarVGG(width=2), []
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            assert part.kernel_size == (3, 3)
            part.register_forward_hook(lambda _part, _inputs, output: shapes.append(tuple(output.shape[1:])))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    expected = [(2, 32, 32)] * 2 + [(4, 16, 16)] * 2 + [(8, 8, 8)] * 3 + [(16, 4, 4)] * 3 + [(16, 2, 2)] * 3
    assert shapes == expected


def test_the_linear_layer_reads_the_features():
    network, images = CifarVGG(11, width=2, num_classes=3).eval(), torch.rand(4, 3, 32, 32)
    features = network.features(images)
    assert features.shape == (4, 16)
    assert (features >= 0).all()
    assert torch.equal(network(images), network.linear(features))


@pytest.mark.parametrize("side", [8, 28, 30])
def test_any_size_will_do(side):
    network = CifarVGG(11, width=2, image_shape=(1, side, side))
    assert network(torch.rand(3, 1, side, side)).shape == (3, 10)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [({"depth": 18}, "network.depth is 18: these nets have 11, 13, 16 or 19"), ({"width": 0}, "network.width is 0")],
)
def test_wrong_values_are_named(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        CifarVGG(**changes)
