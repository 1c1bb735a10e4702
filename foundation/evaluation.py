"""How a module is looked at between two iterations, so that nothing of it is seen afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module, *, gradients: bool = False) -> Iterator[None]:
    """The one door to evaluation: nothing that happens inside is seen afterwards.

    Inside, the module is in evaluation mode, so that batch norm's statistics stay as they are. Afterwards modes, the
    global random states, which parameters need a gradient and the gradients that they hold are as they were.

    Args:
        gradients: inputs may need one (attacks); parameters need none, whatever surrounds the door, be it Lightning's
            test loop under ``no_grad``. Else nothing does.
    """
    parameters = [(it, it.requires_grad, it.grad) for it in module.parameters()]
    try:
        with in_mode(module, training=False), keeping_random_states(module), torch.set_grad_enabled(gradients):
            if gradients:
                module.requires_grad_(False)
            yield
    finally:
        for parameter, needs_gradient, gradient in parameters:
            parameter.requires_grad_(needs_gradient)
            parameter.grad = gradient


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """All parts of the module in one mode; afterwards each is in its own again."""
    modes = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def keeping_random_states(module: nn.Module) -> Iterator[None]:
    """The global generators of Python, NumPy, the CPU and the module's GPUs are afterwards as they were."""
    gpus = {it.device for it in (*module.parameters(), *module.buffers()) if it.device.type == "cuda"}
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (libraries draw from the global one)
    try:
        with torch.random.fork_rng(list(gpus)):
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
