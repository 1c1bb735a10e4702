"""Every random draw as a function of what it is for.

Orders, codes, noise inputs and masks are drawn from a generator that is made for the occasion out of
(seed, stream, step or index). So a draw does not depend on what was drawn before it: not on the number
of ranks, not on the batch size of an evaluation, not on whether the run was interrupted.
"""

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def keyed_generator(seed: int, stream: str, *key: int) -> torch.Generator:
    """A CPU generator for one occasion, for example ``keyed_generator(seed, "codes", step)``.

    Streams with different names are independent. Draw on the CPU and move the result, so that a run
    has the same draws on every device.
    """
    entropy = [seed, zlib.crc32(stream.encode()), *key]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


@contextmanager
def seeded_for_a_while(seed: int) -> Iterator[None]:
    """The global generators of the CPU begin at a seed, and are afterwards as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002 (what libraries draw from)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs, too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def keyed_uniforms(seed: int, stream: str, *key: int, rows: np.ndarray, columns: int) -> np.ndarray:
    """Numbers in [0, 1), float64 [rows, columns]; row i is a function of (seed, stream, key, rows[i]) alone.

    For draws of many examples at once, where a generator for each would take longer than what is drawn for: each row is
    the stream of SplitMix64 (Steele, Lea and Flood 2014) from a seed of its own. rows: int64 [R].
    """
    seeds = mixed(start_of(seed, stream, *key) + rows.astype(np.uint64) * GOLDEN)
    steps = np.arange(1, columns + 1, dtype=np.uint64) * GOLDEN
    return (mixed(seeds[:, None] + steps) >> np.uint64(11)) * 2.0**-53


@lru_cache(maxsize=64)
def start_of(seed: int, stream: str, *key: int) -> np.ndarray:
    """Where a stream begins, uint64 [1]; many batches of an epoch ask for the same one."""
    entropy = [seed, zlib.crc32(stream.encode()), *key]
    return np.random.SeedSequence(entropy).generate_state(1, np.uint64)


def keyed_uniforms_on_device(seed: int, stream: str, *key: int, rows: Tensor, columns: int) -> Tensor:
    """The same numbers, float64 [R, columns], where the rows [R] int64 lie: no device waits for the host."""
    seeds = mixed_on_device(rows * signed(GOLDEN) + signed(start_of(seed, stream, *key)[0]))
    steps = torch.arange(1, columns + 1, device=rows.device) * signed(GOLDEN)
    return shifted(mixed_on_device(seeds.unsqueeze(1) + steps), 11).double() * 2.0**-53


def mixed(numbers: np.ndarray) -> np.ndarray:
    """SplitMix64's function of uint64, of which each bit of the result depends on every bit."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def mixed_on_device(numbers: Tensor) -> Tensor:
    """The same of int64, whose products wrap as those of uint64 do."""
    numbers = (numbers ^ shifted(numbers, 30)) * signed(np.uint64(0xBF58476D1CE4E5B9))
    numbers = (numbers ^ shifted(numbers, 27)) * signed(np.uint64(0x94D049BB133111EB))
    return numbers ^ shifted(numbers, 31)


def shifted(numbers: Tensor, places: int) -> Tensor:
    """To the right, with zeros coming in."""
    return (numbers >> places) & ((1 << (64 - places)) - 1)


def signed(number: np.uint64) -> int:
    """The int64 of the same bits."""
    return int(number.astype(np.int64))
