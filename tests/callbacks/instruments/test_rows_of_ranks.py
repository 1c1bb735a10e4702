"""Metrics whose states are rows of any number, where ranks meet: torchmetrics makes tensors of their lists there."""

from typing import Any

import pytest
import torch

from callbacks.answers import AnswersMetric
from callbacks.instruments.outputs import OutputsMetric
from callbacks.instruments.rows_of_ranks import rows_of
from callbacks.regression import RegressionMetric

MEETING: Any = {"dist_sync_fn": lambda rows, group: [rows], "distributed_available_fn": lambda: True}


def outputs(**metric: Any) -> Any:
    found = OutputsMetric(**metric)
    found.update(torch.tensor([3, 1, 2]), torch.tensor([[5, 6], [7, 0], [0, 0]]), torch.tensor([2, 1, 0]))
    return found


def regression(**metric: Any) -> Any:
    found = RegressionMetric(**metric)
    found.update(torch.tensor([1, 0, 2]), torch.tensor([0.1, 0.5, 0.7]), torch.tensor([1.0, 2.0, 4.0]))
    return found


def answers(**metric: Any) -> Any:
    found = AnswersMetric(3, **metric)
    logits = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(0))
    found.update(torch.tensor([0, 1]), torch.tensor([0, 0]), torch.ones(2, 4), logits)
    return found


@pytest.mark.parametrize("made", [outputs, regression, answers])
def test_what_is_computed_where_ranks_meet_is_what_one_process_computes(made):
    wanted = made().compute()
    assert wanted
    assert made(**MEETING).compute() == wanted


def test_nothing_was_made_of_any():
    found = OutputsMetric(**MEETING)
    found.update(torch.tensor([1, 0]), torch.zeros(2, 0, dtype=torch.int64), torch.tensor([0, 0]))
    assert found.compute() == {0: [], 1: []}
    assert OutputsMetric().compute() == {}


def test_rows_are_one_behind_the_other_wherever_they_are_kept():
    rows = [torch.tensor([1]), torch.tensor([], dtype=torch.int64), torch.tensor([2, 3])]
    assert rows_of(rows).tolist() == rows_of(torch.cat(rows)).tolist() == [1, 2, 3]  # pyright: ignore
    assert rows_of([]) is rows_of(rows[1]) is rows_of(rows[1:2]) is None
