"""Scores and masks by hand; which layer reads features."""

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from lightning_modules.networks.deepcloak import (
    features_of,
    layer_that_reads_features,
    layers_that_read_once,
    masking,
    most_sensitive,
    sensitivity,
)
from lightning_modules.networks.improved_gan_layers import WeightNormLinear
from lightning_modules.networks.resnet import CifarResNet
from lightning_modules.networks.vgg import CifarVGG

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_scores_by_hand():
    """Distances are added up, whatever their sign: |3 - 1| + |0 - 1|, |2 - 2| + |5 - 1|."""
    scores = sensitivity(torch.tensor([[1.0, 2.0], [1.0, 1.0]]), torch.tensor([[3.0, 2.0], [0.0, 5.0]]))
    assert scores.tolist() == [3.0, 4.0]
    assert scores.dtype == torch.float64


def test_features_of_any_shape_are_scored_one_by_one():
    scores = sensitivity(torch.zeros(2, 2, 1, 3), torch.arange(12.0).view(2, 2, 1, 3))
    assert scores.tolist() == [6.0, 8.0, 10.0, 12.0, 14.0, 16.0]


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, []), (1, [3]), (20, [3]), (20.1, [1, 3]), (40, [1, 3]), (60, [1, 3, 4]), (100, [0, 1, 2, 3, 4])]
)  # fmt: skip
def test_the_largest_are_masked_rounded_up_and_of_equals_the_first(percent, expected):
    masked = most_sensitive(torch.tensor([1.0, 5.0, 0.0, 9.0, 1.5], dtype=torch.float64), percent)
    assert masked.nonzero().flatten().tolist() == expected
    assert most_sensitive(torch.ones(5), 40).tolist() == [True, True, False, False, False]


def test_a_share_of_whole_features_is_not_rounded_up():
    """1000 * 16.1 / 100 is 161.00000000000003."""
    assert int(most_sensitive(torch.arange(1000.0), 16.1).sum()) == 161
    assert int(most_sensitive(torch.arange(512.0), 1).sum()) == 6


@pytest.mark.parametrize("network", [CifarResNet(8, width=4), CifarVGG(11, width=2)])
def test_nothing_masked_keeps_logits_bit_for_bit(network):
    network.eval()
    expected = network(IMAGES)
    for nothing in (most_sensitive(torch.rand(16), 0), torch.zeros(16, dtype=torch.bool)):
        with masking(network.linear, nothing):
            assert torch.equal(network(IMAGES), expected)
    assert not network.linear._forward_pre_hooks


def test_the_layer_reads_zeros_for_what_is_masked_alone():
    network, masked = CifarVGG(11, width=2).eval(), torch.arange(16) % 3 == 0
    features, read = network.features(IMAGES), []
    with masking(network.linear, masked):
        network.linear.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        logits = network(IMAGES)
    assert (features > 0).any(0)[masked].any()
    assert torch.equal(read[0][:, ~masked], features[:, ~masked])
    assert not read[0][:, masked].any()
    assert torch.equal(logits, network.linear(torch.where(masked, 0.0, features)))
    assert not torch.equal(network(IMAGES), logits)  # and after it, as before


def test_masked_features_are_taken_away_even_where_they_are_infinite():
    layer = nn.Linear(2, 1)
    with masking(layer, torch.tensor([True, False])):
        assert layer(torch.tensor([[torch.inf, 1.0]])).isfinite().all()


def test_a_mask_lets_gradients_through_what_is_left():
    layer, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with masking(layer, torch.tensor([True, False])):
        layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad[0, 0] == 0
    assert x.grad[0, 1] == layer.weight[0, 1]


def test_features_are_what_the_layer_reads():
    network = CifarVGG(11, width=2).eval()
    assert torch.equal(features_of(network.linear, network, IMAGES), network.features(IMAGES))
    convolution = network.convolutions[0]
    assert torch.equal(features_of(convolution, network, IMAGES), IMAGES)
    assert not network.linear._forward_pre_hooks


class Odd(nn.Module):
    """Layers that are called twice, never, with no tensor, and with a tensor whose rows are no images."""

    def __init__(self):
        super().__init__()
        self.twice, self.never, self.head = nn.Linear(4, 4), nn.Linear(4, 4), WeightNormLinear(4, 2)
        self.of_words, self.across = Words(), nn.Linear(3, 3)

    def forward(self, images):
        x = self.twice(self.twice(images[:, 0, 0, :4])) + self.of_words(word=images)
        return self.head(self.across(x.T).T)


class Words(nn.Module):
    def forward(self, word):
        return word.mean()


def test_layers_that_read_features_once_in_the_order_in_which_they_do():
    odd = Odd()
    assert layers_that_read_once(odd, odd, IMAGES) == ["head"]
    assert layer_that_reads_features(odd, odd, IMAGES, None, "key")[0] == "head"


def test_the_last_linear_layer_is_the_default_and_others_can_be_named():
    network = CifarVGG(11, width=2).eval()
    assert layer_that_reads_features(network, network, IMAGES, None, "key") == ("linear", network.linear)
    found = layer_that_reads_features(network, network, IMAGES, "convolutions.0.1", "key")
    assert found == ("convolutions.0.1", network.get_submodule("convolutions.0.1"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("linaer", "callbacks.x.layer is linaer, and CifarVGG has no such layer; did you mean 'linear'"),
        ("", "callbacks.x.layer is , and CifarVGG has no such layer; known: convolutions, "),
        (7, "callbacks.x.layer is 7, and CifarVGG has no such layer"),
    ],
)
def test_a_layer_that_does_not_exist_is_told(name, sentence):
    network = CifarVGG(11, width=2)
    with pytest.raises(UserError, match=sentence):
        layer_that_reads_features(network, network, IMAGES, name, "callbacks.x.layer")


@pytest.mark.parametrize("name", ["twice", "never", "of_words", "across"])
def test_a_layer_without_features_for_each_image_is_refused(name):
    odd = Odd()
    with pytest.raises(UserError, match=f"key is {name}, which does not read .*, such as head"):
        layer_that_reads_features(odd, odd, IMAGES, name, "key")


def test_a_net_without_a_linear_layer_is_told_what_it_has():
    network = nn.Sequential(nn.Conv2d(3, 10, 32), nn.Flatten())
    with pytest.raises(UserError, match="Sequential has no linear layer .* name another with key, .* known: 0, 1"):
        layer_that_reads_features(network, network, IMAGES, None, "key")
