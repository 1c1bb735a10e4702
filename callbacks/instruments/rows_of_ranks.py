"""States of a metric that hold rows of any number, and what is in them behind the place where ranks meet."""

from collections.abc import Sequence

from torch import Tensor
from torchmetrics.utilities import dim_zero_cat


def rows_of(state: Sequence[Tensor] | Tensor) -> Tensor | None:
    """All rows of a state that is ``cat``; None where there is none.

    torchmetrics makes one tensor of a state's list where ranks meet, and leaves the list where there is one process.
    """
    if isinstance(state, Tensor):
        return state if len(state) else None
    rows = dim_zero_cat(list(state)) if state else None
    return rows if rows is not None and len(rows) else None
