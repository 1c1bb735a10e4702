"""Sizes of the paper's networks: the specification's parameter counts, computed by hand from its tables."""

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import instantiate
from lightning_modules.networks import dcgan
from lightning_modules.networks.dcgan import Discriminator, Generator, convolution, up_convolution


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_mnist_networks_have_the_paper_s_parameters():
    generator = Generator(74, hidden=[1024], base=[128, 7, 7], channels=[64, 1])
    discriminator = Discriminator([1, 28, 28], [64, 128], [1024], posterior_hidden=128, posterior_size=14)
    # The original counts batch norm's scale and shift; a bias before batch norm stands as well.
    assert count(generator) == 6_652_481
    assert count(discriminator.trunk) == 6_558_144
    assert count(discriminator.head) == 1_025
    assert count(discriminator.posterior) == 133_262


@pytest.mark.parametrize(
    ("data", "generator", "trunk", "head", "posterior", "input_size", "image_shape"),
    [
        # SVHN and CelebA: the paper's tables 2 and 3. Faces: trunk 64*17 + (64*16*128 + 3*128) + (8*8*128*1024 + 3*1024),
        # G (133*1024 + 3*1024) + (1024*8192 + 3*8192) + (128*16*64 + 3*64) + (64*16 + 1).
        ("svhn", 2_800_835, 659_648, 4_097, 530_864, 168, (3, 32, 32)),
        ("celeba", 2_908_355, 659_648, 4_097, 537_572, 228, (3, 32, 32)),
        ("faces", 8_684_737, 8_524_224, 1_025, 10_250, 133, (1, 32, 32)),
        # Chairs: trunk 64*17 + (64*16*128 + 3*128) + (128*16*256 + 3*256) + 2 (256*16*256 + 3*256)
        # + (8*8*256*1024 + 3*1024); G (189*1024 + 3*1024) + (1024*16384 + 3*16384) + 2 (256*16*256 + 3*256)
        # + (256*16*128 + 3*128) + (128*16*64 + 3*64) + (64*16 + 1).
        ("chairs", 19_778_625, 19_536_576, 1_025, 63_550, 189, (1, 64, 64)),
    ],
)
def test_the_other_networks_have_the_parameters_of_their_tables(
    tmp_path, data, generator, trunk, head, posterior, input_size, image_shape
):
    node = compose_job("train", [f"lightning_module=infogan_{data}"], tmp_path)["lightning_module"]
    with torch.device("meta"):
        module = instantiate(node)
    d = module.discriminator
    assert module.generator.input_size == input_size
    assert module.image_shape == tuple(d.image_shape) == image_shape
    assert [count(part) for part in (module.generator, d.trunk, d.head, d.posterior)] == [
        generator, trunk, head, posterior
    ]  # fmt: skip


def test_batch_norm_of_the_trunk_s_fully_connected_layers_is_a_switch():
    """Of the development code's faces: conv 64, conv 128 with batch norm, 1,024 without."""
    sizes = {"channels": [4, 8], "hidden": [16, 12], "posterior_hidden": 5, "posterior_size": 3}
    kinds = {on: [type(it).__name__ for it in Discriminator([1, 8, 8], hidden_batch_norm=on, **sizes).trunk]
             for on in (True, False)}  # fmt: skip
    convolutions = ["Conv2d", "LeakyReLU", "Conv2d", "BatchNorm2d", "LeakyReLU", "Flatten"]
    assert kinds[True] == [*convolutions, *["Linear", "BatchNorm1d", "LeakyReLU"] * 2]
    assert kinds[False] == [*convolutions, *["Linear", "LeakyReLU"] * 2]


def test_truncated_weights_of_convolutions_lie_within_two_deviations_and_others_as_before():
    made = {}
    for truncated in (True, False):
        torch.manual_seed(0)
        made[truncated] = Discriminator([1, 8, 8], [64, 128], [64], None, 4, truncated=truncated)
    weights = made[True].trunk[2].weight
    assert weights.abs().max() <= 0.04
    # of a normal cut off at two deviations: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1)) = 0.8796
    assert weights.std().item() == pytest.approx(0.02 * 0.8796, rel=0.01)
    assert made[False].trunk[2].weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert made[False].trunk[2].weight.abs().max() > 0.06
    for it in made.values():
        assert it.trunk[6].weight.abs().max() > 0.06  # fully connected


@pytest.mark.parametrize("stride", [1, 2])
def test_up_convolution_is_the_transpose_of_convolution(stride):
    down = nn.Sequential(*convolution(2, 3, stride)).double()
    up = nn.Sequential(*up_convolution(3, 2, stride)).double()
    weight = torch.rand(3, 2, 4, 4, dtype=torch.float64)
    for layer in (*down, *up):
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.weight.data, layer.bias = weight, None
    image = torch.rand(1, 2, 8, 8, dtype=torch.float64)
    features = torch.rand(1, 3, 8 // stride, 8 // stride, dtype=torch.float64)
    assert down(image).shape == features.shape
    torch.testing.assert_close((down(image) * features).sum(), (image * up(features)).sum())


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_pads_as_tensorflow_s_same(stride):
    """An impulse at the origin: the padding before it is one pixel at either stride."""
    network = nn.Sequential(*convolution(1, 1, stride))
    kernel = torch.arange(16.0).reshape(4, 4)
    for layer in network:
        if isinstance(layer, nn.Conv2d):
            layer.weight.data, layer.bias = kernel[None, None], None
    impulse = torch.zeros(1, 1, 8, 8)
    impulse[..., 0, 0] = 1
    assert float(network(impulse)[0, 0, 0, 0].detach()) == kernel[1, 1]


def test_signed_pixels():
    """(tanh(x) + 1) / 2 for G, [-1, 1] for D: on a grey image the trunk's first convolution sees zeros."""
    plain, signed = (Generator(5, hidden=[], base=[4, 2, 2], channels=[1], signed=it) for it in (False, True))
    signed.load_state_dict(plain.state_dict())
    inputs = torch.rand(6, 5)
    before = torch.logit(plain(inputs))
    torch.testing.assert_close(signed(inputs), (torch.tanh(before) + 1) / 2)
    discriminator = Discriminator([1, 8, 8], [3], [], posterior_hidden=None, posterior_size=2, signed=True)
    assert not discriminator.trunk[0](discriminator.prepare(torch.full((1, 1, 8, 8), 0.5))).any()


def test_q_may_be_one_layer_on_the_trunk():
    discriminator = Discriminator([1, 8, 8], [3], [6], posterior_hidden=None, posterior_size=2)
    assert count(discriminator.posterior) == 6 * 2 + 2


def test_a_list_that_does_not_fit_the_layers_is_told():
    with pytest.raises(UserError, match="strides has 2 entries for 3 layers"):
        Generator(5, hidden=[8], base=[4, 2, 2], channels=[3, 2, 1], strides=[2, 2])


def test_shapes_and_ranges():
    generator = Generator(5, hidden=[8], base=[4, 2, 2], channels=[3, 2])
    images = generator(torch.rand(6, 5))
    assert images.shape == (6, *generator.image_shape) == (6, 2, 8, 8)
    assert images.min() > 0
    assert images.max() < 1
    discriminator = Discriminator([2, 8, 8], [3, 4], [7], posterior_hidden=5, posterior_size=9)
    logit, posterior = discriminator(images)
    assert logit.shape == (6,)
    assert posterior.shape == (6, 9)


def test_parts_agree_with_the_whole():
    discriminator = Discriminator([1, 8, 8], [3, 4], [7], posterior_hidden=5, posterior_size=9).eval()
    images = torch.rand(6, 1, 8, 8)
    logit, posterior = discriminator(images)
    torch.testing.assert_close(discriminator.real_logit(images), logit)
    torch.testing.assert_close(discriminator.code_posterior(images), posterior)


def test_the_first_convolution_has_no_batch_norm_and_the_output_neither():
    generator = Generator(5, hidden=[8], base=[4, 2, 2], channels=[3, 2])
    assert isinstance(generator.layers[-1], nn.ConvTranspose2d)
    trunk = Discriminator([1, 8, 8], [3, 4], [7], posterior_hidden=5, posterior_size=9, leak=0.1).trunk
    kinds = [type(layer) for layer in trunk]
    assert kinds[:5] == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU]
    assert {layer.negative_slope for layer in trunk if isinstance(layer, nn.LeakyReLU)} == {0.1}


def test_initial_weights():
    torch.manual_seed(0)
    generator = Generator(74, hidden=[1024], base=[128, 7, 7], channels=[64, 1])
    generator.requires_grad_(False)
    linear, norm = generator.layers[0], generator.layers[1]
    assert isinstance(linear, nn.Linear)
    assert abs(float(linear.weight.std()) - 0.02) < 0.001
    assert float(linear.bias.abs().max()) == 0
    assert isinstance(norm, nn.BatchNorm1d)
    assert abs(float(norm.weight.mean()) - 1) < 0.005
    assert abs(float(norm.weight.std()) - 0.02) < 0.002


@pytest.mark.parametrize("channels", [1, 3])
def test_maps_have_their_channels_last_in_training_on_a_cpu(channels):
    maps = torch.arange(2 * channels * 12).view(2, channels, 4, 3)
    assert torch.equal(dcgan.channels_last(maps), maps)
    assert dcgan.channels_last(maps).stride() == (channels * 12, 1, channels * 3, channels)


def test_the_order_in_memory_changes_neither_outputs_nor_gradients(monkeypatch):
    def trained() -> list[torch.Tensor]:
        torch.manual_seed(0)
        g = Generator(5, [8], [4, 3, 3], [6, 1]).double()
        d = Discriminator([1, 12, 12], [4, 6], [8], None, 3).double()
        images = g(torch.randn(4, 5).double())
        logit, posterior = d(images)
        (logit.sum() + posterior.square().sum()).backward()
        return [images, logit, posterior, *(it.grad for it in (*g.parameters(), *d.parameters()))]  # type: ignore

    ours = trained()
    monkeypatch.setattr(dcgan, "channels_last", lambda maps: maps)
    for one, other in zip(ours, trained(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
