"""Layers of Salimans et al. 2016: noise, weight and virtual batch norm, minibatch discrimination."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.functional import conv2d, conv_transpose2d

from foundation.evaluation import in_mode
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.products import linear

Gather = Callable[[Tensor], Tensor]
"""This rank's rows -> those of all ranks, with gradient."""


def alone(rows: Tensor) -> Tensor:
    return rows


class GaussianNoise(nn.Module):
    """Adds N(0, std^2) to each number in training."""

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.std == 0:
            return x
        noise = torch.randn(x.shape, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
        return torch.add(x, noise, alpha=self.std)

    def extra_repr(self) -> str:
        return f"std={self.std}"


class WeightNorm(nn.Module):
    """y = g (v x) / ||v|| + b, with g and b set by the first batch (Salimans & Kingma 2016, section 3).

    While ``initializing``, a forward makes its own pre-activation of mean 0 and standard deviation ``init_std`` in
    every unit, over batch and space, keeps the g and b that do so, and passes the normalised values on: one pass
    initialises a whole network.

    Args:
        shape: of v.
        output_dim: the dimension of v that counts units.
        std: of v's initial values.
        train_gain: whether g is trained; else it is what the first batch made it.
        init_std: None leaves g at 1 and b at 0.
    """

    gain: Tensor

    def __init__(
        self, shape: tuple[int, ...], output_dim: int, std: float, train_gain: bool, init_std: float | None
    ) -> None:
        super().__init__()
        units = shape[output_dim]
        self.weight = nn.Parameter(torch.empty(shape).normal_(0, std))
        self.bias = nn.Parameter(torch.zeros(units))
        if train_gain:
            self.gain = nn.Parameter(torch.ones(units))
        else:
            self.register_buffer("gain", torch.ones(units))
        self.output_dim = output_dim
        self.summed = tuple(it for it in range(len(shape)) if it != output_dim)
        self.init_std = init_std
        self.initializing = False

    def scale(self) -> Tensor:
        """g / ||v||, [units]."""
        return self.gain / torch.linalg.vector_norm(self.weight, dim=self.summed)

    def fuses(self) -> bool:
        """Whether one kernel makes the weights, and one their gradients, where a dozen would be launched else."""
        return not self.weight.is_cpu

    def normed(self) -> Tensor:
        """g v / ||v||, in the shape of v."""
        shape = [-1 if it == self.output_dim else 1 for it in range(self.weight.ndim)]
        if self.fuses():
            gain = self.gain.view(shape)
            return torch._weight_norm(self.weight, gain, self.output_dim)  # pyright: ignore[reportPrivateImportUsage]
        return self.weight * self.scale().view(shape)

    def initialized(self, outputs: Tensor) -> Tensor:
        """Outputs [B, units, ...] without b, normalised; g and b are set to what makes them so."""
        assert self.init_std is not None
        over = [0, *range(2, outputs.ndim)]
        std, mean = torch.std_mean(outputs, dim=over, correction=0, keepdim=True)
        factor = self.init_std / std.clamp_min(1e-8)  # a unit that is always the same stays so
        self.gain.data.mul_(factor.flatten())
        self.bias.data.copy_((-mean * factor).flatten())
        return (outputs - mean) * factor


class WeightNormLinear(WeightNorm):
    def __init__(
        self, inputs: int, outputs: int, std: float = 0.1, train_gain: bool = False, init_std: float | None = 1.0
    ) -> None:
        super().__init__((outputs, inputs), 0, std, train_gain, init_std)

    def forward(self, x: Tensor) -> Tensor:
        """On a CPU the products are scaled, not the weights: there are fewer of them."""
        if self.fuses():
            bias = None if self.initializing else self.bias
            outputs = functional.linear(x, self.normed(), bias)
            return self.initialized(outputs) if self.initializing else outputs
        products = linear if self.training else functional.linear
        outputs = products(x, self.weight) * self.scale()
        return self.initialized(outputs) if self.initializing else outputs + self.bias


class WeightNormConv2d(WeightNorm):
    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0, std: float = 0.05
    ) -> None:
        super().__init__((outputs, inputs, kernel, kernel), 0, std, train_gain=False, init_std=1.0)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        weight = self.normed()
        if self.initializing:
            return self.initialized(conv2d(x, weight, None, self.stride, self.padding))
        return conv2d(x, weight, self.bias, self.stride, self.padding)


class WeightNormUp(WeightNorm):
    """A 5x5 transposed convolution that doubles the side; its gain is trained."""

    def __init__(self, inputs: int, outputs: int, std: float = 0.05, init_std: float | None = 0.1) -> None:
        super().__init__((inputs, outputs, 5, 5), 1, std, train_gain=True, init_std=init_std)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.normed()
        how = {"stride": 2, "padding": 2, "output_padding": 1}
        if self.initializing:
            return self.initialized(conv_transpose2d(x, weight, None, **how))
        return conv_transpose2d(x, weight, self.bias, **how)


class VirtualBatchNorm(nn.Module):
    """Batch norm by a reference batch, which comes first in x, and by the example itself (section 3.4).

    The reference is normalised by its own statistics; each other example by those of the reference with itself as one
    example more. So an example's output depends on itself and the reference alone.

    Args:
        features: channels.
        references: size of the reference batch.
    """

    def __init__(self, features: int, references: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.references, self.eps = references, eps
        self.gain = nn.Parameter(torch.empty(features).normal_(1.0, 0.02))
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """x: [references + B, features, ...]."""
        x = at_least_single(x)
        space = list(range(2, x.ndim))
        variance, middle = torch.var_mean(x[: self.references], dim=[0, *space], correction=0, keepdim=True)
        centred = x - middle  # moments about the reference's mean: those about 0 would cancel
        reference, live = centred[: self.references], centred[self.references :]
        mean, square = (live.mean(space, True), live.square().mean(space, True)) if space else (live, live.square())
        share = 1 / (self.references + 1)
        mean = share * mean
        live_variance = (share * square + (1 - share) * variance - mean.square()).clamp_min(0)
        normalized = torch.cat(
            [reference * torch.rsqrt(variance + self.eps), (live - mean) * torch.rsqrt(live_variance + self.eps)]
        )
        shape = (-1, *[1] * len(space))
        return normalized * self.gain.view(shape) + self.bias.view(shape)


class MinibatchDiscrimination(nn.Module):
    """How close an example is to the others of its batch, as ``kernels`` more features (section 3.2).

    M = x T in R^{kernels x width}; o(x_i)_b = sum over j != i of exp(-||M_ib - M_jb||_1). As in the released code an
    example is not compared with itself (in the paper it is, which adds 1), T has a trained scale for each column, and
    each kernel has a bias. The first batch scales distances so that half the mean distance to the nearest other example
    is 1, and makes the features of mean 0.

    Args:
        features: length of x.
        kernels, width: B and C of the paper.
        image_shape: of the images that stand for a batch in evaluation.
        references: how many of them.
    """

    neighbours: Tensor
    reference_images: Tensor

    def __init__(self, features: int, kernels: int, width: int, image_shape: tuple[int, ...], references: int) -> None:
        super().__init__()
        self.kernels, self.width = kernels, width
        self.outputs = features + kernels
        self.weight = nn.Parameter(torch.empty(features, kernels, width).normal_(0, 0.05))
        self.log_scale = nn.Parameter(torch.zeros(kernels, width))
        self.bias = nn.Parameter(torch.full((kernels,), -1.0))
        self.register_buffer("neighbours", torch.tensor(float(references - 1)))
        self.register_buffer("reference_images", torch.zeros(references, *image_shape))
        self.initializing = False

    def project(self, x: Tensor) -> Tensor:
        """x: [n, features] -> M, [n, kernels, width] float32 or double."""
        scale = self.log_scale.exp() / torch.linalg.vector_norm(self.weight, dim=0)
        projected = functional.linear(x, self.weight.flatten(1).T).unflatten(1, (self.kernels, self.width))
        return at_least_single(projected) * scale

    def forward(self, x: Tensor, sizes: Sequence[int], gather: Gather = alone) -> Tensor:
        """Batches of these sizes, one behind the other -> x with its features behind, [n, features + kernels]."""
        parts = self.project(x).split(list(sizes))
        if self.initializing:
            return torch.cat([x, self._first(torch.stack(parts))], dim=1)
        closeness = torch.cat([similarity(own, gather(own)) for own in parts]) - 1  # exp(0), of one with itself
        return torch.cat([x, (closeness + self.bias).to(x.dtype)], dim=1)

    def against(self, x: Tensor, reference: Tensor) -> Tensor:
        """The same for examples that are no batch, beside the features of reference images: [n, features + kernels]."""
        closeness = similarity(self.project(x), self.project(reference)) * (self.neighbours / len(reference))
        return torch.cat([x, (closeness + self.bias).to(x.dtype)], dim=1)

    def _first(self, parts: Tensor) -> Tensor:
        """parts: [batches, n, kernels, width] -> centred features [batches * n, kernels]."""
        distances = torch.stack([l1_distances(own, own) for own in parts])  # [batches, kernels, n, n]
        distances.diagonal(dim1=2, dim2=3).fill_(float("inf"))
        typical = 0.5 * distances.amin(dim=3).mean(dim=(0, 2)).clamp_min(1e-8)  # [kernels]; 0 where all are alike
        closeness = torch.exp(-distances / typical.view(-1, 1, 1)).sum(dim=3).transpose(1, 2).flatten(0, 1)
        self.log_scale.data.sub_(typical.log().unsqueeze(1))
        self.bias.data.copy_(-closeness.mean(dim=0))
        self.neighbours.fill_(parts.shape[1] - 1)
        return closeness + self.bias


class L1Distances(torch.autograd.Function):
    """[C, B, n] and [C, B, N] -> [B, n, N], one of the C coordinates after the other, also in the gradient: that of
    ``torch.cdist`` has, on a GPU, a buffer of n N B C elements."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, others: Tensor) -> Tensor:
        ctx.save_for_backward(own, others)
        distances = (own[0].unsqueeze(2) - others[0].unsqueeze(1)).abs_()
        for mine, theirs in zip(own[1:], others[1:], strict=True):
            distances += (mine.unsqueeze(2) - theirs.unsqueeze(1)).abs_()
        return distances

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        own, others = ctx.saved_tensors
        of_own, of_others = torch.empty_like(own), torch.empty_like(others)
        for coordinate, (mine, theirs) in enumerate(zip(own, others, strict=True)):
            pulled = (mine.unsqueeze(2) - theirs.unsqueeze(1)).sign_().mul_(gradient)
            of_own[coordinate], of_others[coordinate] = pulled.sum(2), -pulled.sum(1)
        return of_own, of_others


def l1_distances(own: Tensor, others: Tensor) -> Tensor:
    """[n, B, C] and [N, B, C] -> [B, n, N], without the n N B C differences."""
    own, others = (it.permute(2, 1, 0).contiguous() for it in (own, others))
    return L1Distances.apply(own, others)  # pyright: ignore[reportReturnType]


def similarity(own: Tensor, others: Tensor) -> Tensor:
    """sum over others of exp(-L1 distance), for each kernel. [n, B, C] and [N, B, C] -> [n, B]."""
    return torch.exp(-l1_distances(own, others)).sum(dim=2).T


@contextmanager
def initializing(network: nn.Module) -> Iterator[None]:
    """A forward within sets gains and biases by its batch (see ``WeightNorm``); in training mode, without gradient."""
    parts = [it for it in network.modules() if isinstance(it, MinibatchDiscrimination)]
    parts += [it for it in network.modules() if isinstance(it, WeightNorm) and it.init_std is not None]
    for part in parts:
        part.initializing = True
    try:
        with in_mode(network, training=True), torch.no_grad():
            yield
    finally:
        for part in parts:
            part.initializing = False
