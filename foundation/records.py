"""What a run's ``record.json`` says of it, read without torch so that tables and refusals come at once."""

import json
import os
import platform
from pathlib import Path
from typing import Any


def read_record(folder: Path) -> dict[str, Any]:
    path = folder / "record.json"
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


def latest_of_each_key(overrides: list[str]) -> list[str]:
    """What holds in the end: of ``trainer.max_steps=100`` and, later, ``trainer.max_steps=200`` the latter.

    Choices that add up, such as ``+callbacks@callbacks=drawing``, all stay.
    """
    keyed = {it if "@" in it else it.lstrip("+~").partition("=")[0]: it for it in overrides}
    return list(keyed.values())
