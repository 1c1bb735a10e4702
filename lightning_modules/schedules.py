"""Learning rates by iterations.

Each rate is a function of the iteration, so that a run goes on with the right one wherever it was interrupted; of those
that go by what a run has learned, too (``Watching``), a checkpoint holds what they have seen of it. The public
implementations of warm-ups set the rate by hand and leave it to torch's chained schedules to undo that, which since
torch 1.4 they do not.
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
    drops: Sequence[float],
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
    """The base rate times ``drop`` at each of ``drops``; ``warmup_factor`` of it in the first ``warmup`` iterations.

    Args:
        drops: iterations in ascending order, or shares below 1 of the run's.
    """

    rises = False

    def __init__(
        self,
        optimizer: Optimizer,
        drops: Sequence[float],
        drop: float = 0.1,
        warmup: int = 0,
        warmup_factor: float = 0.1,
    ) -> None:
        check_drops(drops)
        check_warmup(warmup)
        self.drops, self.drop, self.warmup, self.warmup_factor = list(drops), drop, warmup, warmup_factor
        super().__init__(optimizer)

    def factor(self, iteration: int, iterations: float) -> float:
        drops = [in_iterations(it, iterations) for it in self.drops]
        return learning_rate_factor(iteration, drops, self.drop, self.warmup, self.warmup_factor, self.rises)


class WarmUpAndDrops(Drops):
    """Like ``Drops``, but the warm-up is a line from ``warmup_factor`` of the rate to all of it."""

    rises = True

    def __init__(
        self, optimizer: Optimizer, warmup: int, drops: Sequence[float], warmup_factor: float = 0.001, drop: float = 0.1
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


class Watching(Schedule):
    """A rate that goes by the iteration and by a figure of the run, of which smaller is better.

    ``callbacks/instruments/watched_figures.py`` shows it the figure, the same on every rank. One of ``train/`` is the
    mean over the examples of ``over`` iterations, as they were augmented, and is looked at whenever as many more are
    done; one of ``val/`` whenever it is measured. A checkpoint holds what was seen of it so far.

    Args:
        monitor: its key, such as train/error or val/error.
        over: iterations of a figure of ``train/``.
    """

    def __init__(self, optimizer: Optimizer, monitor: str, over: int) -> None:
        if over < 1:
            raise ValueError(f"over is {over}: give a number of iterations, 1 or more")
        self.monitor, self.over = monitor, over
        self.sum: Tensor | float = 0.0
        self.examples: Tensor | float = 0.0
        super().__init__(optimizer)

    @abstractmethod
    def saw(self, figure: float) -> str | None:
        """Take note of a figure, before the iteration ``last_epoch``; tells in words what becomes of the rate."""

    def is_done(self) -> bool:
        """Whether no figure to come can change the rate."""
        return False

    def saw_iteration(self, total: Tensor, examples: Tensor) -> str | None:
        """The sum of the figure over the examples of the global batch, and their number; float64 without a dimension.

        They are read on the host when ``over`` iterations are done, not before.
        """
        self.sum, self.examples = self.sum + total, self.examples + examples
        if self.last_epoch % self.over:
            return None
        figure = float(self.sum) / float(self.examples)
        self.sum = self.examples = 0.0
        return self.saw_figure(figure)

    def saw_figure(self, figure: float) -> str | None:
        told = self.saw(figure)
        self.go_to(self.last_epoch)
        return told

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"sum": float(self.sum), "examples": float(self.examples)} | self.seen()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A checkpoint of a run with another schedule holds nothing that this one could have seen."""
        self.sum, self.examples = state_dict.get("sum", 0.0), state_dict.get("examples", 0.0)
        for name in self.seen().keys() & state_dict.keys():
            setattr(self, name, state_dict[name])
        super().load_state_dict(state_dict)

    @abstractmethod
    def seen(self) -> dict[str, Any]:
        """By their names the attributes that ``saw`` changes, as plain values."""


class WarmUpUntilAndDrops(Watching):
    """``warmup_factor`` of the base rate until a figure lies below ``below``, and from then on that of ``Drops``.

    Args:
        drops, drop: see ``Drops``; counted from the run's first iteration.
        below: a fraction for an error.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        drops: Sequence[float],
        below: float,
        drop: float = 0.1,
        warmup_factor: float = 0.1,
        monitor: str = "train/error",
        over: int = 100,
    ) -> None:
        check_drops(drops)
        self.drops, self.drop, self.below, self.warmup_factor = list(drops), drop, below, warmup_factor
        self.warm_at: int | None = None  # the first iteration after the warm-up
        super().__init__(optimizer, monitor, over)

    def factor(self, iteration: int, iterations: float) -> float:
        if self.warm_at is None or iteration < self.warm_at:
            return self.warmup_factor
        return learning_rate_factor(iteration, [in_iterations(it, iterations) for it in self.drops], self.drop)

    def saw(self, figure: float) -> str | None:
        if self.is_done() or figure >= self.below:
            return None
        self.warm_at = self.last_epoch
        return f"the warm-up ends after {self.warm_at} iterations: {self.monitor} is {figure:.4f}"

    def is_done(self) -> bool:
        return self.warm_at is not None

    def seen(self) -> dict[str, Any]:
        return {"warm_at": self.warm_at}


class DropsOnPlateaus(Watching):
    """The base rate times ``drop`` for each time that the figure was no better than its best ``patience`` times on end.

    Args:
        patience: figures.
        least: by how much a figure has to lie below the best one to be better, in its own unit.
        most: plateaus that count; None: all.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        monitor: str,
        patience: int,
        drop: float = 0.1,
        least: float = 0.0,
        most: int | None = None,
        over: int = 1000,
    ) -> None:
        if patience < 1:
            raise ValueError(f"patience is {patience}: give a number of figures, 1 or more")
        if least < 0:
            raise ValueError(f"least is {least}: give a difference of 0 or more")
        self.patience, self.drop, self.least, self.most = patience, drop, least, most
        self.best = math.inf
        self.in_vain = 0  # figures since the best one, or since the last drop
        self.dropped_at: list[int] = []
        super().__init__(optimizer, monitor, over)

    def factor(self, iteration: int, iterations: float) -> float:
        return learning_rate_factor(iteration, self.dropped_at, self.drop)

    def saw(self, figure: float) -> str | None:
        if figure < self.best - self.least:
            self.best, self.in_vain = figure, 0
            return None
        self.in_vain += 1
        if self.in_vain < self.patience or self.is_done():
            return None
        self.in_vain, self.dropped_at = 0, [*self.dropped_at, self.last_epoch]
        return (
            f"the rate is multiplied by {self.drop:g} after {self.last_epoch} iterations: {self.monitor} has been no "
            f"better than {self.best:.4f} {self.patience} times on end"
        )

    def is_done(self) -> bool:
        return self.most is not None and len(self.dropped_at) >= self.most

    def seen(self) -> dict[str, Any]:
        return {"best": self.best, "in_vain": self.in_vain, "dropped_at": list(self.dropped_at)}


def check_drops(drops: Sequence[float]) -> None:
    if list(drops) != sorted(set(drops)) or any(it < 0 or (it >= 1 and it != int(it)) for it in drops):
        raise ValueError(f"drops are {list(drops)}: give iterations in ascending order, or shares of them below 1")


def check_warmup(warmup: int) -> None:
    if warmup < 0:
        raise ValueError(f"warmup is {warmup}: give a number of iterations, 0 or more")


def check_share(warmup: float) -> None:
    if warmup < 0 or (warmup >= 1 and warmup != int(warmup)):
        raise ValueError(f"warmup is {warmup}: give a number of iterations, or a share of them below 1")


def in_iterations(given: float, iterations: float) -> float:
    """Of so many; a share of them is below 1."""
    return given * iterations if 0 < given < 1 else given
