"""Whether a plain value, of a config or a file, can be meant for a type hint, and a hint in words."""

import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

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
        return hint is object or (isinstance(value, Mapping) and ("_target_" in value or is_dataclass(hint)))
    return True


def is_sequence(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, Iterable) and not issubclass(kind, str | Mapping)


def element_of(hint: Any) -> Any:
    """What a list with this type hint holds, which may also be null."""
    for it in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        arguments = [argument for argument in get_args(it) if argument is not Ellipsis]
        if arguments and is_sequence(it):
            return Union[tuple(arguments)]  # noqa: UP007 (of a tuple)
    return Any


def value_of(hint: Any) -> Any:
    """What lies under the keys of a mapping with this type hint."""
    for it in get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,):
        if isinstance(get_origin(it), type) and issubclass(get_origin(it), Mapping):
            return get_args(it)[1]
    return Any


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
        several = {int: "whole numbers", float: "numbers", str: "texts"}
        element = element_of(hint)
        return "a list" + (f" of {several.get(element) or describe(element)}" if arguments else "")
    if is_dataclass(hint) or (isinstance(origin or hint, type) and issubclass(origin or hint, Mapping)):
        return "a mapping"
    return f"a node with a _target_ ({getattr(hint, '__name__', hint)})"


def unfit_places(value: Any, hint: Any, path: str = "") -> Iterator[str]:
    """Where a value from a file, or something in it, is not what the hint says: a clause for each place."""
    if is_typeddict(hint) and isinstance(value, Mapping):
        for key, of_key in get_type_hints(hint).items():
            if key in value:
                yield from unfit_places(value[key], of_key, f"{path}.{key}" if path else key)
    elif is_typeddict(hint) or not fits(value, hint):
        kind = "a mapping" if is_typeddict(hint) else describe(hint)
        yield f"{path or 'its content'} is {shortened(value)}, which is not {kind}"
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from unfit_places(below, value_of(hint), f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for position, below in enumerate(value):
            yield from unfit_places(below, element_of(hint), f"{path}[{position}]")


def shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
