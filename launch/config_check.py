"""Mistakes found before anything is downloaded or built.

``check_command_line`` composes what was asked for and explains a key or choice that does not exist.
``check_config`` holds every key against the schema below and every ``_target_`` node against the signature that
it will be called with. ``check_run`` asks the built parts whether they fit one another. Each raises a UserError
with one line a mistake.
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.errors import UserError, did_you_mean

CONF = Path(__file__).resolve().parent.parent / "conf"
OWN_PACKAGES = ("lightning_modules", "datamodules", "callbacks", "launch", "tests")
STAGES = ("train", "val", "test")


@dataclass
class Paper:
    """What an experiment reproduces."""

    id: str
    metric: str | None
    value: float | None


@dataclass
class Paths:
    data_dir: str
    output_dir: str
    run_dir: str


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


@dataclass
class EvaluateConfig:
    """The top-level keys of a measurement."""

    run: str
    checkpoint: str
    trainer: dict[str, Any]
    paths: Paths
    precision: str | None = None


SCHEMAS: dict[str, type] = {"train": TrainConfig, "evaluate": EvaluateConfig}


# --- the command line ----------------------------------------------------------------------------------------


def check_command_line(config_name: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Compose and check the jobs that a command asks for; returns their configs.

    Of a sweep, enough jobs to see each value once. Hydra's own flags (--help, --cfg) are left to Hydra.
    """
    parsed = get_args_parser().parse_args(list(arguments))
    if any(vars(parsed).get(flag) for flag in ("help", "hydra_help", "version", "cfg", "info", "shell_completion")):
        return []
    try:
        overrides = OverridesParser.create().parse_overrides(parsed.overrides)
    except HydraException as error:
        raise UserError(f"The command line cannot be read: {str(error).splitlines()[0]}") from None
    if not parsed.multirun and (swept := [it.input_line for it in overrides if it.is_sweep_override()]):
        raise UserError(f"{swept[0]} gives several values: add -m to run a job for each, or quote it to mean a text.")
    configs = [compose_job(config_name, choice) for choice in sweep_choices(overrides)]
    for config in configs:
        check_config(config, SCHEMAS[config_name])
    return configs


def sweep_choices(overrides: list[Override]) -> Iterator[list[str]]:
    """Enough jobs of a sweep to see each value of each key once: the first of all, then one key varied at a time."""
    options = [
        [f"{it.key_or_group}={value}" for value in it.sweep_string_iterator()] if it.is_sweep_override()
        else [it.input_line or ""]
        for it in overrides
    ]  # fmt: skip
    first = [values[0] for values in options]
    yield first
    for position, values in enumerate(options):
        for value in values[1:]:
            yield [*first[:position], value, *first[position + 1 :]]


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


def plain(config: Any) -> dict[str, Any]:
    """A config as plain dicts and lists, interpolated; ``???`` stays."""
    try:
        container = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {str(error).splitlines()[0]}.") from None
    assert isinstance(container, dict)
    return typing.cast(dict[str, Any], container)


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
            return str(error).splitlines()[0]
    for it in parsed:
        if it not in choices and not it.is_add() and (problem := missing_key(config, it)):
            return problem
    return str(error).splitlines()[0]


def missing_key(config: Any, override: Override) -> str | None:
    """A sentence on the first part of the override's key that the config lacks; None where it has them all."""
    node, seen = OmegaConf.to_container(config, resolve=False), ""
    for part in override.key_or_group.split("."):
        if not isinstance(node, dict):
            return None
        if part not in node:
            where = f"{seen} has no key '{part}'" if seen else f"there is no key '{part}'"
            target = node.get("_target_")
            if target and part in Parameters.of(get_object(target)).hints:
                return f"{override.input_line}: {where} yet, but {target} takes it: write +{override.input_line}"
            groups = [] if seen else [path.name for path in CONF.iterdir() if path.is_dir()]
            return f"{override.input_line}: {where}; {did_you_mean(part, [*map(str, node), *groups])}"
        node, seen = node[part], f"{seen}.{part}" if seen else part
    return None


# --- keys and signatures -------------------------------------------------------------------------------------


def check_config(config: Mapping[str, Any], schema: type) -> None:
    """Hold a plain config against the schema and against the signature of every target in it."""
    if problems := list(unfit_keys(config, schema, "")):
        raise UserError("\n".join(problems))


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
    if (path, value) == ("trainer.precision", "auto"):
        return  # the project's own word, which launch.runs.resolve_precision replaces
    if value == "???":
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
        yield f"{path} is {value!r}, which is not {describe(hint)}."
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from unfit_keys(below, Any, f"{path}.{key}")
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from unfit_keys(below, element_of(hint), f"{path}[{position}]")


def unfit_call(node: Mapping[str, Any], path: str) -> Iterator[str]:
    name = node["_target_"]
    try:
        target = get_object(name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        yield f"{path}._target_ is {name!r}, which cannot be imported: {str(error).splitlines()[-1].strip()}"
        return
    parameters = Parameters.of(target)
    given = {key: value for key, value in node.items() if not key.startswith("_")}
    required = set() if node.get("_partial_") or "_args_" in node else parameters.required
    known = given.keys() | parameters.hints.keys() if parameters.any_name else parameters.hints.keys()
    yield from unfit_names(given, known, required, f"{path} ({name})")
    for key in given.keys() & parameters.hints.keys():
        yield from unfit_keys(given[key], parameters.hints[key], f"{path}.{key}")


def unfit_names(given: Iterable[str], known: Iterable[str], required: Iterable[str], where: str) -> Iterator[str]:
    for name in given:
        if name not in known:
            yield f"{where} has no key '{name}'; {did_you_mean(str(name), known)}"
    for name in sorted(set(required) - set(given)):
        yield f"{where} needs a value for '{name}'."


SCALARS: dict[Any, tuple[type, ...]] = {
    int: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
    type(None): (type(None),),
    Path: (str,),
}


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value can be meant for a parameter with this type hint. What is not understood fits."""
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, member) for member in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if hint in SCALARS:
        return isinstance(value, SCALARS[hint]) and (hint is bool or not isinstance(value, bool))
    if is_sequence(hint):
        return isinstance(value, list) and all(fits(it, element_of(hint)) for it in value)
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        return isinstance(value, Mapping)
    if (origin or hint) is Callable or isinstance(hint, type):  # objects are built from nodes with a _target_
        return isinstance(value, Mapping) or hint is object
    return True


def is_sequence(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, str | Mapping)


def element_of(hint: Any) -> Any:
    arguments = [it for it in get_args(hint) if it is not Ellipsis]
    return Union[tuple(arguments)] if arguments and is_sequence(hint) else Any  # noqa: UP007 (of a tuple)


def dataclass_in(hint: Any) -> type | None:
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return next((it for it in members if isinstance(it, type) and is_dataclass(it)), None)


def describe(hint: Any) -> str:
    """A type hint in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        choices = [it for member in arguments if get_origin(member) is Literal for it in get_args(member)]
        others = [describe(it) for it in arguments if get_origin(it) is not Literal]
        named = [describe(Literal[tuple(choices)])] if choices else []
        return " or ".join(dict.fromkeys(named + others))
    if origin is Literal:
        return "one of " + ", ".join(dict.fromkeys(str(it) for it in arguments))
    words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", type(None): "null"}
    if hint in words or hint is Path:
        return words.get(hint, "a path")
    if is_sequence(hint):
        return "a list" + (f" of {describe(element_of(hint))}" if arguments else "")
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        return "a mapping"
    return f"a node with a _target_ ({getattr(hint, '__name__', hint)})"


# --- do the parts fit one another ----------------------------------------------------------------------------


def check_run(config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any], trainer: Any) -> None:
    """Shapes, capabilities, watched metrics and batch sizes of the built parts of a job."""
    problems = [
        *unfit_shapes(module, datamodule),
        *unfit_callbacks(config, module, callbacks),
        *unfit_metrics(config, module, datamodule, callbacks),
        *unfit_trainer(config, module, datamodule, trainer),
    ]
    if problems:
        raise UserError("\n".join(problems))


def unfit_shapes(module: Any, datamodule: Any) -> Iterator[str]:
    wanted, given = getattr(module, "image_shape", None), getattr(datamodule, "image_shape", None)
    if wanted and given and tuple(wanted) != tuple(given):
        yield (
            f"The module is built for images of (channels, height, width) {tuple(wanted)}, but datamodule "
            f"{datamodule.name} gives {tuple(given)}: choose another datamodule or change the networks' sizes."
        )


def unfit_callbacks(config: Mapping[str, Any], module: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    capabilities = module.capabilities() if hasattr(module, "capabilities") else set()
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        required = getattr(callback, "requires", None)
        if required is not None and required not in capabilities:
            yield (
                f"callbacks.{name} needs a module that is {required.__name__}, which {type(module).__name__} is not "
                f"as configured: remove it with ~callbacks.{name}"
            )


def declared_metrics(module: Any, datamodule: Any, callbacks: Sequence[Any]) -> set[str]:
    """Every key that a run will log; none of ``val/`` where no validation data is set aside."""
    stages = [stage for stage in STAGES if stage != "val" or getattr(datamodule, "val_size", 1) > 0]
    speakers = [it for it in (module, *callbacks) if hasattr(it, "metrics")]
    return set().union(*(speaker.metrics(stage) for speaker in speakers for stage in stages))


def unfit_metrics(config: Mapping[str, Any], module: Any, datamodule: Any, callbacks: Sequence[Any]) -> Iterator[str]:
    watched = {
        "optimized_metric": config.get("optimized_metric"),
        "paper.metric": (config.get("paper") or {}).get("metric"),
    }
    for name, callback in zip(config["callbacks"], callbacks, strict=True):
        watched[f"callbacks.{name}.monitor"] = getattr(callback, "monitor", None)
    declared = declared_metrics(module, datamodule, callbacks)
    for key, metric in watched.items():
        if metric is None or metric in declared:
            continue
        if metric.startswith("val/") and getattr(datamodule, "val_size", 1) == 0:
            yield f"{key} is {metric}, but datamodule.val_size=0 leaves no validation: set datamodule.val_size above 0."
        else:
            yield f"{key} is {metric}, which nothing in this run logs; {did_you_mean(metric, declared)}"


def unfit_trainer(config: Mapping[str, Any], module: Any, datamodule: Any, trainer: Any) -> Iterator[str]:
    batch_size, ranks = getattr(datamodule, "batch_size", None), trainer.world_size
    if batch_size is not None and batch_size % ranks:
        near = max(batch_size // ranks, 1) * ranks
        yield (
            f"datamodule.batch_size={batch_size} is the global batch and cannot be cut among {ranks} ranks: "
            f"choose a multiple of {ranks}, such as {near}."
        )
    if trainer.max_steps == -1 and trainer.max_epochs in (None, -1) and not config["trainer"].get("max_time"):
        yield "Nothing says how long to train: set trainer.max_steps."
    if trainer.overfit_batches:
        yield "trainer.overfit_batches would replace the project's sampler: use trainer.limit_train_batches instead."
    if not module.automatic_optimization:
        if trainer.gradient_clip_val:
            yield "trainer.gradient_clip_val has no effect on this module: set lightning_module.gradient_clip_norm."
        if trainer.accumulate_grad_batches != 1:
            yield "trainer.accumulate_grad_batches has no effect on this module: set datamodule.batch_size."
