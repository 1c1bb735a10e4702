"""A module beside a stand-in of the trainer, to take steps without one."""

from types import SimpleNamespace
from typing import Any

import torch

from lightning_modules.turns import TakesTurns, on_device


def alone(module: Any, world_size: int = 1, rank: int = 0) -> Any:
    """The module with optimisers of its own, which step as a trainer's do on one device."""

    def step(optimizer: torch.optim.Optimizer, closure: Any) -> None:
        module.on_before_optimizer_step(optimizer)
        optimizer.step()

    strategy = SimpleNamespace(
        backward=lambda loss, optimizer: loss.backward(), optimizer_step=step, reduce=lambda it, reduce_op: it
    )
    module._trainer = SimpleNamespace(world_size=world_size, global_rank=rank, strategy=strategy, current_epoch=0)
    module.trainer.optimizers, _ = module.configure_optimizers()
    return module


def step_alone(module: TakesTurns, batch: dict[str, Any], iteration: int = 0) -> dict[str, torch.Tensor]:
    """An iteration, and what it tells."""
    return module.device_step(on_device(module.host_inputs(batch, iteration), module.device))
