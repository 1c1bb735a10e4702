"""Which examples are chosen."""

import pytest
import torch

from callbacks.instruments.examples import evenly_chosen, places


@pytest.mark.parametrize(("total", "count"), [(10, 3), (10, 10), (10, 25), (7, 1), (10_000, 999), (360, None), (1, 1)])
def test_as_many_as_asked_for_evenly_spread_and_numbered(total, count):
    index = torch.arange(total)
    chosen = index[evenly_chosen(index, total, count)]
    expected = total if count is None else min(count, total)
    assert len(chosen) == expected
    assert places(chosen, total, count).tolist() == list(range(expected))
    gaps = chosen.diff()
    assert not len(gaps) or int(gaps.max() - gaps.min()) <= 1
