"""Rates by hand, what torch's optimisers are left with, and schedules that are refused."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from foundation.former_names import FORMER_NAMES
from foundation.security import is_allowed
from lightning_modules.schedules import ConstantThenLinear, Drops, Triangle, WarmUpAndDrops, learning_rate_factor


def sgd(rate: float = 1.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=rate)


def rates(schedule: LRScheduler, iterations: int) -> list:
    found = []
    for _ in range(iterations):
        found += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
    return found


def test_the_factor_is_a_function_of_the_iteration():
    assert [learning_rate_factor(it, [3, 5], drop=0.5, warmup=2, warmup_factor=0.1) for it in range(6)] == [
        0.1, 0.1, 1, 0.5, 0.5, 0.25,
    ]  # fmt: skip
    assert [learning_rate_factor(it, [], warmup=4, warmup_factor=0.2, rises=True) for it in range(6)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1, 1]
    )


def test_the_rate_drops_and_warms_up_on_a_step_or_a_line():
    step = Drops(sgd(), warmup=4, drops=[6], warmup_factor=0.2, drop=0.5)
    assert rates(step, 8) == pytest.approx([0.2, 0.2, 0.2, 0.2, 1, 1, 0.5, 0.5])
    line = WarmUpAndDrops(sgd(), warmup=4, drops=[6], warmup_factor=0.2, drop=0.5)
    assert rates(line, 8) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.5, 0.5])


def test_the_triangle_ends_next_to_nothing():
    schedule = Triangle(sgd(2.0), iterations=10, warmup=3)
    assert rates(schedule, 10) == pytest.approx([0.5, 1, 1.5, 2, 12 / 7, 10 / 7, 8 / 7, 6 / 7, 4 / 7, 2 / 7])
    assert schedule.get_last_lr() == [0.0]
    assert Triangle(sgd(), iterations=4, warmup=50).warmup == 3


def test_the_rate_is_constant_and_then_falls_to_0():
    schedule = ConstantThenLinear(sgd(0.3), constant=4, iterations=8)
    assert rates(schedule, 9) == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.3, 0.225, 0.15, 0.075, 0.0])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Drops(sgd(), drops=[5, 3]), "ascending"),
        (lambda: WarmUpAndDrops(sgd(), drops=[5, 3], warmup=0), "ascending"),
        (lambda: Drops(sgd(), drops=[], warmup=-1), "warmup is -1: give a number of iterations, 0 or more"),
        (lambda: WarmUpAndDrops(sgd(), drops=[], warmup=-1), "warmup is -1"),
        (lambda: Triangle(sgd(), iterations=10, warmup=-1), "warmup is -1"),
        (lambda: ConstantThenLinear(sgd(), constant=8, iterations=8), "constant is 8: give iterations from 0 to below 8"),
    ],
)  # fmt: skip
def test_wrong_schedules_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize("name", [it for it in FORMER_NAMES if "Drops" in it or "Triangle" in it or "Linear" in it])
def test_run_folders_of_before_name_them_by_their_method(name):
    assert is_allowed(name)
