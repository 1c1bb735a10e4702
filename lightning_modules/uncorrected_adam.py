"""BERT's optimiser (``optimization.py`` of google-research/bert), and the usual one with its rule of what decays."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

LATE = 2.0**24
"""A number of steps at which beta^t is 0, so that torch divides by 1 exactly; one more leaves a float32 as it is."""


class PartlyDecayedAdam(torch.optim.AdamW):
    """Adam with decoupled weight decay on all that has two dimensions or more: biases and the weights of layer norms,
    which have one, do not decay.

    Args:
        parameters: tensors.
        lr, betas, eps, weight_decay, fused: as torch's.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        fused: bool | None = None,
    ) -> None:
        given = list(parameters)
        groups = [
            {"params": [it for it in given if it.ndim > 1], "weight_decay": weight_decay},
            {"params": [it for it in given if it.ndim <= 1], "weight_decay": 0.0},
        ]
        present = [group for group in groups if group["params"]]
        super().__init__(present, lr=lr, betas=(betas[0], betas[1]), eps=eps, weight_decay=weight_decay, fused=fused)


class UncorrectedAdam(PartlyDecayedAdam):
    """The same without bias correction.

        m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;  theta = theta - lr (m / (sqrt(v) + eps) + decay theta)

    torch's own always divide m and v by 1 - beta^t, so that their first steps are not small ones. Here that t begins so
    late that both are 1, and torch's fused kernel does the rest.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for it in group["params"]:
                if it.grad is not None and not self.state[it]:
                    self.state[it] = {
                        "step": torch.tensor(LATE, device=it.device if group["fused"] else "cpu"),
                        "exp_avg": torch.zeros_like(it, memory_format=torch.preserve_format),
                        "exp_avg_sq": torch.zeros_like(it, memory_format=torch.preserve_format),
                    }
        super().step()
        return loss
