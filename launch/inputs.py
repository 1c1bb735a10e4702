"""Finished runs that are inputs of another run: which of them a config asks for, and what a record says of each.

A node wherever a config has one stands for what a finished run has to give (``launch.runs``):

    {_target_: launch.runs.load_module, run: outputs/infogan_mnist/<folder>, part: generator}
    {_target_: launch.runs.load_modules, runs: [outputs/resnet_mnist/<folder>, outputs/resnet_mnist/<another>]}
    {_target_: launch.runs.load_datamodule, run: outputs/infogan_mnist/<folder>}
    {_target_: launch.runs.load_metric, run: outputs/resnet_mnist/<folder>, metric: test/error}
    {_target_: launch.runs.load_proposals, run: outputs/rpn_shapes/<folder>}

The record of the run that asks keeps their origins as ``inputs``, by the keys of the nodes. A folder stands there by
its name alone: where a person keeps runs changes no number.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.proposals import PROPOSALS
from foundation.checkpoints import checkpoint_path, fingerprint, kind_of_weights, read_checkpoint
from foundation.errors import UserError, did_you_mean
from foundation.protocols import said
from foundation.records import is_training, read_record
from foundation.run_files import to_go_on
from foundation.security import nodes_in
from launch.saved_config import name_in, saved_config

Origin = dict[str, Any]
TRAINED = ("finished", "fitted")
IDENTITY = ("run", "checkpoint", "part", "metric", "file")  # what was asked for; the rest is what it was


def inputs_of(config: Mapping[str, Any]) -> dict[str, Origin]:
    """The origins of all input runs by the keys of their nodes; a UserError names the first that cannot be one."""
    found = {}
    for key, node in nodes_in(config, ""):
        if (origin := ORIGINS.get(node["_target_"])) is None and node["_target_"] != SEVERAL:
            continue
        if "_args_" in node:
            raise UserError(f"{key}: give the arguments of {node['_target_']} by name, not as _args_.")
        given = {name: value for name, value in node.items() if not name.startswith("_")}
        try:
            found |= {key: origin(**given)} if origin else origins_of_modules(key, **given)
        except UserError as mistake:
            raise UserError(f"{key}: {mistake}") from None
    return found


def of_another_split(config: Mapping[str, Any], datamodule: Any, trains: bool) -> Iterator[str]:
    """A sentence on each run that was trained on what is tested here, of data whose test a key decides.

    It counts whether its predictions, its proposals or, at the start of a training, its weights go into this job.
    """
    own = config["datamodule"]
    for key, run in runs_that_saw_data(config, trains):
        if not (Path(run) / ".hydra" / "config.yaml").is_file():
            continue  # of a job that goes on, whose inputs were loaded long ago
        theirs = saved_config(run)["datamodule"]
        same_data = all(theirs.get(it) == own.get(it) for it in ("_target_", "name", "folder"))
        for it in said(datamodule, "test_decided_by") if same_data else ():
            if theirs.get(it) != own.get(it):
                yield (
                    f"{key}: the run {run} has datamodule.{it}={theirs.get(it)} and this one {own.get(it)}, so that it "
                    "was trained on examples that are tested here: name a run with the same."
                )


def runs_that_saw_data(config: Mapping[str, Any], trains: bool) -> Iterator[tuple[str, str]]:
    for key, node in nodes_in(config, ""):
        if node["_target_"] == SEVERAL:
            yield from ((f"{key}.runs", str(run)) for run in node.get("runs") or ())
        elif node["_target_"] == PROPOSED and node.get("run"):
            yield f"{key}.run", str(node["run"])
    begins: Any = config.get("init_from") if trains else None
    if run := begins.get("run") if isinstance(begins, Mapping) else begins:
        yield "init_from", str(run)


def changed_inputs(before: Mapping[str, Origin], now: Mapping[str, Origin]) -> Iterator[str]:
    """A sentence on each input that is asked for as before and is no longer what it was."""
    for key in sorted(before.keys() & now.keys()):
        was, is_now = before[key], now[key]
        if was == is_now or any(was.get(it) != is_now.get(it) for it in IDENTITY):
            continue
        differing = [it for it in (was.keys() | is_now.keys()) - {"overrides"} if was.get(it) != is_now.get(it)]
        told = [f"its {it} was {short(was.get(it))} and is {short(is_now.get(it))}" for it in sorted(differing)]
        named = f"the run {was['run']}" if "run" in was else was.get("file")
        if told:
            yield f"{key}: {named} is no longer what it was: {', '.join(told)}."


def tell_changes(folder: Path, inputs: Mapping[str, Origin]) -> None:
    """Say of a run that is measured again what its inputs are no longer; the new record has them as they are."""
    for sentence in changed_inputs(read_record(folder).get("inputs", {}), inputs):
        print(sentence, flush=True)


def refuse_changes(folder: Path, inputs: Mapping[str, Origin]) -> None:
    """A run that goes on with other inputs would be two runs."""
    if changed := [*changed_inputs(read_record(folder).get("inputs", {}), inputs)]:
        raise UserError("\n".join([*changed, "Put back what it was, or start a new run."]))


def short(value: Any) -> str:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)


def no_such_part(part: str, names: Iterable[str], owner: str) -> str:
    """A sentence on the first word of a dotted part that is in none of these dotted names, with the nearest."""
    known, words = "", part.split(".")
    for depth in range(len(words)):
        before = ".".join(words[:depth])
        below = {it for it in names if it.startswith(before and f"{before}.")}
        known = {".".join(it.split(".")[: depth + 1]) for it in below}
        if ".".join(words[: depth + 1]) not in known:
            break
    return f"{owner} has no part '{part}'; {did_you_mean('.'.join(words[: depth + 1]), known)}"


def trained_run(run: str | Path | None) -> Path:
    """The folder of a run whose training is done; without a record nobody says that it is not."""
    if not run:
        raise UserError("run is null: give the folder of a finished run.")
    folder = Path(run)
    if not folder.is_dir():
        raise UserError(f"there is no run {folder}: it was moved or deleted. Give the folder where it lies now.")
    record = read_record(folder)
    if record.get("status", "finished") in TRAINED:
        return folder
    if is_training(record):
        raise UserError(f"the run {folder} is still being trained by process {record['pid']}: wait for its end.")
    after = f" after {record['iterations']} iterations" if "iterations" in record else ""
    raise UserError(
        f"the run {folder} is {record['status']}{after}, not finished: go on with it by {to_go_on(folder)}, or "
        "name another."
    )


def origin_of_checkpoint(run: str | Path | None, checkpoint: str) -> tuple[Origin, dict[str, Any]]:
    """What every input from a checkpoint says of itself, and the checkpoint."""
    folder = trained_run(run)
    path = checkpoint_path(folder, checkpoint)
    content = read_checkpoint(path)
    origin = {
        "run": folder.resolve().name,
        "experiment": name_in(folder),
        "checkpoint": path.name,
        "iteration": content["global_step"],
    }
    return origin, content


def origin_of_module(run: str | None, part: str | None = None, checkpoint: str = "last") -> Origin:
    origin, content = origin_of_checkpoint(run, checkpoint)
    return origin | ({} if part is None else {"part": part}) | weights_of(content)


def origins_of_modules(key: str, runs: Sequence[str], checkpoint: str = "last") -> dict[str, Origin]:
    """Of each run under the key of its place, with its overrides: whether runs are alike, a later reader asks."""
    folders = [Path(str(it)).resolve() for it in runs]
    if twice := next((run for run, folder in zip(runs, folders, strict=True) if folders.count(folder) > 1), None):
        raise UserError(f"runs names {twice} twice: name each run once.")
    return {
        f"{key}.{number}": origin_of_module(run, checkpoint=checkpoint) | overrides_of(Path(str(run)))
        for number, run in enumerate(runs)
    }


def overrides_of(run: Path) -> Origin:
    """Nothing of a run without a record."""
    record = read_record(run)
    return {"overrides": record["overrides"]} if "overrides" in record else {}


def weights_of(checkpoint: Mapping[str, Any]) -> Origin:
    return {"weights": kind_of_weights(checkpoint), "weights_sha256": fingerprint(checkpoint["state_dict"])}


def origin_of_datamodule(run: str | None, checkpoint: str = "last") -> Origin:
    origin, _ = origin_of_checkpoint(run, checkpoint)
    return origin | {"data": read_record(Path(str(run))).get("data")}


def origin_of_metric(run: str | None, metric: str) -> Origin:
    folder = trained_run(run)
    record = read_record(folder)
    metrics = record.get("metrics", {})
    if metric not in metrics:
        raise UserError(f"the record of {folder} has no metric '{metric}'; {did_you_mean(metric, metrics)}")
    return {
        "run": folder.resolve().name,
        "experiment": record.get("experiment"),
        "iteration": record.get("iterations"),
        "metric": metric,
        "value": metrics[metric],
    }


def origin_of_proposals(run: str | None = None, file: str | None = None, most: Sequence[int] = ()) -> Origin:
    path = file_of_proposals(run, file)
    with path.open("rb") as content:
        told = {"file": path.name, "sha256": hashlib.file_digest(content, "sha256").hexdigest()}
    if run is None:
        return told
    record = read_record(Path(run))
    of_run = {"run": Path(run).resolve().name, "experiment": record.get("experiment")}
    return of_run | {"iteration": record.get("iterations")} | told


def file_of_proposals(run: str | None, file: str | None) -> Path:
    """Of a finished run, or by its path."""
    if (run is None) == (file is None):
        given = "run and file are both null" if run is None else f"run is {run} and file is {file}"
        raise UserError(f"{given}: give the folder of a finished run that has saved its proposals, or their file.")
    if file is not None:
        path = Path(file)
        if not path.is_file():
            raise UserError(f"there is no file of proposals {path}: give the path of one.")
        return path
    folder = trained_run(run)
    if not (path := folder / PROPOSALS).is_file():
        raise UserError(
            f"the run {folder} has no {PROPOSALS}: python evaluate.py run={folder} callbacks=saved_proposals writes "
            "one into its folder below evaluations/, whose path file takes instead of run."
        )
    return path


SEVERAL = "launch.runs.load_modules"
PROPOSED = "launch.runs.load_proposals"
ORIGINS: dict[str, Callable[..., Origin]] = {
    "launch.runs.load_module": origin_of_module,
    "launch.runs.load_datamodule": origin_of_datamodule,
    "launch.runs.load_metric": origin_of_metric,
    PROPOSED: origin_of_proposals,
}
