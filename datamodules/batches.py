"""The sampler of every DataModule: which examples make which batch, on which rank."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import Sampler

from foundation.errors import UserError
from foundation.randomness import keyed_generator


class GlobalBatches(Sampler[Tensor]):
    """Index tensors, one a step: this rank's share of each global batch.

    Training (a seed is given): the order is a function of (seed, epoch), an incomplete last batch is
    dropped, and each global batch is cut into equal shares. Evaluation (no seed): examples come in order,
    none is dropped and none is repeated, so the last shares may differ in size and a rank that has no
    share of the last batch ends one step earlier. A rank that has no example at all gets one empty batch: Lightning
    would leave its evaluation out, and the others would wait for it where metrics meet.

    A resumed run goes on where it stopped: ``consumed`` is asked when the first batch is wanted, since
    Lightning calls ``iter()`` before it has restored its counters and before ``set_epoch``.

    Args:
        size: number of examples in the split.
        batch_size: examples a step over all ranks together.
        consumed: how many global batches of this epoch were already used.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
        consumed: Callable[[], int] = lambda: 0,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"datamodule.batch_size is {batch_size}: give a number of examples, 1 or more.")
        if seed is not None and size < batch_size:
            raise UserError(
                f"The training split has {size} examples, fewer than one batch of {batch_size}: "
                f"set datamodule.batch_size to {size} or less."
            )
        if seed is not None and batch_size % world_size:
            raise UserError(
                f"datamodule.batch_size={batch_size} is the global batch and cannot be cut among {world_size} ranks: "
                f"choose a multiple of {world_size}, such as {batch_size // world_size * world_size or world_size}."
            )
        self.size, self.batch_size = size, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.consumed = consumed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self, stream: str = "order") -> Tensor:
        """This epoch's examples over all ranks, [size] int64."""
        if self.seed is None:
            return torch.arange(self.size)
        return torch.randperm(self.size, generator=keyed_generator(self.seed, stream, self.epoch))

    def __len__(self) -> int:
        whole, rest = divmod(self.size, self.batch_size)
        if self.seed is not None:
            return whole
        return max(whole + int(rest > self.rank), 1)

    def __iter__(self) -> Iterator[Tensor]:
        start, order = self.consumed(), self.order()
        for step in range(start, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch.tensor_split(self.world_size)[self.rank]


class AspectBatches(GlobalBatches):
    """Training batches whose images are all wider than high, or none of them: padded to one size, they waste less.

    Each epoch shuffles both kinds, cuts them into batches, drops what is left of each, and shuffles the batches.
    """

    def __init__(self, wide: Tensor, batch_size: int, *, seed: int, **shares: Any) -> None:
        super().__init__(len(wide), batch_size, seed=seed, **shares)
        self.wide = wide
        for kind, number in {"wider than high": int(wide.sum()), "not wider than high": int((~wide).sum())}.items():
            if 0 < number < batch_size:
                raise UserError(
                    f"{number} training images are {kind}, fewer than one batch of {batch_size}, and would never be "
                    f"seen: set datamodule.group_by_aspect=false, or datamodule.batch_size to {number} or less."
                )

    def __len__(self) -> int:
        wide = int(self.wide.sum())
        return wide // self.batch_size + (self.size - wide) // self.batch_size

    def order(self) -> Tensor:
        """This epoch's examples in whole batches, [len * batch_size] int64."""
        shuffled = super().order()
        wide = self.wide[shuffled]
        batches = torch.cat([whole_batches(shuffled[kind], self.batch_size) for kind in (wide, ~wide)])
        assert self.seed is not None
        generator = keyed_generator(self.seed, "order of batches", self.epoch)
        return batches[torch.randperm(len(batches), generator=generator)].flatten()


def whole_batches(positions: Tensor, batch_size: int) -> Tensor:
    return positions[: len(positions) // batch_size * batch_size].view(-1, batch_size)


def consumed_in_epoch(trainer: Trainer | None) -> Callable[[], int]:
    """How many global batches of this training epoch a trainer has used; none without one."""
    if trainer is None:
        return lambda: 0
    return lambda: trainer.fit_loop.epoch_loop.batch_progress.current.ready
