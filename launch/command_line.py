"""Mistakes on the command line, found before Hydra starts: a key or choice that does not exist, and the nearest.

What is typed is made readable in launch/arguments.py and composed in launch/composition.py. --help is answered from the
files of conf/: Hydra composes a config for it, and copies all that it has read once for every group.
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError
from launch.arguments import flags_in, readable
from launch.composition import CONF, SEARCHPATH, compose_job, compose_with_hydra, in_quotes
from launch.config_check import EvaluateConfig, PredictConfig, SampleConfig, TrainConfig, check_config
from launch.processes import SWEEP, is_first_process
from launch.sweep_table import folders_of_jobs

__all__ = ["CONF", "check_command_line", "check_writable", "compose_job", "readable", "split_arguments"]

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
    if not named:
        return None, others
    if any(it in ("-m", "--multirun") for it in others):
        raise UserError("resume= goes on with one run: leave out -m.")
    if flags := [it for it in others if it.startswith("-")]:
        raise UserError(f"resume= takes settings alone: leave out {flags[0]}.")
    if own := [it for it in others if it.startswith("hydra.") and not it.startswith(f"{SEARCHPATH}=")]:
        raise UserError(f"{own[0]}: a resumed run goes on in its own folder, without Hydra's start: leave it out.")
    folder = re.sub(r"""^(["'])(.*)\1$""", r"\2", named[0])
    if len(named) > 1 or not folder:
        raise UserError("resume= names one folder, or latest.")
    return str(Path(folder).expanduser()), others


def check_command_line(config_name: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Compose and check the jobs that a command asks for; returns their configs. One that asks for help ends with it.

    Of a sweep, enough jobs to see each value once. Where Hydra is asked to show a config, that is composed alone.
    """
    flags = flags_in(readable(config_name, arguments))
    if flags.help:
        print(help_of(config_name))
        sys.exit()
    if flags.hydra_help or flags.shell_completion:
        return []
    overrides = OverridesParser.create().parse_overrides(flags.overrides)
    shows = bool(flags.help or flags.cfg or flags.info)
    if config_name == "train":
        check_plugins(overrides)
    if placed := [it.input_line for it in overrides if it.key_or_group == "paths.run_dir"]:
        raise UserError(
            f"{placed[0]}: the folder of a run is named by hydra.run.dir=..., that of all runs by paths.output_dir=..."
        )
    searched = search_space(overrides)
    asked = [str(it.value()).upper() for it in overrides if it.key_or_group == "hydra.mode"]
    several = bool(flags.multirun or searched or "MULTIRUN" in asked)
    if not (several and not shows) and (swept := [it for it in overrides if it.is_sweep_override()]):
        raise UserError(several_values(swept[0], flags.cfg))
    sweeps = several and config_name == "train" and not shows
    if not sweeps:
        check_alone(overrides)
    else:
        check_sweep_starts_here([*searched, *overrides])
    jobs = [compose_with_hydra(config_name, choice) for choice in sweep_choices([*searched, *overrides])]
    if shows:
        return []
    for config, whole in jobs:
        check_config(config, SCHEMAS[config_name])
        if sweeps:
            check_job(config, searching=plugins_of(overrides).get("sweeper") == "optuna")
        check_writable("paths.output_dir", Path(config["paths"]["output_dir"]))
        check_hydra(config_name, whole, sweeps)
    if sweeps:
        check_numbers(jobs[0][1])
        check_folders(jobs[0][1], [*searched, *overrides])
    return [config for config, _ in jobs]


def several_values(override: Override, shown: str | None) -> str:
    """What to write in place of several values without -m."""
    line, key = override.input_line or "", override.key_or_group
    if shown:
        return f"{line} gives several values, and --cfg shows the config of one job: name one."
    value = line.partition("=")[2]
    text = (
        f"; a list is written {key}=[{value}], a text '{key}={in_quotes(value, cure=True)}'"
        if "," in value and "(" not in value
        else ""
    )
    return f"{line} gives several values: add -m to run a job for each, or quote it to mean a text{text}."


def check_alone(overrides: Sequence[Override]) -> None:
    """A single job has no launcher."""
    for it in overrides:
        if it.key_or_group in ("launcher", "hydra/launcher") and it.value() and not it.is_delete():
            raise UserError(f"{it.input_line} is for the jobs of a sweep: add -m, or leave it out.")


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
    own: list[Any] = [it.value() for it in overrides if it.key_or_group == SEARCHPATH]
    places = [CONF, *(Path(str(it).removeprefix("file://")) for it in (own[-1] if own else ()))]
    paths = [place / group / f"{chosen[-1]}.yaml" for place in places] if chosen else []
    return next((OmegaConf.load(it) for it in paths if it.exists()), {})


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


def check_hydra(config_name: str, whole: Any, sweeps: bool) -> None:
    """Hydra's own settings, wherever they come from: a run's folder can be read again, and no other run lies there."""
    if whole.hydra.job.chdir:
        raise UserError(
            f"hydra.job.chdir={str(whole.hydra.job.chdir).lower()} would have relative places, such as data/, begin in "
            "the run's folder, where all that a run writes goes anyway: leave it out."
        )
    if config_name not in ("train", "evaluate") or not is_first_process() or SWEEP in os.environ:
        return  # other ranks and jobs that a sweep starts are given a folder that is begun
    if (kept := whole.hydra.output_subdir) != ".hydra":
        raise UserError(
            f"hydra.output_subdir={'null' if kept is None else kept}: evaluate.py and resume= read a run by what lies "
            "in the .hydra/ of its folder: leave it out."
        )
    if not sweeps:
        folder = setting_of(whole, "hydra.run.dir")
        if folder.resolve() in (Path.cwd(), CONF.parent):
            raise UserError(f"hydra.run.dir={folder} is where the code lies: name a folder of the run's own.")
        check_writable("hydra.run.dir", folder)


def setting_of(whole: Any, key: str) -> Path:
    """A place that Hydra is told, with what it is made of filled in."""
    hydra = HydraConfig.instance()
    hydra.set_config(whole)  # for ${hydra:...}
    try:
        place = OmegaConf.select(whole, key)
    except OmegaConfBaseException as error:
        raise UserError(f"{key}: {str(error).splitlines()[0]}.") from None
    finally:
        hydra.cfg = None
    if place is None:
        raise UserError(f"{key}=null names no folder: leave it out.")
    return Path(str(place))


def check_numbers(whole: Any) -> None:
    """Of trials and of jobs at once. whole: the first job's config."""
    for key, least in {"hydra.sweeper.n_trials": 1, "hydra.sweeper.n_jobs": 1, "hydra.launcher.n_jobs": None}.items():
        number = OmegaConf.select(whole, key)
        if number is not None and (number == 0 or (least is not None and number < least)):
            raise UserError(f"{key}={number} starts no job: give {least or 1} or more.")


def check_folders(whole: Any, overrides: Sequence[Override]) -> None:
    """Whether each job of a sweep has a folder of its own. whole: the first job's config."""
    sweep = setting_of(whole, "hydra.sweep.dir")
    check_writable("hydra.sweep.dir", sweep)
    named = str(OmegaConf.to_container(whole.hydra.sweep, resolve=False)["subdir"])  # type: ignore[index]
    swept = [it.key_or_group for it in overrides if it.is_sweep_override()]
    told_apart = re.search(r"job\.num|job\.id|override_dirname", named) or (
        swept and all(f"${{{it}}}" in named for it in swept)
    )
    if not told_apart:
        raise UserError(
            f"hydra.sweep.subdir={named} would be the folder of several jobs, each over the other's record: "
            "put ${hydra.job.num} into it, or leave it out."
        )
    if "${now" not in named and folders_of_jobs(sweep):
        raise UserError(f"hydra.sweep.dir={sweep} holds the jobs of another sweep: name another folder, or none.")


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
    chosen = any(it.key_or_group == "sweep" for it in overrides)
    for it in overrides:
        if it.key_or_group.startswith("hydra.sweeper.params") and not chosen:
            raise UserError(f"{it.input_line}: values are given by themselves, as in -m seed=0,1, or by a sweep=.")
        if it.is_sweep_override() and (it.key_or_group in ("sweep", "launcher") or it.is_hydra_override()):
            raise UserError(f"{it.input_line}: a sweep has one of these: name one, and start a command for each other.")
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
    values = list(override.sweep_string_iterator())
    if not values:
        raise UserError(f"{override.input_line} holds no value.")
    return values
