"""What is asked of modules that make images out of latents, codes and noise."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from foundation.errors import UserError


@runtime_checkable
class SamplesImages(Protocol):
    seed: int
    """The run's, until it is set to another."""

    def sample(self, indices: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1]; image i depends on the seed and indices[i] alone."""
        ...


@runtime_checkable
class ChoosesCodes(Protocol):
    def code_ranges(self) -> dict[str, range | None]:
        """The codes by the names of their traversals: a category's values, None for a number."""
        ...

    def sample_with_codes(self, indices: Tensor, codes: Mapping[str, Any]) -> Tensor:
        """The images of ``sample``, with the codes that are named set to a value in all of them.

        A code that is None stays as drawn. A name or value that does not exist is a UserError (``check_codes``).
        """
        ...


@runtime_checkable
class MapsLatents(Protocol):
    generator: nn.Module
    """Latents [B, size] -> images [B, C, H, W] in [0, 1]."""

    def latent_layout(self) -> list[dict[str, Any]]:
        """The parts of a latent vector in their order: ``name``, ``size``, and ``values`` in words."""
        ...


@runtime_checkable
class MovesLatents(Protocol):
    """Whose images move smoothly with the numbers that they are made of."""

    image_shape: tuple[int, ...]
    """Channels, height, width."""

    def draw_latents(self, indices: Tensor) -> Tensor:
        """What the images of ``sample`` are made of, [B, size]; that of index i depends on (seed, i) alone."""
        ...

    def images_of_latents(self, latents: Tensor) -> Tensor:
        """[B, size] -> [B, C, H, W] in [0, 1], with gradient."""
        ...

    def free_latents(self) -> Tensor:
        """[size] bool: which of them are numbers that can move; the others are a category, one-hot."""
        ...

    def latent_range(self) -> tuple[float, float] | None:
        """Where those that can move lie in training; None: anywhere."""
        ...


@runtime_checkable
class TraversesLatents(Protocol):
    def traversals(self, rows: int) -> dict[str, Tensor]:
        """For each code, by name, images [rows, columns, C, H, W] in [0, 1]: in a row only that code varies."""
        ...


@runtime_checkable
class BoundsLikelihood(Protocol):
    """Its validation and test steps return ``index`` [B], ``reconstruction_nats`` [B] and ``kl_nats`` [B, steps]:
    what adds up to an upper bound on -log p(x) of each example."""

    steps: int


@runtime_checkable
class BoundsLikelihoodOfImages(BoundsLikelihood, Protocol):
    def importance_weighted_log_likelihood(self, images: Tensor, indices: Tensor, samples: int) -> Tensor:
        """Estimates of log p(x) in nats, [B], from that many samples of each image's latents; example i's depends on
        the seed and indices[i] alone. images: [B, C, H, W] in [0, 1]."""
        ...


@dataclass(frozen=True)
class Drawing:
    """Images as they come about. A window is left, top, right, bottom and blur in pixels, pixel 0's centre being 0."""

    canvases: Tensor
    """After each step: [T, B, C, H, W] in [0, 1]."""
    read_windows: Tensor | None
    """[T, B, 5]; None where nothing is read, or without attention."""
    write_windows: Tensor | None


@runtime_checkable
class DrawsStepwise(Protocol):
    def drawing(self, indices: Tensor) -> Drawing:
        """How the images of ``sample`` come about."""
        ...

    def redrawing(self, images: Tensor, indices: Tensor) -> Drawing:
        """How these images are drawn again, with noise that indices decide. images: [B, C, H, W] in [0, 1]."""
        ...


def check_codes(codes: Mapping[str, Any], ranges: Mapping[str, range | None]) -> None:
    """Raise a UserError that names the first code or value that does not exist, and all that do."""
    known = [f"{name} ({describe_range(values)})" for name, values in ranges.items()]
    for name, value in codes.items():
        if name not in ranges:
            raise UserError(f"codes.{name}: there is no such code; this model has {', '.join(known)}.")
        values = ranges[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if value is not None and not (is_number if values is None else is_number and value in values):
            raise UserError(f"codes.{name} is {value!r}: give {describe_range(values)}, or null to leave it as drawn.")


def describe_range(values: range | None) -> str:
    return f"a whole number from {values[0]} to {values[-1]}" if values else "a number, in training from -1 to 1"
