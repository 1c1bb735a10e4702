"""What a callback that goes by a metric has to know of it."""

from typing import Any, Literal

from foundation.protocols import declared_metrics


def direction_of(metric: str, trainer: Any, module: Any) -> Literal["max", "min"]:
    """Which of two values of a metric is the better one, as whoever logs it in this run declares."""
    direction = declared_metrics(module, trainer.callbacks)[metric]
    assert direction is not None, "launch.parts_check refuses to go by it"
    return direction
