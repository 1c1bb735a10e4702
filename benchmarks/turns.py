"""Contestants that take turns in one process, so that whatever else the machine does falls on all of them alike."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Spent:
    """Of one turn. ``cpu_s`` is of all threads of this process, not of worker processes."""

    wall_s: float
    cpu_s: float


class Turns:
    """Wall and CPU time of the turns; each contestant's first one warms up and is left out.

    Args:
        title: what is measured.
        device: where the work is done; waited for at both ends of a turn.
        iterations: in a turn.
        batch_size: examples an iteration.
        clock: by which contestants are compared. CPU time is the fairer one where each has a process of its own on a
            machine that others use.
    """

    def __init__(
        self, title: str, device: torch.device, iterations: int, batch_size: int,
        clock: Literal["wall_s", "cpu_s"] = "wall_s",
    ) -> None:  # fmt: skip
        self.title, self.device, self.iterations, self.batch_size = title, device, iterations, batch_size
        self.clock = clock
        self.turns: dict[str, list[Spent]] = {}
        self.works: dict[str, Any] = {}  # of a GPU, see device_work.py
        self.start()

    def start(self) -> None:
        self.started = self._clock()

    def stop(self, contestant: str) -> None:
        wall_s, cpu_s = (now - then for now, then in zip(self._clock(), self.started, strict=True))
        self.turns.setdefault(contestant, []).append(Spent(wall_s, cpu_s))

    def _clock(self) -> tuple[float, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter(), time.process_time()

    def milliseconds(self, contestant: str) -> float:
        """Median of an iteration, by ``clock``."""
        return 1000 * median(getattr(it, self.clock) for it in self.turns[contestant][1:]) / self.iterations

    def examples_per_cpu_second(self, contestant: str) -> float:
        spent = median(it.cpu_s for it in self.turns[contestant][1:])
        return self.iterations * self.batch_size / max(spent, 1e-9)

    def ratios(self, contestant: str, other: str) -> list[float]:
        """One's time by the other's in the same round."""
        pairs = zip(self.turns[contestant][1:], self.turns[other][1:], strict=True)
        return [getattr(one, self.clock) / max(getattr(two, self.clock), 1e-9) for one, two in pairs]

    def ratio(self, contestant: str, other: str) -> float:
        """The median over the rounds."""
        return median(self.ratios(contestant, other))

    def ratio_and_range(self, contestant: str, other: str) -> str:
        """The median over the rounds, the least and the greatest."""
        ratios = self.ratios(contestant, other)
        return f"{median(ratios):.3f} ({min(ratios):.2f}-{max(ratios):.2f})"

    def overhead(self, contestant: str, bare: str) -> str:
        """What a contestant takes beyond the bare one, in ms and per cent."""
        ratio = self.ratio(contestant, bare)
        return (
            f"{self.title}: {contestant} over {bare} {(ratio - 1) * self.milliseconds(bare):+.3f} ms an iteration, "
            f"{100 * (ratio - 1):+.1f} %"
        )

    def rows(self, reference: str) -> list[list[str]]:
        """A table's rows; the last column is each one's time by the reference's."""
        return [
            [
                self.title,
                name,
                f"{self.milliseconds(name):.3f}",
                in_three_digits(1000 * self.batch_size / self.milliseconds(name)),
                in_three_digits(self.examples_per_cpu_second(name)),
                self.ratio_and_range(name, reference),
            ]
            for name in self.turns
        ]


def in_three_digits(number: float) -> str:
    """Whole where it has three or more."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


HEADINGS = ["measured", "contestant", "ms/iteration", "examples/s", "examples/CPU-s", "time by reference (min-max)"]


def table(rows: list[list[str]]) -> str:
    return columns(HEADINGS, rows)


def columns(headings: list[str], rows: list[list[str]]) -> str:
    """As wide as they need to be; what begins with a digit stands at the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    right = [all(row[column][:1].isdigit() for row in rows) for column in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if at_right else cell.ljust(width)
            for cell, width, at_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )
