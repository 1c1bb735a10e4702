"""Learning rates by iterations.

Each rate is a function of the iteration alone, so that a run goes on with the right one wherever it was interrupted.
The public implementations of warm-ups set the rate by hand and leave it to torch's chained schedules to undo that,
which since torch 1.4 they do not.
"""

from collections.abc import Sequence

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def learning_rate_factor(
    iteration: int,
    drops: Sequence[int],
    drop: float = 0.1,
    warmup: int = 0,
    warmup_factor: float = 0.1,
    rises: bool = False,
) -> float:
    """What the base rate is multiplied by in an iteration, counted from 0: ``drop`` for each of ``drops`` reached.

    The first ``warmup`` iterations are at ``warmup_factor``, or where it rises on a line from there to 1.
    """
    dropped = drop ** sum(iteration >= it for it in drops)
    if rises:
        risen = min(iteration / warmup, 1.0) if warmup else 1.0
        return (warmup_factor + (1 - warmup_factor) * risen) * dropped
    return warmup_factor if iteration < warmup else dropped


class Drops(LRScheduler):
    """The base rate times ``drop`` at each of ``drops``; ``warmup_factor`` of it in the first ``warmup`` iterations."""

    rises = False

    def __init__(
        self,
        optimizer: Optimizer,
        drops: Sequence[int],
        drop: float = 0.1,
        warmup: int = 0,
        warmup_factor: float = 0.1,
    ) -> None:
        if list(drops) != sorted(set(drops)):
            raise ValueError(f"drops are {list(drops)}: give iterations in ascending order")
        check_warmup(warmup)
        self.drops, self.drop, self.warmup, self.warmup_factor = list(drops), drop, warmup, warmup_factor
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        factor = learning_rate_factor(
            self.last_epoch, self.drops, self.drop, self.warmup, self.warmup_factor, self.rises
        )
        return [base * factor for base in self.base_lrs]


class WarmUpAndDrops(Drops):
    """Like ``Drops``, but the warm-up is a line from ``warmup_factor`` of the rate to all of it."""

    rises = True

    def __init__(
        self, optimizer: Optimizer, warmup: int, drops: Sequence[int], warmup_factor: float = 0.001, drop: float = 0.1
    ) -> None:
        super().__init__(optimizer, drops, drop, warmup, warmup_factor)


class Triangle(LRScheduler):
    """From 0 up to the base rate in the first ``warmup`` of ``iterations``, then down to 0; linear both ways.

    A run that is too short for the warm-up (``debug=steps``) rises until its last iteration.
    """

    def __init__(self, optimizer: Optimizer, iterations: int, warmup: int) -> None:
        check_warmup(warmup)
        self.iterations, self.warmup = iterations, min(warmup, iterations - 1)
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        done = self.last_epoch
        up, down = (done + 1) / (self.warmup + 1), (self.iterations - done) / (self.iterations - self.warmup)
        return [base * max(min(up, down), 0.0) for base in self.base_lrs]


class ConstantThenLinear(LRScheduler):
    """The base rate, which falls linearly to 0 from iteration ``constant`` to ``iterations``."""

    def __init__(self, optimizer: Optimizer, constant: int, iterations: int) -> None:
        if not 0 <= constant < iterations:
            raise ValueError(f"constant is {constant}: give iterations from 0 to below {iterations}")
        self.constant, self.iterations = constant, iterations
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        left = (self.iterations - self.last_epoch) / (self.iterations - self.constant)
        return [base * min(max(left, 0.0), 1.0) for base in self.base_lrs]


def check_warmup(warmup: int) -> None:
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}: give a number of iterations, 0 or more")
