"""The base of the GANs: players that take turns, and one counted step an iteration."""

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from foundation.logged_iterations import is_logged
from foundation.metrics import Directions
from foundation.randomness import keyed_generator
from lightning_modules import across_ranks

Batch = dict[str, Tensor]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class Player:
    """Who minimises what: the parameters, the optimiser that moves them, the loss of one batch."""

    parameters: list[nn.Parameter]
    optimizer: OptimizerFactory
    loss: Callable[[Any], Tensor]
    steps: int = 1
    """In a turn, each on the same batch."""


class TwoPlayer(LightningModule):
    """Manual optimisation in which an iteration is one step.

    An iteration is a turn of every player in order. Lightning would count every optimiser's step; here the last
    player's alone counts, so ``max_steps``, ``every_n_train_steps`` and the loggers all speak of iterations.
    What Lightning leaves to manual optimisation is done here: other players' gradients are off during a turn,
    gradients are unscaled before they are clipped, schedulers step once an iteration.

    Args:
        optimizer_g, optimizer_d: make an optimiser out of parameters.
        scheduler: makes a schedule out of an optimiser, one for each player; stepped every iteration.
        gradient_clip_norm: largest norm of a player's gradient in its turn; None leaves gradients alone.
        seed: of the codes, noise inputs and samples.
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
        scheduler: SchedulerFactory | None = None,
        gradient_clip_norm: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = generator, discriminator
        self.optimizer_g, self.optimizer_d, self.scheduler = optimizer_g, optimizer_d, scheduler
        self.gradient_clip_norm, self.seed = gradient_clip_norm, seed
        self.iteration = 0  # iterations finished before this one; the key of this one's draws
        self.repetition = 0  # the step of a turn, counted from 0

    @abstractmethod
    def discriminator_loss(self, batch: Batch) -> Tensor: ...

    @abstractmethod
    def generator_loss(self, batch: Batch) -> Tensor: ...

    def players(self) -> dict[str, Player]:
        """In the order of their turns."""
        return {
            "d": Player(list(self.discriminator.parameters()), self.optimizer_d, self.discriminator_loss),
            "g": Player(list(self.generator.parameters()), self.optimizer_g, self.generator_loss),
        }

    def optimizer_names(self) -> list[str]:
        return list(self.players())

    def metrics(self, stage: str) -> Directions:
        """Of two losses against one another neither is good when it is small."""
        return {f"train/loss_{name}": None for name in self.players()} if stage == "train" else {}

    def configure_optimizers(self) -> Any:
        self.turns = self.players()
        optimizers = [player.optimizer(player.parameters) for player in self.turns.values()]
        schedulers = [self.scheduler(optimizer) for optimizer in optimizers] if self.scheduler else []
        return optimizers, schedulers

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.iteration = self.trainer.global_step
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for turn, (name, player) in enumerate(self.turns.items(), start=1):
            optimizer = optimizers[turn - 1]
            resting = self.parameters_at_rest(player)
            for parameter in resting:
                parameter.requires_grad_(False)
            for self.repetition in range(player.steps):
                loss = player.loss(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                if turn == len(self.turns) and self.repetition == player.steps - 1:
                    optimizer.step()
                else:  # the same step, past the wrapper that counts it
                    self.trainer.strategy.optimizer_step(optimizer.optimizer, closure=lambda: None)
            for parameter in resting:
                parameter.requires_grad_(True)
            self.log_training(f"loss_{name}", loss)
        schedulers = self.lr_schedulers() or []
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()  # pyright: ignore[reportCallIssue]

    def parameters_at_rest(self, moving: Player) -> list[nn.Parameter]:
        """Those of the other players that have gradients otherwise."""
        own = set(map(id, moving.parameters))
        others = (parameter for player in self.turns.values() for parameter in player.parameters)
        return [parameter for parameter in others if parameter.requires_grad and id(parameter) not in own]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Mixed precision has unscaled the gradients when this hook runs; before it, they are too large to clip.
        if self.gradient_clip_norm is not None:
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip_norm)

    def log_training(self, name: str, value: Tensor) -> None:
        """Log ``train/<name>`` in the iterations that the trainer logs; in the others it costs nothing."""
        if is_logged(self.trainer, self.iteration + 1):
            self.log(f"train/{name}", value.detach(), batch_size=1, sync_dist=True)

    def iteration_generator(self, stream: str) -> torch.Generator:
        """Draws of one iteration, for the global batch."""
        return keyed_generator(self.seed, stream, self.iteration)

    def global_mean(self, mean: Tensor) -> Tensor:
        return across_ranks.global_mean(self.trainer, mean)

    def gathered(self, rows: Tensor) -> Tensor:
        return across_ranks.gathered(self.trainer, rows)

    def share(self, drawn: Tensor) -> Tensor:
        return across_ranks.share(self.trainer, drawn).to(self.device)
