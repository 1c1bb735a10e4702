"""What is asked of modules whose iterations are to be taken whole."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class WholeIteration(Protocol):
    """A training step in three parts, of which the second can be taken as a whole: captured once on a GPU and replayed.

    ``training_step`` is ``after_iteration(device_step(host_inputs(batch, iteration)))``, what the host has drawn going
    to the device in between. What each part may do: docs/contributing.md.
    """

    def host_inputs(self, batch: dict[str, Any], iteration: int) -> dict[str, Any]:
        """All that changes from one iteration to the next: the batch, keyed draws (on the host), weights of terms.

        Tensors, and dicts of them, of the same names, types and shapes each time; rows are examples, and a number
        without a dimension holds for all of them. iteration: how many are finished.
        """
        ...

    def device_step(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Zero gradients, forward, backward, clip, step, of every optimiser: detached numbers and rows of the batch.

        A replay runs no Python. So nothing is read back from the device, and there is no branch and no Python number
        that another iteration would have otherwise, nothing logged, nothing drawn on the host.
        """
        ...

    def after_iteration(self, outputs: dict[str, Tensor]) -> Any:
        """Counts, steps schedules, logs; returns what callbacks get."""
        ...
