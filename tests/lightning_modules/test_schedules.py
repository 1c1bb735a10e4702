"""Rates by hand, what torch's optimisers are left with, and schedules that are refused."""

import math

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from foundation.former_names import FORMER_NAMES
from foundation.security import is_allowed
from lightning_modules.schedules import (
    ConstantThenLinear,
    Drops,
    DropsOnPlateaus,
    Schedule,
    Triangle,
    WarmUpAndDrops,
    WarmUpThenLinear,
    WarmUpUntilAndDrops,
    Watching,
    learning_rate_factor,
)


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


def test_drops_below_1_are_shares_of_the_run():
    schedule = Drops(sgd(), drops=[0.5, 0.75])
    assert rates(schedule, 3) == [1.0, 1.0, 1.0]  # nobody knows its length yet
    schedule.follow(lambda: 8)
    assert [schedule.factor(it, 8) for it in range(8)] == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert schedule.get_last_lr() == [1.0]
    assert [schedule.factor(it, 7) for it in (3, 4)] == pytest.approx([1, 0.1])


def shown(schedule: Watching, figures: list[float], examples: float = 4.0) -> list:
    """The rate of each iteration, each of which shows a figure, and that of the next one."""
    found = []
    for figure in figures:
        found += schedule.get_last_lr()
        schedule.optimizer.step()
        schedule.step()
        count = torch.tensor(examples, dtype=torch.float64)
        schedule.saw_iteration(figure * count, count)
    return [*found, *schedule.get_last_lr()]


def test_the_warm_up_ends_where_the_mean_over_so_many_iterations_lies_below():
    """A single batch below is none, nor is a mean that ends within another two."""
    schedule = WarmUpUntilAndDrops(sgd(), drops=[7], below=0.8, over=2)
    assert shown(schedule, [0.9, 0.6, 0.9, 0.7, 0.7, 0.9, 0.5, 0.5]) == pytest.approx(
        [0.1, 0.1, 1, 1, 1, 1, 1, 0.1, 0.1]
    )
    still = WarmUpUntilAndDrops(sgd(), drops=[7], below=0.75, over=2)
    assert shown(still, [0.9, 0.6, 0.6, 0.9, 0.6, 0.6, 0.5, 0.5]) == pytest.approx([0.1] * 6 + [1, 0.1, 0.1])
    assert still.is_done()
    at = WarmUpUntilAndDrops(sgd(), drops=[], below=0.75, over=1)
    assert shown(at, [0.75, 0.75]) == pytest.approx([0.1, 0.1, 0.1])


def test_a_mean_is_over_examples_and_not_over_batches():
    schedule = WarmUpUntilAndDrops(sgd(), drops=[], below=0.5, over=2)
    for figure, examples in ((0.9, 1.0), (0.4, 9.0)):
        schedule.optimizer.step()
        schedule.step()
        count = torch.tensor(examples, dtype=torch.float64)
        told = schedule.saw_iteration(figure * count, count)
    assert told == "the warm-up ends after 2 iterations: train/error is 0.4500"


def test_the_rate_drops_where_the_figure_is_no_better_so_many_times_on_end():
    schedule = DropsOnPlateaus(sgd(), monitor="train/error", patience=2, drop=0.1, over=1)
    figures = [0.9, 0.5, 0.5, 0.6, 0.4, 0.4, 0.4, 0.4, 0.4, 0.3]
    assert shown(schedule, figures) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])
    assert schedule.dropped_at == [4, 7, 9]


def test_a_figure_is_better_by_more_than_the_least_difference():
    schedule = DropsOnPlateaus(sgd(), monitor="train/error", patience=2, least=0.1, over=1, most=1)
    assert shown(schedule, [0.9, 0.85, 0.81, 0.75, 0.75, 0.75]) == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1])
    assert schedule.is_done()


@pytest.mark.parametrize("iteration", range(7))
def test_what_a_schedule_has_seen_goes_on_with_a_run(iteration):
    figures = [0.9, 0.7, 0.7, 0.9, 0.9, 0.2, 0.8]

    def made() -> list[Watching]:
        return [
            WarmUpUntilAndDrops(sgd(), drops=[5], below=0.85, over=2),
            DropsOnPlateaus(sgd(), monitor="train/error", patience=1, over=2),
        ]

    for whole, first, second in zip(made(), made(), made(), strict=True):
        expected = shown(whole, figures)
        shown(first, figures[:iteration])
        second.load_state_dict(first.state_dict())
        assert shown(second, figures[iteration:]) == expected[iteration:]
        assert second.state_dict() == whole.state_dict()


def test_a_schedule_begins_to_watch_in_a_run_that_had_another():
    schedule = DropsOnPlateaus(sgd(), monitor="train/error", patience=1, over=2)
    schedule.load_state_dict(Drops(sgd(), drops=[]).state_dict() | {"last_epoch": 3})
    assert schedule.state_dict() == {
        "last_epoch": 3, "sum": 0.0, "examples": 0.0, "best": math.inf, "in_vain": 0, "dropped_at": [],
    }  # fmt: skip


def test_the_triangle_ends_next_to_nothing():
    schedule = Triangle(sgd(2.0), iterations=10, warmup=3)
    assert rates(schedule, 10) == pytest.approx([0.5, 1, 1.5, 2, 12 / 7, 10 / 7, 8 / 7, 6 / 7, 4 / 7, 2 / 7])
    assert schedule.get_last_lr() == [0.0]
    assert rates(Triangle(sgd(), iterations=4, warmup=50), 5) == [0.25, 0.5, 0.75, 1.0, 0.0]


def test_a_triangle_by_wall_time_follows_the_budget():
    """The number of iterations is a guess then, which changes with the pace."""
    schedule = Triangle(sgd(), warmup=9)
    assert schedule.factor(0, math.inf) == 0.1
    assert schedule.factor(20, math.inf) == 1.0  # nobody knows yet
    assert schedule.factor(4, 20.0) == 0.5  # still in the warm-up
    assert schedule.factor(10, 50.0) == pytest.approx(40 / 41)
    assert schedule.factor(49, 50.0) == pytest.approx(1 / 41)
    assert schedule.factor(50, 49.9) == 0.0  # the budget is spent
    half = Triangle(sgd(), warmup=0.5)
    assert half.factor(3, math.inf) == 0.0  # nor how long a half is
    assert half.factor(9, 38.0) == 0.5
    assert half.factor(29, 40.0) == pytest.approx(11 / 20)


def test_bert_s_rate_counts_from_0_and_drops_where_the_warm_up_ends():
    schedule = WarmUpThenLinear(sgd(2.0), warmup=4, iterations=10)
    assert rates(schedule, 10) == pytest.approx([0, 0.5, 1, 1.5, 1.2, 1, 0.8, 0.6, 0.4, 0.2])
    assert schedule.get_last_lr() == [0.0]
    share = WarmUpThenLinear(sgd(2.0), warmup=0.4, iterations=10)
    assert rates(share, 10) == pytest.approx([0, 0.5, 1, 1.5, 1.2, 1, 0.8, 0.6, 0.4, 0.2])
    assert rates(WarmUpThenLinear(sgd(2.0), warmup=0, iterations=4), 4) == [2.0, 1.5, 1.0, 0.5]


def test_bert_s_rate_by_wall_time_follows_the_budget():
    schedule = WarmUpThenLinear(sgd(), warmup=0.1)
    assert schedule.factor(0, math.inf) == 0.0  # the first iteration moves nothing, however many come
    assert schedule.factor(5, 100.0) == 0.5
    assert schedule.factor(50, 100.0) == 0.5
    assert schedule.factor(101, 100.0) == 0.0
    assert WarmUpThenLinear(sgd(), warmup=10).factor(20, math.inf) == 1.0
    for wrong in (-1, 1.5):
        with pytest.raises(ValueError, match=f"warmup is {wrong}"):
            WarmUpThenLinear(sgd(), warmup=wrong)


class Falling(Schedule):
    def factor(self, iteration: int, iterations: float) -> float:
        return 1 - iteration / iterations


def test_the_run_says_how_long_it_is():
    schedule = Falling(sgd(8.0))
    schedule.follow(lambda: 16)
    assert rates(schedule, 5) == [8.0, 7.5, 7.0, 6.5, 6.0]
    schedule.follow(lambda: 10)
    assert schedule.optimizer.param_groups[0]["lr"] == schedule.get_last_lr()[0] == 4.0
    assert rates(Falling(sgd(8.0), iterations=4), 2) == [8.0, 6.0]


def test_a_resume_has_the_schedule_and_rate_that_it_is_asked_for():
    """A checkpoint of before held all that the schedule was made with."""
    former = Falling(sgd(8.0), iterations=4)
    rates(former, 2)
    assert former.state_dict() == {"last_epoch": 2}
    for state in (former.state_dict(), {"last_epoch": 2, "_step_count": 3, "iterations": 4, "base_lrs": [8.0]}):
        longer = Falling(sgd(1.0), iterations=8)
        longer.load_state_dict(state)
        assert longer.optimizer.param_groups[0]["lr"] == 0.75
        assert rates(longer, 2) == [0.75, 0.625]


def test_a_rate_on_the_device_is_changed_in_place():
    rate = torch.tensor(8.0)
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(()))], lr=rate, foreach=False)
    Falling(optimizer, iterations=4).go_to(1)
    assert optimizer.param_groups[0]["lr"] is rate
    assert float(rate) == 6.0


def test_the_rate_is_constant_and_then_falls_to_0():
    schedule = ConstantThenLinear(sgd(0.3), constant=4, iterations=8)
    assert rates(schedule, 9) == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.3, 0.225, 0.15, 0.075, 0.0])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Drops(sgd(), drops=[5, 3]), "ascending"),
        (lambda: Drops(sgd(), drops=[1.5]), r"drops are \[1.5\]: give iterations in ascending order, or shares"),
        (lambda: WarmUpUntilAndDrops(sgd(), drops=[2, 1], below=0.8), "ascending"),
        (lambda: WarmUpUntilAndDrops(sgd(), drops=[], below=0.8, over=0), "over is 0: give a number of iterations, 1"),
        (lambda: DropsOnPlateaus(sgd(), "val/error", patience=0), "patience is 0: give a number of figures, 1 or more"),
        (lambda: DropsOnPlateaus(sgd(), "val/error", 1, least=-1), "least is -1: give a difference of 0 or more"),
        (lambda: WarmUpAndDrops(sgd(), drops=[5, 3], warmup=0), "ascending"),
        (lambda: Drops(sgd(), drops=[], warmup=-1), "warmup is -1: give a number of iterations, 0 or more"),
        (lambda: WarmUpAndDrops(sgd(), drops=[], warmup=-1), "warmup is -1"),
        (lambda: Triangle(sgd(), iterations=10, warmup=-1), "warmup is -1"),
        (lambda: Triangle(sgd(), iterations=-1, warmup=1), "iterations is -1: give 1 or more, or null for the run's own"),
        (lambda: ConstantThenLinear(sgd(), constant=8, iterations=8), "constant is 8: give iterations from 0 to below 8"),
    ],
)  # fmt: skip
def test_wrong_schedules_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()


@pytest.mark.parametrize("name", [it for it in FORMER_NAMES if "Drops" in it or "Triangle" in it or "Linear" in it])
def test_run_folders_of_before_name_them_by_their_method(name):
    assert is_allowed(name)
