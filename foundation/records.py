"""What a run's ``record.json`` says of it, read without torch so that tables and refusals come at once."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from foundation.errors import UserError
from foundation.hints import unfit_places
from foundation.yaml_files import read_yaml


class Record(TypedDict, total=False):
    """What its readers rely on; what each part means stands with its writer, ``callbacks/run_record.py``."""

    status: str
    error: str
    host: str
    pid: int
    experiment: str
    seed: int
    command: str
    overrides: list[str]
    config: dict[str, Any]
    commit: str | None
    clean: bool | None
    changes: list[str]
    started_at: str
    data: dict[str, Any]
    data_at_start: dict[str, Any]
    hardware: dict[str, Any]
    precision: str
    captured: str
    weights: str
    weights_sha256: str
    world_size: int
    asked: dict[str, float]
    iterations: int
    epochs: float | None  # None of a run that was refused before it knew how many batches there are
    wall_time_s: dict[str, float]
    versions: dict[str, str | None]
    resumes: list[dict[str, Any]]
    inputs: dict[str, dict[str, Any]]
    judges: dict[str, dict[str, Any]]
    metrics: dict[str, float | None]
    directions: dict[str, str | None]
    evaluation: dict[str, Any]


def read_record(folder: Path) -> dict[str, Any]:
    """Empty where there is none."""
    path = folder / "record.json"
    if not path.exists():
        return {}
    if not path.is_file():
        raise UserError(f"{path} is no file of this run: it is a folder or a pipe.")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(damaged(path, str(error).splitlines()[0] if str(error) else "nested too deeply")) from None
    if unfit := next(unfit_places(record, Record), None):
        raise UserError(damaged(path, unfit))
    return record


def read_overrides(folder: Path) -> list[str]:
    """Those that a run was started with; none where Hydra has left no file of them."""
    path = folder / ".hydra" / "overrides.yaml"
    overrides: Any = (read_yaml(path) if path.exists() else []) or []
    if unfit := next(unfit_places(overrides, list[str]), None):
        raise UserError(damaged(path, unfit))
    return overrides


def damaged(path: Path, why: str) -> str:
    return f"{path} is damaged or was written by hand ({why}): take a copy of it, or move it away."


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
    return "process" not in record or record["process"] == mark_of(record["pid"])


def mark_of(process: int) -> str | None:
    """What tells a process from a later one of its number, as the first of each container has; None where none does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path(f'/proc/{process}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return None


def job_of_now() -> str | None:
    """What names the scheduler's job that this process is of, the same after it was stopped and put back; else None.

    In a session at a prompt the same command again means another run.
    """
    here = os.environ
    if "SLURM_JOB_ID" in here and here.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        return f"slurm {here['SLURM_JOB_ID']}"
    if "TORCHELASTIC_RUN_ID" in here:  # torchrun --max-restarts=
        name = here["TORCHELASTIC_RUN_ID"]  # "none" where nobody gave it one; its port then stays
        return f"torchrun {name}" if name != "none" else f"torchrun {here['MASTER_ADDR']}:{here['MASTER_PORT']}"
    return None


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
