"""Sizes of the paper's nets, and a block by hand."""

import pytest
import torch
from torch import nn
from torch.nn.functional import relu
from torchvision.models import resnet18

from foundation.errors import UserError
from lightning_modules.networks.resnet import Block, CifarResNet, ResNet9, TorchvisionResNet

PARAMETERS = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962, 1202: 19_421_274}


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("depth", PARAMETERS)
def test_residual_and_plain_nets_have_the_paper_s_parameters(depth):
    with torch.device("meta"):
        assert count(CifarResNet(depth)) == PARAMETERS[depth]
        assert count(CifarResNet(depth, shortcut="none")) == PARAMETERS[depth]


def test_depth_counts_the_layers_with_weights():
    network = CifarResNet(32)
    assert sum(isinstance(part, nn.Conv2d | nn.Linear) for part in network.modules()) == 32


def test_three_stages_at_full_half_and_quarter_size():
    network, shapes = CifarResNet(20), []
    for block in network.blocks:
        block.register_forward_hook(lambda _part, _inputs, output: shapes.append(tuple(output.shape[1:])))
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_a_block_without_a_residual_is_its_shortcut():
    block = Block(4, 8, stride=2, shortcut="identity").eval()
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(3, 4, 6, 6)
    expected = torch.zeros(3, 8, 3, 3)
    expected[:, 2:6] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), relu(expected))


def test_a_block_adds_its_input_and_a_plain_one_does_not():
    torch.manual_seed(0)
    residual, plain = Block(4, 4, 1, "identity").eval(), Block(4, 4, 1, "none").eval()
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 4, 5, 5)
    change = residual.conv2(relu(residual.conv1(x) / (1 + 1e-5) ** 0.5)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(residual(x), relu(x + change))
    torch.testing.assert_close(plain(x), relu(change))


def test_weights_start_as_in_he_et_al():
    torch.manual_seed(0)
    network = CifarResNet(56)
    last = network.blocks[-1]
    assert isinstance(last, Block)
    assert last.conv2.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert torch.equal(last.bn2.weight, torch.ones(64))


@pytest.mark.parametrize(("depth", "near"), [(18, 20), (21, 20), (2, 8), (50, 50)])
def test_another_depth_is_refused_with_one_that_exists(depth, near):
    if depth == near:
        assert len(CifarResNet(depth).blocks) == 24
        return
    with pytest.raises(UserError, match=f"depth is {depth}: .* such as {near}"):
        CifarResNet(depth)


def test_an_unknown_shortcut_is_refused():
    with pytest.raises(UserError, match="shortcut is 'B': give identity or none"):
        CifarResNet(20, shortcut="B")  # type: ignore


def test_resnet9_s_size():
    network = ResNet9()
    assert count(network) == 6_573_120
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 10)


class TestTorchvision:
    def test_is_torchvision_s_net(self):
        torch.manual_seed(0)
        theirs, ours = resnet18(num_classes=7).eval(), TorchvisionResNet("resnet18", num_classes=7).eval()
        images = torch.rand(2, 3, 64, 64)
        assert not torch.allclose(ours(images), theirs(images))
        ours.net.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(images), theirs(images))

    def test_names_what_there_is(self):
        with pytest.raises(UserError, match="resnet49, which torchvision has not; did you mean"):
            TorchvisionResNet("resnet49")
