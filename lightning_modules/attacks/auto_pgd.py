"""APGD: projected gradients whose steps choose their size by themselves (Croce & Hein 2020, arXiv:2003.01690).

With the cross-entropy, or with the difference of logits ratio aimed at one class after the other. These are two of the
four parts of AutoAttack: what they do not find, AutoAttack might.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from lightning_modules.attacks.gradient import (
    Examples,
    LogitsOf,
    check_counts,
    random_start,
    uphill,
    within,
    worse_of,
)
from lightning_modules.attacks.norms import Norm, spread

Objective = Callable[[Tensor], Tensor]
"""Logits [B, K] -> what is to rise, [B]."""
MOMENTUM, RISING = 0.75, 0.75  # alpha of eq. 3; rho of condition 1


def checkpoints(steps: int) -> list[int]:
    """The iterations at which a step may be halved (section 3): ever shorter periods, none below 6 % of all."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return sorted({math.ceil(round(share * steps, 6)) for share in shares if share <= 1})


def targeted_ratio(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """-(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), z_1 >= z_2 >= ... (eq. 7): the scale of the logits does not matter.

    logits: [B, K], K >= 4; labels, targets: [B]; result: [B].
    """
    ordered = logits.sort(dim=1, descending=True).values
    of_label, of_target = (logits.gather(1, it.unsqueeze(1)).squeeze(1) for it in (labels, targets))
    return (of_target - of_label) / (ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2 + 1e-12)


@dataclass
class Search:
    """Where the ascent stands, for each example."""

    moved: Tensor
    former: Tensor
    best: Tensor
    best_value: Tensor
    step: Tensor
    """[B], in the units of the norm."""
    risen: Tensor
    """[B]: how often the objective rose since the last checkpoint."""
    step_then: Tensor
    best_then: Tensor
    """Step and best value at the last checkpoint."""
    value: Tensor = field(default_factory=lambda: torch.empty(0))


def ascend(
    logits_of: LogitsOf, objective: Objective, examples: Examples, budget: Tensor, norm: Norm, steps: int, start: Tensor
) -> Tensor:
    """Algorithm 1 from ``start``; the worst image found, as of ``ProjectedGradient``."""
    at, periods = search_from(start, budget), dict(pairwise(reversed(checkpoints(steps))))
    worst, worst_loss = examples.images, torch.full_like(budget, -torch.inf)
    for number in range(steps + 1):
        value, gradient, wrong = value_and_gradient(logits_of, objective, at.moved, examples.labels)
        worst, worst_loss = worse_of(worst, worst_loss, at.moved, value, wrong)
        rises = value > at.best_value
        at.best = torch.where(spread(rises, at.moved), at.moved, at.best)
        at.best_value = torch.maximum(value, at.best_value)
        if number:
            at.risen += value > at.value
        at.value = value
        if number in periods and halve(at, number - periods[number]):
            _, gradient, _ = value_and_gradient(logits_of, objective, at.moved, examples.labels)
        if number < steps:
            share = MOMENTUM if number else 1.0
            ahead = within(
                examples, at.moved + spread(at.step, gradient) * uphill(examples, gradient, norm), norm, budget
            )
            following = at.moved + share * (ahead - at.moved) + (1 - share) * (at.moved - at.former)
            at.former, at.moved = at.moved, within(examples, following, norm, budget)
    return worst


def search_from(start: Tensor, budget: Tensor) -> Search:
    low = torch.full_like(budget, -torch.inf)
    return Search(start, start, start, low, 2 * budget, torch.zeros_like(budget), 2 * budget, low)


def halve(at: Search, period: int) -> bool:
    """Where the objective rose too rarely, or nothing has come of this step, halve it and go back to the best image.

    Whether any example went back: its gradient there has to be taken anew.
    """
    stuck = (at.step_then == at.step) & (at.best_then == at.best_value)
    halved = (at.risen < RISING * period) | stuck
    at.step_then, at.best_then = at.step, at.best_value
    at.step = torch.where(halved, at.step / 2, at.step)
    at.moved = torch.where(spread(halved, at.moved), at.best, at.moved)
    at.value = torch.where(halved, at.best_value, at.value)
    at.risen = torch.zeros_like(at.risen)
    return bool(halved.any())


def value_and_gradient(
    logits_of: LogitsOf, objective: Objective, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The objective [B], its gradient by the pixels, and whether an example is taken for another class."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = logits_of(images)
        values = objective(logits)
        (gradient,) = torch.autograd.grad(values.sum(), images)
    return values.detach(), gradient.to(images.dtype), logits.argmax(1) != labels


@dataclass(frozen=True)
class AutoPGD:
    """APGD-CE: the cross-entropy rises."""

    norm: Norm
    steps: int = 100
    restarts: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "restarts")

    @property
    def name(self) -> str:
        return f"apgd_ce{self.steps}x{self.restarts}_{self.norm}"

    def __call__(self, logits_of: LogitsOf, examples: Examples, budget: Tensor, restart: int = 0) -> Tensor:
        """As of ``FastGradient``."""
        start = random_start(examples, self.norm, budget, self.seed, restart)

        def objective(logits: Tensor) -> Tensor:
            return cross_entropy(logits, examples.labels, reduction="none")

        return ascend(logits_of, objective, examples, budget, self.norm, self.steps, start)


@dataclass(frozen=True)
class TargetedAutoPGD:
    """APGD-DLR aimed at each of an image's likeliest other classes; needs four classes. A restart is a target."""

    norm: Norm
    steps: int = 100
    targets: int = 9
    """How many, of those that there are."""
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(self, "steps", "targets")

    @property
    def restarts(self) -> int:
        return self.targets

    @property
    def name(self) -> str:
        return f"apgd_dlr{self.steps}x{self.targets}_{self.norm}"

    def __call__(self, logits_of: LogitsOf, examples: Examples, budget: Tensor, restart: int = 0) -> Tensor:
        """As of ``FastGradient``; restart: the target's place among the likeliest other classes."""
        with torch.no_grad():
            others = logits_of(examples.images).scatter(1, examples.labels.unsqueeze(1), -torch.inf)
        if (classes := others.shape[1]) < 4:
            raise UserError(f"apgd_dlr needs four classes or more, and the module tells {classes} apart: take apgd_ce.")
        if restart >= classes - 1:
            return examples.images
        target = others.argsort(dim=1, descending=True, stable=True)[:, restart]
        start = random_start(examples, self.norm, budget, self.seed, restart)

        def objective(logits: Tensor) -> Tensor:
            return targeted_ratio(logits, examples.labels, target)

        return ascend(logits_of, objective, examples, budget, self.norm, self.steps, start)
