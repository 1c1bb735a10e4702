"""The same command goes on in its folder: one that names it, a job that its scheduler has put back, a sweep's again.

    python train.py experiment=infogan_mnist hydra.run.dir=outputs/mine

begins in that folder where nothing is there, goes on with what a stop of any kind has left of the same command, and
says so where it is finished.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from foundation.errors import UserError
from foundation.records import is_training, job_of_now, key_of, read_overrides, read_record
from foundation.run_files import to_go_on
from launch.processes import SWEEP, is_first_process

PLACE = "hydra.run.dir"
OF_NO_RUN = ("hydra.", "launcher")  # where and how, not what


def is_single(arguments: Sequence[str]) -> bool:
    """Whether a command asks for one run, and not for a sweep."""
    sweeps = any(it in ("-m", "--multirun", "hydra.mode=MULTIRUN") or it.startswith("sweep=") for it in arguments)
    return not sweeps or "hydra.mode=RUN" in arguments


def begun(arguments: Sequence[str], config: dict[str, Any]) -> Path | None:
    """The folder of this command's run, where it has begun before; None where it begins now.

    Args:
        arguments: of a single run, for Hydra.
        config: what they are composed to.
    """
    words = [it for it in arguments if not it.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(words)
    named = [it.value() for it in parsed if it.key_or_group == PLACE]
    if named:
        folder = Path(str(named[-1]))
        if is_training(record := read_record(folder)) and is_first_process():
            pid = record["pid"]
            raise UserError(f"{folder} is being trained by process {pid}: stop it first, or wait for its end.")
        there = any((folder / it).exists() for it in (".hydra", "record.json"))
        if there and not is_of(folder, words) and is_first_process() and SWEEP not in os.environ:
            raise UserError(
                f"{folder} holds a run of another command ({' '.join(first_words(folder)) or 'without overrides'}): "
                f"name another folder, or go on with it by {to_go_on(folder)}"
            )
        return folder if is_begun(folder) else None
    return of_this_job(Path(config["paths"]["output_dir"]) / config["name"], words)


def of_this_job(runs: Path, words: Sequence[str]) -> Path | None:
    """What the same job of the scheduler began by the same command, before it was stopped and put back."""
    job = job_of_now()
    if job is None:
        return None
    found = []
    for path in runs.glob("*/record.json"):
        record, folder = read_record(path.parent), path.parent
        if record.get("job") == job and not is_training(record) and is_begun(folder) and is_of(folder, words):
            found.append((record.get("started_at", ""), folder))
    return max(found)[1] if found else None


def is_begun(folder: Path) -> bool:
    """Whether a run has left there what can be gone on with."""
    return bool(read_record(folder)) and (folder / "checkpoints" / "last.ckpt").is_file()


def is_finished(folder: Path) -> bool:
    return read_record(folder).get("status") == "finished"


def is_of(folder: Path, words: Iterable[str]) -> bool:
    """Whether the run in a folder was begun by these overrides, in whatever order."""
    return sorted(first_words(folder)) == sorted(it for it in words if not key_of(it).startswith(OF_NO_RUN))


def first_words(folder: Path) -> list[str]:
    return [it for it in read_overrides(folder) if not key_of(it).startswith(OF_NO_RUN)]


def job_is_begun(folder: Path, words: Sequence[str]) -> bool:
    """The same of a sweep's job, whose ``.hydra`` is of this command already: its record tells of the former one."""
    if not is_begun(folder):
        return False
    from launch.resume import earlier_overrides  # which imports torch

    held = [it for it in read_record(folder).get("overrides", []) if not key_of(it).startswith(OF_NO_RUN)]
    asked = [it for it in words if not key_of(it).startswith(OF_NO_RUN)]
    changed = {key_of(it) for it in set(held) ^ set(asked)} - {key_of(it) for it in earlier_overrides(folder)}
    if changed:
        raise UserError(
            f"{folder} holds a job of another sweep, which differs in {', '.join(sorted(changed))}: name another "
            "folder with hydra.sweep.dir="
        )
    return True


@contextmanager
def no_empty_folder(folder: Path) -> Iterator[None]:
    """A command that is refused once Hydra has made its folder leaves none where nothing else has come into it."""
    try:
        yield
    except UserError:
        if folder.is_dir() and [it.name for it in folder.iterdir()] == [".hydra"]:
            shutil.rmtree(folder)
        raise


def told_as_finished(folder: Path) -> str:
    return f"{folder} is finished: nothing is left to do. Name another folder for a new run."


def way_on(trainer: Any, folder: Path) -> str:
    """How a run that was stopped goes on."""
    if not (folder / "checkpoints" / "last.ckpt").exists():
        return "stopped before its first checkpoint: the same command begins anew."
    return f"stopped after {trainer.global_step} iterations; go on with:\n  {to_go_on(folder)}"


def last_checkpoint(folder: Path) -> str:
    """Of a run that could not write any more."""
    from foundation.checkpoints import read_checkpoint  # which imports torch

    path = folder / "checkpoints" / "last.ckpt"
    if not path.exists():
        return "There is no checkpoint yet: make room, and begin anew."
    iteration = read_checkpoint(path)["global_step"]
    return f"The last checkpoint is of iteration {iteration}: make room, and go on with {to_go_on(folder)}"
