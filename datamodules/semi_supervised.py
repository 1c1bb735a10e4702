"""Few labels and many images: which examples keep their labels, and the three streams that a batch is made of."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from datamodules.batches import GlobalBatches
from foundation.errors import UserError
from foundation.randomness import keyed_generator

STREAMS = ("labelled", "unlabelled", "for_generator")


def labelled_subset(labels: Tensor | None, num_labels: int, num_classes: int | None, seed: int, name: str) -> Tensor:
    """Positions, [num_labels] int64 in ascending order, as many of each class: a function of the labels and the seed.

    Subsets of one seed are nested: with more labels there are more, not others.
    """
    if num_labels == 0:
        return torch.zeros(0, dtype=torch.int64)
    if labels is None or num_classes is None:
        raise UserError(f"datamodule.num_labels={num_labels}, but {name} has no labels: set datamodule.num_labels=0.")
    count, rest = divmod(num_labels, num_classes)
    if rest or count < 1:
        near = max(round(num_labels / num_classes), 1) * num_classes
        raise UserError(
            f"datamodule.num_labels={num_labels} cannot be the same number of each of {num_classes} classes: choose a "
            f"multiple of {num_classes}, such as {near}."
        )
    order = torch.randperm(len(labels), generator=keyed_generator(seed, "labelled subset"))
    labels, chosen = labels.cpu(), []
    for number in range(num_classes):
        of_class = order[labels[order] == number]
        if len(of_class) < count:
            raise UserError(
                f"datamodule.num_labels={num_labels} asks for {count} examples of each class, and {name} has "
                f"{len(of_class)} of class {number} to train on: choose {len(of_class) * num_classes} or less."
            )
        chosen.append(of_class[:count])
    return torch.cat(chosen).sort().values


class StreamBatches(GlobalBatches):
    """Index tensors that hold a share of each stream, one behind the other.

    An epoch is once through all examples as ``unlabelled``, those with labels among them, and once in another order as
    ``for_generator``; the labelled examples fill it in ever new orders of their own.

    Args:
        labelled: positions of the examples with labels, [n] int64; empty: no such stream.
        batches: see ``GlobalBatches``; batch_size is that of each stream.
    """

    def __init__(self, labelled: Tensor, *batches: Any, **more: Any) -> None:
        super().__init__(*batches, **more)
        self.labelled = labelled

    def labelled_order(self) -> Tensor:
        """This epoch's labelled examples, [steps * batch_size] int64."""
        assert self.seed is not None
        assert self.batch_size is not None
        wanted, size = len(self) * self.batch_size, len(self.labelled)
        generator = keyed_generator(self.seed, "labelled order", self.epoch)
        orders = torch.rand(-(-wanted // size), size, generator=generator).argsort(dim=1)
        return self.labelled[orders.flatten()[:wanted]]

    def __iter__(self) -> Iterator[Tensor]:
        start, each = self.consumed(), self.batch_size
        assert each is not None
        streams = [self.order(), self.order("order for the generator")]
        if len(self.labelled):
            streams.insert(0, self.labelled_order())
        for step in range(start, len(self)):
            batches = [order[step * each : (step + 1) * each] for order in streams]
            yield torch.cat([batch.tensor_split(self.world_size)[self.rank] for batch in batches])


def streams_of(batch: dict[str, Tensor], labelled: bool) -> dict[str, dict[str, Tensor]]:
    """A batch of ``StreamBatches`` taken apart; labels stay with the stream that may have them.

    labelled: whether there is such a stream.
    """
    names = STREAMS if labelled else STREAMS[1:]
    parts = {key: values.chunk(len(names)) for key, values in batch.items()}
    return {
        name: {key: shares[number] for key, shares in parts.items() if key != "label" or name == "labelled"}
        for number, name in enumerate(names)
    }
