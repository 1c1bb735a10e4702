"""What the ranks of a run have to exchange so that one batch, cut among them, gives one result.

Nothing here branches on a rank: all of them call the same functions in the same order.
"""

from lightning import Trainer
from torch import Tensor


def share(trainer: Trainer, drawn: Tensor) -> Tensor:
    """This rank's slice of what was drawn for the global batch, [B, ...], where it lies."""
    return drawn.tensor_split(trainer.world_size)[trainer.global_rank]


def global_mean(trainer: Trainer, mean: Tensor) -> Tensor:
    """The mean over the global batch of what is a mean over this rank's share; its gradient reaches all ranks."""
    if trainer.world_size == 1:
        return mean
    gathered = trainer.strategy.all_gather(mean, sync_grads=True)
    return gathered.mean(dim=0)


def mean_without_gradient(trainer: Trainer, value: Tensor) -> Tensor:
    """The mean over the ranks of a number or a tensor of numbers."""
    mean = trainer.strategy.reduce(value, reduce_op="mean")
    assert isinstance(mean, Tensor)
    return mean


def gathered(trainer: Trainer, rows: Tensor) -> Tensor:
    """The rows [B, ...] of all ranks one behind the other; their gradient reaches all ranks."""
    if trainer.world_size == 1:
        return rows
    of_ranks = trainer.strategy.all_gather(rows, sync_grads=True)
    if of_ranks.requires_grad:  # gloo exchanges what lies in memory, whatever the gradient's strides say
        of_ranks.register_hook(Tensor.contiguous)
    return of_ranks.flatten(0, 1)
