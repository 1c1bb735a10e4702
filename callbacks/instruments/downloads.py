"""Published weights: fetched whole or not at all, once a machine, and known by the hash in their file's name."""

import hashlib
import sys
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch.hub import download_url_to_file

from foundation.errors import UserError
from foundation.places import check_download


def fetch(url: str, path: Path) -> str | None:
    """Download what is not there; says why that was not possible. The name ends with the beginning of the sha256."""
    if path.exists():
        return None
    check_download(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), hash_prefix=hash_prefix(url), progress=sys.stderr.isatty())
    except (OSError, RuntimeError, HTTPException) as error:  # URLError is an OSError, a wrong hash a RuntimeError
        return (str(error) or type(error).__name__).splitlines()[0]
    return None


def check_hash(url: str, path: Path) -> None:
    """Whether a file that was here before is the published one."""
    with open(path, "rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(hash_prefix(url)):
            raise UserError(f"{path} is not the file of {url}: delete it, and it is downloaded again.")


def hash_prefix(url: str) -> str:
    return Path(url).stem.rpartition("-")[2]


def once_a_machine(bring: Callable[[], str | None], trainer: Trainer) -> str | None:
    """Bring something to each machine; why that was not possible, the same on every rank."""
    reasons = [bring() if trainer.local_rank == 0 else None]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        told: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(told, reasons[0])  # a meeting, too: nobody reads before all is there
        reasons = told
    return next((it for it in reasons if it), None)
