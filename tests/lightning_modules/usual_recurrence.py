"""DRAW step by step as the paper has it: filters counted from 1, as densities that are divided by their sum."""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from lightning_modules.networks.draw import DrawNetwork, GlimpseClassifier


def filters(parameters: Tensor, size: int, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """F_X [B, 1, N, A], F_Y [B, 1, N, B] and gamma (eq. 21-26)."""
    across, down, log_variance, log_stride, log_intensity = parameters[:, :, None, None].unbind(1)
    across, down = (width + 1) / 2 * (across + 1), (height + 1) / 2 * (down + 1)
    stride = (max(width, height) - 1) / (size - 1) * log_stride.exp() if size > 1 else 0 * log_stride
    offsets = (torch.arange(1, size + 1, dtype=parameters.dtype) - size / 2 - 0.5)[:, None] * stride
    made = []
    for centre, pixels in ((across, width), (down, height)):
        distance = torch.arange(1, pixels + 1, dtype=parameters.dtype) - (centre + offsets)
        density = torch.exp(-distance.square() / (2 * log_variance.exp()))
        made.append((density / density.sum(2, keepdim=True)).unsqueeze(1))
    return made[0], made[1], log_intensity.exp().unsqueeze(1)


def read(images: list[Tensor], parameters: Tensor, size: int) -> Tensor:
    """Eq. 27, in the network's order: rows, channels, columns. images: [B, C, H, W] each."""
    height, width = images[0].shape[2:]
    columns, rows, intensity = filters(parameters, size, width, height)
    return torch.cat([flat(intensity * (rows @ it @ columns.mT)) for it in images], dim=1)


def flat(images: Tensor) -> Tensor:
    return images.transpose(1, 2).flatten(1)


def lstm(layer: Any, inputs: list[Tensor], output: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    gates = linear(torch.cat([*inputs, output], dim=1), layer.weight, layer.bias)
    keep, let_in, let_out, new = gates.chunk(4, dim=1)
    cell = keep.sigmoid() * cell + let_in.sigmoid() * new.tanh()
    return let_out.sigmoid() * cell.tanh(), cell


def losses(network: DrawNetwork, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """L^x [B] and L^z [T, B] (eq. 3-12)."""
    size, channels, height, width = images.shape
    encoder = network.encoder.linear
    if network.image_gates is not None:
        weight = torch.cat([network.image_gates.weight, encoder.weight], dim=1)
        encoder = SimpleNamespace(weight=weight, bias=encoder.bias)
    seen, seen_cell, drawn, drawn_cell = torch.zeros(4, size, network.hidden, dtype=images.dtype)
    canvas, costs = torch.zeros_like(images), []
    for now in noise:
        parts = [images, images - canvas.sigmoid()]
        if network.read_size is None:
            glimpse = torch.cat([flat(it) for it in parts], dim=1)
        else:
            glimpse = read(parts, network.attention.linear(drawn)[:, -5:], network.read_size)  # type: ignore
        seen, seen_cell = lstm(encoder, [glimpse, drawn], seen, seen_cell)
        mean, log_deviation = linear(seen, network.posterior.weight, network.posterior.bias).chunk(2, dim=1)
        distribution = torch.distributions.Normal(mean, log_deviation.exp())
        standard = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        costs.append(torch.distributions.kl_divergence(distribution, standard).sum(1))
        z = mean + log_deviation.exp() * now
        drawn, drawn_cell = lstm(network.decoder.linear, [z], drawn, drawn_cell)
        patch = linear(drawn, network.patch.weight, network.patch.bias)
        if (side := network.write_size) is None:
            canvas = canvas + patch.view(size, height, channels, width).transpose(1, 2)
        else:
            columns, rows, intensity = filters(network.attention.linear(drawn)[:, :5], side, width, height)  # type: ignore
            patch = patch.view(size, side, channels, side).transpose(1, 2)
            canvas = canvas + rows.mT @ patch @ columns / intensity
    return binary_cross_entropy_with_logits(canvas, images, reduction="none").flatten(1).sum(1), torch.stack(costs)


def class_logits(network: GlimpseClassifier, images: Tensor, size: int) -> Tensor:
    output, cell = torch.zeros(2, len(images), network.linear.in_features, dtype=images.dtype)
    for _ in range(network.steps):
        glimpse = read([images], network.attention.linear(output), size)
        output, cell = lstm(network.lstm.linear, [glimpse], output, cell)
    return network.linear(output)
