"""Sizes of the paper's networks: the specification's parameter counts, computed by hand from its tables."""

import torch
from torch import nn

from lightning_modules.networks.dcgan import Discriminator, Generator


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
    assert [type(layer) for layer in list(generator.layers)[-2:]] == [nn.ConvTranspose2d, nn.Sigmoid]
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
