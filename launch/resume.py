"""``python train.py resume=<folder>``: go on with an unfinished run, in its own folder, with its own config.

This happens without Hydra's own start, which would write into the folder: the first ``.hydra/`` stays as evidence,
and each resume leaves its command beside it in ``resumes/``.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from callbacks.averaged_weights import check_averaging
from callbacks.instruments.chosen_precision import keep_precision
from callbacks.instruments.run_clock import done_in, has_had_enough
from callbacks.run_record import RunRecord
from foundation.checkpoints import check_finite, check_fits, checkpoint_path, read_checkpoint
from foundation.errors import UNFIT_VALUES, UserError, in_one_line
from foundation.former_names import FORMER_OVERRIDES
from foundation.length import Length
from foundation.records import differences, is_training, key_of, read_overrides, read_record
from foundation.security import check_foreign, places_alone, trusting
from foundation.whole_files import write_whole
from foundation.yaml_files import read_yaml, value_at
from launch.changed_settings import check_optimizers, refuse_changed_settings
from launch.command_line import check_writable, split_arguments
from launch.composition import CONF, SEARCHPATH, compose_job
from launch.config_check import TrainConfig, check_config, plain
from launch.inputs import refuse_changes
from launch.length_check import LastCheck
from launch.metrics_file import MetricsFile, rows_in
from launch.processes import is_first_process, warn_of_other_ranks
from launch.saved_config import run_config

MISSING = object()


def prepare(asked: str, overrides: list[str]) -> tuple[dict[str, Any], Path]:
    """The checked config of the run to go on with, and its checkpoint."""
    folder = Path(newest_unfinished(overrides) if asked == "latest" else asked)
    if asked == "latest":
        overrides = [it for it in overrides if not it.startswith("experiment=")]
    if moved := [it for it in overrides if key_of(it) == "paths.run_dir"]:
        raise UserError(f"{moved[0]}: a resumed run stays in its folder, {folder}.")
    if fixed := [it for it in overrides if it.startswith(("seed=", "experiment="))]:
        raise UserError(f"{fixed[0]}: a resumed run keeps its seed and experiment; start a new run for another.")
    if folder.exists():
        check_writable("resume", folder)
    earlier = earlier_overrides(folder)
    with places_alone():
        so_far = with_overrides(run_config(folder), first_overrides(folder), earlier, folder)
        now = so_far
        if overrides:
            holding = holding_after([earlier, overrides])
            now = with_overrides(run_config(folder), first_overrides(folder), holding, folder)
        before, config = plain(so_far), plain(now)
    config["logger"] = own_logger(config, OmegaConf.to_container(now, resolve=False), overrides, folder)
    caches, data_dirs = (values_of(overrides, f"paths.{it}_dir") for it in ("cache", "data"))
    named = {name for it in overrides for name in re.findall(r"_target_[:=] *['\"]?([\w.]+)", it)}
    with trusting(named):  # by a person, just now; the first command comes from the folder, as the config does
        check_foreign(config, f"{folder} with its first command", caches[-1] if caches else None, data_dirs)
    check_config(config, TrainConfig)
    path = checkpoint_path(folder)
    checkpoint = read_checkpoint(path)
    refuse_what_cannot_go_on(folder, checkpoint, before, config)
    refuse_changed_settings(before, config, checkpoint)
    if is_first_process():
        sys.argv = [sys.argv[0], f"resume={folder}", *overrides]  # what Lightning starts the other ranks with
    return config, path


def values_of(overrides: list[str], key: str) -> list[str]:
    """What a command gives a key, as texts."""
    return [it.partition("=")[2].strip("'\"") for it in overrides if key_of(it) == key]


def own_logger(config: Mapping[str, Any], written: Any, overrides: list[str], folder: Path) -> dict[str, Any] | None:
    """The loggers of a resume: of the folder come which of ``conf/logger`` it chose and, in there, the id of its run.

    Where figures and pictures are sent is for this checkout, this command and its environment to say.

    Args:
        written: the config, its interpolations as they are.
    """
    saved = config.get("logger") or {}
    known = {it.stem for it in (CONF / "logger").glob("*.yaml")}
    chosen = [it for it in saved if it in known] or ["none"]
    name = config["name"] if re.fullmatch(r"[\w-]+", str(config["name"])) else folder.absolute().name
    words = [f"logger=[{','.join(chosen)}]", f"name='{name}'", f"seed={int(config['seed'])}"]
    words += [it for it in overrides if key_of(it).startswith(("logger", "paths."))]
    logger = compose_job("train", words, str(folder))["logger"]
    if is_first_process():
        for key, (was, is_now) in differences(saved, logger).items():
            from_environment = "oc.env" in str(value_at(written, "logger", *key.split(".")))
            if isinstance(was, str | int | float | bool) and not key.endswith("_target_") and not from_environment:
                print(
                    f"logger.{key} was {was!r} and is {is_now!r}: a resume takes its loggers from conf/ and the "
                    f"command line, where logger.{key}=... says otherwise.",
                    flush=True,
                )
    return logger


def take_up(run: Any, path: Path) -> None:
    """What a resumed run keeps of itself, once its built parts are seen to fit its checkpoint.

    Its command and config are noted when nothing can refuse them any more, so that they never hold in a later resume
    otherwise.
    """
    saved = read_checkpoint(path)
    check_averaging(run.callbacks, saved, path)
    check_fits(run.module, saved["state_dict"], path)
    check_finite(run.module, saved["state_dict"], path)
    check_optimizers(run.module, saved["optimizer_states"], path)
    refuse_changes(path.parent.parent, run.inputs)
    for part in (*run.trainer.loggers, *run.trainer.callbacks):
        if isinstance(part, MetricsFile):
            part.go_on_from(saved["global_step"], rows_in(saved))
        elif isinstance(part, RunRecord):
            part.take_up_former()
        elif isinstance(part, LastCheck) and run.trainer.is_global_zero:
            part.when_passed = partial(note_resume, run.config)
    keep_precision(run.trainer, saved, path.parent.parent)
    warn_of_other_ranks(run.trainer, len(saved.get("random_states", [])))


@contextmanager
def telling_unfit(trainer: Any, checkpoint: Path | None) -> Iterator[None]:
    """What a part trips over while a checkpoint gives it its state is the file's fault, and told as that."""
    try:
        yield
    except UserError:
        raise
    except (*UNFIT_VALUES, AttributeError) as error:
        begun = any(it.begun for it in trainer.callbacks if isinstance(it, LastCheck))
        if checkpoint is None or begun or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise UserError(
            f"{checkpoint} cannot be gone on from ({in_one_line(error)}): it is damaged, or was written by other code. "
            "Take another checkpoint of the run; HYDRA_FULL_ERROR=1 shows where it fails."
        ) from None


def with_overrides(saved: Any, first: list[str], now: list[str], folder: Path) -> Any:
    """The saved config with what today's overrides change.

    A choice such as ``trainer=ddp_cpu`` stands for many keys. They are found by composing the first command with
    and without the new overrides; where the two agree, the saved config has its way.
    """
    if not now:
        return saved
    try:
        replaced = {it.key_or_group for it in OverridesParser.create().parse_overrides(now)}
    except HydraException as error:
        raise UserError(f"The command line cannot be read: {str(error).splitlines()[0]}") from None
    kept = [it for it in first if key_of(it) not in replaced]
    before, after = compose_job("train", first, str(folder)), compose_job("train", [*kept, *now], str(folder))
    changed = OmegaConf.to_container(saved, resolve=False)
    apply_difference(changed, before, after)
    # A value that is given by name holds also where today's config has it anyway and the saved one has not.
    for key in (it for it in replaced if not (CONF / it).is_dir()):
        value = OmegaConf.select(OmegaConf.create(after), key, default=MISSING)
        if value is not MISSING:
            OmegaConf.update(changed := OmegaConf.create(changed), key, value, force_add=True)
    return OmegaConf.create(changed)


def apply_difference(target: Any, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Change in ``target`` what differs between ``before`` and ``after``."""
    for key in before.keys() | after.keys():
        old, new = before.get(key, MISSING), after.get(key, MISSING)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping) and isinstance(target.get(key), dict):
            apply_difference(target[key], old, new)
        elif new is MISSING:
            target.pop(key, None)
        else:
            target[key] = new


def refuse_what_cannot_go_on(
    folder: Path, checkpoint: dict[str, Any], before: dict[str, Any], config: dict[str, Any]
) -> None:
    """Args: the run's config as it was so far, and as it is asked to be."""
    record = read_record(folder)
    if is_training(record):
        raise UserError(f"{folder} is being trained by process {record['pid']}: stop it first, or wait for its end.")
    length, done = Length.of(config["trainer"]), done_in(checkpoint)
    finished, shortened = record.get("status") == "finished", length != Length.of(before["trainer"])
    if (finished or shortened) and (reason := length.at_an_end(done)):
        raise UserError(f"{folder} {'is finished' if finished else 'has come so far'} {reason}")
    if finished and (stopped := stopped_early(checkpoint, config)):
        raise UserError(f"{folder} is finished after {done.iterations} iterations: {stopped}")


def stopped_early(checkpoint: dict[str, Any], config: dict[str, Any]) -> str | None:
    """Which early stopping has ended the run, and would again; in a sentence that says what to do."""
    nodes = {name: it for name, it in config["callbacks"].items() if it["_target_"].endswith(".EarlyStopping")}
    for key, state in checkpoint.get("callbacks", {}).items():
        for name, node in nodes.items() if key.startswith("EarlyStopping") else ():
            if has_had_enough(state, node.get("patience", 3)):
                return (
                    f"callbacks.{name} has stopped it. Set callbacks.{name}.patience above {state['wait_count']}, or "
                    f"remove it with ~callbacks.{name}"
                )
    return None


def first_overrides(folder: Path) -> list[str]:
    """Of the run's first command, with where it looked for files beside conf/."""
    overrides, kept = read_overrides(folder), folder / ".hydra" / "hydra.yaml"
    of_hydra = value_at(read_yaml(kept), "hydra", "overrides", "hydra") if kept.exists() else None
    placed = [it for it in of_hydra if isinstance(it, str)] if isinstance(of_hydra, list) else []
    places = [it for it in placed if it.startswith(f"{SEARCHPATH}=")]
    return places + without_former_keys(overrides)  # their interpolations are the config's


def without_former_keys(overrides: list[str]) -> list[str]:
    """What they said, the saved config says by today's."""
    return [it for it in overrides if it.lstrip("+~").partition("=")[0] not in FORMER_OVERRIDES]


def newest_unfinished(overrides: list[str]) -> Path:
    """The experiment's run that started last and did not finish."""
    config = compose_job("train", overrides)
    folder = Path(config["paths"]["output_dir"]) / config["name"]
    unfinished = []
    for path in folder.glob("*/record.json"):
        record = read_record(path.parent)
        unfinished_status = record["status"] != "finished" and not is_training(record)
        if unfinished_status and (path.parent / "checkpoints" / "last.ckpt").exists():
            unfinished.append((record.get("started_at", ""), path.parent))
    if not unfinished:
        raise UserError(f"{folder} holds no unfinished run of {config['name']} with a checkpoint: name a folder.")
    return max(unfinished)[1]


def earlier_overrides(folder: Path) -> list[str]:
    """What earlier resumes of a run were given and still holds, such as a later end."""
    notes: list[Any] = [read_yaml(path) for path in sorted((folder / "resumes").glob("*.yaml"))]
    return holding_after([without_former_keys(note["overrides"]) for note in notes])


def holding_after(commands: Sequence[list[str]]) -> list[str]:
    """Of overrides those of keys that no later command has given anew."""
    holding: list[str] = []
    for command in commands:
        keys = {key_of(it) for it in command}
        holding = [it for it in holding if key_of(it) not in keys] + command
    return holding


def note_resume(config: dict[str, Any]) -> None:
    folder = Path(config["paths"]["run_dir"])
    note_command(folder, split_arguments(sys.argv[1:])[1])
    write_whole(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config)))


def note_command(folder: Path, overrides: list[str]) -> None:
    folder = folder / "resumes"
    folder.mkdir(exist_ok=True)
    number = len(list(folder.glob("*.yaml"))) + 1
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    note = {"command": command, "overrides": overrides, "started_at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_whole(folder / f"{number:03d}.yaml", OmegaConf.to_yaml(OmegaConf.create(note)))
