"""The sampler of every DataModule: which examples make which batch, on which rank."""

from collections.abc import Callable, Iterator, Sequence
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
        batch_size: examples a step over all ranks together; None in a heir that cuts batches by something else.
        consumed: how many global batches of this epoch were already used.
    """

    def __init__(
        self,
        size: int,
        batch_size: int | None,
        *,
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
        consumed: Callable[[], int] = lambda: 0,
    ) -> None:
        if batch_size is not None:
            check_size(size, batch_size, world_size, trains=seed is not None)
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

    def batches(self) -> Sequence[Tensor]:
        """This epoch's global batches in their order, each of them the numbers of its examples."""
        assert self.batch_size is not None
        return self.order().split(self.batch_size)

    def __len__(self) -> int:
        assert self.batch_size is not None
        whole, rest = divmod(self.size, self.batch_size)
        if self.seed is not None:
            return whole
        return max(whole + int(rest > self.rank), 1)

    def __iter__(self) -> Iterator[Tensor]:
        for batch in self.batches()[self.consumed() : len(self)]:
            yield batch.tensor_split(self.world_size)[self.rank]


def check_size(size: int, batch_size: int, world_size: int, trains: bool) -> None:
    """A UserError where batches of a size cannot be made of a split."""
    if batch_size < 1:
        raise UserError(f"datamodule.batch_size is {batch_size}: give a number of examples, 1 or more.")
    if trains and size < batch_size:
        raise UserError(
            f"The training split has {size} examples, fewer than one batch of {batch_size}: "
            f"set datamodule.batch_size to {size} or less."
        )
    if trains and batch_size % world_size:
        raise UserError(
            f"datamodule.batch_size={batch_size} is the global batch and cannot be cut among {world_size} ranks: "
            f"choose a multiple of {world_size}, such as {batch_size // world_size * world_size or world_size}."
        )


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

    batch_size: int

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


class TokenBatches(GlobalBatches):
    """Training batches of texts of nearly one length, as many as fit into a number of tokens with their padding.

    Examples are sorted by their lengths, the longest first, and those of the same lengths are shuffled in each epoch.
    Where batches begin follows from the lengths alone, so that every epoch has as many; then their order is shuffled.
    No example is dropped, and batches differ in size: most of them have a multiple of eight examples, so that two, four
    or eight ranks have equal shares.

    Args:
        lengths: int64 [N, L], the tokens of an example's texts, by the first of which they are sorted, then by the
            second. An example takes as many tokens as its longest text has.
        tokens: of a batch over all ranks together, at most.
    """

    def __init__(self, lengths: Tensor, tokens: int, *, seed: int, **shares: Any) -> None:
        super().__init__(len(lengths), None, seed=seed, **shares)
        self.lengths = lengths
        self.sizes = sizes_by_tokens(lengths[longest_first(lengths)].amax(1).tolist(), tokens)
        if min(self.sizes) < self.world_size:
            raise UserError(
                f"datamodule.batch_tokens={tokens} makes a batch of {min(self.sizes)} examples, which "
                f"{self.world_size} ranks cannot share: set it to a larger number."
            )

    def __len__(self) -> int:
        return len(self.sizes)

    def batches(self) -> Sequence[Tensor]:
        shuffled = self.order()
        cut = shuffled[longest_first(self.lengths[shuffled])].split(self.sizes)
        assert self.seed is not None
        order = torch.randperm(len(cut), generator=keyed_generator(self.seed, "order of batches", self.epoch))
        return [cut[number] for number in order.tolist()]


class LengthOrder(GlobalBatches):
    """Evaluation batches of texts of nearly one length, the longest first.

    Args:
        lengths: see ``TokenBatches``.
        batch_size: examples, whatever their lengths.
    """

    def __init__(self, lengths: Tensor, batch_size: int, **shares: Any) -> None:
        super().__init__(len(lengths), batch_size, seed=None, **shares)
        self.lengths = lengths

    def order(self) -> Tensor:
        return longest_first(self.lengths)


EVEN = 8  # most batches by tokens have a multiple of so many examples


def longest_first(lengths: Tensor) -> Tensor:
    """The order of rows by their columns, the first one first, descending; equal rows stay in theirs. [N] int64."""
    order = torch.arange(len(lengths))
    for column in reversed(range(lengths.shape[1])):
        order = order[lengths[order, column].argsort(descending=True, stable=True)]
    return order


def sizes_by_tokens(lengths: Sequence[int], tokens: int) -> list[int]:
    """Into how many examples each batch is cut, of examples in this order; what is left of them shares with the batch
    before, where that has room."""
    sizes, begin = [], 0
    while begin < len(lengths):
        size, longest = 0, 0
        while begin + size < len(lengths):
            longest = max(longest, lengths[begin + size])
            if (size + 1) * longest > tokens:
                break
            size += 1
        if not size:
            raise UserError(
                f"datamodule.batch_tokens is {tokens}, and a text has {lengths[begin]} tokens: give at least as many."
            )
        if size > EVEN and begin + size < len(lengths):
            size -= size % EVEN
        sizes.append(size)
        begin += size
    half = sum(sizes[-2:]) // 2
    if len(sizes) > 1 and sizes[-1] < half and half * max(lengths[-half:]) <= tokens:
        sizes[-2:] = [sum(sizes[-2:]) - half, half]
    return sizes


def whole_batches(positions: Tensor, batch_size: int) -> Tensor:
    return positions[: len(positions) // batch_size * batch_size].view(-1, batch_size)


def consumed_in_epoch(trainer: Trainer | None) -> Callable[[], int]:
    """How many global batches of this training epoch a trainer has used; none without one."""
    if trainer is None:
        return lambda: 0
    return lambda: trainer.fit_loop.epoch_loop.batch_progress.current.ready
