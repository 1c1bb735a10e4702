"""What has to be computed in more than half precision."""

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Half precision made single, as losses and sums need it; single and double stay as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
