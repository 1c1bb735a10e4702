"""Which command gave this number: a run's own account of itself, ``record.json`` in its folder."""

import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.averaged_weights import weights_of
from callbacks.instruments.chosen_precision import measured_for
from callbacks.instruments.run_clock import epochs_done
from foundation.checkpoints import fingerprint, load_plain
from foundation.denormals import are_flushed
from foundation.errors import not_written
from foundation.length import Length
from foundation.metrics import Direction, with_keys_of_today
from foundation.protocols import declared_metrics, said
from foundation.published import TESTED, key_for
from foundation.records import differences, job_of_now, latest_of_each_key, mark_of, read_overrides, read_record
from foundation.source_tree import source_tree, warning, write_patch
from foundation.whole_files import write_whole
from foundation.yaml_files import read_yaml, value_at

PACKAGES = ("torch", "torchvision", "lightning", "hydra-core", "omegaconf", "wandb", "torchmetrics", "numpy",
            "scipy", "scikit-learn")  # fmt: skip


class RunRecord(Callback):
    """Writes the record at the start with status ``running`` and again after fit, test or a failure.

    It holds the experiment, seed, overrides, resolved config, commit and whether it stands for the code that ran
    (where not, ``changes`` names what differs and ``diff.patch`` beside the record holds it), data with sizes and
    fingerprint (as it is now, and as ``data_at_start`` where training has changed it), hardware, versions,
    precision (where ``auto`` has chosen it by measuring, ``precision_ms``: milliseconds of layers' steps), wall
    times, how long training was asked for (``asked``: iterations, epochs or seconds) and how long it was, resumes,
    which weights were tested (``trained`` or averaged), the hash of the last checkpoint's (``weights_sha256``), the
    runs that it was given (``inputs``, by the config's keys), who judged (``judges``: weights and numbers of
    images) and all final metrics under the keys they were logged with, and which direction of each is better
    (``directions``). ``make record`` makes a result of it.

    Args:
        folder: the run folder.
        experiment, seed: of the run.
    """

    for_training_only = True

    def __init__(self, folder: str, experiment: str, seed: int) -> None:
        self.folder = Path(folder)
        self.record: dict[str, Any] = {"status": "running", "experiment": experiment, "seed": seed}
        self.stage, self.started = "fit", time.monotonic()
        self.record["metrics"] = {}
        self.record["wall_time_s"] = {}
        self.inputs: dict[str, Any] = {}  # what launch.runs has found
        self.captured = "off"
        self.goes_on: bool | None = None  # a former record; False: refused so far
        self.loaded: dict[str, Any] | None = None  # the data as it was set up, before a fit or its resume changed it

    def take_up_former(self) -> None:
        """Go on with the record of a run that is resumed, where it left one."""
        if former := read_record(self.folder):
            self.record, self.goes_on = former, False
            self.record["metrics"] = with_keys_of_today(self.record.get("metrics", {}))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.stage, self.started = stage, time.monotonic()
        if stage == "fit" and trainer.is_global_zero:
            self.loaded = describe_data(trainer)

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > 0:
            self.goes_on = True
            self._go_on(trainer, pl_module)
            return
        self.record |= describe_run(self.folder) | {
            "precision": trainer.precision,
            "captured": self.captured,
            "weights": weights_of(trainer),
            "world_size": trainer.world_size,
            "hardware": describe_hardware(trainer),
            "parameters": sum(parameter.numel() for parameter in pl_module.parameters()),
            "directions": directions_of(trainer, pl_module),
        }
        self.record |= measured_for(trainer) | ({"inputs": self.inputs} if self.inputs else {})
        self._note_data(trainer)
        self._write()

    def _go_on(self, trainer: Trainer, module: LightningModule) -> None:
        now, before = describe_run(self.folder, f"diff-{trainer.global_step}.patch"), self.record
        segment = {key: now[key] for key in ("command", "commit", "started_at")} | {
            "from_iteration": trainer.global_step,
            "precision": trainer.precision,
            "captured": self.captured,
            "changed": changed_settings(before.get("config", {}), now["config"]),
        }
        before_data, loaded = before.get("data_at_start", before.get("data", {})), self.loaded or {}
        if any(loaded.get(key) != value for key, value in before_data.items()):
            segment["data_before"] = before_data  # a resume may ask for another test
        inputs = before.get("inputs", {}) | self.inputs  # init_from is not asked again
        if inputs != before.get("inputs", {}):
            segment["inputs_before"] = before.get("inputs", {})  # a resume may ask for others
            before["inputs"] = inputs
        before["resumes"] = [*before.get("resumes", []), segment | {"world_size": trainer.world_size}]
        # Two commits, or changes that no commit holds, leave no one commit that stands for the numbers.
        same_commit = before.get("commit") == now["commit"] is not None
        before["clean"] = bool(before.get("clean") and now["clean"] and same_commit)
        before["changes"] = sorted({*before.get("changes", []), *now["changes"]})
        if before.get("commit") != now["commit"]:
            held = [str(it)[:7] for it in (before.get("commit"), now["commit"])]
            before["changes"].append(f"the commit ({held[0]} up to iteration {trainer.global_step}, then {held[1]})")
            told = "This run began at commit {} and goes on at {}: `make record` would refuse it."
            print(told.format(*held), flush=True)
        before["overrides"] = latest_of_each_key([*before.get("overrides", []), *newest_resume(self.folder)])
        before |= {"status": "running"} | {key: now[key] for key in ("config", "pid", "host", "process", "job")}
        before |= {"weights": weights_of(trainer), "directions": directions_of(trainer, module)}
        before["asked"] = now["asked"]
        before.pop("error", None)
        self._note_data(trainer)
        self._write()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "fitted")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish(trainer, "finished")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self.goes_on is False:
            return  # what was asked of a resume cannot be: the run is as it was
        if isinstance(exception, SystemExit | KeyboardInterrupt):
            self._finish(trainer, "interrupted")
        else:
            self.record["error"] = f"{type(exception).__name__}: {exception}"
            self._finish(trainer, "failed")

    def _finish(self, trainer: Trainer, status: str) -> None:
        self.record["status"] = status
        if self.stage == "fit":
            self.record |= {"iterations": trainer.global_step, "epochs": epochs_done(trainer)}
        before = self.record["wall_time_s"].get(self.stage, 0) if self.stage == "fit" else 0  # of a run resumed
        self.record["wall_time_s"][self.stage] = round(before + time.monotonic() - self.started, 2)
        self.record["metrics"] |= final_metrics(trainer)
        self.record |= judges_of(trainer)
        self._note_data(trainer)
        self._note_weights()
        self._write()

    @rank_zero_only
    def _note_data(self, trainer: Trainer) -> None:
        """``data`` as it is now and, where a fit has changed it, ``data_at_start``."""
        if self.loaded is None:
            return  # what failed came before
        now = self.record["data"] = describe_data(trainer)
        self.record.pop("data_at_start", None)
        self.record |= {"data_at_start": self.loaded} if now != self.loaded else {}

    @rank_zero_only
    def _note_weights(self) -> None:
        """The hash of what the last checkpoint holds, as a run that takes it as an input notes it."""
        last = self.folder / "checkpoints" / "last.ckpt"
        if last.is_file():
            self.record["weights_sha256"] = fingerprint(load_plain(last)["state_dict"])

    @rank_zero_only
    def _write(self) -> None:
        write_json(self.folder / "record.json", self.record)


def changed_settings(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """By key the former value and today's; places, which change no number, are left out."""
    found = differences(before, now)
    return {key: both for key, both in found.items() if not any(isinstance(it, str) and "/" in it for it in both)}


def final_metrics(trainer: Trainer) -> dict[str, float]:
    """Logged values are float32: seven digits are all of them."""
    return {key: float(f"{value:.7g}") for key, value in sorted(trainer.callback_metrics.items())}


def directions_of(trainer: Any, module: Any) -> dict[str, Direction]:
    """Of each metric which of two values is the better one, for whoever reads the record without the code."""
    declared = declared_metrics(module, trainer.callbacks)
    return {key_for(key, getattr(trainer, "datamodule", None)): direction for key, direction in declared.items()}


def judges_of(trainer: Trainer) -> dict[str, Any]:
    """``judges``: what callbacks whose figures depend on another network say of it; nothing where there is none."""
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    told: dict[str, Any] = {}
    for callback in callbacks:
        told |= said(callback, "describe_for_record")()
    return {"judges": told} if told else {}


def measured_again(
    run: Path, now: dict[str, Any], trainer: Trainer, how: dict[str, Any], test_s: float
) -> dict[str, Any]:
    """The record of a finished run with what another measurement found in place of its own: what ``make record`` takes.

    What that was asked for stands among the overrides behind ``evaluate.``, and both trees have to be clean.

    Args:
        run: the run's folder, which has a record.
        now: the measurement's ``describe_run``, with its ``inputs``.
        how: checkpoint, weights and precision.
    """
    record = read_record(run)
    asked = [it.lstrip("+") for it in now["overrides"] if not it.startswith(("run=", "trainer", "paths.", "hydra."))]
    before = with_keys_of_today(record["metrics"])
    training = {key: value for key, value in before.items() if not key.startswith(TESTED)}
    evaluation = {"commit": now["commit"], "started_at": now["started_at"], "world_size": trainer.world_size,
                  "hardware": describe_hardware(trainer), "versions": now["versions"]} | how  # fmt: skip
    record.pop("judges", None)
    given = record.get("inputs", {}) | now["inputs"]
    return record | judges_of(trainer) | ({"inputs": given} if given else {}) | {
        "status": "finished" if record["status"] == "fitted" else record["status"],
        "clean": now["clean"] and record["clean"],
        "changes": sorted({*record.get("changes", []), *now["changes"]}),
        "overrides": [*record["overrides"], *(f"evaluate.{it}" for it in asked)],
        "data": describe_data(trainer),
        "wall_time_s": record["wall_time_s"] | {"test": round(test_s, 2)},
        "metrics": training | final_metrics(trainer),
        "directions": record.get("directions", {}) | directions_of(trainer, trainer.lightning_module),
        "evaluation": evaluation,
    }  # fmt: skip


def mark_failed(folder: Path, reason: str, traceback: str | None = None) -> None:
    """Say in a run's record that it failed, from outside the run's callbacks."""
    if record := read_record(folder):
        failed = {"status": "failed", "error": reason} | ({"traceback": traceback} if traceback else {})
        try:
            write_json(folder / "record.json", record | failed)
        except OSError as error:
            if not not_written(error):
                raise
            mark_in_place(folder / "record.json", record["status"])


def mark_in_place(path: Path, status: str) -> None:
    """``failed`` on a full disk, where there is room for no other file, but in this one for a word that is shorter."""
    before = path.read_text()
    after = before.replace(f'"status": "{status}"', '"status": "failed"', 1)
    if len(after) <= len(before):
        with suppress(OSError), path.open("r+") as file:  # of a read-only disk: its process is seen to be gone
            file.write(after.ljust(len(before)))


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all: a reader never sees half a file."""
    write_whole(path, json.dumps(content, indent=2) + "\n")


def describe_run(folder: Path, patch: str = "diff.patch") -> dict[str, Any]:
    """Command, overrides, commit and the state of the tree, versions.

    Where the commit does not stand for the code that runs, that is printed and ``patch`` is written.
    """
    saved = folder / "config.yaml"
    config: Any = read_yaml(saved) if saved.exists() else {}
    tree = source_tree(config_folders(folder))
    left_out = write_patch(tree, folder / patch) if tree.changes else {}
    if told := warning(tree, left_out, folder / patch):
        print(told, flush=True)
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "process": mark_of(os.getpid()),
        "job": job_of_now(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "overrides": read_overrides(folder),
        "config": config,
        "asked": Length.of(config.get("trainer", {})).given(),
        "commit": tree.commit,
        "clean": tree.clean,
        "changes": tree.names(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in PACKAGES},
    }


def version_of(package: str) -> str | None:
    """None where it is not installed: without wandb a run trains as well."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def config_folders(folder: Path) -> list[Path]:
    """Where a run's config was composed from."""
    told = folder / ".hydra" / "hydra.yaml"
    sources = value_at(read_yaml(told), "hydra", "runtime", "config_sources") if told.exists() else None
    return [Path(it["path"]) for it in sources or [] if it["schema"] == "file"]


def newest_resume(folder: Path) -> list[str]:
    """The overrides that the latest ``resume=`` of a run was given."""
    notes = sorted((folder / "resumes").glob("*.yaml"))
    note: Any = read_yaml(notes[-1]) if notes else {"overrides": []}
    return note["overrides"]


def describe_hardware(trainer: Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "accelerator": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "denormals": "flushed" if are_flushed() else "kept",
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_data(trainer: Trainer) -> dict[str, Any]:
    return said(getattr(trainer, "datamodule", None), "describe")() | tested_on(trainer)


def tested_on(trainer: Trainer) -> dict[str, Any]:
    """The data and split that a test's figures are of; of limited batches that says so."""
    told = said(getattr(trainer, "datamodule", None), "tested_on")()
    if told and (limit := getattr(trainer, "limit_test_batches", 1.0)) not in (None, 1.0):
        told["split"] += f", limit_test_batches={limit}"
    return told


def processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
