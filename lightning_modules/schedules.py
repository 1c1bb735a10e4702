"""Learning rates by iterations.

Each rate is a function of the iteration alone, so that a run goes on with the right one wherever it was interrupted.
The public implementations of warm-ups set the rate by hand and leave it to torch's chained schedules to undo that,
which since torch 1.4 they do not.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class Schedule(LRScheduler):
    """Multiplies the optimiser's rate by a factor that the iteration and the schedule's length decide.

    A checkpoint holds the iteration and nothing else, so a resumed run has the schedule that it is asked for now. The
    length is ``iterations``, or the run's where that is None: ``callbacks/instruments/run_clock.py`` says it when
    training starts, in whatever unit it was given. Of a run by wall time it is a guess that its pace makes better.

    Args:
        iterations: of the schedule; None: the run's.
    """

    def __init__(self, optimizer: Optimizer, iterations: int | None = None) -> None:
        if iterations is not None and iterations < 1:
            raise ValueError(f"iterations is {iterations}: give 1 or more, or null for the run's own length")
        self.iterations = iterations
        self.iterations_of_run: Callable[[], float] = lambda: math.inf
        super().__init__(optimizer)

    @abstractmethod
    def factor(self, iteration: int, iterations: float) -> float:
        """Of an iteration counted from 0, of so many; infinitely many where the end is not known yet."""

    def get_lr(self) -> list[float | Tensor]:
        iterations = self.iterations_of_run() if self.iterations is None else self.iterations
        factor = self.factor(self.last_epoch, iterations)
        return [base * factor for base in self.base_lrs]

    def follow(self, iterations_of_run: Callable[[], float]) -> None:
        """Learn how long the run is, and have the rate of this iteration by it."""
        self.iterations_of_run = iterations_of_run
        self.go_to(self.last_epoch)

    def go_to(self, iteration: int) -> None:
        """Have the rate of an iteration, whatever came before."""
        self.last_epoch, self._step_count = iteration, iteration + 1
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Checkpoints of before hold more, which is not taken."""
        self.go_to(state_dict["last_epoch"])


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


class Drops(Schedule):
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

    def factor(self, iteration: int, iterations: float) -> float:
        return learning_rate_factor(iteration, self.drops, self.drop, self.warmup, self.warmup_factor, self.rises)


class WarmUpAndDrops(Drops):
    """Like ``Drops``, but the warm-up is a line from ``warmup_factor`` of the rate to all of it."""

    rises = True

    def __init__(
        self, optimizer: Optimizer, warmup: int, drops: Sequence[int], warmup_factor: float = 0.001, drop: float = 0.1
    ) -> None:
        super().__init__(optimizer, drops, drop, warmup, warmup_factor)


class Triangle(Schedule):
    """From 0 up to the base rate in the first ``warmup`` iterations, then down to 0 at the end; linear both ways.

    A run that is too short for the warm-up (``debug=steps``) rises until its last iteration, where that is known.

    Args:
        warmup: iterations; a number below 1 is a share of all.
        iterations: see ``Schedule``.
    """

    def __init__(self, optimizer: Optimizer, warmup: float, iterations: int | None = None) -> None:
        check_share(warmup)
        self.warmup = warmup
        super().__init__(optimizer, iterations)

    def factor(self, iteration: int, iterations: float) -> float:
        if iteration >= iterations:
            return 0.0
        warmup = in_iterations(self.warmup, iterations)
        warmup = min(warmup, iterations - 1) if isinstance(iterations, int) else warmup
        up = (iteration + 1) / (warmup + 1)
        if math.isinf(iterations):
            return min(up, 1.0)
        return min(up, (iterations - iteration) / (iterations - min(warmup, iteration)))


class WarmUpThenLinear(Schedule):
    """lr t / warmup, and from there lr (1 - t / T), as BERT's code has it: t counts from 0 both times.

    So the first iteration moves nothing, and where the warm-up ends the rate drops from lr to lr (1 - warmup / T).

    Args:
        warmup: iterations; a number below 1 is a share of T.
        iterations: T; see ``Schedule``.
    """

    def __init__(self, optimizer: Optimizer, warmup: float, iterations: int | None = None) -> None:
        check_share(warmup)
        self.warmup = warmup
        super().__init__(optimizer, iterations)

    def factor(self, iteration: int, iterations: float) -> float:
        warmup = in_iterations(self.warmup, iterations)
        if iteration < warmup:
            return iteration / warmup
        return max(1 - iteration / iterations, 0.0)


class ConstantThenLinear(Schedule):
    """The base rate, which falls linearly to 0 from iteration ``constant`` to ``iterations``."""

    def __init__(self, optimizer: Optimizer, constant: int, iterations: int) -> None:
        if not 0 <= constant < iterations:
            raise ValueError(f"constant is {constant}: give iterations from 0 to below {iterations}")
        self.constant = constant
        super().__init__(optimizer, iterations)

    def factor(self, iteration: int, iterations: float) -> float:
        return min(max((iterations - iteration) / (iterations - self.constant), 0.0), 1.0)


def check_warmup(warmup: int) -> None:
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}: give a number of iterations, 0 or more")


def check_share(warmup: float) -> None:
    if warmup < 0 or (warmup >= 1 and warmup != int(warmup)):
        raise ValueError(f"warmup is {warmup}: give a number of iterations, or a share of them below 1")


def in_iterations(warmup: float, iterations: float) -> float:
    """Of so many; a share of them is below 1."""
    return warmup * iterations if 0 < warmup < 1 else warmup
