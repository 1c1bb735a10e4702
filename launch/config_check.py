"""Every key of a config held against the schema below, every ``_target_`` node against the signature it is called with.

A typo inside an experiment file merges without a word; here it gets a sentence, before anything is built.
"""

import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from foundation.errors import UserError, did_you_mean
from foundation.former_names import hint_of_former_key
from foundation.hints import dataclass_in, describe, element_of, fits, value_of
from foundation.places import is_one_name

OWN_PACKAGES = ("foundation", "datamodules", "lightning_modules", "callbacks", "launch", "finished", "tests")


@dataclass
class PaperFigure:
    """One more figure of a paper. Data and split are the paper's unless said, ``where`` adds to the paper's."""

    what: str
    """What sets it apart, in words."""
    metric: str | None = None
    value: float | None = None
    values: dict[str, float | list[float]] | None = None
    """Several metrics of the same, in place of ``metric`` and ``value``, each with its value, or value and spread."""
    spread: float | None = None
    data: str | None = None
    split: str | None = None
    """May be one that no DataModule has: the figure then stands on the method's page alone."""
    where: dict[str, Any] | None = None


@dataclass
class Paper:
    """What an experiment reproduces. ``foundation.published`` shows the value beside figures of the same alone."""

    id: str
    metric: str | None
    value: float | None
    data: str | None = None
    """The name of the DataModule; without it and the split the value is shown nowhere."""
    split: str | None = None
    """What the paper tests on, as the DataModule calls it (``test_name``)."""
    where: dict[str, Any] | None = None
    """Keys of the config and the values that the figure is of, such as a depth; ``init_from`` is null unless named."""
    spread: float | None = None
    """The deviation that the paper gives."""
    what: str | None = None
    """What the figure is of, in words, where others stand beside it."""
    figures: list[PaperFigure] | None = None
    """More of the paper's figures: of other settings, metrics or splits."""


@dataclass
class Paths:
    data_dir: str
    output_dir: str
    run_dir: str
    cache_dir: str = "data/cache"  # runs from before there was a cache do not name one


@dataclass
class InitFrom:
    """Weights to begin with: of a run, or of a file or torchvision; ``parts`` by their names here and there."""

    run: str | None = None
    weights: str | None = None
    checkpoint: str = "last"
    parts: dict[str, str] | list[str] | None = None


@dataclass
class TrainConfig:
    """The top-level keys of a training job."""

    name: str
    lightning_module: dict[str, Any]
    datamodule: dict[str, Any]
    callbacks: dict[str, Any]
    trainer: dict[str, Any]
    paths: Paths
    seed: int
    logger: dict[str, Any] | None = None
    paper: Paper | None = None
    optimized_metric: str | None = None
    init_from: str | InitFrom | None = None
    test: bool = True
    flush_denormals: bool = False  # runs from before there was the key computed with them, and go on so


@dataclass
class EvaluateConfig:
    """The top-level keys of a measurement."""

    run: str
    checkpoint: str
    trainer: dict[str, Any]
    paths: Paths
    precision: str | None = None
    callbacks: dict[str, Any] | None = None


@dataclass
class SampleConfig:
    """The top-level keys of a command that makes pictures."""

    run: str
    checkpoint: str
    count: int
    start: int
    codes: dict[str, Any]
    output: Literal["grid", "files", "both"]
    batch_size: int
    accelerator: str
    paths: Paths
    seed: int | None = None


@dataclass
class PredictConfig:
    """The top-level keys of a command that tells what is in images or texts."""

    run: str
    input: str
    output: str
    checkpoint: str
    invert: bool
    batch_size: int
    min_score: float
    accelerator: str
    paths: Paths


def plain(config: Any) -> dict[str, Any]:
    """A config as plain dicts and lists, interpolated; ``???`` stays."""
    try:
        container = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}.") from None
    assert isinstance(container, dict)
    if left := next(interpolations_left(container, ""), None):
        raise UserError(f"{left} holds an escaped interpolation, which no config here needs: write the value itself.")
    return typing.cast(dict[str, Any], container)


def interpolations_left(node: Any, path: str) -> Iterator[str]:
    """Keys whose resolved text could be resolved once more, into something that nobody has checked."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from interpolations_left(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list):
        for position, value in enumerate(node):
            yield from interpolations_left(value, f"{path}[{position}]")
    elif isinstance(node, str) and "${" in node:
        yield path


def check_config(config: dict[str, Any], schema: type) -> None:
    """Hold a plain config against the schema and against the signature of every target in it.

    Keys that may be left out, and are, get what holds then.
    """
    for field in fields(schema):
        if field.default is not MISSING:
            config.setdefault(field.name, field.default)
    problems = [*unfit_keys(config, schema, ""), *unchosen_parts(config), *unfit_seeds(config), *unfit_name(config)]
    if problems := problems or [*unfit_figures(config)]:
        raise UserError("\n".join(problems))


def unfit_figures(config: Mapping[str, Any]) -> Iterator[str]:
    """Of a paper's figures those that say neither one metric and value nor several, or both."""
    figures: list[dict[str, Any]] = (config.get("paper") or {}).get("figures") or []
    for place, it in enumerate(figures):
        one, several = [it.get("metric"), it.get("value")], it.get("values") or {}
        if [name is None for name in one] != [bool(several)] * 2:
            yield f"paper.figures[{place}] ({it['what']}): give metric and value, or values, {{<metric>: <value>}}."
        for metric, value in several.items():
            if isinstance(value, list) and len(value) != 2:
                yield f"paper.figures[{place}].values.{metric} is {value}: give a value, or [<value>, <spread>]."


@dataclass
class Parameters:
    """What a class or function can be called with by name."""

    hints: dict[str, Any]
    required: set[str]
    any_name: bool

    @classmethod
    def of(cls, target: Callable[..., Any]) -> "Parameters":
        """In the project's own classes ``**kwargs`` go to the base's constructor, elsewhere they may be anything."""
        hints: dict[str, Any] = {}
        required: set[str] = set()
        is_class = isinstance(target, type)
        any_name = False
        for constructor in (
            [vars(it)["__init__"] for it in target.__mro__ if "__init__" in vars(it)] if is_class else [target]
        ):
            parameters = list(inspect.signature(constructor).parameters.values())[1 if is_class else 0 :]
            types_of = hints_of(constructor)
            for it in parameters:
                if it.kind in (it.POSITIONAL_OR_KEYWORD, it.KEYWORD_ONLY) and it.name not in hints:
                    hints[it.name] = types_of.get(it.name, Any)
                    required |= {it.name} if it.default is it.empty else set()
            any_name = any(it.kind is it.VAR_KEYWORD for it in parameters)
            if not any_name or target.__module__.partition(".")[0] not in OWN_PACKAGES:
                break
        return cls(hints, required, any_name)


def hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError):  # a library's hint that only its type checker can read
        return {}


def unfit_keys(value: Any, hint: Any, path: str) -> Iterator[str]:
    """One sentence for each mistake in this value and below it."""
    if (path, value) in (("trainer.precision", "auto"), ("trainer.max_steps", None)):
        return  # the project's own words, which are replaced where the trainer is built
    if value is None and path.startswith("callbacks.") and path.endswith(".monitor"):
        callback = path.removesuffix(".monitor")
        yield f"{callback} has no metric to go by: set optimized_metric to a val/ metric, or remove it with ~{callback}"
    elif isinstance(value, float) and math.isnan(value):
        yield f"{path} is nan, which is no number: give one."
    elif value == "???":
        yield f"{path} has no value yet: add {path}=... to the command."
    elif isinstance(value, Mapping) and "_target_" in value:
        yield from unfit_call(value, path)
    elif isinstance(value, Mapping) and (schema := dataclass_in(hint)):
        known = {field.name for field in fields(schema)}
        required = {it.name for it in fields(schema) if it.default is MISSING and it.default_factory is MISSING}
        yield from unfit_names(value, known, required, path or "The config")
        field_hints = get_type_hints(schema)
        for key in known & value.keys():
            yield from unfit_keys(value[key], field_hints[key], f"{path}.{key}" if path else key)
    elif not fits(value, hint):
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        meant = {*members} <= {str, Path, type(None)} and isinstance(value, int | float)
        cure = f" If it is a name, write it in quotes: '{path}=\"{str(value).lower()}\"'" if meant else ""
        yield f"{path} is {value!r}, which is not {describe(hint)}.{cure}"
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from unfit_keys(below, value_of(hint), f"{path}.{key}")
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from unfit_keys(below, element_of(hint), f"{path}[{position}]")


def unfit_name(config: Mapping[str, Any]) -> Iterator[str]:
    """A run's folder and its file in results/ are named by it."""
    name = config.get("name", "none")
    if isinstance(name, str) and name != "???" and not is_one_name(name):
        yield f"name is {name!r}, which is no name of one folder: leave out slashes."


def unfit_seeds(config: Mapping[str, Any]) -> Iterator[str]:
    split_seed = (config.get("datamodule") or {}).get("split_seed")
    for key, seed in {"seed": config.get("seed"), "datamodule.split_seed": split_seed}.items():
        if isinstance(seed, int) and not 0 <= seed < 2**32:
            yield f"{key} is {seed}: give a whole number from 0 to {2**32 - 1}."


def unchosen_parts(config: Mapping[str, Any]) -> Iterator[str]:
    """Settings of a callback or logger that was not chosen, which would be built as nothing."""
    for group in ("callbacks", "logger"):
        for name, node in (config.get(group) or {}).items():
            if not isinstance(node, Mapping) or "_target_" not in node:
                yield (
                    f"{group}.{name} has settings but was not chosen: add {name} to {group}=[...], "
                    f"or leave them out with ~{group}.{name}"
                )


def unfit_call(node: Mapping[str, Any], path: str) -> Iterator[str]:
    name = node["_target_"]
    if odd := [*unfit_flags(node, path)]:
        yield from odd
        return
    try:
        target = get_object(name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        yield f"{path}._target_ is {name!r}, which cannot be imported: {str(error).splitlines()[-1].strip()}"
        return
    if not callable(target):
        yield f"{path}._target_ is {name!r}, which is neither a class nor a function."
        return
    parameters = Parameters.of(target)
    if path == "trainer":
        parameters.hints |= OF_THE_TRAINER
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    required = set() if node.get("_partial_") or "_args_" in node else parameters.required
    known = given.keys() | parameters.hints.keys() if parameters.any_name else parameters.hints.keys()
    former = {key: hint for key in given if key not in known and (hint := hint_of_former_key(name, key))}
    yield from (f"{path}.{key}: {hint}" for key, hint in former.items())
    yield from unfit_names(given.keys() - former.keys(), known, required, f"{path} ({name})")
    for key in given.keys() & parameters.hints.keys():
        yield from unfit_keys(given[key], parameters.hints[key], f"{path}.{key}")


OF_THE_TRAINER: dict[str, Any] = {"capture": bool | Literal["auto", "rehearse"]}
"""Keys beside Lightning's own, taken out where the trainer is built."""

FLAGS = {"_target_": str, "_partial_": bool, "_recursive_": bool, "_args_": list[Any], "_convert_": str}


def unfit_flags(node: Mapping[str, Any], path: str) -> Iterator[str]:
    """What is said to Hydra itself: words between underscores."""
    for key, value in node.items():
        if not key.startswith("_"):
            continue
        if key not in FLAGS:
            yield f"{path} has no key '{key}'; {did_you_mean(key, FLAGS)}"
        elif not fits(value, FLAGS[key]) or value == "":
            yield f"{path}.{key} is {value!r}, which is not {describe(FLAGS[key])}."


def unfit_names(given: Iterable[str], known: Iterable[str], required: Iterable[str], where: str) -> Iterator[str]:
    for name in given:
        if name not in known:
            yield f"{where} has no key '{name}'; {did_you_mean(str(name), known)}"
    for name in sorted(set(required) - set(given)):
        yield f"{where} needs a value for '{name}'."
