"""In which iterations a run logs."""

from typing import Any


def is_logged(trainer: Any, iterations: int) -> bool:
    """Whether the trainer logs when that many iterations are done (Lightning sets the interval, undeclared)."""
    return iterations % trainer.log_every_n_steps == 0
