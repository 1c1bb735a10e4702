"""A callback that fails on one rank, for tests/test_ranks.py to add on the command line."""

from lightning import Callback


class FailOnRank(Callback):
    """Raises on a rank, in an iteration of training or at the very end."""

    def __init__(self, rank: int, iteration: int | None = None) -> None:
        self.rank, self.iteration = rank, iteration

    def on_train_batch_start(self, trainer, *arguments) -> None:
        if trainer.global_rank == self.rank and trainer.global_step == self.iteration:
            raise ArithmeticError("this rank was told to fail")

    def on_test_end(self, trainer, pl_module) -> None:
        if trainer.global_rank == self.rank and self.iteration is None:
            raise ArithmeticError("this rank was told to fail")
