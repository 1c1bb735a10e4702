"""Correlations as scipy has them, of any cut into batches and in any order, and where there are none."""

import math
import warnings

import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from callbacks.regression import RegressionMetric


def shown(told: list[float], are: list[float], *parts: list[int]) -> dict[str, float]:
    metric = RegressionMetric()
    for part in parts or [list(range(len(told)))]:
        at = torch.tensor(part, dtype=torch.int64)
        metric.update(at, torch.tensor(told)[at], torch.tensor(are)[at])
    return metric.compute()


@pytest.mark.parametrize(
    ("told", "are"),
    [
        ([0.1, 2.0, 1.5, 4.0], [0.0, 1.0, 2.0, 5.0]),
        ([1.0, 1.0, 2.0, 2.0], [0.0, 3.0, 3.0, 5.0]),  # ties
        ([3.0, 2.0], [0.0, 1.0]),
        ([1.0, 1.0, 1.0], [0.0, 1.0, 2.0]),  # constant estimates
        ([0.5, 1.0, 1.5], [2.0, 2.0, 2.0]),  # constant labels
    ],
)
def test_they_are_scipy_s(told, are):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = {"pearson": pearsonr(told, are).statistic, "spearman": spearmanr(told, are).statistic}
    found = shown(told, are)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, nan_ok=True)
    assert found["squared_error"] == pytest.approx(
        sum((a - b) ** 2 for a, b in zip(told, are, strict=True)) / len(told)
    )


def test_neither_batches_nor_their_order_decide():
    generator = torch.Generator().manual_seed(0)
    told, are = (torch.rand(20, generator=generator).tolist() for _ in range(2))
    assert shown(told, are) == shown(told, are, [5, 3, 19], [], [*range(3), 4, *range(6, 19)])


def test_of_fewer_than_two_nothing_correlates():
    for found in (RegressionMetric().compute(), shown([1.0], [2.0]), shown([], [])):
        assert math.isnan(found["pearson"])
        assert math.isnan(found["spearman"])
