"""How long a run trains: iterations, epochs or wall time; of several that are given the one that ends first.

The one place that reads ``trainer.max_steps``, ``trainer.max_epochs`` and ``trainer.max_time``. How far a trainer is on
its way is ``callbacks/instruments/run_clock.py``'s.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from foundation.errors import UserError

KEYS = {"iterations": "trainer.max_steps", "epochs": "trainer.max_epochs", "seconds": "trainer.max_time"}
NO_LIMIT = -1  # Lightning's word for it, as is null


@dataclass(frozen=True)
class Length:
    """What is asked of a run, or how far it has come. None: not by this unit."""

    iterations: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, trainer: Mapping[str, Any]) -> "Length":
        """What a config's trainer asks for."""
        iterations, epochs = trainer.get("max_steps"), trainer.get("max_epochs")
        return cls(
            None if iterations == NO_LIMIT else iterations,
            None if epochs == NO_LIMIT else epochs,
            in_seconds(trainer.get("max_time")),
        )

    def given(self) -> dict[str, float]:
        """The units by which it is asked, with how many of each."""
        units = {"iterations": self.iterations, "epochs": self.epochs, "seconds": self.seconds}
        return {unit: number for unit, number in units.items() if number is not None}

    def __str__(self) -> str:
        words = [in_words(unit, number) for unit, number in self.given().items()]
        return " or ".join(words) + (", whichever ends first" if len(words) > 1 else "")

    def problems(self) -> Iterator[str]:
        """Why nothing would be trained, or training would not end."""
        if not self.given():
            yield f"Nothing says how long to train: set {KEYS['iterations']}, {KEYS['epochs']} or {KEYS['seconds']}."
        for unit, number in self.given().items():
            if number <= 0:
                yield f"{KEYS[unit]} is {number:g}, which trains nothing: give more than 0 {unit}."

    def reached(self, done: "Length") -> str | None:
        """The unit by which a run that has come so far is at its end, None before."""
        came = done.given()
        return next((unit for unit, number in self.given().items() if came.get(unit, 0) >= number), None)

    def at_an_end(self, done: "Length") -> str | None:
        """After "<a run> is finished": why nothing is left to train of it; None where something is."""
        unit = self.reached(done)
        if unit is None:
            return None
        came = in_words(unit, done.given()[unit])
        if unit != "iterations":
            came += f" ({done.iterations} iterations)"
        above = clock(done.given()[unit]) if unit == "seconds" else done.given()[unit]
        return f"after {came}: set {KEYS[unit]} above {above}."


def in_words(unit: str, number: float) -> str:
    return f"{clock(number)} of training" if unit == "seconds" else f"{number} {unit if number != 1 else unit[:-1]}"


def in_seconds(time: Any) -> float | None:
    """``DD:HH:MM:SS`` or a mapping such as {hours: 1, minutes: 30}, the forms that Lightning's max_time has."""
    if time is None:
        return None
    units: Any = time
    if isinstance(time, str) and (parts := re.fullmatch(r"(\d+):(\d\d):(\d\d):(\d\d)", time.strip())):
        units = dict(zip(("days", "hours", "minutes", "seconds"), map(int, parts.groups()), strict=True))
    try:
        return timedelta(**units).total_seconds()
    except TypeError:
        raise UserError(
            f"trainer.max_time is {time!r}: give days, hours, minutes and seconds, such as 00:01:30:00 for an hour and "
            "a half, or {hours: 1, minutes: 30}."
        ) from None


def told(seconds: float) -> str:
    """For a person: 75 s are 1 min 15 s."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minute} min"
    return f"{minute} min {second} s" if minute else f"{seconds:.1f} s"


def clock(seconds: float) -> str:
    """As trainer.max_time has it: 5,400 s are 00:01:30:00."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    day, hour = divmod(hours, 24)
    return f"{day:02}:{hour:02}:{minute:02}:{second:02}"
