"""Some of the examples of a split, where all would take too long."""

from torch import Tensor


def evenly_chosen(index: Tensor, total: int, count: int | None) -> Tensor:
    """Whether examples, index [B], are among ``count`` of ``total`` that lie evenly spread; [B] bool.

    The first ones would be of one class where a split is sorted, and the easier half of MNIST's test images.
    """
    return index * wanted(total, count) % total < wanted(total, count)


def places(index: Tensor, total: int, count: int | None) -> Tensor:
    """Of examples that are chosen their numbers among these, [B]."""
    return index * wanted(total, count) // total


def wanted(total: int, count: int | None) -> int:
    return total if count is None else min(count, total)
