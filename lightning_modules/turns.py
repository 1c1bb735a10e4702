"""The base of the methods whose whole iteration is one function of a batch: players that take turns at moving.

A method with one loss has one player. What an iteration must keep to so that a GPU can take it as a whole is in
``foundation.protocols.WholeIteration``.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer

from foundation.errors import UserError
from lightning_modules import across_ranks
from lightning_modules.ahead import Ahead, on_device
from lightning_modules.micro_batches import BatchMeans, Inputs, cut, joined, rehearsing, rows_of
from lightning_modules.networks.precision import out_of_autocast
from lightning_modules.optimized import Batch, Optimized, OptimizerFactory

WITH_GRAPHS_OF_THEIR_OWN = ("reduce-overhead", "max-autotune")  # modes of torch.compile

Told = dict[str, Tensor]
"""What a loss tells: ``loss``, a mean over examples; more numbers, which are logged; rows of the batch's examples."""


@dataclass(frozen=True)
class Player:
    """Who minimises what: the parameters, the optimiser that moves them, the loss of ``host_inputs``."""

    parameters: list[nn.Parameter]
    optimizer: OptimizerFactory
    loss: Callable[[Any], Told]
    steps: int = 1
    """In a turn, each on the same batch."""
    sees_means: bool = False
    """Whether the loss looks at means over the batch (``global_mean``), which cost a pass where it is cut."""


class TakesTurns(Optimized):
    """Manual optimisation in which an iteration is one step: a turn of every player in order.

    Lightning would count every optimiser's step; here an iteration counts once, so ``max_steps``,
    ``every_n_train_steps`` and the loggers all speak of iterations. What Lightning leaves to manual optimisation is
    done here: other players' gradients are off during a turn, gradients are unscaled before they are clipped,
    schedules step once an iteration.

    Args:
        micro_batch_size: examples over all ranks whose gradient is taken at once, where a batch needs more memory than
            there is; None: all.
        optimized: see ``Optimized``.
    """

    def __init__(self, *, micro_batch_size: int | None = None, **optimized: Any) -> None:
        super().__init__(**optimized)
        self.automatic_optimization = False
        if micro_batch_size is not None and micro_batch_size < 1:
            raise UserError(
                f"lightning_module.micro_batch_size is {micro_batch_size}: give a number of examples, or null to take "
                "a batch whole."
            )
        self.micro_batch_size = micro_batch_size
        self.repetition = 0  # the step of a turn, counted from 0
        self.batch_means: BatchMeans | None = None
        self.ahead: Ahead | None = None

    @abstractmethod
    def players(self) -> dict[str, Player]:
        """In the order of their turns; "" is the name of one who plays alone."""

    def optimizer_names(self) -> list[str]:
        return [name for name in self.players() if name]

    def make_optimizers(self) -> list[Optimizer]:
        self.turns = self.players()
        return [player.optimizer(player.parameters) for player in self.turns.values()]

    def not_capturable(self) -> str | None:
        if self.micro_batch_size is not None:
            return "lightning_module.micro_batch_size cuts a batch in a way that was not tried with it: set it to null"
        for name, part in self.named_modules():
            if getattr(part, "padding_free", False):
                return f"its sizes depend on the texts: set lightning_module.{name}.padding_free=false"
            if getattr(part, "compile_mode", None) in WITH_GRAPHS_OF_THEIR_OWN:
                return f"lightning_module.compile_mode={part.compile_mode} has graphs of its own: choose default"
        return None

    def training_figures(self) -> dict[str, Callable[[Any], tuple[Tensor, int]]]:
        """The loss of a method that has one; of losses against one another none says how far a run has come."""
        return {} if self.optimizer_names() else {"loss": lambda told: (told["loss"], 1)}

    # --- an iteration ----------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Any:
        inputs = on_device(self.host_inputs(batch, self.trainer.global_step), self.device)
        return self.after_iteration(self.device_step(inputs))

    def host_inputs(self, batch: Batch, iteration: int) -> Inputs:
        """All that changes from one iteration to the next: the batch, and what a method draws and weighs by.

        iteration: how many are finished, the key of this one's draws.
        """
        if not self.draws_something():
            return batch
        draws = self.draws if self.ahead is None else self.ahead.take
        return batch | draws(iteration, rows_of(batch) * self.trainer.world_size)

    def draws(self, iteration: int, size: int) -> Inputs:
        """What is drawn or made on the host for an iteration: this rank's share of a global batch of that size.

        A function of these two and of settings that stay, since a thread may ask for the next iteration's during this
        one. It stays on the host, and no batch, device, global generator or state of an iteration is read.
        """
        return {}

    def draws_something(self) -> bool:
        return type(self).draws is not TakesTurns.draws

    def device_step(self, inputs: Inputs) -> Told:
        told: Told = {}
        for optimizer, (name, player) in zip(self.trainer.optimizers, self.turns.items(), strict=True):
            with self.others_at_rest(player):
                for self.repetition in range(player.steps):
                    of_player = self.step_of(name, player, optimizer, inputs)
            named = {"loss": f"loss_{name}"} if name else {}
            told |= {named.get(key, key): value for key, value in of_player.items()}
        return told

    def after_iteration(self, outputs: Told) -> Told:
        counted = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        counted.increment_ready()
        counted.increment_completed()
        schedules = self.lr_schedulers() or []
        for schedule in schedules if isinstance(schedules, list) else [schedules]:
            schedule.step()  # pyright: ignore[reportCallIssue]
        self.log_training(self.trainer.global_step, {key: value for key, value in outputs.items() if not value.ndim})
        return outputs

    # --- the next iteration's draws --------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Whoever overrides it calls this one."""
        super().on_train_start()
        self.stop_drawing_ahead()  # of a fit that a mistake has ended
        if self.device.type == "cuda":  # a CPU has no time to spare while it takes an iteration
            self.draw_ahead()

    def draw_ahead(self) -> None:
        """From now to the end of the fit, a thread draws for the next iteration."""
        # The type of numbers that are drawn is the process's, and other precisions change it for a step at a time.
        if self.ahead is None and self.draws_something() and self.dtype is torch.float32:
            self.ahead = Ahead(self.draws)

    def stop_drawing_ahead(self) -> None:
        if self.ahead is not None:
            self.ahead.close()
            self.ahead = None

    def on_train_end(self) -> None:
        """Whoever overrides it calls this one."""
        super().on_train_end()
        self.stop_drawing_ahead()

    # --- a turn ----------------------------------------------------------------------------------------------

    def step_of(self, name: str, player: Player, optimizer: Optimizer, inputs: Inputs) -> Told:
        """One step of a player, and what its loss has told."""
        optimizer.zero_grad()
        told = self.take_gradient(player, inputs)
        # Past the wrapper of Lightning's that counts, but not past mixed precision and the hooks before a step.
        self.trainer.strategy.optimizer_step(optimizer, closure=lambda: None)
        return told

    def take_gradient(self, player: Player, inputs: Inputs) -> Told:
        if self.micro_batch_size is None:
            return self.backward_of(player, inputs)
        parts = cut(inputs, self.micro_batch_size // self.trainer.world_size)
        if len(parts) == 1:
            return self.backward_of(player, inputs)
        told = []
        with self.means_of(player, parts) as means:
            for number, (share, part) in enumerate(parts, start=1):
                means.begin()
                with self.ranks_apart() if number < len(parts) else nullcontext():
                    told.append((share, self.backward_of(player, part, share)))
        return joined(told)

    def backward_of(self, player: Player, inputs: Inputs, share: float | None = None) -> Told:
        """Adds the gradient of the loss, or of that share of it, and tells it."""
        told = player.loss(inputs)
        loss = told["loss"] if share is None else share * told["loss"]
        with out_of_autocast(self.device):
            self.manual_backward(loss)
        return {key: value.detach() for key, value in told.items()}

    @contextmanager
    def means_of(self, player: Player, parts: list[tuple[float, Inputs]]) -> Iterator[BatchMeans]:
        """In it ``global_mean`` gives, to a loss that sees a part, means over all of them."""
        self.batch_means = means = BatchMeans()
        try:
            if player.sees_means:
                with rehearsing(self):
                    for share, part in parts:
                        means.begin(adding=share)
                        player.loss(part)
                means.meet(self.trainer)
            yield means
        finally:
            self.batch_means = None

    def ranks_apart(self) -> AbstractContextManager[Any]:
        """Gradients are added up on each rank, to be exchanged later."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    @contextmanager
    def others_at_rest(self, moving: Player) -> Iterator[None]:
        """No gradient for parameters of the other players that have one otherwise."""
        own = set(map(id, moving.parameters))
        others = (parameter for player in self.turns.values() for parameter in player.parameters)
        resting = [parameter for parameter in others if parameter.requires_grad and id(parameter) not in own]
        try:
            for parameter in resting:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in resting:
                parameter.requires_grad_(True)

    def global_mean(self, mean: Tensor) -> Tensor:
        """The mean over the global batch of what is a mean over the examples that a loss is given; with gradient."""
        if self.batch_means is not None:
            return self.batch_means.of(mean)
        return across_ranks.global_mean(self.trainer, mean)

    # --- checkpoints -----------------------------------------------------------------------------------------

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Those of before this class counted for one optimiser hold Lightning's own count of its steps."""
        loops = checkpoint.get("loops", {}).get("fit_loop", {})
        own = loops.get("epoch_loop.manual_optimization.optim_step_progress")
        lightning_s = loops.get("epoch_loop.automatic_optimization.optim_progress")
        if own and lightning_s and not own["total"]["completed"]:
            own |= lightning_s["optimizer"]["step"]
