"""The features that a network has at one of its layers, which is named by the module's path."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from foundation.errors import UserError, did_you_mean


def layer_named(network: nn.Module, path: str | None, key: str) -> nn.Module | None:
    """None where there is no path: the logits are then the features. key: what a refusal names."""
    if path is None:
        return None
    # A list of layers has no forward, and so puts out nothing.
    known = {name: it for name, it in network.named_modules() if name and type(it).forward is not nn.Module.forward}
    if path not in known:
        raise UserError(f"{key}: {type(network).__name__} has no layer '{path}'; {did_you_mean(path, known)}")
    return known[path]


def features_and_logits(
    logits_of: Callable[[Tensor], Tensor], layer: nn.Module | None, inputs: Tensor
) -> tuple[Tensor, Tensor]:
    """What the layer puts out on the way to the logits, [B, features], and these, [B, K]."""
    if layer is None:
        logits = logits_of(inputs)
        return logits, logits
    seen: list[Any] = []
    handle = layer.register_forward_hook(lambda _layer, _inputs, output: seen.append(output))
    try:
        logits = logits_of(inputs)
    finally:
        handle.remove()
    if not seen or not isinstance(seen[-1], Tensor) or seen[-1].shape[:1] != inputs.shape[:1]:
        raise UserError(
            f"the layer {type(layer).__name__} puts out no row of features for each input: name another layer."
        )
    return seen[-1].flatten(1).to(torch.promote_types(seen[-1].dtype, torch.float32)), logits
