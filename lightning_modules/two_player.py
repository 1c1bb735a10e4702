"""The base of the GANs: a generator and a discriminator, each with a loss and an optimiser."""

from abc import abstractmethod
from typing import Any

from torch import nn

from lightning_modules.micro_batches import Inputs
from lightning_modules.optimized import OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told


class TwoPlayer(TakesTurns):
    """D moves, then G.

    Args:
        optimizer_g, optimizer_d: make an optimiser out of parameters.
        turns: see ``TakesTurns``.
    """

    # A turn leaves the other players without gradient, which DDP must be told.
    needs_find_unused_parameters = True

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        optimizer_g: OptimizerFactory,
        optimizer_d: OptimizerFactory,
        **turns: Any,
    ) -> None:
        super().__init__(**turns)
        self.generator, self.discriminator = generator, discriminator
        self.optimizer_g, self.optimizer_d = optimizer_g, optimizer_d

    @abstractmethod
    def discriminator_loss(self, inputs: Inputs) -> Told: ...

    @abstractmethod
    def generator_loss(self, inputs: Inputs) -> Told: ...

    def players(self) -> dict[str, Player]:
        return {
            "d": Player(list(self.discriminator.parameters()), self.optimizer_d, self.discriminator_loss),
            "g": Player(list(self.generator.parameters()), self.optimizer_g, self.generator_loss),
        }
