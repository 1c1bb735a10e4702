"""What a net is held against: somebody who says which class an input is of, and how far two of them are apart.

An oracle speaks of *points*: what it can move, [B, ...]. Mostly they are the classifier's inputs; where they are the
codes of a generator, ``see`` makes inputs of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from lightning_modules.attacks.gradient import Examples, LogitsOf
from lightning_modules.attacks.norms import Norm


class Oracle(ABC):
    """f2 = c2 o g2 of Wang, Gao & Qi 2016, and its distance d2."""

    exact: bool = False
    """Label and distance are the task's own, by construction; else they are declared, as a stand-in for them."""
    pseudometric: bool = False
    """Points that differ may be at distance 0: the oracle does not see the difference."""
    null_dims: Tensor | None = None
    """Numbers [n] int64 of the flattened point's coordinates that it cannot see, where these are known."""
    keeps_label: bool = True
    """No point within reach is of another label, which is asserted; else those that are do not count."""
    own_points: bool = False
    """Its points are not the data's: ``draw_points`` gives them."""
    judges_class: bool = True
    """Its label is a class of the data; else it tells alike from unlike alone."""
    box: tuple[float, float] | None = None
    """The least and largest coordinate of its points, where these are its own."""
    norm: Norm | None = None
    """In which the points' difference is the distance, where it is one."""

    def to(self, device: torch.device) -> Self:
        """On the device, in place."""
        if self.null_dims is not None:
            self.null_dims = self.null_dims.to(device)
        return self

    def refusal(self, shape: Sequence[int]) -> str | None:
        """Why it cannot speak of the classifier's inputs, which have this shape; None where it can."""
        return None

    def see(self, points: Tensor) -> Tensor:
        """The classifier's inputs."""
        return points

    @abstractmethod
    def label(self, points: Tensor, labels: Tensor) -> Tensor:
        """f2, [B] int64, of points that were moved from examples which the data give these labels."""

    @abstractmethod
    def distance(self, moved: Tensor, points: Tensor) -> Tensor:
        """d2, [B]."""

    @abstractmethod
    def neighbours(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        """One for each point within d2 <= delta, of its label where ``keeps_label``; ``drawn`` is what is random."""

    def draw(self, shape: Sequence[int], generator: torch.Generator) -> Tensor:
        """What neighbours of points of this shape, [B, ...], are made with: rows, on the CPU."""
        return torch.randn(*shape, generator=generator)

    def start(self, points: Tensor, delta: float, drawn: Tensor) -> Tensor:
        """Where an ascent begins whose examples are those of ``reachable``."""
        return self.neighbours(points, delta, drawn)

    @abstractmethod
    def project(self, moved: Tensor, points: Tensor, delta: float) -> Tensor:
        """Within d2 <= delta, near ``moved`` and in no attack's norm farther from ``points`` than it is; of their label
        where ``keeps_label``."""

    def along(self, gradient: Tensor, delta: float) -> Tensor:
        """What of a gradient by the points leads to others within d2 <= delta."""
        return gradient

    def draw_points(self, indices: Tensor) -> Tensor:
        """That of index i depends on (seed, i) alone; of oracles with ``own_points``."""
        raise NotImplementedError

    def reachable(self, examples: Examples, delta: float) -> Examples:
        """What an attack has to be given so that it searches within d2 <= delta. Its images are points."""
        before = self.label(examples.images, examples.labels)
        reach = WithinOracle(self, examples.images, examples.labels, before, delta)
        return Examples(examples.images, examples.labels, examples.indices, examples.box, reach)

    second_opinion: bool = False
    """Whether somebody else can be asked about its labels."""

    def disagrees(self, moved: Tensor, points: Tensor) -> Tensor:
        """Whether somebody else says that the label has changed, [B] bool; where there is a ``second_opinion``."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"name": type(self).__name__, "exact": self.exact}


@dataclass(frozen=True)
class WithinOracle:
    """A ``Reach``: d2 <= delta, the oracle's label unchanged."""

    oracle: Oracle
    points: Tensor
    labels: Tensor
    before: Tensor
    """The oracle's labels of the points, [B]."""
    delta: float

    def __getitem__(self, chosen: Tensor) -> "WithinOracle":
        return WithinOracle(
            self.oracle, self.points[chosen], self.labels[chosen], self.before[chosen], self.delta
        )  # fmt: skip

    def see(self, moved: Tensor) -> Tensor:
        return self.oracle.see(moved)

    def logits(self, logits_of: LogitsOf, moved: Tensor, labels: Tensor) -> Tensor:
        logits, changed = logits_of(self.see(moved)), self.changed(moved)
        if self.oracle.keeps_label:
            assert not changed.any(), "the oracle's label has changed within its own reach"
            return logits
        return torch.where(changed.unsqueeze(1), taken_for(labels, logits), logits)

    def changed(self, moved: Tensor) -> Tensor:
        """Whether the oracle's label is another one, [B]."""
        return self.oracle.label(moved.detach(), self.labels) != self.before

    def along(self, gradient: Tensor) -> Tensor:
        return self.oracle.along(gradient, self.delta)

    def project(self, moved: Tensor) -> Tensor:
        return self.oracle.project(moved, self.points, self.delta)


def taken_for(labels: Tensor, logits: Tensor) -> Tensor:
    """The logits with the label's raised above all others; the gradient stays. labels: [B]; logits: [B, K]."""
    of_label = labels.unsqueeze(1)
    lack = logits.amax(1, keepdim=True) - logits.gather(1, of_label) + 1
    return logits.scatter_add(1, of_label, lack.detach())
