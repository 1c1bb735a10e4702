"""What a config that comes from a run folder may name, read and have written.

A config decides which Python objects are called with which arguments, so a run folder from somebody else could run
anything. From a saved config only what ``conf/`` of this checkout names is built: a library's other classes may read,
download or unpickle what their arguments say, whatever they inherit from. Who trusts a folder's maker says so with
``trust=[...]``, whose words a refusal prints.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from foundation.errors import UserError
from foundation.former_names import name_of_today
from foundation.places import NAMED_BY_A_RUN, is_cache, lies_in, own_cache, own_data

CONF = Path(__file__).resolve().parent.parent / "conf"
# What a finished run gives to another. They read its config under the same rules, and weights alone of its checkpoint.
FUNCTIONS = (
    "launch.runs.load_module",
    "launch.runs.load_modules",
    "launch.runs.load_datamodule",
    "launch.runs.load_metric",
    "launch.runs.load_proposals",
)
TRUSTED = "RELIGHT_TRUST"  # in the environment, where the ranks that a command starts find it, too


@contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """What a person has named with ``trust=`` may stand in saved configs, too, here and in processes started here."""
    before = os.environ.get(TRUSTED)
    os.environ[TRUSTED] = ",".join(sorted({*names, *trusted()}))
    try:
        yield
    finally:
        os.environ.pop(TRUSTED)
        if before is not None:
            os.environ[TRUSTED] = before


@contextmanager
def trusting_as_typed() -> Iterator[None]:
    """Takes ``trust=[...]`` out of the command line, for what is done inside."""
    names, sys.argv[1:] = split_trust(sys.argv[1:])
    with trusting(names):
        yield


def trusted() -> frozenset[str]:
    return frozenset(it for it in os.environ.get(TRUSTED, "").split(",") if it)


def split_trust(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that ``trust=[...]`` gives, and the other arguments."""
    given = [it.partition("=")[2] for it in arguments if it.startswith("trust=")]
    names = [name.strip(" '\"") for it in given for name in it.strip("[]'\"").split(",")]
    return [it for it in names if it], [it for it in arguments if not it.startswith("trust=")]


def words_to_trust(names: Iterable[str]) -> str:
    """What has to be typed so that these and what is trusted already may be named."""
    return f"trust=[{','.join(sorted({*names, *trusted()}))}]"


def check_targets(config: Mapping[str, Any], source: str) -> None:
    """Raise a UserError that names the targets of the config that may not be called."""
    refused = {f"{key}._target_": node["_target_"] for key, node in nodes_in(config, "")}
    refused = {key: target for key, target in refused.items() if not is_allowed(target)}
    if not refused:
        return
    told = ", and ".join(f"{key} is {target!r}" for key, target in refused.items())
    named = [it for it in refused.values() if isinstance(it, str) and re.fullmatch(r"[\w.]+", it)]  # to be typed
    how = f" If you know and trust whoever made it, add to the command: {words_to_trust(named)}" if named else ""
    raise UserError(
        f"{source}: {told}, which a run's config may not name. From a saved config only what conf/ names is "
        f"built, since anything else could run code of somebody else's.{how}"
    )


OWN_VARIABLES = ("DATA_DIR", "RELIGHT_CACHE")


def variable_of_a_place(name: str, *default: Any) -> Any:
    """``oc.env`` of a saved config, whose values may go into files that are passed on and to services.

    Those that the loggers of ``conf/`` ask for are as if they were not set: a saved config's loggers are never built.
    """
    if default and name in asked_by_loggers():
        return default[0]
    if name not in OWN_VARIABLES:
        raise UserError(
            f"it asks for the environment's {name}, and a run's config is given {' and '.join(OWN_VARIABLES)} alone: "
            "write the value itself"
        )
    return oc.env(name, *default)


@cache
def asked_by_loggers() -> frozenset[str]:
    files = (CONF / "logger").glob("*.yaml")
    return frozenset(name for file in files for name in re.findall(r"oc\.env:(\w+)", file.read_text()))


@contextmanager
def places_alone() -> Iterator[None]:
    """While what comes from a run folder is resolved: of the environment it sees the variables of places alone."""
    OmegaConf.register_new_resolver("oc.env", variable_of_a_place, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


TO_DOWNLOAD_TO = ("data_dir", "weights")  # published files, where they are missing
PLACES = ("folder", "dirpath", "save_dir", "default_root_dir", "filename")


def check_foreign(config: dict[str, Any], source: str, cache: str | None = None, data_dirs: Sequence[str] = ()) -> None:
    """Targets, and places: what a saved config has written lies in the run folder or in that of its measurement.

    A cache that is none of this machine's becomes ``cache``, unless given ``own_cache``. Nothing is downloaded to
    places that are neither this machine's nor among ``data_dirs``, which a person has named just now.
    """
    check_targets(config, source)
    run_dir = Path(config["paths"]["run_dir"]).absolute()
    for _, node in mappings_in(config, ""):
        for place in (it for key, it in node.items() if key in TO_DOWNLOAD_TO and isinstance(it, str)):
            if not any(lies_in(place, own) for own in (run_dir, own_data(), own_cache(), *data_dirs)):
                NAMED_BY_A_RUN.add(place)
    parts = {"trainer": config.get("trainer") or {}}
    for group in ("callbacks", "logger"):
        parts |= {f"{group}.{name}": node or {} for name, node in (config.get(group) or {}).items()}
    for name, part in parts.items():
        for key, node in mappings_in(part, name):
            for place in PLACES:
                check_place(node, key, place, run_dir, source)
    for _, node in mappings_in(config, ""):
        if "cache_dir" in node and (cache or not is_own_cache(node["cache_dir"], run_dir)):
            node["cache_dir"] = cache or own_cache()


def check_place(node: Mapping[str, Any], key: str, place: str, run_dir: Path, source: str) -> None:
    """Of a file's name the folder that its node gives is the beginning."""
    given = node.get(place)
    if not given:
        return
    begins = run_dir / str(node.get("dirpath") or "") if place == "filename" else Path()
    if not isinstance(given, str) or not lies_in(begins / os.path.expanduser(given), run_dir):
        raise UserError(f"{source}: {key}.{place} is {given}, which lies outside the run's folder {run_dir}.")


def is_own_cache(place: Any, run_dir: Path) -> bool:
    if not isinstance(place, str):
        return False
    return lies_in(place, run_dir) or lies_in(place, own_cache()) or is_cache(place)


def mappings_in(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """All mappings, at whatever depth, with their keys."""
    if isinstance(value, dict):
        yield path, value
        for key, below in value.items():
            yield from mappings_in(below, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from mappings_in(below, f"{path}[{position}]")


def nodes_in(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings with a ``_target_``, at whatever depth, with their keys."""
    yield from ((key, node) for key, node in mappings_in(value, path) if "_target_" in node)


def is_allowed(target: Any) -> bool:
    """Whether a dotted name, of today or a former one, is named by ``conf/``, or trusted. Nothing is imported."""
    return isinstance(target, str) and (name_of_today(target) in named_by_conf() or target in trusted())


@cache
def named_by_conf(conf: Path = CONF) -> frozenset[str]:
    """Every class and function that a job's config can name by the files of ``conf/``, and runs as inputs.

    What stands below ``hydra`` is Hydra's, which no run's config holds.
    """
    found = set(FUNCTIONS)
    for path in conf.rglob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        if path.parent != conf / "hydra" and isinstance(content, dict):
            of_jobs = {key: node for key, node in content.items() if key != "hydra"}
            found |= {node["_target_"] for _, node in nodes_in(of_jobs, "")}
    return frozenset(found)
