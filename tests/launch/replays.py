"""What would show a replay to be another thing than the iteration that was recorded, looked at on a CPU."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode

from launch.capture import CapturingStrategy, leaves_of


def agree(traces: list[list[str]]) -> None:
    """Every iteration asks for the same operators, on inputs, on what lasts, and on what it has made itself."""
    _, first, *others = traces  # the very first makes what optimisers remember
    assert len(first) > 30
    assert [it for it in first if "FROM ELSEWHERE" in it] == []
    for other in others:
        assert other == first


def poisoned(values: Tensor) -> None:
    if values.is_floating_point():
        values.fill_(math.nan)
    else:
        values.fill_(True if values.dtype == torch.bool else torch.iinfo(values.dtype).max)


class Trace(TorchDispatchMode):
    """The operators of a step in their order: shapes, Python arguments, and where each tensor that goes in is from."""

    def __init__(self, known: dict[str, list[Tensor]]) -> None:
        super().__init__()
        self.known = {it.untyped_storage().data_ptr(): kind for kind, them in known.items() for it in them}
        self.kept: list[Tensor] = []  # else a place could be another tensor's later
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        told = [self.told(it) for it in (*args, *(kwargs or {}).values())]
        out = func(*args, **(kwargs or {}))
        for it in out if isinstance(out, tuple | list) else [out]:
            if isinstance(it, Tensor):
                self.kept.append(it)
                self.known.setdefault(it.untyped_storage().data_ptr(), "made")
        if func.namespace != "profiler":  # names of what is called, for a profile
            self.seen.append(f"{func} {told}")
        return out

    def told(self, value) -> str:
        if isinstance(value, list | tuple):
            return f"[{', '.join(map(self.told, value))}]"
        if not isinstance(value, Tensor):
            return repr(value)
        place = self.known.get(value.untyped_storage().data_ptr(), "FROM ELSEWHERE")
        return f"{place} {tuple(value.shape)} {value.dtype}"


class Watched(CapturingStrategy):
    """Before each iteration, whatever the last one has left is made unfit for use, as a replay overwrites it; and the
    operators of the first ``traced`` are noted."""

    traced = 2**62

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.left: list[Tensor] = []
        self.traces: list[list[str]] = []

    def training_step(self, *args, **kwargs):
        self.poison()
        return super().training_step(*args, **kwargs)

    def poison(self):
        for it in (*self.left, *(self.staging.places.values() if self.staging else ())):
            poisoned(it)

    def no_graph_is_kept(self, module):
        """One that outlives its iteration would tie the next one's gradients to the stream that it was made on."""
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                told: Any = get_gradient_edge(parameter).node.metadata
                assert "former iteration" not in told, name
                told["former iteration"] = True

    def take(self, module, inputs):
        lasting = [it for optimizer in self.optimizers for state in optimizer.state.values() for it in state.values()]
        lasting = [*module.parameters(), *module.buffers(), *lasting, *(group["lr"] for group in self.groups())]
        lasting = [it for it in lasting if isinstance(it, Tensor)]
        if self.taken < self.traced:
            with Trace({"an input": [it for _, it in leaves_of(inputs)], "lasting": lasting}) as trace:
                outputs = super().take(module, inputs)
            self.traces.append(trace.seen)
            self.no_graph_is_kept(module)
        else:
            outputs = super().take(module, inputs)
        places = {it.data_ptr() for it in lasting}  # of which a loss may tell
        self.left = [it for it in outputs.values() if it.data_ptr() not in places]
        return outputs
