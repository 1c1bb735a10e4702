"""Attacks by gradients on pixels in [0, 1]: FGM, its iterated form, projected gradients, and their search.

An attack looks for a perturbation within a budget that makes a classifier wrong. It is given a function from images to
logits, whose parameters need no gradient, and changes nothing: ``foundation.evaluation`` is the door to that.
What it finds for an example depends on the example, its budget and its index alone, whatever batch or rank it is in.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from foundation.randomness import keyed_generator
from lightning_modules.attacks.norms import Norm, drawn_in_ball, into_ball, spread, steepest

LogitsOf = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] in [0, 1] -> logits [B, K]."""


class Reach(Protocol):
    """Of examples that do not move as images themselves, or not every way within the ball: how they do.

    ``moved`` is what moves, [B, ...]: pixels, or numbers that an image is made of.
    """

    def __getitem__(self, chosen: Tensor) -> "Reach":
        """That of the chosen examples."""
        ...

    def see(self, moved: Tensor) -> Tensor:
        """The classifier's inputs."""
        ...

    def logits(self, logits_of: LogitsOf, moved: Tensor, labels: Tensor) -> Tensor:
        """Of what the classifier sees, [B, K]. Where it may not count as another class, the label's is the largest."""
        ...

    def along(self, gradient: Tensor) -> Tensor:
        """What of a gradient points where the examples can go, [B, ...]."""
        ...

    def project(self, moved: Tensor) -> Tensor:
        """The nearest within reach, or one that is near: never farther from the example in any norm of the ball."""
        ...


@dataclass(frozen=True)
class Examples:
    """What is attacked."""

    images: Tensor
    """[B, C, H, W] in [0, 1]."""
    labels: Tensor
    """[B] int64."""
    indices: Tensor
    """[B] int64: in their split; what is drawn for an example is a function of it."""
    box: tuple[float, float] | None = (0.0, 1.0)
    """The least and largest value of a pixel; None for points without bounds."""
    reach: Reach | None = None
    """None: all of the ball."""

    def __getitem__(self, chosen: Tensor) -> "Examples":
        reach = None if self.reach is None else self.reach[chosen]
        return Examples(self.images[chosen], self.labels[chosen], self.indices[chosen], self.box, reach)

    def seen_by(self, logits_of: LogitsOf) -> LogitsOf:
        """From what moves to logits."""
        reach = self.reach
        return logits_of if reach is None else lambda moved: reach.logits(logits_of, moved, self.labels)

    def __len__(self) -> int:
        return len(self.images)


def loss_and_gradient(logits_of: LogitsOf, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each example's cross-entropy [B], its gradient by the pixels and whether the example is taken for another class.

    The losses are summed, so that a gradient does not depend on the batch; no parameter gets one.
    """
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = logits_of(images)
        losses = cross_entropy(logits, labels, reduction="none")
        (gradient,) = torch.autograd.grad(losses.sum(), images)
    return losses.detach(), gradient.to(images.dtype), logits.argmax(1) != labels


def within(examples: Examples, moved: Tensor, norm: Norm, budget: Tensor) -> Tensor:
    """``moved`` brought back into the ball about its image, and then into the box, in which the images lie."""
    inside = examples.images + into_ball(moved - examples.images, norm, budget)
    inside = inside if examples.box is None else inside.clamp(*examples.box)
    return inside if examples.reach is None else examples.reach.project(inside)


def uphill(examples: Examples, gradient: Tensor, norm: Norm) -> Tensor:
    """Of all perturbations of norm 1 within reach the one along which a loss of this gradient rises fastest."""
    return steepest(gradient if examples.reach is None else examples.reach.along(gradient), norm)


@dataclass(frozen=True)
class FastGradient:
    """FGM (Goodfellow et al. 2015, arXiv:1412.6572): one step of the whole budget in the steepest direction."""

    norm: Norm
    steps = 1
    restarts = 1

    @property
    def name(self) -> str:
        return f"fgm_{self.norm}"

    def __call__(self, logits_of: LogitsOf, examples: Examples, budget: Tensor, restart: int = 0) -> Tensor:
        """budget: [B]. The perturbed images, [B, C, H, W] in [0, 1]."""
        _, gradient, _ = loss_and_gradient(logits_of, examples.images, examples.labels)
        moved = examples.images + spread(budget, gradient) * uphill(examples, gradient, self.norm)
        return within(examples, moved, self.norm, budget)


@dataclass(frozen=True)
class IteratedFastGradient:
    """IFGM (Kurakin et al. 2017, arXiv:1607.02533): FGM in equal steps that add up to the budget, from the image."""

    norm: Norm
    steps: int = 15
    restarts = 1

    def __post_init__(self) -> None:
        check_counts(self, "steps")

    @property
    def name(self) -> str:
        return f"ifgm{self.steps}_{self.norm}"

    def __call__(self, logits_of: LogitsOf, examples: Examples, budget: Tensor, restart: int = 0) -> Tensor:
        """As of ``FastGradient``."""
        moved = examples.images
        for _ in range(self.steps):
            _, gradient, _ = loss_and_gradient(logits_of, moved, examples.labels)
            moved = moved + spread(budget / self.steps, gradient) * uphill(examples, gradient, self.norm)
            moved = within(examples, moved, self.norm, budget)
        return moved


@dataclass(frozen=True)
class ProjectedGradient:
    """PGD (Madry et al. 2018, arXiv:1706.06083): steps that are brought back into the ball."""

    norm: Norm
    steps: int = 20
    step_size: float = 0.125
    """By the budget. 2.5 / steps reaches the ball's edge from anywhere in it, and then some."""
    restarts: int = 1
    random_start: bool = True
    """Begin at a point of the ball that (seed, index, restart) chooses; else at the image."""
    seed: int = 0
    keep: Literal["worst", "last"] = "worst"
    """The worst image is the first that is taken for another class, else the one of the largest loss: what a test is
    about. Training takes the last."""

    def __post_init__(self) -> None:
        check_counts(self, "steps", "restarts")
        if self.step_size <= 0:
            raise UserError(f"step_size of pgd is {self.step_size}: give a share of the budget above 0, such as 0.125.")
        if self.restarts > 1 and not self.random_start:
            raise UserError(f"restarts={self.restarts} of pgd would all be the same without random_start.")

    @property
    def name(self) -> str:
        return f"pgd{self.steps}x{self.restarts}_{self.norm}"

    def __call__(self, logits_of: LogitsOf, examples: Examples, budget: Tensor, restart: int = 0) -> Tensor:
        """As of ``FastGradient``."""
        images, labels = examples.images, examples.labels
        moved = images
        if self.random_start:
            moved = random_start(examples, self.norm, budget, self.seed, restart)
        worst, worst_loss = images, torch.full_like(budget, -torch.inf)
        for step in range(self.steps + 1):
            if step == self.steps and self.keep == "last":
                return moved
            losses, gradient, wrong = loss_and_gradient(logits_of, moved, labels)
            worst, worst_loss = worse_of(worst, worst_loss, moved, losses, wrong)
            if step < self.steps:
                moved = moved + spread(self.step_size * budget, gradient) * uphill(examples, gradient, self.norm)
                moved = within(examples, moved, self.norm, budget)
        return worst


def worse_of(worst: Tensor, worst_loss: Tensor, moved: Tensor, losses: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
    """The worse of two images of each example, and its loss, infinite once the example is taken for another class."""
    losses = torch.where(wrong, torch.inf, losses).to(worst_loss.dtype)
    better = losses > worst_loss
    return torch.where(spread(better, moved), moved, worst), torch.where(better, losses, worst_loss)


def random_start(examples: Examples, norm: Norm, budget: Tensor, seed: int, restart: int) -> Tensor:
    """A point of each example's ball, drawn from (seed, index, restart) alone."""
    shape = tuple(examples.images.shape[1:])
    drawn = [
        drawn_in_ball(shape, norm, keyed_generator(seed, "attack", int(index), restart)) for index in examples.indices
    ]
    unit = torch.stack(drawn).to(examples.images) if drawn else torch.zeros_like(examples.images)
    return within(examples, examples.images + spread(budget, unit) * unit, norm, budget)


def check_counts(attack: object, *names: str) -> None:
    for name in names:
        if getattr(attack, name) < 1:
            raise UserError(f"{name} of {type(attack).__name__} is {getattr(attack, name)}: give 1 or more.")
