"""The parts of DRAW (Gregor et al. 2015, arXiv:1502.04623): attention that reads and writes, and one time step.

Inside the recurrence images are [B, H, C, W]: so a product with the filters of the rows, and one with those of the
columns, serve all channels at once without a copy.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks.draw_pass import WholePass
from lightning_modules.networks.precision import out_of_autocast
from lightning_modules.networks.unrolled import UnrolledLinear, unrolled

LOG_RANGE = 10.0  # of the logarithms of variance, stride and intensity; beyond, their exponentials lose their gradient


def three_sizes(image_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(image_shape) != 3:
        raise UserError(f"network.image_shape is {list(image_shape)}: give channels, height and width.")
    channels, height, width = image_shape
    return channels, height, width


class Window(NamedTuple):
    """A grid of N x N Gaussian filters on an image, one for each example."""

    rows: Tensor
    """F_Y: [B, N, height]; sums to one over the height."""
    columns: Tensor
    """F_X: [B, N, width]; sums to one over the width."""
    intensity: Tensor
    """gamma: [B, 1, 1]."""
    geometry: Tensor
    """Centre's column and row (pixels, the first one's centre being 0), stride, standard deviation: [B, 4]."""


class Attention(nn.Module):
    """Where windows lie that depend on the same state (eq. 19-26).

    The paper counts pixels and filters from 1, and so centred a grid at rest (all parameters zero) spans exactly the
    image: the first filter on the first pixel, the last on the last. Filters are a softmax of log densities: a row
    sums to one also where all of its densities underflow, and is not NaN while squared distances are finite. Far
    outside the image it is the pixel at the edge.

    Args:
        hidden: size of the state.
        sizes: N of each window.
    """

    spacing: Tensor
    members: Tensor
    offsets: Tensor
    pixels: Tensor
    outside: Tensor

    def __init__(self, hidden: int, sizes: Sequence[int], height: int, width: int) -> None:
        super().__init__()
        self.sizes, self.height, self.width = list(sizes), height, width
        self.linear = nn.Linear(hidden, 5 * len(sizes))
        longest = max(height, width)
        # The filters of all windows stand in one row; these say which are whose, and where in the grid.
        members = torch.block_diag(*(torch.ones(1, size) for size in sizes))
        offsets = torch.block_diag(*(torch.arange(size).unsqueeze(0) - (size - 1) / 2 for size in sizes))
        spacing = torch.tensor([(longest - 1) / (size - 1) if size > 1 else 0.0 for size in sizes])
        outside = torch.zeros(2, 1, longest)
        outside[0, :, width:] = outside[1, :, height:] = -torch.inf
        for name, value in {"members": members, "offsets": offsets, "spacing": spacing, "outside": outside}.items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("pixels", torch.arange(longest, dtype=torch.get_default_dtype()), persistent=False)
        nn.init.zeros_(self.linear.bias)

    def forward(self, state: Tensor) -> list[Window]:
        """state: [B, hidden]. In full precision also under autocast: half of it moves windows by whole pixels."""
        with out_of_autocast(state.device):
            return self.windows(self.linear(state.to(self.linear.weight.dtype)))

    def windows(self, parameters: Tensor) -> list[Window]:
        """parameters: (g_X, g_Y, log variance, log stride, log intensity) of each window, [B, 5 x windows]."""
        across, down, *logs = parameters.unflatten(1, (len(self.sizes), 5)).unbind(2)
        log_variance, log_stride, log_intensity = (it.clamp(-LOG_RANGE, LOG_RANGE) for it in logs)
        centre = torch.stack([(self.width + 1) / 2 * (across + 1), (self.height + 1) / 2 * (down + 1)], dim=1) - 1
        stride = self.spacing * log_stride.exp()
        means = centre @ self.members + (stride @ self.offsets).unsqueeze(1)  # eq. 19-20: [B, 2, filters]
        sharpness = (-0.5 * (-log_variance).exp()) @ self.members
        logits = (self.pixels - means.unsqueeze(3)).square() * sharpness[:, None, :, None]
        if self.height != self.width:
            logits = logits + self.outside
        filters = logits.softmax(dim=3).split(self.sizes, dim=2)  # eq. 25-26
        intensity = log_intensity.exp()
        geometry = torch.stack([centre[:, 0], centre[:, 1], stride, (log_variance / 2).exp()], dim=2)
        return [
            Window(
                them[:, 1, :, : self.height], them[:, 0, :, : self.width], intensity[:, i, None, None], geometry[:, i]
            )
            for i, them in enumerate(filters)
        ]


def read(images: Tensor, window: Window) -> Tensor:
    """gamma F_Y x F_X^T (eq. 27). images: [B, H, C, W] -> [B, N x C, N]."""
    with out_of_autocast(images.device):
        size, channels = window.rows.shape[1], images.shape[2]
        rows = torch.bmm(window.rows, images.flatten(2)).view(len(images), size * channels, images.shape[3])
        return torch.bmm(rows, window.columns.transpose(1, 2)) * window.intensity


def write(patch: Tensor, window: Window) -> Tensor:
    """1 / gamma F_Y^T w F_X (eq. 29). patch: [B, N, C x N] -> [B, H, C, W]."""
    with out_of_autocast(patch.device):
        size, height = window.rows.shape[1:]
        patch = patch.to(window.rows.dtype) / window.intensity
        channels = patch.shape[2] // size
        rows = torch.bmm(window.rows.transpose(1, 2), patch).view(len(patch), height * channels, size)
        return torch.bmm(rows, window.columns).unflatten(1, (height, channels))


class LSTM(nn.Module):
    """One step of a long short-term memory: one product for its four gates."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.linear = UnrolledLinear(inputs + hidden, 4 * hidden)
        nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: list[Tensor], output: Tensor, cell: Tensor, gates: Tensor | None = None) -> list[Tensor]:
        """The new output and cell, [B, hidden] each. gates: [B, 4 x hidden], what inputs that never change add."""
        added = self.linear(torch.cat([*inputs, output], dim=1))
        added = added if gates is None else added + gates
        keep, let_in, let_out = added[:, : 3 * self.hidden].sigmoid().chunk(3, dim=1)
        cell = torch.addcmul(keep * cell, let_in, added[:, 3 * self.hidden :].tanh())
        return [let_out * cell.tanh(), cell]


class State(NamedTuple):
    """What one time step hands to the next."""

    canvas: Tensor
    """c_t, logits: [B, H, C, W]."""
    encoder: list[Tensor]
    """Output and cell, [B, hidden] each."""
    decoder: list[Tensor]
    read_window: Window | None
    """Where the next step looks."""
    write_window: Window | None
    """Where this step drew."""


class DrawNetwork(nn.Module):
    """One time step of DRAW, and what it begins with. ``forward`` is eq. 3-8, ``draw`` eq. 7-8 alone.

    Args:
        image_shape: channels, height, width.
        steps: T, how often the recurrence is run.
        hidden: size of either LSTM.
        latent: size of z_t.
        read_size, write_size: N of the windows; None reads or writes the whole image without attention (eq. 17-18).
        learn_init: begin with a learned canvas and learned LSTM outputs; else with zeros, a canvas of mean 0.5.
    """

    initial_canvas: Tensor
    initial_outputs: Tensor

    def __init__(
        self,
        image_shape: Sequence[int],
        steps: int,
        hidden: int,
        latent: int,
        read_size: int | None,
        write_size: int | None,
        learn_init: bool = False,
    ) -> None:
        super().__init__()
        sizes = {"steps": steps, "hidden": hidden, "latent": latent, "read_size": read_size, "write_size": write_size}
        for name, size in sizes.items():
            if size is not None and size < 1:
                raise UserError(f"network.{name} is {size}: give 1 or more.")
        self.image_shape = channels, height, width = three_sizes(image_shape)
        self.steps, self.latent, self.hidden = steps, latent, hidden
        self.read_size, self.write_size = read_size, write_size
        pixels = channels * height * width
        seen = pixels if read_size is None else 2 * channels * read_size**2
        self.encoder = LSTM(seen + hidden, hidden)
        self.posterior = UnrolledLinear(hidden, 2 * latent)
        self.decoder = LSTM(latent, hidden)
        self.patch = UnrolledLinear(hidden, pixels if write_size is None else channels * write_size**2)
        # A state decides where to write now and where to read next: one set of parameters for both.
        windows = [size for size in (write_size, read_size) if size is not None]
        self.attention = Attention(hidden, windows, height, width) if windows else None
        # The image's half of eq. 17 is the same at every step.
        self.image_gates = nn.Linear(pixels, 4 * hidden, bias=False) if read_size is None else None
        self.whole = None
        if read_size is not None and write_size is not None:  # all steps at once, where both ends attend
            self.whole = WholePass(self.image_shape, hidden, read_size, write_size, LOG_RANGE)
        beginning = {"initial_canvas": torch.zeros(height, channels, width), "initial_outputs": torch.zeros(2, hidden)}
        for name, value in beginning.items():
            if learn_init:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)

    def start(self, size: int) -> State:
        """The state before the first step, of ``size`` examples."""
        encoder, decoder = (it.expand(size, -1) for it in self.initial_outputs)
        canvas, cell = self.initial_canvas.expand(size, -1, -1, -1), torch.zeros_like(encoder)
        return State(canvas, [encoder, cell], [decoder, cell], *self.windows(decoder))

    def windows(self, decoder_output: Tensor) -> tuple[Window | None, Window | None]:
        """Where to read next and where to write, None without attention."""
        found = [] if self.attention is None else self.attention(decoder_output)
        written = found.pop(0) if self.write_size is not None else None
        return (found.pop() if found else None), written

    def fixed_gates(self, images: Tensor) -> Tensor | None:
        """What the images themselves add to the encoder's gates at every step. images: [B, H, C, W]."""
        return None if self.image_gates is None else self.image_gates(images.flatten(1))

    def forward(
        self, images: Tensor, gates: Tensor | None, state: State, noise: Tensor
    ) -> tuple[State, Tensor, Tensor]:
        """The next state, and mean and log standard deviation of its z_t, [B, latent] each.

        images: [B, H, C, W] in [0, 1]; gates: of ``fixed_gates``; noise: [B, latent], standard normal.
        """
        error = images - state.canvas.sigmoid()  # eq. 3
        if state.read_window is None:
            seen = [error.flatten(1)]
        else:
            seen = [read(it, state.read_window).flatten(1) for it in (images, error)]  # eq. 4
        encoder = self.encoder([*seen, state.decoder[0]], *state.encoder, gates)  # eq. 5
        posterior = self.posterior(encoder[0])
        mean, log_deviation = posterior.to(images.dtype).chunk(2, dim=1)  # eq. 1-2
        z = torch.addcmul(mean, log_deviation.exp(), noise)  # eq. 6
        return self.draw(state._replace(encoder=encoder), z), mean, log_deviation

    def draw(self, state: State, z: Tensor) -> State:
        """The state with z_t on the canvas. z: [B, latent]."""
        decoder = self.decoder([z], *state.decoder)  # eq. 7
        read_window, write_window = self.windows(decoder[0])
        patch = self.patch(decoder[0])
        if write_window is None:
            added = patch.view_as(state.canvas)
        else:
            added = write(patch.unflatten(1, (self.write_size, -1)), write_window)
        return State(state.canvas + added, state.encoder, decoder, read_window, write_window)  # eq. 8


class GlimpseClassifier(nn.Module):
    """The reading half alone: an LSTM looks at an image ``steps`` times, and its last output tells the class
    (section 4.1). images: [B, C, H, W] -> logits [B, num_classes].

    The first window is the same for all images, where each later one lies the LSTM's output before it decides.
    Untrained they span the image.
    """

    initial_output: Tensor

    def __init__(self, image_shape: Sequence[int], num_classes: int, steps: int, hidden: int, read_size: int) -> None:
        super().__init__()
        for name, size in {"steps": steps, "hidden": hidden, "read_size": read_size}.items():
            if size < 1:
                raise UserError(f"network.{name} is {size}: give 1 or more.")
        self.image_shape = channels, height, width = three_sizes(image_shape)
        self.num_classes, self.steps = num_classes, steps
        self.attention = Attention(hidden, [read_size], height, width)
        self.lstm = LSTM(channels * read_size**2, hidden)
        self.linear = nn.Linear(hidden, num_classes)
        self.register_buffer("initial_output", torch.zeros(hidden), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.look(images)[0])

    def look(self, images: Tensor) -> tuple[Tensor, list[Window]]:
        """The LSTM's last output, [B, hidden], and where it looked."""
        images = images.transpose(1, 2).contiguous()
        output = self.initial_output.expand(len(images), -1)
        cell, windows = torch.zeros_like(output), []
        with unrolled(self):
            for _ in range(self.steps):
                windows += self.attention(output)
                output, cell = self.lstm([read(images, windows[-1]).flatten(1)], output, cell)
        return output, windows


class ConvolutionalClassifier(nn.Module):
    """What stands beside ``GlimpseClassifier``: it sees the whole image at once, by convolutions of stride 2 and one
    hidden layer. images: [B, C, H, W] -> logits [B, num_classes].

    Args:
        channels: of the convolutions, 5x5 the first two and 3x3 the others.
        hidden: width of the layer behind them.
    """

    def __init__(self, image_shape: Sequence[int], num_classes: int, channels: Sequence[int], hidden: int) -> None:
        super().__init__()
        if not channels or min(*channels, hidden) < 1:
            raise UserError(f"network.channels is {list(channels)}, network.hidden {hidden}: give widths of 1 or more.")
        self.image_shape = width, *sides = three_sizes(image_shape)
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        for number, following in enumerate(channels):
            kernel = 5 if number < 2 else 3
            layers += [nn.Conv2d(width, following, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
            width, sides = following, [-(-side // 2) for side in sides]
        size = width * math.prod(sides)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, hidden), nn.ReLU())
        self.linear = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.layers(images))
