"""What a GPU does in an iteration: how many kernels, how long at least one of them runs, and how long none does."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]
from torch.profiler import ProfilerActivity, profile

from benchmarks.turns import columns

Span = tuple[float, float]
"""Start and end, in microseconds."""

ACTIVITIES = {DeviceType.CUDA: ProfilerActivity.CUDA, DeviceType.CPU: ProfilerActivity.CPU}


@dataclass(frozen=True)
class Work:
    """Of an iteration."""

    launches: float
    """Kernels, copies and fills."""
    kernel_ms: float
    """The sum of their times, whichever run at once."""
    busy_ms: float
    """In which at least one of them runs."""

    def idle_share(self, iteration_ms: float) -> float:
        """Of an iteration as long as that, which was timed without the profiler: it takes time of the host's own."""
        return max(1 - self.busy_ms / iteration_ms, 0.0)


def work_of(spans: Iterable[Span], iterations: int) -> Work:
    ordered = sorted(spans)
    busy, reached = 0.0, -float("inf")
    for start, end in ordered:
        busy += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    milliseconds = 1000 * iterations
    return Work(
        len(ordered) / iterations, sum(end - start for start, end in ordered) / milliseconds, busy / milliseconds
    )


def watched_device(device: torch.device) -> DeviceType | None:
    """Whose work is told apart from the host's; None where there is no such device."""
    return DeviceType.CUDA if device.type == "cuda" else None


class Watch:
    """A profiler between ``start`` and ``stop``."""

    def __init__(self, kind: DeviceType) -> None:
        self.kind = kind
        self.profiler: Any = None

    def start(self) -> None:
        self.profiler = profile(activities=[ACTIVITIES[self.kind]])
        self.profiler.__enter__()

    def stop(self, iterations: int) -> Work:
        if self.kind == DeviceType.CUDA:
            torch.cuda.synchronize()
        self.profiler.__exit__(None, None, None)
        events = [it for it in self.profiler.events() if it.device_type == self.kind]
        return work_of(((it.time_range.start, it.time_range.end) for it in events), iterations)

    @contextmanager
    def during(self, iterations: int, works: dict[str, Work], name: str) -> Iterator[None]:
        self.start()
        yield
        works[name] = self.stop(iterations)


HEADINGS = ["measured", "contestant", "ms/iteration", "launches", "kernels, ms", "GPU idle"]


def table(rows: list[list[str]]) -> str:
    return columns(HEADINGS, rows)


def row(title: str, contestant: str, iteration_ms: float, work: Work) -> list[str]:
    idle = f"{100 * work.idle_share(iteration_ms):.0f} %"
    return [title, contestant, f"{iteration_ms:.3f}", f"{work.launches:,.0f}", f"{work.kernel_ms:.3f}", idle]
