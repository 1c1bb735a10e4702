"""Improved GAN on MNIST as it is usually written in plain PyTorch: what ours is timed against, not what it should be.

Weights are normalised anew in each of five passes through D, real features are matched with gradient, sums of
exponentials are written out, the optimisers are torch's Adam as it is by default.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, relu, softplus


class UsualWeightNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, train_scale: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.scale = nn.Parameter(torch.ones(outputs, 1)) if train_scale else 1

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.sqrt(torch.sum(self.weight**2, dim=1, keepdim=True))
        return linear(x, self.weight * self.scale / norm, self.bias)


class UsualDiscriminator(nn.Module):
    def __init__(self, pixels: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        sizes = [pixels, *hidden]
        self.layers = nn.ModuleList(map(UsualWeightNorm, sizes[:-1], sizes[1:]))
        self.final = UsualWeightNorm(sizes[-1], classes, train_scale=True)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: [B, pixels] -> features and logits."""
        x = images + 0.3 * torch.randn_like(images)
        features = x
        for layer in self.layers:
            features = relu(layer(x))
            x = features + 0.5 * torch.randn_like(features)
        return features, self.final(x)


class UsualGenerator(nn.Module):
    def __init__(self, noise: int, hidden: Sequence[int], pixels: int) -> None:
        super().__init__()
        sizes = [noise, *hidden]
        self.linears = nn.ModuleList(nn.Linear(one, two, bias=False) for one, two in pairwise(sizes))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size, affine=False, eps=1e-6) for size in hidden)
        self.shifts = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in hidden)
        self.last = UsualWeightNorm(sizes[-1], pixels, train_scale=True)

    def forward(self, noise: Tensor) -> Tensor:
        x = noise
        for layer, norm, shift in zip(self.linears, self.norms, self.shifts, strict=True):
            x = softplus(norm(layer(x)) + shift)
        return torch.sigmoid(self.last(x))


def log_sum_exp(logits: Tensor) -> Tensor:
    greatest = torch.max(logits, dim=1)[0]
    return greatest + torch.log(torch.sum(torch.exp(logits - greatest.unsqueeze(1)), dim=1))


def usual_improved_gan_loop(
    g: UsualGenerator, d: UsualDiscriminator, batches: Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]
) -> Callable[[int], list[Tensor]]:
    """In float32. A batch: labelled images [B, pixels], their labels, images for D, images for G."""
    optimizer_d = torch.optim.Adam(d.parameters(), lr=3e-3, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam(g.parameters(), lr=3e-3, betas=(0.5, 0.999))
    inputs: int = g.linears[0].in_features  # pyright: ignore

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            labelled, label, unlabelled, for_generator = next(batches)
            size, device = len(labelled), labelled.device
            known, real = d(labelled)[1], d(unlabelled)[1]
            fake = d(g(torch.rand(size, inputs, device=device)).detach())[1]
            odds_known, odds_real, odds_fake = map(log_sum_exp, (known, real, fake))
            loss_d = -torch.gather(known, 1, label.unsqueeze(1)).mean() + odds_known.mean()
            loss_d = loss_d + 0.5 * (-odds_real.mean() + softplus(odds_real).mean() + softplus(odds_fake).mean())
            optimizer_d.zero_grad()
            loss_d.backward()
            optimizer_d.step()

            features, _ = d(g(torch.rand(size, inputs, device=device)))
            wanted, _ = d(for_generator)
            loss = ((features.mean(dim=0) - wanted.mean(dim=0)) ** 2).mean()
            optimizer_g.zero_grad()
            optimizer_d.zero_grad()
            loss.backward()
            optimizer_g.step()
            losses.append(loss_d.detach().abs() + loss.detach())
        return losses

    return loop
