"""Mistakes on the command line, found before Hydra starts: a key or choice that does not exist, and the nearest.

Hydra's own flags (--cfg, --hydra-help) are left to Hydra. --help is answered from the files of conf/: Hydra composes a
config for it, and copies all that it has read once for every group.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf

from foundation.errors import UserError, did_you_mean
from foundation.former_names import hint_of_former_key
from launch.config_check import (
    EvaluateConfig,
    Parameters,
    PredictConfig,
    SampleConfig,
    TrainConfig,
    check_config,
    plain,
)

CONF = Path(__file__).resolve().parent.parent / "conf"
SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "sample": SampleConfig,
    "predict": PredictConfig,
}
PLUGINS = {
    "joblib": "hydra_joblib_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "submitit_slurm": "hydra_submitit_launcher",
    "optuna": "hydra_optuna_sweeper",
}


def split_arguments(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The folder that ``resume=`` names, if any, and the other arguments."""
    named = [it.partition("=")[2] for it in arguments if it.startswith("resume=")]
    others = [it for it in arguments if not it.startswith("resume=")]
    if named and any(it in ("-m", "--multirun") for it in others):
        raise UserError("resume= goes on with one run: leave out -m.")
    if len(named) > 1 or named == [""]:
        raise UserError("resume= names one folder, or latest.")
    return (named[0] if named else None), others


def with_quoted(keys: Sequence[str], arguments: Sequence[str]) -> list[str]:
    """The values of these keys quoted where Hydra would stumble over them (``photo (1).jpg``) or read a number.

    Those of a sweep, and what is quoted already, stay as they are.
    """
    if any(it in ("-m", "--multirun") for it in arguments):
        return list(arguments)
    quoted = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        plain_path = re.fullmatch(r"[\w./-]*/[\w./-]*", value, re.ASCII)
        if key in keys and value and value[0] not in "'\"" and not plain_path:
            # Inside quotes a backslash means itself, but before a quote, and that is where the closing one stands.
            inner = re.sub(r"(\\*)('|\Z)", lambda it: it[1] * 2 + ("\\'" if it[2] else ""), value)
            argument = f"{key}='{inner}'"
        quoted.append(argument)
    return quoted


def check_command_line(config_name: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Compose and check the jobs that a command asks for; returns their configs. One that asks for help ends with it.

    Of a sweep, enough jobs to see each value once.
    """
    parsed = get_args_parser().parse_args(list(arguments))
    if parsed.help:
        print(help_of(config_name))
        sys.exit()
    if any(vars(parsed).get(flag) for flag in ("hydra_help", "version", "cfg", "info", "shell_completion")):
        return []
    try:
        overrides = OverridesParser.create().parse_overrides(parsed.overrides)
    except HydraException as error:
        raise UserError(f"The command line cannot be read: {str(error).splitlines()[0]}") from None
    check_stays_here(overrides)
    if config_name == "train":
        check_plugins(overrides)
    searched = search_space(overrides)
    several = bool(parsed.multirun or searched)
    if not several and (swept := [it.input_line for it in overrides if it.is_sweep_override()]):
        raise UserError(f"{swept[0]} gives several values: add -m to run a job for each, or quote it to mean a text.")
    sweeps = several and config_name == "train"
    launchers = [it.input_line for it in overrides if it.key_or_group == "launcher" and it.value()]
    if launchers and not sweeps:
        raise UserError(f"{launchers[0]} is for the jobs of a sweep: add -m, or leave it out.")
    if sweeps:
        check_sweep_starts_here([*searched, *overrides])
    configs = [compose_job(config_name, choice) for choice in sweep_choices([*searched, *overrides])]
    for config in configs:
        check_config(config, SCHEMAS[config_name])
        if sweeps:
            check_job(config, searching=plugins_of(overrides).get("sweeper") == "optuna")
        check_writable("paths.output_dir", Path(config["paths"]["output_dir"]))
    return configs


def help_of(config_name: str) -> str:
    """What a command is for, the options of its groups, and its own keys: its file of conf/ with its comments."""
    file = CONF / f"{config_name}.yaml"
    about, _, rest = file.read_text().partition("defaults:\n")
    about = "".join(f"{line.removeprefix('#').removeprefix(' ')}\n" for line in about.splitlines() if "@" not in line)
    keys = rest.partition("\n\n")[2]
    chosen = {str(key) for it in OmegaConf.load(file).defaults if it != "_self_" for key in it} - {"hydra"}
    folders = sorted(it for it in CONF.rglob("*") if it.is_dir() and it.relative_to(CONF).parts[0] in chosen)
    groups = [f"{it.relative_to(CONF)}: {', '.join(sorted(path.stem for path in it.glob('*.yaml')))}" for it in folders]
    return "\n".join([
        about, "== Groups and their options (choose with group=option) ==", "", *groups, "",
        "== Keys (change with key=value, add with +key=value) ==", "", keys,
        f"All keys, those of the groups too, are printed by: python {config_name}.py --cfg job",
    ])  # fmt: skip


def chosen_file(group: str, overrides: Sequence[Override]) -> Any:
    """The file of conf/<group> that a command chooses; empty where there is none, or none of that name."""
    chosen = [it.value() for it in overrides if it.key_or_group == group]
    path = CONF / group / f"{chosen[-1]}.yaml" if chosen else None
    return OmegaConf.load(path) if path is not None and path.exists() else {}


def search_space(overrides: Sequence[Override]) -> list[Override]:
    """The values that a chosen file of conf/sweep gives to keys which the command line leaves alone."""
    params: Any = OmegaConf.select(OmegaConf.create(chosen_file("sweep", overrides)), "hydra.sweeper.params") or {}
    given = {it.key_or_group for it in overrides}
    lines = [f"{key}={values}" for key, values in params.items() if key not in given]
    return OverridesParser.create().parse_overrides(lines)


def plugins_of(overrides: Sequence[Override]) -> dict[str, str]:
    """Hydra's launcher and sweeper as far as they are chosen, by a file of conf/ or by hand."""
    found = {}
    for group in ("sweep", "launcher"):
        for default in chosen_file(group, overrides).get("defaults", []):
            if isinstance(default, Mapping):
                found |= {str(key).rpartition("/")[2]: it for key, it in default.items() if "override /hydra/" in key}
    by_hand = {it.key_or_group: it.value() for it in overrides if it.key_or_group.startswith("hydra/")}
    return found | {key.rpartition("/")[2]: str(value) for key, value in by_hand.items()}


def check_stays_here(overrides: Sequence[Override]) -> None:
    """Whether relative places go on beginning where the command was given."""
    if moves := [it.input_line for it in overrides if it.key_or_group == "hydra.job.chdir" and it.value()]:
        raise UserError(
            f"{moves[0]} would have relative places, such as data/, begin in the run's folder, where all that a run "
            "writes goes anyway: leave it out."
        )


def check_plugins(overrides: Sequence[Override]) -> None:
    """Whether the packages behind a chosen launcher and sweeper are installed."""
    for name in plugins_of(overrides).values():
        package = PLUGINS.get(name)
        try:
            missing = package is not None and find_spec(f"hydra_plugins.{package}") is None
        except ModuleNotFoundError:
            missing = True
        if missing:
            asked = [it for it in overrides if it.key_or_group.rpartition("/")[2] in ("sweep", "sweeper", "launcher")]
            words = " ".join(it.input_line or "" for it in asked)
            raise UserError(f"{words} needs packages that are not installed: pip install '.[sweeps]'")


def check_sweep_starts_here(overrides: Sequence[Override]) -> None:
    """One process runs a sweep, and its sweeper understands what is searched."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        raise UserError("A sweep starts the ranks of its jobs itself: run it without torchrun.")
    if plugins_of(overrides).get("sweeper") != "optuna":
        for it in overrides:
            if it.is_interval_sweep():
                raise UserError(f"{it.input_line} is for Optuna to draw from: choose a sweep= that has it.")


def check_job(config: dict[str, Any], searching: bool) -> None:
    """What a sweep asks of each job's config beyond what a single run has to fulfil."""
    if "run_record" not in config["callbacks"]:
        raise UserError("A sweep reads what its jobs reached in their records: add run_record to callbacks=[...].")
    metric = config["optimized_metric"]
    if searching and not (metric or "").startswith("val/"):
        raise UserError(
            f"optimized_metric={metric} is no metric of validation data, and a search on test data overstates what it "
            "finds: name one that begins with val/, and set datamodule.val_size above 0."
        )
    if (metric or "").startswith("val/") and config["datamodule"].get("val_size") == 0:
        raise UserError(f"optimized_metric={metric} needs validation data: set datamodule.val_size above 0.")


def check_writable(key: str, folder: Path) -> None:
    """Whether the folder, or what has to be made for it, can be written to."""
    there = next(path for path in [folder, *folder.absolute().parents] if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{key}={folder} cannot be written: {there} is no folder that you may write to.")


def sweep_choices(overrides: list[Override]) -> Iterator[list[str]]:
    """Enough jobs of a sweep to see each value of each key once: the first of all, then one key varied at a time.

    Of an interval, its ends.
    """
    options: list[list[str]] = []
    for it in overrides:
        line = it.input_line or ""
        sign = line.partition(it.key_or_group)[0]  # + or ++
        values = values_of(it)
        options.append([f"{sign}{it.key_or_group}={value}" for value in values] if values else [line])
    first = [values[0] for values in options]
    yield first
    for position, values in enumerate(options):
        for value in values[1:]:
            yield [*first[:position], value, *first[position + 1 :]]


def values_of(override: Override) -> list[str] | None:
    """What a sweep gives to a key, written as on the command line; None where it is one value."""
    if not override.is_sweep_override():
        return None
    value = override.value()
    if isinstance(value, IntervalSweep):
        if value.start is None or value.end is None or value.start >= value.end:
            raise UserError(f"{override.input_line}: an interval begins below its end.")
        if "log" in value.tags and value.start <= 0:
            raise UserError(f"{override.input_line}: a logarithmic interval begins above 0.")
        return [str(value.start), str(value.end)]
    return list(override.sweep_string_iterator())


def compose_job(config_name: str, overrides: list[str], run_dir: str = "unknown") -> dict[str, Any]:
    """A job's config as plain values, everything interpolated. Only Hydra knows the run folder of a job it starts."""
    overrides = [*overrides, f"paths.run_dir={run_dir}"]
    hydra = GlobalHydra.instance()
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return plain(compose(config_name, overrides))
    except HydraException as error:
        raise UserError(explain(config_name, overrides, error)) from None
    finally:
        hydra.clear()


def explain(config_name: str, overrides: list[str], error: HydraException) -> str:
    """Why a command cannot be composed: the choice or the key that does not exist, and the nearest that does."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    choices = [it for it in parsed if (CONF / it.key_or_group).is_dir()]
    for it in choices:
        options = {path.stem for path in (CONF / it.key_or_group).glob("*.yaml")}
        chosen: Any = it.value()
        for option in chosen if isinstance(chosen, list) else [chosen]:
            if isinstance(option, str) and option not in options:
                return f"{it.key_or_group}={option}: there is no such choice; {did_you_mean(option, options)}"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config: Any = compose(config_name, [it.input_line or "" for it in choices])
        except HydraException:
            known = [str(key) for key in compose(config_name)]
            return misplaced_choice(config_name, choices, known) or str(error).splitlines()[0]
    for it in parsed:
        if it not in choices and not (it.is_add() or it.is_force_add()) and (problem := missing_key(config, it)):
            return problem
    return str(error).splitlines()[0]


def misplaced_choice(config_name: str, choices: list[Override], keys: list[str]) -> str | None:
    """A sentence on the first choice from a group that the command does not have, or that wants a + or none."""
    defaults: Any = OmegaConf.load(CONF / f"{config_name}.yaml").defaults
    groups = {str(key).split()[-1].lstrip("/") for it in defaults if it != "_self_" for key in it}
    seen = set()
    for it in choices:
        group, line = it.key_or_group, it.input_line or ""
        if group not in groups and group.partition("/")[0] not in keys:
            return f"{line}: {config_name}.py has no key '{group}'; {did_you_mean(group, keys)}"
        if group in groups and it.is_add():
            return f"{line}: there is a choice from {group} already: write {line.lstrip('+')}"
        if group not in groups and not it.is_add() and not it.is_force_add() and not it.is_delete():
            return f"{line}: nothing is chosen from {group} that this could replace: write +{line}"
        if group in seen and it.is_add():
            return f"{line}: another one from {group} is chosen before: leave one of them out."
        seen.add(group)
    return None


def missing_key(config: Any, override: Override) -> str | None:
    """A sentence on the first part of the override's key that the config lacks; None where it has them all."""
    node, seen, line = OmegaConf.to_container(config, resolve=False), "", override.input_line or ""
    for part in override.key_or_group.split("."):
        if not isinstance(node, dict):
            value = "null" if node is None else repr(node)
            return f"{line}: {seen} is {value} and has no key '{part}': give {seen} as a whole."
        if part not in node:
            return no_such_key(node, part, seen, line)
        node, seen = node[part], f"{seen}.{part}" if seen else part
    value: Any = override.value()
    lacking = (
        [str(it) for it in value if str(it) not in node] if isinstance(value, dict) and isinstance(node, dict) else []
    )
    return no_such_key(node, lacking[0], seen, line) if lacking else None


def no_such_key(node: Any, part: str, seen: str, line: str) -> str:
    where = f"{seen} has no key '{part}'" if seen else f"there is no key '{part}'"
    target = node.get("_target_")
    if hint := hint_of_former_key(target, part):
        return f"{line}: {where}: {hint}"
    if target and part in Parameters.of(get_object(target)).hints:
        return f"{line}: {where} yet, but {target} takes it: write +{line}"
    groups = [] if seen else [path.name for path in CONF.iterdir() if path.is_dir()]
    return f"{line}: {where}; {did_you_mean(part, [*map(str, node), *groups])}"
