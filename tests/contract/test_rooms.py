"""Arrows between the rooms run one way, files are in no circle, and torch is where it is needed.

Imports are read from the files, those inside functions too; the commands beside the rooms may import anything.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("foundation", "datamodules", "lightning_modules", "callbacks", "launch", "finished")
FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))
WITHOUT_TORCH = ["foundation.errors", "foundation.records", "foundation.former_names", "foundation.source_tree",
                 "launch.command_line", "train", "evaluate", "sample", "predict", "finished.tables"]  # fmt: skip

# What a training of images has no use for before its end, or has none at all. Lightning itself imports matplotlib.
NOT_AT_THE_START = ["sklearn", "joblib", "scipy.io", "wandb", "pandas", "optuna", "sqlalchemy", "onnx", "onnxruntime",
                    "faster_coco_eval"]  # fmt: skip


@cache
def imports_of(path: Path) -> list[tuple[int, str, bool]]:
    """Line, dotted name and whether it is imported with the file, of each import of a file in the project's folder."""
    return list(imported(ast.parse((ROOT / path).read_text()), path.parts[:-1], at_once=True))


def imported(node: ast.AST, package: tuple[str, ...], at_once: bool) -> Iterator[tuple[int, str, bool]]:
    for it in ast.iter_child_nodes(node):
        if isinstance(it, ast.Import):
            yield from ((it.lineno, alias.name, at_once) for alias in it.names)
        elif isinstance(it, ast.ImportFrom):
            start = (
                ".".join([*package[: len(package) - it.level + 1], *filter(None, [it.module])])
                if it.level
                else it.module
            )
            yield from ((it.lineno, f"{start}.{alias.name}", at_once) for alias in it.names)
        elif isinstance(it, ast.Call) and named(it.func) in ("import_module", "__import__", "find_spec") and it.args:
            first = it.args[0].values[0] if isinstance(it.args[0], ast.JoinedStr) else it.args[0]
            if isinstance(first, ast.Constant):
                yield it.lineno, str(first.value), at_once
        if isinstance(it, ast.AST):
            inside = isinstance(it, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imported(it, package, at_once and not inside)


def named(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def against_the_arrows(path: Path, name: str) -> bool:
    """Whether a file may not import this: a room to the right of its own, or what lies beside the rooms."""
    first = name.partition(".")[0]
    if first in ROOMS:
        return ROOMS.index(first) > ROOMS.index(path.parts[0])
    return (ROOT / first).is_dir() or (ROOT / f"{first}.py").exists()


def test_arrows_run_one_way():
    wrong = [f"{path}:{line} imports {name}, which is not in {' or '.join(ROOMS[: ROOMS.index(path.parts[0]) + 1])}"
             for path in FILES for line, name, _ in imports_of(path) if against_the_arrows(path, name)]  # fmt: skip
    assert "\n".join(wrong) == ""


def test_no_files_import_one_another():
    """Imports inside functions are left out: they are for what is wanted late, such as torch."""
    modules = {".".join(path.with_suffix("").parts): path for path in FILES}
    graph = {name: {target for _, it, at_once in imports_of(path) if at_once
                    for target in (it, it.rpartition(".")[0]) if target in modules}
             for name, path in modules.items()}  # fmt: skip
    assert sum(map(len, graph.values())) > len(FILES)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import launch.runs", "launch.runs"),
        ("def late():\n    from launch import runs", "launch.runs"),
        ("if TYPE_CHECKING:\n    from launch.runs import build", "launch.runs.build"),
        ("from ..launch import runs", "launch.runs"),
        ("from .instruments import judges", "callbacks.instruments.judges"),
        ("importlib.import_module('launch.runs')", "launch.runs"),
        ("import_module(f'launch.{name}')", "launch."),
    ],
)
def test_every_way_to_import_is_seen(source, found):
    assert [name for _, name, _ in imported(ast.parse(source), ("callbacks",), True)] == [found]
    assert against_the_arrows(Path("callbacks/new.py"), found) == found.startswith("launch")


@pytest.mark.parametrize("name", ["train", "tests.forks", "benchmarks.turns", "finished.tables"])
def test_nothing_to_the_right_or_beside_is_allowed(name):
    assert against_the_arrows(Path("launch/new.py"), name)


def test_the_page_draws_these_rooms():
    """Each is installed: tests/test_relight.py."""
    assert " <- ".join(ROOMS) in (ROOT / "docs" / "contributing.md").read_text()


def test_a_mistake_or_a_list_is_told_without_waiting_for_torch():
    """Importing torch and Lightning takes seconds. Each as the first import of a process: these never import them."""
    script = f"import sys, {', '.join(WITHOUT_TORCH)}; print(sorted({{'torch', 'lightning'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_a_training_starts_without_what_it_does_not_need():
    """Checked, and with all that train.py imports before it builds anything."""
    script = """
import sys
from launch.command_line import check_command_line
check_command_line("train", ["experiment=infogan_mnist"])
import callbacks.run_record, launch.metrics_file, launch.wandb_run, launch.resume, launch.runs
assert "torch" in sys.modules
print(sorted(set(sys.argv[1:]) & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, *NOT_AT_THE_START], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr
