"""All time steps of DRAW with attention as one function that has a backward pass of its own.

A time step is dozens of small operations, and on a GPU each costs the host as much as a large one. Written as a whole
the pass makes a third of them: what a step needs of the one before is written where it is read; both windows' filters
are made together; what the backward pass needs of each step alone is computed for all steps at once; gradients of the
weights are one product over all steps. The numbers are those of ``DrawNetwork.forward``, step after step, up to
rounding.

Letters: B examples, H rows, W columns, C channels, L the longer of H and W, F filters of both windows together.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import mse_loss

from lightning_modules.networks.precision import half_where_asked, out_of_autocast, tensor_cores
from lightning_modules.networks.products import multiply

# Where torch has an LSTM's step as one operation; meta stands for them in tests.
FUSED_DEVICES = ("cuda", "meta")
lstm_forward = torch.ops.aten._thnn_fused_lstm_cell
lstm_backward = torch.ops.aten._thnn_fused_lstm_cell_backward_impl

AXES = 2  # 0: columns, 1: rows


class Weights(NamedTuple):
    """Of one pass, ordered as it lays its numbers out."""

    encoder: Tensor
    """[4 hidden, seen + 2 hidden]: of what is read, the encoder's output, the decoder's output."""
    encoder_bias: Tensor
    posterior: Tensor
    """[2 latent, hidden]"""
    posterior_bias: Tensor
    decoder: Tensor
    """[4 hidden, hidden + latent]: of the decoder's output, z."""
    decoder_bias: Tensor
    drawn: Tensor
    """[windows' parameters + patch, hidden]: what is made of the decoder's output."""
    drawn_bias: Tensor


class WholePass(nn.Module):
    """What a pass needs to know beside weights: sizes, orders, and the matrices between windows and their filters.

    A window's parameters are in the order centre's column and row in pixels, and logarithms of stride, of 1 / variance,
    and of what its columns are multiplied by (gamma where it reads, 1 / gamma where it writes): each of the writing
    and of the reading window. An exponential later the filters' means, sharpness and factors are linear in them.

    Args:
        network: a ``DrawNetwork`` with attention at both ends, whose parts are made.
        log_range: the logarithms' largest size.
    """

    filters: Tensor
    filters_bias: Tensor
    gathered: Tensor
    bounds: Tensor
    scale: Tensor
    shift: Tensor
    pixels: Tensor
    outside: Tensor
    seen_order: Tensor
    parameter_order: Tensor
    gate_order: Tensor

    def __init__(self, image_shape: Sequence[int], hidden: int, read_size: int, write_size: int, log_range: float):
        super().__init__()
        self.channels, self.height, self.width = image_shape
        self.hidden, self.read_size, self.write_size = hidden, read_size, write_size
        self.seen = 2 * self.channels * read_size**2
        sizes, longest = [write_size, read_size], max(self.height, self.width)
        self.count = sum(sizes)  # F
        members = torch.block_diag(*(torch.ones(1, size) for size in sizes))
        offsets = torch.block_diag(*(torch.arange(size).unsqueeze(0) - (size - 1) / 2 for size in sizes))
        spacing = torch.tensor([(longest - 1) / (size - 1) if size > 1 else 0.0 for size in sizes])
        strides, none = spacing.unsqueeze(1) * offsets, torch.zeros_like(members)
        # From (centre's column, row, stride, 1 / variance, factor) of both windows to all filters'
        # (mean column, mean row, sharpness, factor of the columns, factor of the rows, which is 1).
        filters = torch.cat([
            torch.cat([members, none, none, none, none], dim=1),
            torch.cat([none, members, none, none, none], dim=1),
            torch.cat([strides, strides, none, none, none], dim=1),
            torch.cat([none, none, -0.5 * members, none, none], dim=1),
            torch.cat([none, none, none, members, none], dim=1),
        ])  # fmt: skip
        # From the gradients of all filters' (factor, mean, log sharpness), [2 axes, F, 3], to the parameters'.
        gathered = torch.zeros(AXES, self.count, 3, 5, len(sizes))
        gathered[0, :, 0, 4] = gathered[0, :, 1, 0] = gathered[1, :, 1, 1] = members.T
        gathered[:, :, 1, 2] = strides.T
        gathered[:, :, 2, 3] = members.T
        centres = torch.tensor([(self.width + 1) / 2, (self.height + 1) / 2])
        one = torch.ones(1)
        bounds = torch.full((5, 2), log_range)
        bounds[:2] = torch.inf
        outside = torch.zeros(AXES, 1, longest)
        outside[0, :, self.width :] = outside[1, :, self.height :] = -torch.inf
        # What is read lies by row, image and error, channel, column; its weights by image and error first.
        seen = torch.arange(self.seen).view(2, read_size, self.channels, read_size).transpose(0, 1).flatten()
        for name, value in {
            "filters": filters,
            "filters_bias": torch.cat([torch.zeros(4 * self.count), torch.ones(self.count)]),
            "gathered": gathered.flatten(3).flatten(0, 2),
            "bounds": torch.stack([-bounds.flatten(), bounds.flatten()]),
            "scale": torch.cat([centres.repeat_interleave(2), one, one, -one, -one, -one, one]).unsqueeze(1),
            "shift": torch.cat([centres.repeat_interleave(2) - 1, torch.zeros(6)]),
            "pixels": torch.arange(longest, dtype=torch.get_default_dtype()),
            "outside": outside,
            "seen_order": seen,
            "parameter_order": torch.tensor([0, 5, 1, 6, 3, 8, 2, 7, 4, 9]),
            # Ours is keep, let in, let out, new; torch's let in, keep, new, let out.
            "gate_order": torch.arange(4 * hidden).view(4, hidden)[[1, 0, 3, 2]].flatten(),
        }.items():
            self.register_buffer(name, value, persistent=False)

    def weights_of(self, network: Any) -> Weights:
        """The network's, in this pass's order; autograd takes their gradients back."""
        hidden, seen = self.hidden, self.seen
        encoder, decoder = network.encoder.linear, network.decoder.linear
        attention, patch = network.attention.linear, network.patch
        into, of_decoder, of_encoder = encoder.weight.split([seen, hidden, hidden], dim=1)
        of_latent, of_output = decoder.weight.split([decoder.in_features - hidden, hidden], dim=1)
        gates = [
            torch.cat([into.index_select(1, self.seen_order), of_encoder, of_decoder], dim=1), encoder.bias,
            torch.cat([of_output, of_latent], dim=1), decoder.bias,
        ]  # fmt: skip
        if encoder.weight.device.type in FUSED_DEVICES:
            gates = [it.index_select(0, self.gate_order) for it in gates]
        windows = self.scale * attention.weight.index_select(0, self.parameter_order)
        places = self.scale.squeeze(1) * attention.bias.index_select(0, self.parameter_order) + self.shift
        return Weights(
            gates[0], gates[1], network.posterior.weight, network.posterior.bias, gates[2], gates[3],
            torch.cat([windows, patch.weight]), torch.cat([places, patch.bias]),
        )  # fmt: skip

    def run(self, network: Any, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The last canvas [B, H, C, W], and of each step the mean and log deviation of z, [T, B, 2 latent].

        images: [B, H, C, W]; noise: [T, B, latent]. It has gradients for the network's parameters, none for its inputs.
        """
        size = len(images)
        beginning = [*network.initial_outputs.unbind(0), network.initial_canvas]
        beginning = [it.expand(size, *it.shape) for it in beginning]
        with out_of_autocast(images.device):
            weights = self.weights_of(network)
        asked = half_where_asked(images.new_zeros(())).dtype
        return Pass.apply(self, images, noise, asked, *beginning, *weights)  # pyright: ignore


class Pass(torch.autograd.Function):
    """``WholePass.run``: eq. 3-8 for all steps, and back."""

    @staticmethod
    def forward(
        ctx: Any, whole: WholePass, images: Tensor, noise: Tensor, half: torch.dtype,
        encoder_output: Tensor, decoder_output: Tensor, canvas: Tensor, *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        with out_of_autocast(images.device):
            ctx.steps = steps = Steps(whole, images, noise, half, Weights(*weights))
            return steps.forward(encoder_output, decoder_output, canvas)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, canvas: Tensor, posterior: Tensor) -> tuple[Any, ...]:
        steps: Steps = ctx.steps
        with out_of_autocast(canvas.device):
            return None, None, None, None, *steps.backward(canvas, posterior)


class Steps:
    """The numbers of one pass, from its forward to its backward.

    A row of ``states`` is what is read, the encoder's output, the decoder's output and z of one step and example: the
    encoder's input is its beginning, the decoder's its end.
    """

    def __init__(self, whole: WholePass, images: Tensor, noise: Tensor, half: torch.dtype, weights: Weights) -> None:
        self.whole, self.noise, self.weights = whole, noise, weights
        self.steps, self.size, self.latent = noise.shape
        self.dtype, self.fused = images.dtype, images.device.type in FUSED_DEVICES
        # A GPU's tensor cores take single precision as it is, where casts would be as many launches as products.
        self.in_tensor_cores = self.fused and half != self.dtype
        kept = self.dtype if self.fused else half
        self.encoder, self.decoder, self.posterior = (
            (weight.to(kept), bias.to(kept))
            for weight, bias in ((weights.encoder, weights.encoder_bias), (weights.decoder, weights.decoder_bias),
                                 (weights.posterior, weights.posterior_bias))
        )  # fmt: skip
        hidden, seen, count, longest = whole.hidden, whole.seen, whole.count, len(whole.pixels)
        new = images.new_empty
        self.states = new(self.steps + 1, self.size, seen + 2 * hidden + self.latent)
        self.looked_at = new(self.steps, self.size, whole.height, 2 * whole.channels, whole.width)
        self.looked_at[:, :, :, : whole.channels] = images
        self.shown = new(self.steps, self.size, whole.height * whole.channels, whole.width)
        self.drawn = new(self.steps + 1, self.size, len(weights.drawn))
        self.bounded = new(self.steps + 1, self.size, whole.bounds.shape[1])
        self.filters = new(self.steps + 1, self.size, 5 * count)
        self.logits, self.windows = (new(self.steps + 1, self.size, AXES, count, longest) for _ in range(2))
        self.rows_read: list[Tensor] = []
        self.rows_written: list[Tensor] = []
        self.deviations = new(self.steps, self.size, self.latent)
        cell = FusedCell if self.fused else Cell
        self.cells = [cell(self.steps, images.new_zeros(self.size, hidden)) for _ in range(2)]

    # --- views -----------------------------------------------------------------------------------------------------

    def part(self, step: int, *names: str) -> Tensor:
        """Neighbouring parts of the rows of ``states``."""
        hidden, seen = self.whole.hidden, self.whole.seen
        ends = {"seen": seen, "encoder": seen + hidden, "decoder": seen + 2 * hidden, "z": self.states.shape[2]}
        starts = dict(zip(ends, [0, *ends.values()], strict=False))
        return self.states[step, :, starts[names[0]] : ends[names[-1]]]

    def window(self, of: Tensor, axis: int, reads: bool) -> Tensor:
        """A window's part of [B, 2 axes, F, L]: [B, N, W or H]."""
        size = (self.whole.width, self.whole.height)[axis]
        return of[:, axis, self.whole.write_size :, :size] if reads else of[:, axis, : self.whole.write_size, :size]

    def patch(self, of: Tensor) -> Tensor:
        """What is written, of rows of ``drawn``: [B, N, C x N]."""
        return of[:, self.whole.bounds.shape[1] :].unflatten(1, (self.whole.write_size, -1))

    def by_row(self, images: Tensor) -> Tensor:
        """[B, rows x C, W] -> [B, rows, C x W], of whatever rows of the image's channels."""
        return images.view(self.size, -1, self.whole.channels * images.shape[2])

    # --- products --------------------------------------------------------------------------------------------------

    def product(self, left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
        """left right^T + bias, in half precision where it is asked for."""
        if not self.fused:  # oneDNN takes rows that lie apart by a way without vectors
            return multiply(left.to(right.dtype).contiguous(), right, bias).to(self.dtype)
        with tensor_cores(self.in_tensor_cores):
            return multiply(left, right, bias)

    def plus_product(self, addend: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """addend + left right."""
        if not self.fused:
            return addend + self.product(left, right.T)
        with tensor_cores(self.in_tensor_cores):
            return torch.addmm(addend, left, right)

    # --- forward ---------------------------------------------------------------------------------------------------

    def forward(self, encoder_output: Tensor, decoder_output: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        whole, (of_encoder, of_decoder) = self.whole, self.cells
        canvas = canvas.reshape(self.size, -1, whole.width).contiguous().clone()
        images, errors = self.looked_at[0, :, :, : whole.channels], self.looked_at[:, :, :, whole.channels :]
        self.part(0, "encoder").copy_(encoder_output)
        self.part(0, "decoder").copy_(decoder_output)
        self.place_windows(0)
        posteriors: list[Tensor] = []
        for step in range(self.steps):
            torch.sigmoid(canvas, out=self.shown[step])
            torch.sub(images, self.shown[step].view_as(images), out=errors[step])  # eq. 3
            self.look(step)
            gates = self.product(self.part(step, "seen", "encoder", "decoder"), *self.encoder)
            of_encoder.forward(step, gates, out=self.part(step + 1, "encoder"))  # eq. 5
            posteriors.append(self.product(self.part(step + 1, "encoder"), *self.posterior))
            self.draw_latents(step, *posteriors[-1].chunk(2, dim=1))
            gates = self.product(self.part(step, "decoder", "z"), *self.decoder)
            of_decoder.forward(step, gates, out=self.part(step + 1, "decoder"))  # eq. 7
            self.place_windows(step + 1)
            self.write(step + 1, canvas)
        return canvas.view(images.shape), torch.stack(posteriors)

    def draw_latents(self, step: int, mean: Tensor, log_deviation: Tensor) -> None:
        """Eq. 6."""
        torch.exp(log_deviation, out=self.deviations[step])
        torch.addcmul(mean, self.deviations[step], self.noise[step], out=self.part(step, "z"))

    def place_windows(self, step: int) -> None:
        """What the decoder's output makes: a patch, and the filters of both windows (eq. 19-26)."""
        whole, drawn, bounded = self.whole, self.drawn[step], self.bounded[step]
        torch.addmm(self.weights.drawn_bias, self.part(step, "decoder"), self.weights.drawn.T, out=drawn)
        torch.clamp(drawn[:, : whole.bounds.shape[1]], *whole.bounds, out=bounded)
        bounded[:, 4:].exp_()
        torch.addmm(whole.filters_bias, bounded, whole.filters, out=self.filters[step])
        means, sharpness, factors = self.of_filters(self.filters[step])
        form = self.logits[step].shape
        squared = mse_loss(whole.pixels.expand(form), means.expand(form), reduction="none")  # as one operation
        torch.addcmul(whole.outside, squared, sharpness, out=self.logits[step])
        torch.mul(self.logits[step].softmax(3), factors, out=self.windows[step])

    def of_filters(self, filters: Tensor) -> tuple[Tensor, ...]:
        """Means [..., 2, F, 1], sharpness [..., 1, F, 1], factors [..., 2, F, 1]."""
        return filters.unflatten(-1, (5, -1)).unsqueeze(-1).split([2, 1, 2], dim=-3)

    def look(self, step: int) -> None:
        """Eq. 27, of the image and of the error at once."""
        rows, columns = (self.window(self.windows[step], axis, reads=True) for axis in (1, 0))
        self.rows_read.append(torch.bmm(rows, self.looked_at[step].flatten(2)).view(self.size, -1, self.whole.width))
        seen = self.part(step, "seen").unflatten(1, (-1, self.whole.read_size))
        torch.bmm(self.rows_read[step], columns.transpose(1, 2), out=seen)

    def write(self, step: int, canvas: Tensor) -> None:
        """Eq. 29 and 8."""
        rows, columns = (self.window(self.windows[step], axis, reads=False) for axis in (1, 0))
        written = torch.bmm(rows.transpose(1, 2), self.patch(self.drawn[step]))
        self.rows_written.append(written.view(self.size, -1, self.whole.write_size))
        canvas.baddbmm_(self.rows_written[-1], columns)

    # --- backward --------------------------------------------------------------------------------------------------

    def backward(self, canvas: Tensor, posterior: Tensor) -> list[Tensor]:
        """Gradients of the beginning and of the weights, from those of the last canvas and of all posteriors."""
        whole, (of_encoder, of_decoder) = self.whole, self.cells
        seen, hidden = whole.seen, whole.hidden
        canvas = canvas.reshape(self.size, -1, whole.width).clone()
        posterior = posterior.unflatten(2, (2, self.latent))
        slopes = torch.addcmul(self.shown, self.shown, self.shown, value=-1)  # of the sigmoid
        chain, basis = self.chain_of_windows(), self.basis_of_windows()
        spread = torch.stack([torch.ones_like(self.noise), self.noise * self.deviations], dim=2)
        for cell in self.cells:
            cell.prepare()
        drawn, moments = torch.zeros_like(self.drawn), torch.empty_like(posterior)
        windows = torch.zeros_like(self.windows[0])
        later_encoder = later_decoder = canvas.new_zeros(self.size, hidden)
        for step in range(self.steps - 1, -1, -1):
            self.write_backward(step + 1, canvas, windows, drawn[step + 1])
            self.windows_backward(windows, basis[step + 1], chain[step + 1], drawn[step + 1])
            output = self.plus_drawn(later_decoder, drawn[step + 1])
            inputs = self.product(of_decoder.backward(step, output), self.decoder[0].T)
            later_decoder, z = inputs.split([hidden, self.latent], dim=1)
            torch.addcmul(posterior[step], z.unsqueeze(1), spread[step], out=moments[step])
            output = self.plus_product(later_encoder, moments[step].flatten(1), self.posterior[0])
            inputs = self.product(of_encoder.backward(step, output), self.encoder[0].T)
            glimpse, later_encoder, to_decoder = inputs.split([seen, hidden, hidden], dim=1)
            later_decoder = later_decoder + to_decoder
            error = self.look_backward(step, glimpse, windows)
            canvas.addcmul_(error, slopes[step], value=-1)
        self.window(windows, 0, reads=False).zero_()  # nothing is written before the first step
        self.window(windows, 1, reads=False).zero_()
        self.windows_backward(windows, basis[0], chain[0], drawn[0])
        output = self.plus_drawn(later_decoder, drawn[0])
        return [
            later_encoder, output, canvas.view(self.size, whole.height, whole.channels, whole.width),
            *self.of_weights(of_encoder.gates(), self.states[:-1, :, : seen + 2 * hidden], self.encoder[0]),
            *self.of_weights(moments.flatten(2), self.states[1:, :, seen : seen + hidden], self.posterior[0]),
            *self.of_weights(of_decoder.gates(), self.states[:-1, :, seen + hidden :], self.decoder[0]),
            *self.of_weights(drawn, self.states[:, :, seen + hidden : seen + 2 * hidden], self.weights.drawn),
        ]  # fmt: skip

    def plus_drawn(self, addend: Tensor, drawn: Tensor) -> Tensor:
        """In full precision, as windows are placed."""
        return torch.addmm(addend, drawn, self.weights.drawn)

    def of_weights(self, gradients: Tensor, inputs: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """One product over all steps: gradients [T, B, out], inputs [T, B, in]."""
        gradients, inputs = gradients.flatten(0, 1), inputs.reshape(-1, inputs.shape[2]).to(weight.dtype)
        if not self.fused:
            return multiply(gradients.to(weight.dtype).T, inputs.contiguous().T).to(self.dtype), gradients.sum(0)
        return self.product(gradients.T, inputs.T), gradients.sum(0)

    def chain_of_windows(self) -> Tensor:
        """Of bounded logarithms and their exponentials, for each parameter of all steps: [T + 1, B, 10]."""
        bounds = self.whole.bounds[1]
        raw = self.drawn[:, :, : len(bounds)]
        within = (raw.abs() <= bounds).to(self.dtype)
        within[:, :, 4:6] *= self.bounded[:, :, 4:6]
        return within

    def basis_of_windows(self) -> Tensor:
        """What turns gradients of the filters into those of factors, means and log sharpness, [T + 1, B x 2 x F, 3, L].

        A softmax's gradient sums to zero, so that what it multiplies may be taken from its own mean.
        """
        whole, (_, sharpness, factors) = self.whole, self.of_filters(self.filters)
        logits = self.logits
        if whole.height != whole.width:
            logits = logits.masked_fill(whole.outside.isneginf(), 0)
        shares = self.windows / factors
        places = whole.pixels - (shares @ whole.pixels).unsqueeze(-1)
        logits = logits - torch.linalg.vecdot(shares, logits).unsqueeze(-1)
        basis = self.windows.new_empty(*self.windows.shape[:-1], 3, len(whole.pixels))
        basis[..., 0, :] = self.windows
        torch.mul(places.mul_(-2 * sharpness), self.windows, out=basis[..., 1, :])
        torch.mul(logits, self.windows, out=basis[..., 2, :])
        return basis.flatten(1, 3)

    def windows_backward(self, windows: Tensor, basis: Tensor, chain: Tensor, drawn: Tensor) -> None:
        """Of the filters [B, 2, F, L] to their parameters."""
        of_filters = torch.bmm(basis, windows.view(len(basis), -1, 1)).view(self.size, -1)
        torch.mul(of_filters @ self.whole.gathered, chain, out=drawn[:, : self.whole.bounds.shape[1]])

    def write_backward(self, step: int, canvas: Tensor, windows: Tensor, drawn: Tensor) -> None:
        rows, columns = (self.window(self.windows[step], axis, reads=False) for axis in (1, 0))
        of_rows = torch.bmm(canvas, columns.transpose(1, 2))
        of_rows = self.by_row(of_rows)
        torch.bmm(self.rows_written[step - 1].transpose(1, 2), canvas, out=self.window(windows, 0, reads=False))
        torch.bmm(rows, of_rows, out=self.patch(drawn))
        patch = self.patch(self.drawn[step])
        torch.bmm(patch, of_rows.transpose(1, 2), out=self.window(windows, 1, reads=False))

    def look_backward(self, step: int, seen: Tensor, windows: Tensor) -> Tensor:
        """The gradient of the error, [B, H x C, W]."""
        rows, columns = (self.window(self.windows[step], axis, reads=True) for axis in (1, 0))
        seen = seen.unflatten(1, (-1, self.whole.read_size))
        of_rows = torch.bmm(seen, columns)
        torch.bmm(seen.transpose(1, 2), self.rows_read[step], out=self.window(windows, 0, reads=True))
        by_row = of_rows.view(self.size, self.whole.read_size, -1)
        both = self.looked_at[step].flatten(2)
        torch.bmm(by_row, both.transpose(1, 2), out=self.window(windows, 1, reads=True))
        of_error = by_row[:, :, by_row.shape[2] // 2 :]
        return torch.bmm(rows.transpose(1, 2), of_error).view(self.size, -1, self.whole.width)


class Cell:
    """The LSTM of all steps behind its gates' products. Gates: keep, let in, let out, new.

    Args:
        cell: the first one, [B, hidden].
    """

    def __init__(self, steps: int, cell: Tensor) -> None:
        size, self.hidden = cell.shape
        self.cell = cell
        self.factors = cell.new_empty(steps, size, 4 * self.hidden)
        self.through, self.kept = (cell.new_empty(steps, size, self.hidden) for _ in range(2))

    def forward(self, step: int, gates: Tensor, out: Tensor) -> None:
        before, cut = self.cell, 3 * self.hidden
        opened, new = gates[:, :cut].sigmoid(), gates[:, cut:].tanh()
        keep, let_in, let_out = opened.chunk(3, dim=1)
        self.cell = torch.mul(keep, before).addcmul_(let_in, new)
        shown = self.cell.tanh()
        torch.mul(let_out, shown, out=out)
        # What the gradients of output and cell are multiplied by, while all of it is in the processor's cache.
        self.kept[step] = keep
        torch.addcmul(let_out, let_out * shown, shown, value=-1, out=self.through[step])
        of_opened, of_new = self.factors[step].split([cut, self.hidden], dim=1)
        torch.addcmul(opened, opened, opened, value=-1, out=of_opened)
        for factor, by in zip(of_opened.chunk(3, dim=1), (before, new, shown), strict=True):
            factor.mul_(by)
        torch.addcmul(let_in, let_in * new, new, value=-1, out=of_new)

    def prepare(self) -> None:
        self.of_cell = torch.zeros_like(self.cell)
        self.of_gates = torch.empty_like(self.factors)

    def backward(self, step: int, output: Tensor) -> Tensor:
        """The gradient of the gates, from that of the output and of what the last call has left of the cell's."""
        of_cell = torch.addcmul(self.of_cell, output, self.through[step])
        found, factors = (it.unflatten(1, (4, -1)) for it in (self.of_gates[step], self.factors[step]))
        torch.mul(factors, of_cell.unsqueeze(1), out=found)
        torch.mul(factors[:, 2], output, out=found[:, 2])
        self.of_cell = of_cell.mul_(self.kept[step])
        return self.of_gates[step]

    def gates(self) -> Tensor:
        """Gradients of all steps' gates, [T, B, 4 x hidden]."""
        return self.of_gates


class FusedCell:
    """The same by torch's own operation for GPUs. Gates: let in, keep, new, let out."""

    def __init__(self, steps: int, cell: Tensor) -> None:
        self.none = torch.cat([cell] * 4, dim=1)  # the operation adds two products
        self.cells = [cell]
        self.left: list[Tensor] = []
        self.found: list[Tensor] = []

    def forward(self, step: int, gates: Tensor, out: Tensor) -> None:
        output, cell, left = lstm_forward(gates, self.none, self.cells[step])
        self.cells.append(cell)
        self.left.append(left)
        out.copy_(output)

    def prepare(self) -> None:
        self.found, self.of_cell = [], torch.zeros_like(self.cells[0])

    def backward(self, step: int, output: Tensor) -> Tensor:
        before, after = self.cells[step : step + 2]
        gates, self.of_cell, _ = lstm_backward(output, self.of_cell, before, after, self.left[step], False)
        self.found.append(gates)
        return gates

    def gates(self) -> Tensor:
        return torch.stack(self.found[::-1])
