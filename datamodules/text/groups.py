"""Splits that keep what belongs together (articles, activities) in one of them."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from foundation.errors import UserError
from foundation.randomness import keyed_generator


def split_by_group(
    groups: Sequence[Hashable], sizes: dict[str, int], seed: int, name: str, what: str
) -> dict[str, Tensor]:
    """Rows of ``train`` and of each split with a size, int64 in order: whole groups, until it has that many or more.

    Args:
        groups: of each row.
        sizes: rows of the splits that are set aside; 0: none.
        name, what: of the data and of a group, for a sentence.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    of_row = torch.tensor([numbers[it] for it in groups], dtype=torch.int64)
    counts = torch.bincount(of_row, minlength=len(numbers)).tolist()
    waiting = torch.randperm(len(numbers), generator=keyed_generator(seed, "split by group")).tolist()
    rows = {}
    for split, size in sizes.items():
        taken, count = [], 0
        while count < size and waiting:
            taken.append(waiting.pop())
            count += counts[taken[-1]]
        if count < size or not waiting:
            raise UserError(
                f"datamodule.{split}_size={size} leaves no {what} of {name} to train on: it has {len(groups):,} rows "
                f"in {len(numbers):,} of them, and none is in two splits. Choose a smaller number."
            )
        rows[split] = torch.isin(of_row, torch.tensor(taken, dtype=torch.int64)).nonzero().flatten()
    return {"train": torch.isin(of_row, torch.tensor(waiting)).nonzero().flatten()} | rows
