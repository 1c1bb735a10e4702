"""Checkpoints that are written whole or not at all, and read without executing anything."""

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
from lightning import LightningModule
from lightning.fabric.plugins import TorchCheckpointIO
from torch import nn

from foundation.errors import UserError, did_you_mean
from foundation.hints import unfit_places
from foundation.whole_files import whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the former checkpoint and takes its place at once, so that a kill leaves one or the other.

    (Lightning collects the file in the system's temporary folder, from where a move may be a copy.)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        with whole(Path(path)) as unfinished, open(unfinished, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        return load_plain(Path(path), map_location)


def checkpoint_path(folder: str | Path, checkpoint: str = "last") -> Path:
    """The file of a run's checkpoint; a run that does not have it is told so."""
    path = Path(folder) / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.exists():
        there = [it.stem for it in path.parent.glob("*.ckpt")]
        raise UserError(f"{folder} has no checkpoint '{checkpoint}'; {did_you_mean(checkpoint, there)}")
    return path


class Checkpoint(TypedDict, total=False):
    """Lightning's parts, and this platform's, as far as its readers rely on them."""

    epoch: int
    global_step: int
    loops: dict[str, Any]
    callbacks: dict[str, Any]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]
    random_states: list[Any]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint of a training run; any other file is refused."""
    checkpoint = load_plain(path)
    needed = {"state_dict", "loops", "optimizer_states", "global_step"}
    if not isinstance(checkpoint, dict) or not needed <= checkpoint.keys():
        raise UserError(f"{path} is no checkpoint of a training run: it lacks {', '.join(sorted(needed))}.")
    state = checkpoint["state_dict"]
    if not isinstance(state, dict):
        raise UserError(f"{path} is no checkpoint of a training run: its state_dict is no mapping.")
    odd = [f"{name} is no tensor" for name, it in state.items() if not isinstance(it, torch.Tensor)]
    if unfit := [*unfit_places(checkpoint, Checkpoint), *odd]:
        raise UserError(f"{path} is damaged, or no checkpoint of this platform: {unfit[0]}.")
    return checkpoint


def load_plain(path: Path, map_location: Any = "cpu") -> Any:
    """A file's tensors and plain values, held against the checksums that the file carries.

    Whatever else it may hold is refused unexecuted. A file of before torch wrote checksums is read with a sentence.
    """
    check_whole(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it is no checkpoint of this platform, or holds objects that could execute code "
            f"when loaded ({str(error).splitlines()[0]})."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}): the file is truncated or no checkpoint.") from None


def check_whole(path: Path) -> None:
    """Each part of the file against its checksum: torch writes a CRC-32 for each tensor, and reads without a look."""
    if not path.is_file():
        raise UserError(f"{path} cannot be read: it is no file.")
    with path.open("rb") as file:
        beginning = file.read(1)
    if beginning == b"\x80":  # a pickle, as torch wrote them before
        print(f"{path} carries no checksum: whether it is as it was written cannot be told.", flush=True)
        return
    try:
        with zipfile.ZipFile(path) as file:
            if packed := [it.filename for it in file.infolist() if it.compress_type != zipfile.ZIP_STORED]:
                raise UserError(f"{path} is refused: {packed[0]} in it is compressed, and could unpack to any size.")
            damaged = file.testzip()
    except UserError:
        raise
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}): the file is truncated or no checkpoint.") from None
    if damaged is not None:
        raise UserError(
            f"{path} is damaged: {damaged} in it is not what was written (its checksum differs). Take another "
            "checkpoint of the run, or a copy of this one."
        )


def check_finite(module: nn.Module, state: Mapping[str, torch.Tensor], path: Path) -> None:
    """Whether the weights that a checkpoint gives a module are numbers; buffers may hold an infinity."""
    names = [name for name, _ in module.named_parameters()]
    wrong = [name for name in names if name in state and not bool(state[name].isfinite().all())]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UserError(f"{path}: the run's weights are not finite ({wrong[0]}{more}): name another with checkpoint=.")


def weights_in(path: Path) -> str:
    """Whether a checkpoint's ``state_dict`` is ``averaged`` or as it was ``trained``."""
    return kind_of_weights(read_checkpoint(path))


def kind_of_weights(checkpoint: Mapping[str, Any]) -> str:
    return "averaged" if "averaging_state" in checkpoint else "trained"


def fingerprint(state: Mapping[str, torch.Tensor]) -> str:
    """sha256 of weights by name, whatever else their checkpoint holds."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        content = tensor.detach().cpu().contiguous()
        sha256.update(f"{name} {content.dtype} {tuple(content.shape)}".encode())
        sha256.update(content.flatten().view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def class_names_in(checkpoint: Mapping[str, Any], num_classes: int, path: Path) -> list[str] | None:
    """The names of the classes that a checkpoint's weights tell apart; None where it does not know them."""
    names = checkpoint.get("class_names")
    if names is None:
        return None
    if not isinstance(names, list) or len(names) != num_classes or not all(isinstance(it, str) for it in names):
        raise UserError(
            f"{path} is of another model than the config describes: its class_names are no {num_classes} names."
        )
    return names


def category_ids_in(checkpoint: Mapping[str, Any], num_classes: int, path: Path) -> list[int]:
    """What the data call the classes that a detector's weights tell apart."""
    ids = checkpoint.get("category_ids")
    if not isinstance(ids, list) or len(ids) != num_classes or not all(isinstance(it, int) for it in ids):
        raise UserError(
            f"{path} is of another model than the config describes: its category_ids are no {num_classes} numbers."
        )
    return ids


def check_fits(module: LightningModule, state: dict[str, Any], path: Path) -> None:
    """Names and shapes of a checkpoint's weights against a module's."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in wanted.keys() | given.keys():
        if wanted.get(name) != given.get(name):
            raise UserError(
                f"{path} is of another model than the config describes: {name} is {given.get(name, 'missing')} in the "
                f"file and {wanted.get(name, 'missing')} in the model."
            )
