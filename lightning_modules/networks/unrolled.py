"""Linear layers that an unrolled recurrence uses at every time step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lightning_modules.networks.precision import half_where_asked, out_of_autocast
from lightning_modules.networks.products import multiply


@dataclass
class Uses:
    """What one pass has made of a layer: inputs [B, in] and gradients of outputs [B, out], a pair for each time step
    that the backward pass has come through."""

    weight: Tensor
    bias: Tensor
    token: Tensor
    """Stands for the parameters in autograd's graph, so that their gradient is asked for after that of all uses."""
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class Parameters(torch.autograd.Function):
    """The end of the backward pass: one product over all time steps."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.pairs = pairs
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, Tensor, None]:
        inputs, gradients = (torch.cat(them) for them in zip(*ctx.pairs, strict=True))
        ctx.pairs.clear()
        return multiply(gradients.T, inputs.T), gradients.sum(0), None


class Use(torch.autograd.Function):
    """One time step."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, token: Tensor, uses: Uses) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.uses = uses
        return multiply(inputs, uses.weight, uses.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, None]:
        (inputs,) = ctx.saved_tensors
        # Where the gradient of the parameters is not asked for, nothing would take the pairs away again.
        if torch._C._will_engine_execute_node(ctx.uses.token.grad_fn):  # pyright: ignore[reportAttributeAccessIssue]
            ctx.uses.pairs.append((inputs.detach(), gradient))
        wanted = multiply(gradient, ctx.uses.weight.T) if ctx.needs_input_grad[0] else None
        return wanted, ctx.uses.token.detach(), None


class UnrolledLinear(nn.Linear):
    """``nn.Linear``, and inside ``unrolled`` cheaper: weights are made half precision once, where autocast asks for it,
    and their gradient is one product over all time steps, where autograd takes one a step and adds them up."""

    uses: Uses | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.uses is None or torch.compiler.is_compiling():
            return super().forward(input)
        with out_of_autocast(input.device):
            return Use.apply(input.to(self.uses.weight.dtype), self.uses.token, self.uses)  # pyright: ignore


@contextmanager
def unrolled(network: nn.Module) -> Iterator[None]:
    """Round all time steps of one pass. Without gradients, and under ``torch.compile``, it changes nothing."""
    layers = [it for it in network.modules() if isinstance(it, UnrolledLinear)]
    wanted = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    try:
        for layer in layers if wanted else []:
            pairs: list[tuple[Tensor, Tensor]] = []
            token = Parameters.apply(layer.weight, layer.bias, pairs)
            weight, bias = (half_where_asked(it.detach()) for it in (layer.weight, layer.bias))
            layer.uses = Uses(weight, bias, token, pairs)  # pyright: ignore[reportArgumentType]
        yield
    finally:
        for layer in layers:
            layer.uses = None
