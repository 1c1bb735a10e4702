"""A run that was handed on as one file (``finished/packing.py``), unpacked to be used like any run from elsewhere."""

import re
from collections.abc import Sequence
from pathlib import Path

from foundation.errors import UserError

ENDING = ".zip"
UNPACKED = Path("outputs") / "packed"
RUN = re.compile(r"""run=(["']?)(.+\.zip)\1""", re.IGNORECASE)


def folder_of(run: str | Path) -> Path:
    """The run's folder: what is named, or where a packed run now lies, below outputs/packed.

    Raises:
        UserError: the file is no archive, would write outside of its folder, or holds no run.
    """
    path = Path(run).expanduser()
    if path.suffix.lower() != ENDING or path.is_dir():
        return path
    if not path.exists():
        raise UserError(f"{run} is missing: name a run's folder, or a file that finished.packing has written.")
    from datamodules.archives import unpacked  # with torch, for which mistakes need not wait

    folder = unpacked(path, UNPACKED)
    if not (folder / ".hydra" / "config.yaml").is_file():
        raise UserError(f"{run} is no packed run: it has no .hydra/config.yaml.")
    return folder


def with_folders(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command in which ``run=<file>.zip`` names the folder instead."""
    return [f"run={folder_of(named[2])}" if (named := RUN.fullmatch(it)) else it for it in arguments]
