"""wandb without questions: online where a key is configured, else offline, said in one line."""

import netrc
import os
from typing import Any

from lightning.pytorch.loggers import WandbLogger


def wandb_logger(**settings: Any) -> WandbLogger:
    """A WandbLogger that never asks for a login. ``offline`` may be given to decide by hand."""
    if "offline" not in settings and not has_key():
        settings["offline"] = True
        folder = f"{settings['save_dir']}/wandb/offline-*"
        print(f"wandb: no key is configured, so this run is kept offline; `wandb sync {folder}` sends it.")
    return WandbLogger(**settings)


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
