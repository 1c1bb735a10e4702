"""Distances and norms that a person has listed for a search: numbers of 0 or more, told apart in a metric's key."""

import math
from collections.abc import Sequence
from typing import Any

from foundation.errors import UserError


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_ascending(key: str, values: Any) -> None:
    """Raise a UserError that names the key."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not all(map(is_number, values)):
        raise UserError(f"{key} is {values!r}: give a list of numbers in ascending order.")
    if not values:
        raise UserError(f"{key} is empty: give numbers of 0 or more in ascending order.")
    if any(not 0 <= it < math.inf for it in values) or list(values) != sorted(set(values)):
        raise UserError(f"{key} is {list(values)}: give numbers of 0 or more in ascending order.")
    if len({f"{it:g}" for it in values}) < len(values):
        raise UserError(f"{key} is {list(values)}: give numbers that differ in six digits.")
