"""What attacks find over several budgets: who is fooled at which, and the smallest perturbation for each example."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_modules.attacks.gradient import Examples, LogitsOf
from lightning_modules.attacks.norms import Norm, size


class Attack(Protocol):
    """One of ``gradient.py`` or ``auto_pgd.py``, or of one's own."""

    norm: Norm
    restarts: Any
    """How many times it is worth asking."""

    @property
    def name(self) -> str:
        """With its steps, restarts and norm: a part of the metrics' keys."""
        ...

    def __call__(self, logits_of: LogitsOf, examples: Examples, budget: Tensor, restart: int = 0) -> Tensor:
        """budget: [B]. The perturbed images, [B, C, H, W] in [0, 1]."""
        ...


@dataclass
class Found:
    """Of each example."""

    wrong: Tensor
    """[number of budgets, B] bool: taken for another class at this budget or a smaller one."""
    smallest: Tensor
    """[B]: the norm of the smallest perturbation found; 0 where the image itself is taken for another class, infinite
    where none was found up to the largest budget: censored, not robust."""
    images: Tensor
    """[B, C, H, W]: with that perturbation; without any where none was found. Of examples with a ``reach`` what has
    moved."""


def fooled(logits_of: LogitsOf, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        return logits_of(images).argmax(1) != labels


def search(
    attack: Attack, logits_of: LogitsOf, examples: Examples, budgets: Sequence[float], bisections: int = 0
) -> Found:
    """Attack at each budget, in ascending order, those that no smaller one has fooled: the curve cannot fall.

    bisections: then halve the gap between the largest budget that did not fool an example and the smallest that did,
    as often as this.
    """
    images, number = examples.images, len(examples)
    clean = fooled(examples.seen_by(logits_of), images, examples.labels) if number else examples.labels.bool()
    smallest = images.new_zeros(number).masked_fill_(~clean, torch.inf)
    perturbed, below, above = images.clone(), torch.zeros_like(smallest), torch.full_like(smallest, torch.inf)
    wrong = []
    for budget in budgets:
        left = smallest.isinf().nonzero().squeeze(1)
        attempt(attack, logits_of, examples, left, torch.full_like(smallest, budget), smallest, perturbed)
        hit = smallest[left].isfinite()
        above[left[hit]], below[left[~hit]] = smallest[left[hit]], budget
        wrong.append(smallest.isfinite())
    for _ in range(bisections):
        open_ = ((smallest > 0) & above.isfinite()).nonzero().squeeze(1)
        middle = (below + above.clamp(max=torch.finfo(above.dtype).max)) / 2
        hit = attempt(attack, logits_of, examples, open_, middle, smallest, perturbed)
        above[open_[hit]], below[open_[~hit]] = smallest[open_[hit]], middle[open_[~hit]]
    return Found(torch.stack(wrong) if wrong else clean.unsqueeze(0)[:0], smallest, perturbed)


def attempt(
    attack: Attack, logits_of: LogitsOf, examples: Examples, chosen: Tensor, budget: Tensor, smallest: Tensor,
    perturbed: Tensor,
) -> Tensor:  # fmt: skip
    """Attack the chosen examples with all restarts, writing what is smaller than before; whom it fooled, [chosen]."""
    hit = torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device)
    for restart in range(attack.restarts):
        left = (~hit).nonzero().squeeze(1)
        if not len(left):
            break
        rows = chosen[left]
        part = examples[rows]
        seen = part.seen_by(logits_of)
        moved = attack(seen, part, budget[rows], restart)
        found = fooled(seen, moved, part.labels)
        norms = size(moved - part.images, attack.norm)
        better = found & (norms < smallest[rows])
        smallest[rows[better]], perturbed[rows[better]] = norms[better], moved[better]
        hit[left[found]] = True
    return hit
