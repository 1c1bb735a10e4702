"""``trainer.precision=auto``: half precision where a training step is measured to be faster in it.

That a processor can multiply in bf16 says little: weights and activations are converted in every step, and processors
that can differ widely in how fast they do it.
"""

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from callbacks.instruments.chosen_precision import CHOICES
from callbacks.run_record import processor_name
from launch.processes import is_first_process
from lightning_modules.networks.products import linear

SINGLE, HALF = CHOICES
FASTER = 0.85
"""Of a layer's time in single precision the share that half has to stay below: what is between layers gains nothing."""
ROUNDS = 4
FILE = "precision.json"


@dataclass(frozen=True)
class Choice:
    """What ``auto`` is here, and the milliseconds of a training step of each layer in single and in half precision."""

    precision: str
    milliseconds: dict[str, dict[str, float]] | None = None
    """None where nothing was measured."""


def resolve_precision(precision: Any, accelerator: str, cache_dir: Path) -> Choice:
    """``auto`` is bf16-mixed where that is faster, else 32-true; anything else is what it is.

    A GPU is asked for its capability. A processor is measured, once with a version of torch. Ranks other than the first
    are told later (``callbacks/instruments/chosen_precision.py``).

    Args:
        cache_dir: keeps what was measured.
    """
    if precision != "auto":
        return Choice(precision)
    if not is_first_process():
        return Choice(SINGLE)
    if accelerator != "cpu" and torch.cuda.is_available():
        return Choice(HALF if torch.cuda.is_bf16_supported(including_emulation=False) else SINGLE)
    if accelerator not in ("auto", "cpu") or (accelerator == "auto" and torch.backends.mps.is_available()):
        return Choice(SINGLE)
    here, file = describe_processor(), cache_dir / FILE
    kept = read_choices(file)
    if here not in kept:
        kept[here] = choose(measure())
        write_choices(file, kept)
    return kept[here]


def describe_processor() -> str:
    """All that the figures depend on."""
    isa = torch.backends.cpu.get_cpu_capability()
    return f"{processor_name()}, {isa}, torch {torch.__version__}"


def choose(milliseconds: dict[str, dict[str, float]]) -> Choice:
    """Half precision where every layer is clearly faster in it."""
    faster = all(it[HALF] < FASTER * it[SINGLE] for it in milliseconds.values())
    return Choice(HALF if faster else SINGLE, milliseconds)


# --- measured ----------------------------------------------------------------------------------------------------


def measure() -> dict[str, dict[str, float]]:
    """The least milliseconds of some training steps of a linear layer and of a convolution. Draws from no generator.

    On one thread, so that a process that is forked later finds no pool of threads begun.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: step_times(layer) for name, layer in layers()}
    finally:
        torch.set_num_threads(threads)


def layers() -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Each with its name computes a layer of weights and inputs that want gradients."""
    x, weight, bias = leaf(128, 512), leaf(512, 512), leaf(512)
    yield "linear", lambda: linear(x, weight, bias)
    images, kernels = leaf(32, 64, 16, 16), leaf(64, 64, 3, 3)
    yield "convolution", lambda: functional.conv2d(images, kernels, padding=1)


def leaf(*shape: int) -> Tensor:
    """Of numbers between -0.1 and 0.1."""
    size = torch.Size(shape).numel()
    return torch.linspace(0, size, size).sin().mul(0.1).view(shape).requires_grad_()


def step_times(layer: Callable[[], Tensor]) -> dict[str, float]:
    """By precision, in turns; the first of each warms up."""
    times: dict[str, list[float]] = {SINGLE: [], HALF: []}
    for _ in range(1 + ROUNDS):
        for precision, taken in times.items():
            # This thread's own time: others' programs take none of it.
            started = time.thread_time()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == HALF):
                out = layer()
            out.float().sum().backward()
            taken.append(1000 * (time.thread_time() - started))
    return {precision: round(min(taken[1:]), 3) for precision, taken in times.items()}


# --- kept ---------------------------------------------------------------------------------------------------------


def read_choices(file: Path) -> dict[str, Choice]:
    """By processor; nothing where there is no file, or none that can be read."""
    try:
        found = {here: Choice(**it) for here, it in json.loads(file.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    return {here: it for here, it in found.items() if it.precision in (SINGLE, HALF)}


def write_choices(file: Path, choices: dict[str, Choice]) -> None:
    """Whole or not at all; a folder that cannot be written costs the next start another measurement."""
    unfinished = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps({here: asdict(it) for here, it in choices.items()}, indent=2) + "\n")
        os.replace(unfinished, file)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
