"""YAML files of a run folder as plain values: nothing in them is interpolated, and none is larger than it looks."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml

from foundation.errors import UserError

MOST_BYTES = 16 * 2**20


TIMESTAMP, FLOAT = "tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:float"
WITH_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*\.?[0-9_]*[eE][-+]?[0-9]+$")


class WithoutAliases(yaml.SafeLoader):
    """Numbers and texts as OmegaConf writes and reads them: 1e-4 is a number, and a date is a text.

    Aliases, which can double with each line, stand in no file of a run, and no key stands twice.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [it for it in resolvers if it[0] != TIMESTAMP]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*), which is not read here")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((it for place, it in enumerate(keys) if it in keys[:place]), None):
            raise yaml.YAMLError(f"it has the key {twice!r} twice")
        return super().construct_mapping(node, deep)


WithoutAliases.add_implicit_resolver(FLOAT, WITH_EXPONENT, list("-+0123456789"))


def read_yaml(path: Path) -> Any:
    """Lists, mappings and scalars; ``${...}`` stays as it is written."""
    if not path.is_file():
        raise UserError(f"{path} is no file.")
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=WithoutAliases)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read: it is nested too deeply.") from None


def value_at(content: Any, *keys: str) -> Any:
    """What stands at a dotted place of plain values; None where there is no such place."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content
