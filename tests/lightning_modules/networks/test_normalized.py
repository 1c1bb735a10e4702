"""Pixels are normalised inside the network, whose names of weights are its own behind a prefix."""

import pytest
import torch

from foundation.errors import UserError
from lightning_modules.networks.normalized import Normalized
from lightning_modules.networks.resnet import CifarResNet


def test_it_is_the_network_of_normalised_pixels():
    torch.manual_seed(0)
    network = CifarResNet(8, width=4, activation="elu").eval()
    images = torch.rand(2, 3, 32, 32)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    whole = Normalized(network, mean, std)
    by_hand = torch.stack([(images[:, it] - mean[it]) / std[it] for it in range(3)], dim=1)
    torch.testing.assert_close(whole(images), network(by_hand))
    assert (whole.image_shape, whole.num_classes) == ((3, 32, 32), 10)
    assert whole.state_dict().keys() == {f"network.{name}" for name in network.state_dict()}


def test_elu_has_no_kink_and_relu_is_as_before():
    torch.manual_seed(0)
    smooth, paper = CifarResNet(8, width=4, activation="elu"), CifarResNet(8, width=4)
    smooth.load_state_dict(paper.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(smooth(images), paper(images))
    assert float(smooth.blocks(torch.randn(2, 4, 8, 8)).min()) < 0 <= float(paper.blocks(torch.randn(2, 4, 8, 8)).min())


@pytest.mark.parametrize(
    ("mean", "std", "sentence"),
    [([0.1, 0.2], [1.0], "network.mean has 2 values for images of 3 channel"), ([0.0], [0.0], "network.std is")],
)
def test_wrong_numbers_get_a_sentence(mean, std, sentence):
    with pytest.raises(UserError, match=sentence):
        Normalized(CifarResNet(8, width=4), mean, std)
