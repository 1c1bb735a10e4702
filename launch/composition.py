"""A job's config composed by Hydra, before Hydra's own start, and why it cannot be: in a sentence.

What a command adds to conf/ (``--config-dir``) comes as ``hydra.searchpath=[...]``, see launch/arguments.py.
"""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra.utils
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError, did_you_mean
from foundation.former_names import hint_of_former_key
from foundation.yaml_files import value_at
from launch.config_check import Parameters, plain

CONF = Path(__file__).resolve().parent.parent / "conf"
HYDRA = tuple(int(it) for it in version("hydra-core").split(".")[:2])
AS_OF_HYDRA: dict[str, Any] = {"version_base": "1.3"} if HYDRA < (1, 4) else {}
"""From 1.4 on it asks not to be told."""
# From 1.4 on it wants to hear which targets may be called; here foundation.security checks those of saved configs.
UNCHECKED: Any = getattr(hydra.utils, "UNSAFE_DISABLE_EXECUTION_CHECKS", None)
OF_MAIN = AS_OF_HYDRA if HYDRA < (1, 4) else {"execution_whitelist": UNCHECKED}
OF_INSTANTIATE = {} if HYDRA < (1, 4) else {"_execution_whitelist_": UNCHECKED}
SEARCHPATH = "hydra.searchpath"
MEANT_BY = {
    "learning_rate": "lr", "lrate": "lr", "wd": "weight_decay", "bs": "batch_size", "batch": "batch_size",
    "epochs": "max_epochs", "num_epochs": "max_epochs", "epoch": "max_epochs", "steps": "max_steps",
    "iterations": "max_steps", "iters": "max_steps", "max_iters": "max_steps", "num_steps": "max_steps",
    "time": "max_time", "workers": "num_workers", "gpus": "devices", "num_gpus": "devices", "nodes": "num_nodes",
    "device": "accelerator", "fp16": "precision", "amp": "precision", "clip": "gradient_clip_norm",
    "grad_clip": "gradient_clip_norm", "data": "data_dir", "root": "data_dir", "data_root": "data_dir",
    "output": "output_dir", "out": "output_dir", "save_dir": "output_dir", "ema": "decay", "hidden": "hidden_size",
}  # fmt: skip
"""What other programs call a setting -> the last part of the key that it has here."""

OTHERWISE = {"batch_size": ("batch_tokens",)}
"""A setting -> keys that stand in its place where there is none, whose numbers mean something else."""

CHOOSE_A_LOGGER = (
    "choose the logger by logger=wandb, tensorboard, mlflow, csv or none, or several: logger=[wandb,mlflow]"
)
INSTEAD = {
    "train": "train.py trains; a finished run is measured again by python evaluate.py run=<folder>",
    "eval": "a finished run is measured by python evaluate.py run=<folder>",
    "model": "a method is chosen by experiment=..., and its settings are lightning_module's",
    "dataset": "data is chosen by experiment=... or datamodule=...",
    "config": "what is trained is chosen by experiment=...",
    "checkpoint": "a run goes on by resume=<folder>, and begins with another's weights by init_from=<folder>",
    "ckpt": "a run goes on by resume=<folder>, and begins with another's weights by init_from=<folder>",
    "ckpt_path": "a run goes on by resume=<folder>, and begins with another's weights by init_from=<folder>",
    "wandb": CHOOSE_A_LOGGER,
    "mlflow": CHOOSE_A_LOGGER,
    "tensorboard": CHOOSE_A_LOGGER,
}
"""Words that are no setting here -> what to type."""

FIRST_LOOKED_IN = ("datamodule", "lightning_module", "trainer", "paths")
LISTS = ("callbacks", "logger")  # groups of which several files can be chosen together
# Hydra raises ValueError for a choice that is no text, and AssertionError for a mapping that is null.
NOT_COMPOSED = (HydraException, OmegaConfBaseException, ValueError, AssertionError)


def compose_job(config_name: str, overrides: Sequence[str], run_dir: str | Path = "unknown") -> dict[str, Any]:
    """A job's config as plain values, everything interpolated. Only Hydra knows the run folder of a job it starts."""
    return without_hydra(composed(config_name, overrides, run_dir))


def compose_with_hydra(config_name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """The same, and the whole config as Hydra has it, unresolved, with its own part under ``hydra``."""
    whole = composed(config_name, overrides)
    return without_hydra(copy.deepcopy(whole)), whole


def without_hydra(whole: Any) -> dict[str, Any]:
    with open_dict(whole):
        del whole["hydra"]
    return plain(whole)


def composed(config_name: str, overrides: Sequence[str], run_dir: str | Path = "unknown") -> Any:
    overrides = [*overrides, f"paths.run_dir={in_quotes(str(run_dir))}"]
    with composing() as loader:
        if problem := next(odd_choices(config_name, overrides, loader), None):
            raise UserError(problem)
        try:
            return compose(config_name, overrides, return_hydra_config=True)
        except NOT_COMPOSED as error:
            raise UserError(explain(config_name, overrides, error, loader)) from None


@contextmanager
def composing() -> Iterator[ConfigLoader]:
    """Hydra at work on conf/, whatever it has done before; what it loads files with."""
    hydra = GlobalHydra.instance()
    hydra.clear()
    try:
        with initialize_config_dir(str(CONF), **AS_OF_HYDRA):
            yield hydra.config_loader()
    finally:
        hydra.clear()


def options_of(group: str, overrides: Sequence[str], loader: ConfigLoader) -> list[str]:
    """The files of a group, in conf/, in what a command adds to it and in Hydra itself."""
    places = [it for it in overrides if it.startswith(f"{SEARCHPATH}=")]
    return loader.get_group_options(group, overrides=places)


def odd_choices(config_name: str, overrides: Sequence[str], loader: ConfigLoader) -> Iterator[str]:
    """Choices that Hydra would take without a word, or fail at: none of a group, or several where one is meant."""
    suspects = [it for it in overrides if it.startswith("~") or it.partition("=")[2].startswith(("null", "["))]
    odd = [it for it in OverridesParser.create().parse_overrides(suspects) if is_odd(it)]
    if odd:
        chosen = chosen_by(config_name)
        for it in odd:
            options = options_of(it.key_or_group, overrides, loader)
            if options and (problem := unfit_choice(config_name, it, options, chosen, overrides)):
                yield problem


def is_odd(override: Override) -> bool:
    several = isinstance(override.value(), list) and override.key_or_group not in LISTS
    return "." not in override.key_or_group and (override.is_delete() or override.value() is None or several)


def chosen_by(config_name: str) -> dict[str, Any]:
    """What a bare command composes, by group; None where it is nothing of it. Keys that are no group are among them."""
    bare: Any = OmegaConf.to_container(compose(config_name, return_hydra_config=True), resolve=False)
    keys = {key: it and "default" for key, it in bare.items() if key != "hydra"}  # lists are in no table of choices
    return keys | {str(group): it for group, it in bare["hydra"]["runtime"]["choices"].items()}


def explain(config_name: str, overrides: list[str], error: Exception, loader: ConfigLoader) -> str:
    """Why a command cannot be composed: the choice or the key that does not exist, and the nearest that does."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    chosen = chosen_by(config_name)
    of_files = [it for it in parsed if not isinstance(it.value(), dict)]
    choices = [(it, options) for it in of_files if (options := options_of(it.key_or_group, overrides, loader))]
    for it, options in choices:
        if problem := unfit_choice(config_name, it, options, chosen, overrides):
            return problem
    lines = [it.input_line or "" for it, _ in choices]
    lines += [it for it in overrides if it.startswith(f"{SEARCHPATH}=")]
    try:
        config: Any = compose(config_name, lines, return_hydra_config=True)
    except NOT_COMPOSED:
        return first_line(error)
    for it in parsed:
        if it.input_line not in lines and (problem := unfit_key(config, it, chosen)):
            return problem
    return first_line(error)


def in_quotes(value: str, cure: bool = False) -> str:
    """A text as Hydra quotes it; with ``cure`` in double quotes, which stand well within a shell's single ones."""
    mark = '"' if cure else "'"
    bare = value.strip("'\"") if cure else value
    # Inside quotes a backslash means itself, but before a quote, and that is where the closing one stands.
    inner = re.sub(rf"(\\*)({mark}|\Z)", lambda it: it[1] * 2 + (f"\\{mark}" if it[2] else ""), bare)
    return f"{mark}{inner}{mark}"


def first_line(error: BaseException) -> str:
    """Hydra's own words, the first line of them; of an override that does not fit the one behind it, which says why."""
    first = str(error).splitlines()[0] if str(error) else type(error).__name__
    if first.startswith("Error merging override ") and error.__cause__ is not None:
        why = "a text is needed, not null" if "not Optional" in str(error.__cause__) else first_line(error.__cause__)
        return f"{first.removeprefix('Error merging override ')}: {why}."
    return first


def unfit_choice(
    config_name: str, override: Override, options: Sequence[str], chosen: Mapping[str, Any], overrides: Sequence[str]
) -> str | None:
    """What is wrong with the choice of a file. chosen: by group what a bare command composes."""
    line, group, value = override.input_line or "", override.key_or_group, override.value()
    adds = override.is_add() or override.is_force_add()
    inside = group.rpartition("/")[0] in chosen
    if group not in chosen and inside and not adds:
        return f"{line}: nothing of {group} is chosen yet: write +{line}"
    if group not in chosen and not inside:
        known = [it for it in chosen if it.startswith("hydra/") == group.startswith("hydra/")]
        return f"{line}: {config_name}.py has no key '{group}'; {did_you_mean(group, known)}"
    if value is None or override.is_delete():
        return f"{line}: {instead_of_nothing(group, options, chosen.get(group))}"
    named = value if isinstance(value, list) else [value]
    if isinstance(value, list) and group not in LISTS:
        several = f"; -m {group}={','.join(map(str, value))} runs a job for each" if len(value) > 1 else ""
        return f"{line}: one of {group} is chosen, as in {group}={chosen.get(group) or options[0]}{several}."
    for it in named:
        if not isinstance(it, str) or it not in options:
            word = it if isinstance(it, str) else line.partition("=")[2]
            return (
                f"{group}={word}: there is no such choice{looked_in(group, overrides)}; {did_you_mean(word, options)}"
            )
    fixed = group in chosen and group not in LISTS
    if not fixed and adds and [it.partition("=")[0] for it in overrides].count(line.partition("=")[0]) > 1:
        return f"{line}: another one of {group} is chosen, too: leave one of them out."
    if fixed and (adds or override.package is not None):
        return f"{line}: {group} is chosen already, as {chosen[group]}: write {group}={value}"
    if override.package is not None and not adds:
        return f"{line}: nothing is chosen there yet: write {group}={value}, or +{line} to add to what is chosen."
    return None


def looked_in(group: str, overrides: Sequence[str]) -> str:
    """Where, if a command has named places beside conf/."""
    lines = [it for it in overrides if it.startswith(f"{SEARCHPATH}=")]
    places = re.findall(r"file://([^']*)", lines[-1]) if lines else []
    return f" in {group}/ of conf/ or {' or '.join(places)}" if places else ""


def instead_of_nothing(group: str, options: Sequence[str], default: Any) -> str:
    """What to write in place of ``group=null``."""
    if "none" in options:
        return f"null is no choice of {group}: write {group}=none."
    if default is None:
        return f"nothing of {group} is chosen unless a command names it: leave it out."
    if group == "callbacks":
        return (
            f"null is no choice of {group}: name those that are to stay, as in {group}=[default], or leave one out, "
            f"as in ~{group}.progress"
        )
    return f"null is no choice of {group}, and a run needs one: name it, or leave this out for {default}."


def unfit_key(config: Any, override: Override, groups: Iterable[str]) -> str | None:
    """A sentence on the first part of the override's key that the config lacks; None where it has them all."""
    adds = override.is_add() or override.is_force_add()
    whole: Any = OmegaConf.to_container(config, resolve=False)
    node, seen, line = whole, "", override.input_line or ""
    *above, last = override.key_or_group.split(".")
    for part in above if adds else [*above, last]:
        if not isinstance(node, dict):
            value = "null" if node is None else repr(node)
            return f"{line}: {seen} is {value} and has no key '{part}': give {seen} as a whole."
        if part not in node:
            if adds:
                return None
            return meant_elsewhere(whole, override, seen) or no_such_key(node, part, seen, line, groups)
        node, seen = node[part], f"{seen}.{part}" if seen else part
    if adds:
        there = isinstance(node, dict) and last in node and not override.is_force_add()
        return f"{line}: there is a key '{override.key_or_group}' already: write {line.lstrip('+')}" if there else None
    value: Any = override.value()
    lacking = (
        [str(it) for it in value if str(it) not in node] if isinstance(value, dict) and isinstance(node, dict) else []
    )
    return no_such_key(node, lacking[0], seen, line, groups) if lacking else None


def meant_elsewhere(config: Mapping[str, Any], override: Override, seen: str) -> str | None:
    """A sentence where a key that lacks its way, such as lr=0.1, stands elsewhere in this experiment's config."""
    line, typed = override.input_line or "", override.key_or_group
    if not seen and typed in INSTEAD:
        return f"{line}: {INSTEAD[typed]}."
    word, value = typed.rpartition(".")[2], line.partition("=")[2]
    keys = keys_ending_in({word, MEANT_BY.get(word, word)}, config)
    below = [it for it in keys if seen and it.startswith(f"{seen}.")]
    first = [[it for it in keys if it.startswith(f"{group}.")] for group in FIRST_LOOKED_IN]
    found = below or next((it for it in first if it), keys)
    lacking = f"{line}: {f'{seen} has' if seen else 'there is'} no key '{typed[len(seen) :].lstrip('.')}'"
    others = keys_ending_in({*OTHERWISE.get(MEANT_BY.get(word, word), ())}, config)
    if not found and others:
        told = " and ".join(f"{it}, which is {value_at(config, *it.split('.'))}" for it in others)
        return f"{lacking}; here it is counted otherwise, by {told}"
    if not found or len(found) > MOST_TOLD:
        return None
    more = ""
    if found == ["trainer.max_epochs"] and config["trainer"].get("max_steps") not in (None, -1):
        more = " trainer.max_steps=null"
    told = " or ".join(f"{it}={value}{more}" for it in found)
    return f"{lacking}; write {told}"


MOST_TOLD = 4


def keys_ending_in(words: set[str], node: Any, above: str = "") -> list[str]:
    """Of a config, in its order; Hydra's own and what a paper reports left out."""
    found = []
    for key, below in node.items() if isinstance(node, Mapping) else ():
        path = f"{above}.{key}" if above else str(key)
        if path in ("hydra", "paper"):
            continue
        found += [path] if above and key in words else []
        found += keys_ending_in(words, below, path)
    return found


def no_such_key(node: Any, part: str, seen: str, line: str, groups: Iterable[str]) -> str:
    where = f"{seen} has no key '{part}'" if seen else f"there is no key '{part}'"
    target = node.get("_target_")
    if hint := hint_of_former_key(target, part):
        return f"{line}: {where}: {hint}"
    if target and not target.startswith("hydra") and part in Parameters.of(get_object(target)).hints:
        return f"{line}: {where} yet, but {target} takes it: write +{line}"
    if not node:
        return f"{line}: {seen} is empty: write +{seen}.{part}=..."
    of_hydra = part.startswith("hydra/")
    known = [] if seen else [it for it in groups if it.startswith("hydra/") == of_hydra]
    return f"{line}: {where}; {did_you_mean(part, known if of_hydra else [*map(str, node), *known])}"
