"""DeepCloak (Gao, Wang, Lin, Xu & Qi 2017, arXiv:1702.06763): a trained net without the features an attack moves most.

The features h(x) of an image are what one layer reads, in the paper the linear layer at the end. How far an attack
moves each of them is summed over training images, and the layer reads zeros in place of the largest; no weight changes.
``callbacks/deepcloak.py`` measures what that is worth.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from foundation.errors import UserError, did_you_mean
from lightning_modules.networks.improved_gan_layers import WeightNormLinear


def sensitivity(features: Tensor, attacked: Tensor) -> Tensor:
    """sum over images of |h_j(x') - h_j(x)| for each feature j, x' being the attacked image. [B, ...] -> [D] double."""
    return (attacked - features).flatten(1).double().abs().sum(0)


def most_sensitive(scores: Tensor, percent: float) -> Tensor:
    """Which features are masked: the ``percent`` of largest score, rounded up to whole ones as in the released code.

    Of equal scores the first features. [D] -> [D] bool.
    """
    count = math.ceil(len(scores) * percent / 100 - 1e-9)
    masked = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    masked[scores.argsort(descending=True, stable=True)[:count]] = True
    return masked


@contextmanager
def masking(layer: nn.Module, masked: Tensor) -> Iterator[None]:
    """Inside, a layer reads zeros in place of masked features, [D] bool; the others reach it bit for bit."""

    def take_away(_: nn.Module, read: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return read[0].masked_fill(masked.view(read[0].shape[1:]), 0), *read[1:]

    handle = layer.register_forward_pre_hook(take_away)
    try:
        yield
    finally:
        handle.remove()


def features_of(layer: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """h(x), [B, ...]: what the layer reads while a net looks at images [B, C, H, W]."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, read: seen.append(read[0].detach()))
    try:
        with torch.no_grad():
            forward(images)
    finally:
        handle.remove()
    return seen[0]


# --- which layer -------------------------------------------------------------------------------------------------


def layer_that_reads_features(
    module: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor, name: str | None, key: str
) -> tuple[str, nn.Module]:
    """The layer of that name, or the last linear one where it is None, and its name.

    It has to read one tensor [B, ...], once for all that ``forward`` does with images [B, C, H, W].

    Args:
        key: what a sentence calls the name.
    """
    readers = layers_that_read_once(module, forward, images)
    layers = dict(module.named_modules())
    linear = [it for it in readers if isinstance(layers[it], nn.Linear | WeightNormLinear)]
    if name is None:
        if not linear:
            raise UserError(
                f"{type(module).__name__} has no linear layer that reads features once: name another with {key}, which "
                f"reads what is to be masked; {did_you_mean('', readers)}"
            )
        return linear[-1], layers[linear[-1]]
    if name not in layers or not name:
        raise UserError(
            f"{key} is {name}, and {type(module).__name__} has no such layer; {did_you_mean(str(name), readers)}"
        )
    if name not in readers:
        raise UserError(
            f"{key} is {name}, which does not read one tensor of features, once for each image: name one that does, "
            f"such as {linear[-1] if linear else next(iter(readers), 'none')}."
        )
    return name, layers[name]


def layers_that_read_once(module: nn.Module, forward: Callable[[Tensor], Tensor], images: Tensor) -> list[str]:
    """Names of the layers that are given a tensor [B, ...] first, once in a forward, in the order in which they are."""
    order: list[str] = []
    usable: dict[str, bool] = {}

    def listen(name: str) -> Callable[..., None]:
        def note(_: nn.Module, read: tuple[object, ...]) -> None:
            first = read[0] if read else None
            fits = isinstance(first, Tensor) and first.is_floating_point() and first.shape[:1] == images.shape[:1]
            order.append(name)
            usable[name] = fits and name not in usable

        return note

    handles = [it.register_forward_pre_hook(listen(name)) for name, it in module.named_modules() if name]
    try:
        with torch.no_grad():
            forward(images)
    finally:
        for handle in handles:
            handle.remove()
    return [name for name in order if usable[name]]
