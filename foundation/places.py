"""Whether what is written stays where it belongs: one answer for every writer, with links followed to their end."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from foundation.errors import UserError

OF_A_CACHE = re.compile(r"[\w.-]+-[0-9a-f]{8,64}(\.npy|\.npz)?|precision\.json")  # tables, Gaussians, archives
OF_WANDB = "wandb"  # it links its logs, and writes to new folders of its own


def lies_in(path: str | Path, folder: str | Path) -> bool:
    """Whether a path, whose end need not exist, is the folder or below it once all links are followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def inside(path: Path, folder: Path) -> Path:
    """The path; a UserError where writing to it would write outside of the folder."""
    if not lies_in(path, folder):
        raise UserError(f"{path} is not written: it lies outside of {folder}, at {os.path.realpath(path)}.")
    return path


def is_one_name(text: object) -> bool:
    """Whether it can name a file or folder and lead nowhere else."""
    return isinstance(text, str) and text not in ("", ".", "..") and not set(text) & {"/", "\\", "\0"}


def entries_of(folder: Path) -> Iterator[Path]:
    """Everything below a run's folder but what wandb keeps for itself; links are not followed."""
    for place, folders, files in os.walk(folder):
        if Path(place) == folder and OF_WANDB in folders and not (folder / OF_WANDB).is_symlink():
            folders.remove(OF_WANDB)
        yield from (Path(place) / name for name in (*folders, *files))


def refuse_ways_out_of(folder: Path) -> None:
    """Links that lead out of a run's folder, through which its next writer would write, and pipes and devices."""
    for path in entries_of(folder):
        if path.is_symlink() and not lies_in(path, folder):
            raise UserError(
                f"{path} is a link to {os.path.realpath(path)}, outside of the run's folder, where nothing may be "
                "written: put what it links to in its place."
            )
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise UserError(f"{path} is a pipe or a device, which no run has in its folder: delete it.")


def is_cache(folder: str | Path) -> bool:
    """Whether a folder holds what caches of this platform hold and nothing else."""
    folder = Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return bool(names) and all(OF_A_CACHE.fullmatch(name) for name in names)


def own_cache() -> str:
    """This machine's, as ``conf/paths`` has it."""
    return os.environ.get("RELIGHT_CACHE", "data/cache")


def own_data() -> str:
    """The same of data sets."""
    return os.environ.get("DATA_DIR", "data")


NAMED_BY_A_RUN: set[str] = set()
"""Places that a saved config names in this process, and that are neither this machine's nor the run's own."""


def check_download(path: Path) -> None:
    """Raise a UserError where a published file would be downloaded to a place that somebody else's config chose."""
    if any(lies_in(path, own) for own in (own_data(), own_cache())):
        return
    if place := next((it for it in NAMED_BY_A_RUN if lies_in(path, it)), None):
        raise UserError(
            f"{path} is missing, and is not downloaded there, since a run's folder names {place} and not you: put the "
            f"file there by hand, or set DATA_DIR to {place} if it is yours."
        )
