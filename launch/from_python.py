"""A run that is started from Python, without Hydra's own start and its command line."""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf, open_dict

from foundation.errors import UserError
from foundation.records import read_record
from foundation.security import trusting_as_typed
from foundation.whole_files import write_whole
from launch.arguments import readable
from launch.command_line import check_command_line, setting_of
from launch.composition import compose_job, compose_with_hydra, in_quotes

PLAIN = re.compile(r"[A-Za-z_/][\w./-]*", re.ASCII)


def train_here(
    train: Callable[[dict[str, Any]], Any], experiment: str, overrides: Mapping[str, Any] | Sequence[str]
) -> tuple[dict[str, float], Path]:
    """All final metrics, and the run's folder.

    Args:
        train: takes a job's config.
    """
    if isinstance(overrides, str):
        raise UserError(f"overrides is {overrides!r}: give a list of such, or a dict of values by their keys.")
    typed = [as_typed(*it) for it in overrides.items()] if isinstance(overrides, Mapping) else list(overrides)
    words = readable("train", [f"experiment={experiment}", *typed])
    if flags := [it for it in words if it.startswith("-")]:
        raise UserError(f"{flags[0]} is for the command line: from Python give settings alone.")
    check_command_line("train", words)
    config, whole = compose_with_hydra("train", words)
    trainer = config["trainer"]
    if trainer["strategy"] != "auto" or trainer["devices"] not in (1, "1", "auto") or trainer["num_nodes"] != 1:
        raise UserError(
            "From Python a run has one process, since others are started by repeating the command: "
            f"python train.py {' '.join(words)}"
        )
    folder = setting_of(whole, "hydra.run.dir")
    if (folder / ".hydra").exists():
        raise UserError(f"{folder} holds a run: name another folder, or go on with it by train.py resume={folder}.")
    keep_as_hydra_does(words, whole, folder)
    with trusting_as_typed():
        train(compose_job("train", words, folder))
    return {key: value for key, value in read_record(folder)["metrics"].items() if value is not None}, folder


def as_typed(key: str, value: Any) -> str:
    """{"datamodule.batch_size": 64} -> datamodule.batch_size=64"""
    return f"{key}={in_words(value)}"


def in_words(value: Any) -> str:
    """A plain value as Hydra's grammar has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {in_words(it)}' for key, it in value.items())}}}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(in_words, value))}]"
    if isinstance(value, str | Path):
        bare = PLAIN.fullmatch(str(value)) and str(value).lower() not in ("true", "false", "null", "inf", "nan")
        return str(value) if bare else in_quotes(str(value))
    raise UserError(f"{value!r} is no value of a config: give numbers, texts, lists and dicts of them, or None.")


def keep_as_hydra_does(words: Sequence[str], whole: Any, folder: Path) -> None:
    """What evaluate.py and resume= read a run by, in ``.hydra/``."""
    job = copy.deepcopy(whole)
    with open_dict(job):
        hydra = job.pop("hydra")
    (folder / ".hydra").mkdir(parents=True)
    for name, content in (("config", job), ("hydra", {"hydra": hydra}), ("overrides", [*words])):
        write_whole(folder / ".hydra" / f"{name}.yaml", OmegaConf.to_yaml(OmegaConf.create(content)))
