"""metrics.csv that a resumed run goes on with, and wandb without questions."""

import csv
import netrc
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class MetricsFile(CSVLogger):
    """``metrics.csv`` in the run folder. A resumed run keeps the rows before the iteration it goes on from."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "metrics.csv"
        self.former = list(csv.DictReader(self.path.open(newline=""))) if self.path.exists() else []
        super().__init__(save_dir=folder, name="", version="")

    @rank_zero_only
    def go_on_from(self, iteration: int) -> None:
        """Take up the former rows up to an iteration. Lightning counts a row's step from 0."""
        for row in self.former:
            complete = None not in row.values() and row["step"].isdigit()  # a kill may leave half a line
            if complete and int(row["step"]) < iteration:
                known = {key: float(value) for key, value in row.items() if value and key not in ("step", "epoch")}
                self.experiment.log_metrics({"epoch": int(row["epoch"]), **known}, int(row["step"]))
        self.former = []


def wandb_logger(**settings: Any) -> WandbLogger:
    """A WandbLogger that never asks for a login: online where a key is configured, else offline, said in one line.

    ``offline`` may be given to decide by hand. The run's id is kept in the run folder, so that a resumed run goes on
    as the same wandb run.
    """
    if "offline" not in settings and not has_key():
        settings["offline"] = True
        folder = f"{settings['save_dir']}/wandb/offline-*"
        print(f"wandb: no key is configured, so this run is kept offline; `wandb sync {folder}` sends it.")
    kept = Path(settings["save_dir"]) / "wandb_id"
    known = kept.read_text().strip() if kept.exists() else None
    logger = WandbLogger(**settings, id=known, resume="allow")
    if rank_zero_only.rank in (None, 0) and known is None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(f"{logger.experiment.id}\n")
    return logger


def has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
