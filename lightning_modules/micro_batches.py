"""A batch in parts, so that it needs the memory of one of them and has the gradient of the whole.

A loss is a mean over examples, so that a batch's is the mean of its parts', each with the share of examples that it
has; and so is the gradient. Where a loss looks beyond an example at means over the batch (``BatchMeans``), the parts
are gone through once before, without gradient, and then each finds the means of all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor, nn

from foundation.evaluation import keeping_random_states
from lightning_modules.across_ranks import mean_without_gradient

Inputs = dict[str, Any]
"""What a step gets: tensors whose rows are a batch's examples, numbers without a dimension that hold for all of them,
and dicts of such."""


def cut(inputs: Inputs, most: int) -> list[tuple[float, Inputs]]:
    """Parts of at most so many examples, as even as can be, each behind the share of the examples that it has."""
    rows = rows_of(inputs)
    count = -(-rows // most)
    parts = [part_of(inputs, number, count) for number in range(count)]
    return [(rows_of(part) / rows, part) for part in parts]


def rows_of(inputs: Inputs) -> int:
    """The number of examples, the same in all that has rows."""
    counts = row_counts(inputs)
    assert len(counts) == 1, f"rows of {sorted(counts)} examples in one batch, which cannot be cut"
    return counts.pop()


def row_counts(inputs: Inputs) -> set[int]:
    counts = [row_counts(it) if isinstance(it, dict) else set(it.shape[:1]) for it in inputs.values()]
    return set().union(*counts)


def part_of(inputs: Inputs, number: int, count: int) -> Inputs:
    return {
        key: part_of(it, number, count) if isinstance(it, dict) else it.tensor_split(count)[number] if it.ndim else it
        for key, it in inputs.items()
    }


def joined(told: list[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
    """What the losses of the parts have told: rows one behind the other, of numbers the mean over all examples."""
    whole = {}
    for key, first in told[0][1].items():
        them = [part[key] for _, part in told]
        weighted = [share * part[key] for share, part in told]
        whole[key] = torch.cat(them) if first.ndim else torch.stack(weighted).sum()
    return whole


class BatchMeans:
    """The means over the global batch that a loss asks for while it sees a part, in the order in which it asks.

    A mean has the value of the whole batch and the gradient of the part. A function of it, weighted by the part's share
    of the examples, therefore adds that part's piece of the whole batch's gradient.
    """

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.adding: float | None = None  # the share of the part that is gone through without gradient
        self.asked = 0

    def begin(self, adding: float | None = None) -> None:
        """Before each part; ``adding`` is its share of the examples, None once all have been added."""
        self.adding, self.asked = adding, 0

    def of(self, mean: Tensor) -> Tensor:
        """mean: over the part's examples."""
        position, self.asked = self.asked, self.asked + 1
        if self.adding is None:
            assert position < len(self.sums), "a player whose loss asks for a global_mean says that it sees_means"
            return self.sums[position] + (mean - mean.detach())
        if position == len(self.sums):
            self.sums.append(torch.zeros_like(mean))
        self.sums[position] += self.adding * mean
        return mean

    def meet(self, trainer: Trainer) -> None:
        """The means of all ranks."""
        self.sums = [mean_without_gradient(trainer, it) for it in self.sums]


@contextmanager
def rehearsing(module: nn.Module) -> Iterator[None]:
    """A pass without gradient, which leaves noise inside layers and running statistics to the pass that counts."""
    norms: list[Any] = [it for it in module.modules() if getattr(it, "track_running_stats", False)]
    try:
        for norm in norms:
            norm.track_running_stats = False
        with keeping_random_states(module), torch.no_grad():
            yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
