"""Products of large float32 matrices on a CPU, by whichever library uses all of the processor.

torch has MKL multiply dense matrices, which keeps to AVX2 on processors of other makers than its own, also where they
have AVX-512; oneDNN, which does torch's convolutions, does not. There a product takes half the time in oneDNN; the
numbers are the same up to rounding.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAST = 2**15
"""Numbers in a matrix of weights from which on a product is long enough for what it takes to call one's own."""
FEW = 5
"""As a power of two: up to half as many numbers of rows there are from one number to its double."""


@cache
def by_onednn() -> bool:
    """Whether this processor is one of those."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    description = Path("/proc/cpuinfo")
    maker = description.read_text() if description.exists() else "GenuineIntel"
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return wide and "GenuineIntel" not in maker and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left right^T + bias, without a gradient. left: [M, K]; right: [N, K]; bias: [N] -> [M, N]."""
    if suits(left, right):
        return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")
    return functional.linear(left, right, bias)


def suits(left: Tensor, right: Tensor) -> bool:
    plain = left.ndim == 2 and left.dtype == right.dtype == torch.float32 and left.is_cpu and len(left) > 1
    within = torch.compiler.is_compiling() or torch.jit.is_tracing()  # pyright: ignore
    usual = within or torch.is_autocast_enabled("cpu") or not torch.backends.mkldnn.enabled
    return plain and not usual and right.numel() >= LEAST and by_onednn()


def to_round(number: int) -> int:
    """How many there are from a number to the next round one."""
    return -number % 2 ** max(number.bit_length() - FEW, 0)


def with_round_rows(x: Tensor) -> Tensor:
    """[M, K] -> the same with zeros behind it, so that there are few numbers of rows: by these the library keeps
    kernels, up to megabytes of them for each number that it has met, and texts have any number of tokens."""
    missing = to_round(x.shape[0])
    return torch.cat([x, x.new_zeros(missing, x.shape[1])]) if missing else x


class Product(torch.autograd.Function):
    """``multiply`` with a gradient, which has one in its turn."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(left, right)
        return multiply(left, right, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        left, right = ctx.saved_tensors
        of_left, of_right, of_bias = ctx.needs_input_grad
        return (
            Product.apply(gradient, right.T, None) if of_left else None,
            Product.apply(gradient.T, left.T, None) if of_right else None,
            gradient.sum(0) if of_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear``."""
    if not suits(x, weight):
        return functional.linear(x, weight, bias)
    found: Tensor = Product.apply(with_round_rows(x), weight, bias)  # pyright: ignore
    return found[: x.shape[0]] if to_round(x.shape[0]) else found


class Products:
    """Whether layers take products as in training while they are evaluated, see ``as_in_training``."""

    everywhere = False


@contextmanager
def as_in_training() -> Iterator[None]:
    """Inside, evaluation takes the products of training: for scores that decide what is learnt next, and are no figure
    that somebody compares across machines."""
    before, Products.everywhere = Products.everywhere, True
    try:
        yield
    finally:
        Products.everywhere = before


class Linear(nn.Linear):
    """``nn.Linear``, by ``linear`` in training; what is measured does not depend on the processor more than it did."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training or Products.everywhere:
            return linear(input, self.weight, self.bias)
        return super().forward(input)


def with_own_linears(network: nn.Module) -> nn.Module:
    """The network, its layers of class ``nn.Linear`` made ``Linear`` where they stand."""
    for layer in network.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear
    return network
