"""YAML files of a run folder as plain values: nothing in them is interpolated, and none is larger than it looks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from foundation.errors import UserError

MOST_BYTES = 16 * 2**20


class WithoutAliases(get_yaml_loader()):
    """OmegaConf's words for numbers. Aliases, which can double with each line, stand in no file of a run."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*), which no file of a run has")
        return super().compose_node(parent, index)


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
