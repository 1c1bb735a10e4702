"""What an iteration needs from the host: drawn while the device takes the one before, and moved without waiting for it.

A copy out of ordinary memory waits for all that a GPU has been given to do before, and so does every small copy by
itself. So draws are made in a thread, gathered in one piece of pinned memory, and moved by one copy.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from foundation.denormals import are_flushed, flush_denormals
from lightning_modules.micro_batches import Inputs

ALIGNED = 64
"""Bytes at whose multiples tensors that share a piece of memory begin."""

Name = tuple[str, ...]
"""Of a tensor in nested inputs."""


def leaves_of(inputs: Inputs, above: Name = ()) -> Iterator[tuple[Name, Tensor]]:
    for name, it in inputs.items():
        if isinstance(it, Mapping):
            yield from leaves_of(dict(it), (*above, name))
        else:
            yield (*above, name), it


def tree_of(leaves: Mapping[Name, Tensor], like: Inputs, above: Name = ()) -> Inputs:
    return {
        name: tree_of(leaves, dict(it), (*above, name)) if isinstance(it, Mapping) else leaves[(*above, name)]
        for name, it in like.items()
    }


class Places:
    """Of the inputs that lie on the host, in one piece of memory."""

    def __init__(self, inputs: Inputs) -> None:
        self.like = {name: it for name, it in leaves_of(inputs) if it.is_cpu}
        self.offsets: dict[Name, int] = {}
        self.size = 0
        """Bytes of them all."""
        for name, it in self.like.items():
            self.offsets[name], self.size = self.size, self.size + -(-it.nbytes // ALIGNED) * ALIGNED

    def of(self, memory: Tensor) -> dict[Name, Tensor]:
        """memory: uint8 [size]."""
        return {
            name: memory[offset : offset + it.nbytes].view(it.dtype).view(it.shape)
            for (name, it), offset in zip(self.like.items(), self.offsets.values(), strict=True)
        }


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """What was drawn on the host goes where the batch is: in one copy, for which the host does not wait."""
    places = Places(inputs)
    if device.type == "cpu" or not places.size:
        return inputs
    # torch's own store of pinned memory gives a piece to the next one only when the copy out of it is done.
    host = torch.empty(places.size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    for name, it in places.of(host).items():
        it.copy_(places.like[name])
    return tree_of(dict(leaves_of(inputs)) | places.of(host.to(device, non_blocking=True)), inputs)


class Ahead:
    """A thread that draws for the next iteration while this one is taken.

    What it gives is what ``draws`` would: an iteration or a size that it did not expect is drawn when it is asked for,
    and a mistake in a draw is raised where its iteration begins. The thread ends with ``close``, or with this object.

    Args:
        draws: a function of the iteration and of the global batch's size alone.
    """

    def __init__(self, draws: Callable[[int, int], Inputs]) -> None:
        self.draws = draws
        self.thread = ThreadPoolExecutor(1, "draws", initializer=partial(flush_denormals, are_flushed()))
        self.expected: tuple[int, int] | None = None
        self.drawn: Future[Inputs] = Future()

    def take(self, iteration: int, size: int) -> Inputs:
        drawn = self.drawn.result() if self.expected == (iteration, size) else self.draws(iteration, size)
        self.expected = iteration + 1, size
        self.drawn = self.thread.submit(self.draws, *self.expected)
        return drawn

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()  # a module that is copied or saved leaves its thread behind
