"""Denormals are flushed, or not, in every rank, however it was started."""

from lightning import Callback, LightningModule, Trainer

from foundation.denormals import flush_denormals


class Denormals(Callback):
    """Has a rank begin as ``foundation/denormals.py`` is asked to; every run has one.

    Ranks that Lightning starts by the command, or forks, are so from the beginning; one that it spawns is not.
    """

    def __init__(self, flush: bool) -> None:
        self.flush = flush

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        flush_denormals(self.flush)
