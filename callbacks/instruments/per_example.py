"""Numbers about examples, each at its example's place: the same on any number of ranks, to the bit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class PerExample(Metric):
    """Columns of numbers, [examples] each. A place that no rank has seen holds 0."""

    full_state_update = False
    values: Tensor

    def __init__(self, columns: Sequence[str], examples: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.columns = list(columns)
        self.add_state("values", torch.zeros(len(columns), examples, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, place: Tensor, of: Mapping[str, Tensor]) -> None:
        """place: [B] int64; of: by column, [B]."""
        assert of.keys() == set(self.columns)
        for number, name in enumerate(self.columns):
            self.values[number, place] += of[name].to(self.values)

    def compute(self) -> dict[str, Tensor]:
        return dict(zip(self.columns, self.values.cpu(), strict=True))

    def by_example(self) -> dict[str, Tensor]:
        """By column, [examples]. What torchmetrics makes of ``compute`` has no dimension where there is one example."""
        return {name: column.reshape(-1) for name, column in self.compute().items()}
