"""What has to be computed in more than half precision, and what may be in half."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Half precision made single, as losses and sums need it; single and double stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def half_where_asked(values: Tensor) -> Tensor:
    """As autocast would have them in a product."""
    kind = values.device.type
    asked = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return values.to(torch.get_autocast_dtype(kind)) if asked else values


def out_of_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """The context in which autocast leaves precision as it is; devices without it (meta) have no other."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


@contextmanager
def tensor_cores(wanted: bool) -> Iterator[None]:
    """Products of single precision by a GPU's tensor cores (TF32), where that is wanted; else as torch is set."""
    before = torch.get_float32_matmul_precision()
    if wanted:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        if wanted:
            torch.set_float32_matmul_precision(before)
