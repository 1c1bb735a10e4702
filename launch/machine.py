"""The machine and its libraries: what is silenced, asked in another way, and kept."""

import ctypes
import logging
import os
import sys
import warnings

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h's


def hush() -> None:
    """Silence what Lightning says of choices that are this project's own."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        "Experiment logs directory .* exists and is not empty",  # it deletes metrics.csv alone, which is not there yet
        "Total length of `list` across ranks is zero",  # no validation
        "The number of training batches .* is smaller than the logging interval",  # we count iterations, not epochs
        ".*does not have many workers",  # data sets in memory need none
        "`broadcast_buffers` is deprecated",  # its successor needs a newer torch than we ask for
        "torch.distributed.nn.functional.all_gather is deprecated",  # Lightning's own call
        "It is recommended to use `self.log.*sync_dist=True",  # metrics are the same on every rank
        "Using ModelCheckpoint with manual optimization",  # after the step is what we mean to save
        "You're resuming from a checkpoint that ended before the epoch ended",  # GlobalBatches goes on inside it
        "The dirpath has changed",
        "Be aware that when using `ckpt_path`, callbacks used to create",  # a resume may leave one out
        "Found .* module\\(s\\) in eval mode at the start",  # finished runs as inputs
        "Checkpoint directory .* exists and is not empty",  # a resumed run goes on in its own folder
        "The value of the smallest subnormal for .* is zero",  # older numpy's, where denormals are flushed
        "Initializing zero-element tensors is a no-op",  # launch.parts_check tells it
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    ):
        warnings.filterwarnings("ignore", message=message)


def spare_driver_queries() -> None:
    """Where there is no GPU, ask for one in the way that takes microseconds.

    Optimisers ask at every step, and Lightning has torch answer by loading the driver's management library anew
    each time: 0.3 ms a step where it is missing.
    """
    if not torch.cuda.is_available():
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one: the same numbers, sooner.

    By default it gives large blocks back to the system at once, and every step's activations are mapped and zeroed
    anew, page by page. That was a third of a step of convolutions on CIFAR-10.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
