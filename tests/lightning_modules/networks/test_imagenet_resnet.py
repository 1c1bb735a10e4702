"""The nets of the paper's table 1: layers, multiplications, parameters, and torchvision's nets beside them."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import get_model

from foundation.errors import UserError
from lightning_modules.networks.imagenet_resnet import BLOCKS, ImageNetResNet

MULTIPLICATIONS = {18: 1.8e9, 34: 3.6e9, 50: 3.8e9, 101: 7.6e9, 152: 11.3e9}  # table 1: "FLOPs (multiply-adds)"
PARAMETERS = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}  # torchvision's


def built(depth: int, shortcut: str = "B", halves_in: str = "1x1") -> ImageNetResNet:
    with torch.device("meta"):
        return ImageNetResNet(depth, shortcut, halves_in).eval()  # type: ignore


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiplications(network: nn.Module) -> float:
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 3, 224, 224, device="meta"))
    return counter.get_total_flops() / 2


@pytest.mark.parametrize("depth", BLOCKS)
def test_depth_counts_the_layers_with_weights(depth):
    convolutions = [it for it in built(depth, "none").modules() if isinstance(it, nn.Conv2d | nn.Linear)]
    assert len(convolutions) == depth


@pytest.mark.parametrize("depth", BLOCKS)
def test_multiplications_are_those_of_the_paper(depth):
    """Halving in the 3x3 convolutions would cost 50 layers 8 % more."""
    shortcut = "A" if depth < 50 else "B"
    assert multiplications(built(depth, shortcut)) == pytest.approx(MULTIPLICATIONS[depth], rel=0.02)
    if depth >= 50:
        assert multiplications(built(depth, shortcut, "3x3")) > 1.02 * multiplications(built(depth, shortcut))


@pytest.mark.parametrize("depth", BLOCKS)
def test_parameters_by_shortcut(depth):
    """A has those of the plain net, B those of torchvision's; C has a projection for each block, of 34 layers 13 more."""
    plain, a, b, c = (built(depth, it) for it in ("none", "A", "B", "C"))
    assert count(plain) == count(a) < count(b) == PARAMETERS[depth] < count(c)
    projections = {it: sum("downsample.0" in name for name, _ in net.named_parameters()) for it, net in
                   {"a": a, "b": b, "c": c}.items()}  # fmt: skip
    assert projections == {"a": 0, "b": 3 if depth < 50 else 4, "c": sum(BLOCKS[depth])}
    if depth == 34:
        assert projections["c"] - projections["b"] == 13


@pytest.mark.parametrize("depth", [18, 50])
def test_weights_of_torchvision_make_torchvision_s_net(depth):
    torch.manual_seed(0)
    theirs = get_model(f"resnet{depth}", num_classes=7).eval()
    ours = ImageNetResNet(depth, "B", "3x3", num_classes=7).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


def first_block(depth: int, shortcut: Any, stage: str) -> Any:
    return getattr(ImageNetResNet(depth, shortcut, num_classes=2), stage)[0].eval()


def test_zeros_are_added_and_pixels_left_out_without_projections():
    """Of the first block of the second stage, whose convolutions give nothing."""
    block = first_block(50, "A", "layer2")
    nn.init.zeros_(block.conv3.weight)
    x = torch.rand(1, 256, 6, 6)
    expected = torch.zeros(1, 512, 3, 3)
    expected[:, 128:384] = x[:, :, ::2, ::2]
    torch.testing.assert_close(block(x), expected)


def test_a_plain_block_does_not_add_its_input():
    residual, plain = (first_block(18, it, "layer1") for it in ("B", "none"))
    plain.load_state_dict(residual.state_dict())
    x = torch.rand(1, 64, 5, 5)
    torch.testing.assert_close(residual(x), (x + residual.residual(x)).relu())
    torch.testing.assert_close(plain(x), residual.residual(x).relu())


@pytest.mark.parametrize(("asked", "message"), [
    ({"depth": 20}, "depth is 20: give one of 18, 34, 50, 101, 152"),
    ({"shortcut": "identity"}, "shortcut is 'identity'; known: A, B, C, none"),
    ({"halves_in": "2x2"}, "halves_in is '2x2'; known: 1x1, 3x3"),
])  # fmt: skip
def test_what_there_is_not_is_refused(asked, message):
    with pytest.raises(UserError, match=message):
        ImageNetResNet(**asked)
