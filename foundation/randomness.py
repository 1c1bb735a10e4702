"""Every random draw as a function of what it is for.

Orders, codes, noise inputs and masks are drawn from a generator that is made for the occasion out of
(seed, stream, step or index). So a draw does not depend on what was drawn before it: not on the number
of ranks, not on the batch size of an evaluation, not on whether the run was interrupted.
"""

import zlib

import numpy as np
import torch


def keyed_generator(seed: int, stream: str, *key: int) -> torch.Generator:
    """A CPU generator for one occasion, for example ``keyed_generator(seed, "codes", step)``.

    Streams with different names are independent. Draw on the CPU and move the result, so that a run
    has the same draws on every device.
    """
    entropy = [seed, zlib.crc32(stream.encode()), *key]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
