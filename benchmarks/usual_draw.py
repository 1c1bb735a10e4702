"""DRAW as it is usually written in plain PyTorch: what ours is timed against, not what it should be.

Per step two LSTMCells, a linear layer for each of mean, deviation, patch and either window, filters by exp and a
division, noise drawn where it is wanted, KL added up in the loop.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy


class UsualDraw(nn.Module):
    """Sizes as of ``networks.draw.DrawNetwork``."""

    def __init__(
        self, image_shape: tuple[int, ...], steps: int, hidden: int, latent: int,
        read_size: int | None, write_size: int | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.channels, self.height, self.width = image_shape
        self.steps, self.hidden, self.latent = steps, hidden, latent
        self.read_size, self.write_size = read_size, write_size
        pixels = self.channels * self.height * self.width
        seen = 2 * (pixels if read_size is None else self.channels * read_size**2)
        self.encoder, self.decoder = nn.LSTMCell(seen + hidden, hidden), nn.LSTMCell(latent, hidden)
        self.mean, self.log_deviation = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.patch = nn.Linear(hidden, pixels if write_size is None else self.channels * write_size**2)
        self.read_window = nn.Linear(hidden, 5) if read_size else None
        self.write_window = nn.Linear(hidden, 5) if write_size else None

    def filters(self, linear: nn.Linear, state: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        across, down, log_variance, log_stride, log_intensity = linear(state).split(1, dim=1)
        stride = (max(self.height, self.width) - 1) / max(size - 1, 1) * log_stride.exp()
        grid = torch.arange(size, device=state.device, dtype=state.dtype).view(1, -1) - size / 2 + 0.5
        found = []
        for place, pixels in ((down, self.height), (across, self.width)):
            means = ((pixels + 1) / 2 * (place + 1) - 1 + grid * stride).unsqueeze(2)
            positions = torch.arange(pixels, device=state.device, dtype=state.dtype).view(1, 1, -1)
            weights = torch.exp(-((positions - means) ** 2) / (2 * log_variance.exp().unsqueeze(2)))
            found.append(weights / (weights.sum(2, keepdim=True) + 1e-8))
        return found[0], found[1], log_intensity.exp()

    def read(self, images: Tensor, error: Tensor, state: Tensor) -> Tensor:
        if self.read_window is None or self.read_size is None:
            return torch.cat([images.flatten(1), error.flatten(1)], dim=1)
        rows, columns, intensity = self.filters(self.read_window, state, self.read_size)
        rows, columns = rows.unsqueeze(1), columns.unsqueeze(1).transpose(2, 3)
        glimpses = [(rows @ it @ columns).flatten(1) * intensity for it in (images, error)]
        return torch.cat(glimpses, dim=1)

    def write(self, state: Tensor) -> Tensor:
        patch = self.patch(state)
        if self.write_window is None or self.write_size is None:
            return patch.view(-1, self.channels, self.height, self.width)
        rows, columns, intensity = self.filters(self.write_window, state, self.write_size)
        patch = patch.view(-1, self.channels, self.write_size, self.write_size)
        return rows.unsqueeze(1).transpose(2, 3) @ patch @ columns.unsqueeze(1) / intensity.view(-1, 1, 1, 1)

    def loss(self, images: Tensor) -> Tensor:
        size = len(images)
        output, cell, state, state_cell = (torch.zeros(size, self.hidden, device=images.device) for _ in range(4))
        canvas, divergence = torch.zeros_like(images), torch.zeros(size, device=images.device)
        for _ in range(self.steps):
            error = images - torch.sigmoid(canvas)
            seen = self.read(images, error, state)
            output, cell = self.encoder(torch.cat([seen, state], dim=1), (output, cell))
            mean, log_deviation = self.mean(output), self.log_deviation(output)
            deviation = log_deviation.exp()
            z = mean + deviation * torch.randn_like(mean)
            state, state_cell = self.decoder(z, (state, state_cell))
            canvas = canvas + self.write(state)
            divergence = divergence + 0.5 * (mean**2 + deviation**2 - 2 * log_deviation - 1).sum(1)
        drawn = binary_cross_entropy(torch.sigmoid(canvas), images, reduction="none").flatten(1).sum(1)
        return (drawn + divergence).mean()


def usual_draw_loop(model: UsualDraw, batch: Callable[[], dict[str, Any]]) -> Callable[[int], list[Tensor]]:
    """In float32, torch's Adam as it is by default, gradients clipped."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)

    def loop(iterations: int) -> list[Tensor]:
        losses = []
        for _ in range(iterations):
            loss = model.loss(batch()["image"])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            losses.append(loss.detach())
        return losses

    return loop
