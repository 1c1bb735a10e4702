"""A page for whoever gets a run or its network: what it is, what it reached on which data, how it was made."""

import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from finished.results import measured_on
from finished.tables import without_folders
from foundation.published import TESTED, metrics_of, published
from foundation.records import key_of
from foundation.security import CONF

OF_THIS_MACHINE = ("host", "pid", "process", "job")


def card_of(record: Mapping[str, Any], use: str) -> str:
    """Markdown of a run's record. use: how it is used, commands or words."""
    config, data = record.get("config", {}), record.get("data", {})
    lines = [f"# {record.get('experiment', 'A run')}, seed {record.get('seed', '-')}", ""]
    if paper := (config.get("paper") or {}).get("id"):
        lines += [f"Trained with Relight after {paper}.", ""]
    lines += ["## What it reached", "", *figures(record, config, data), ""]
    lines += ["## How it was made", "", "```", command_of(record), "```", ""]
    lines += [f"- data: {told(data)}"] if data else []
    lines += [f"- iterations: {record['iterations']:,}"] if "iterations" in record else []
    if "weights_sha256" in record:
        lines += [f"- weights: {record.get('weights', 'trained')}, sha256 {record['weights_sha256']}"]
    commit = record.get("commit")
    clean = "" if record.get("clean") else ", with changes that it does not hold"
    lines += [f"- commit: {commit}{clean}" if commit else "- commit: none stands for it"]
    versions = {name: it for name, it in record.get("versions", {}).items() if it and name in ("torch", "lightning")}
    lines += [f"- {', '.join(f'{name} {it}' for name, it in versions.items())}"] if versions else []
    lines += ["", "## Use", "", use, "", "## Licence", ""]
    lines += ["None is stated here. What the data allow holds for weights that were trained on them: say it before you",
              "hand them on.", ""]  # fmt: skip
    return "\n".join(lines)


def figures(record: Mapping[str, Any], config: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    tested = {key: it for key, it in metrics_of(record).items() if key.startswith(TESTED) and it is not None}
    if not tested:
        return ["Nothing was tested."]
    rows = ["| metric | measured on | this run | the paper's |", "|---|---|---|---|"]
    for key, value in sorted(tested.items()):
        of_paper = published(config.get("paper"), key, data, config)
        on = measured_on({"data": data}) if "name" in data else "-"
        rows.append(f"| `{key}` | {on} | {value:.4g} | {'-' if of_paper is None else f'{of_paper:g}'} |")
    return rows


def command_of(record: Mapping[str, Any]) -> str:
    """As it can be typed anywhere: without folders and file names of the machine that it ran on."""
    return shlex.join(["python", "train.py", *record.get("overrides", [])])


def told(data: Mapping[str, Any]) -> str:
    counts = [f"{data[it]:,} {it}" for it in ("train", "val", "test") if isinstance(data.get(it), int)]
    return ", ".join([str(data.get("name", "-")), *counts])


# --- without what is one machine's own --------------------------------------------------------------------------------


def for_others(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record that may be handed on: folders and names of the machine left out."""
    if not record:
        return {}
    kept = {key: it for key, it in record.items() if key not in OF_THIS_MACHINE}
    overrides = cleaned(record.get("overrides", []))
    if "config" in kept:
        kept["config"] = kept["config"] | {"paths": usual_places()}
    return without_places(kept) | {"overrides": overrides, "command": shlex.join(["train.py", *overrides])}


def usual_places() -> dict[str, Any]:
    """As ``conf/paths`` has them."""
    places = OmegaConf.to_container(OmegaConf.load(CONF / "paths" / "default.yaml"), resolve=False)
    assert isinstance(places, dict)
    return {str(key): it for key, it in places.items()}


def cleaned(overrides: list[str]) -> list[str]:
    return [without_folders(it) for it in overrides if not key_of(it).startswith(("paths.", "hydra."))]


def without_places(value: Any) -> Any:
    """Of a place on this machine its last name alone."""
    if isinstance(value, dict):
        return {key: typed_elsewhere(it) if key == "command" else without_places(it) for key, it in value.items()}
    if isinstance(value, list):
        return [without_places(it) for it in value]
    if isinstance(value, str) and value.startswith(("/", "~")) and "/" in value:
        return value.rstrip("/").rpartition("/")[2]
    return value


def typed_elsewhere(command: Any) -> Any:
    return shlex.join(map(without_folders, shlex.split(command))) if isinstance(command, str) else command
