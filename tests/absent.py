"""A command as it runs where packages are not installed: ``python -m tests.absent wandb,h5py train.py <words>``."""

import importlib.machinery
import importlib.metadata
import sys
from typing import Any

from tests.forks import run_as_main


def hide(packages: set[str]) -> None:
    """From now on they are neither found nor said to have a version; what is imported already is forgotten."""
    found, version = importlib.machinery.PathFinder.find_spec, importlib.metadata.version

    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] in packages else found(name, path, target)

    def version_of(name: str) -> str:
        if name.replace("-", "_") in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)  # type: ignore[method-assign]
    importlib.metadata.version = version_of
    for name in [it for it in sys.modules if it.partition(".")[0] in packages]:
        del sys.modules[name]


if __name__ == "__main__":
    hidden, *words = sys.argv[1:]
    hide(set(hidden.split(",")))
    run_as_main(words)
