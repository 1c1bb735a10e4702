"""Denormals: floats so near to zero that many processors are slow with each of them. Flushed, they are zero.

It is a property of each thread. A thread has it from the one that starts it and a forked process from the one that it
is forked from; a process that is started anew, such as a spawned worker, has to be told.
"""

import torch


def flush_denormals(flush: bool) -> None:
    """Have this thread, and all that it starts from now on, take denormals for zero, or compute with them again.

    Call it before a pool of threads starts: those that are there stay as they are.
    """
    torch.set_flush_denormal(flush)


def are_flushed() -> bool:
    """Whether a product of this thread that is a denormal is zero."""
    return not (torch.tensor(1e-30) * torch.tensor(1e-10)).item()


def flush_in_worker(flush: bool, worker: int) -> None:
    """What a DataLoader's worker begins with.

    worker: its number.
    """
    flush_denormals(flush)
