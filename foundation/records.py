"""What a run's ``record.json`` says of it, read without torch so that tables and refusals come at once."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foundation.errors import UserError


def read_record(folder: Path) -> dict[str, Any]:
    path = folder / "record.json"
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no file of this run: it is a folder or a pipe.")
    return json.loads(path.read_text()) if path.exists() else {}


def is_training(record: dict[str, Any]) -> bool:
    """Whether the process that wrote the record is alive on this machine. A killed one leaves ``running`` behind."""
    if record.get("status") != "running" or record.get("host") != platform.node():
        return False
    try:
        os.kill(record["pid"], 0)
    except (ProcessLookupError, KeyError):
        return False
    except PermissionError:
        return True
    return True


def differences(before: Any, now: Any, key: str = "") -> dict[str, tuple[Any, Any]]:
    """Of two plain configs: keys with other values, each with both; None stands for a key that is not there, too."""
    both = (before, now)
    if not any(isinstance(it, Mapping) for it in both) or not all(isinstance(it, Mapping | None) for it in both):
        return {} if before == now else {key: both}
    sides = [side if isinstance(side, Mapping) else {} for side in (before, now)]
    found: dict[str, tuple[Any, Any]] = {}
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        found |= differences(sides[0].get(name), sides[1].get(name), f"{key}.{name}" if key else str(name))
    return found


def latest_of_each_key(overrides: list[str]) -> list[str]:
    """What holds in the end: of ``trainer.max_steps=100`` and, later, ``trainer.max_steps=200`` the latter.

    Choices that add up, such as ``+callbacks@callbacks=drawing``, all stay.
    """
    return list({key_of(it): it for it in overrides}.values())


def key_of(override: str) -> str:
    """What it sets; of a choice that adds up all of it."""
    return override if "@" in override else override.lstrip("+~").partition("=")[0]
