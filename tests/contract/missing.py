"""What a method, a data set or a sweep still lacks: sentences that name the file, and the line where there is one."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from finished.results import load_experiments
from finished.tables import methods_of, stem_of_module

MODULE, EXPERIMENT = "lightning_modules/<method>.py", "conf/experiment/<method>_<data>.yaml"
BESIDE = {
    "conf/lightning_module/<method>.yaml": "its arguments, at the paper's values",
    "tests/lightning_modules/test_<method>.py": "its equations worked by hand, and TINY",
    "docs/methods/<method>.md": "equations, command, published against reached, departures",
}
FIVE = (MODULE, EXPERIMENT, *BESIDE)


def missing(root: Path) -> list[str]:
    """Nothing, where every method and data set of the project's folder is whole and no file is without use."""
    experiments = load_experiments(root / "conf")
    stems = {option: stem_of_module(option, root) for option in {it["module"] for it in experiments}}
    return [*missing_beside_methods(root, set(stems.values())), *missing_of_experiments(root, experiments, stems),
            *missing_of_data(root), *missing_of_sweeps(root, experiments)]  # fmt: skip


# --- methods -------------------------------------------------------------------------------------------------


def missing_beside_methods(root: Path, trained: set[str]) -> Iterator[str]:
    """A method is a module that an experiment trains and that no other module imports, as they do their bases."""
    sources = {path: path.read_text() for path in (root / "lightning_modules").rglob("*.py")}
    configs = "".join(f"\n{path.read_text()}" for path in (root / "conf").rglob("*.yaml"))
    for path in sorted((root / "lightning_modules").glob("*.py")):
        name = f"lightning_modules.{path.stem}"
        is_base = any(f"from {name} import" in source for source in sources.values())
        if path.stem not in trained and not is_base and f"{name}." not in configs.replace(f"\n_target_: {name}.", ""):
            others = ", ".join(it.replace("<method>", path.stem) for it in FIVE if it != MODULE)
            yield f"lightning_modules/{path.name}: no experiment trains it and no module imports it; a method has {others}"
        for template, what in BESIDE.items():
            file = template.replace("<method>", path.stem)
            if path.stem in trained and not is_base and not (root / file).exists():
                yield f"{file} is missing, for lightning_modules/{path.name}: {what}"
    for page in sorted((root / "docs" / "methods").glob("*.md")):
        if not (text := page.read_text()).startswith("# "):
            yield (
                f"docs/methods/{page.name}, line 1 is {text.partition(chr(10))[0]!r}, which is no title (# Name): "
                "the README's table names the method by it"
            )


def missing_of_experiments(root: Path, experiments: list[dict[str, Any]], stems: dict[str, str]) -> Iterator[str]:
    pages = methods_of(experiments, root)
    for it in experiments:
        test = root / "tests" / "lightning_modules" / f"test_{stems[it['module']]}.py"
        if test.exists() and f'"{it["name"]}"' not in test.read_text():
            yield f'{test.relative_to(root)}: TINY has no "{it["name"]}": the overrides with which it runs in seconds'
        page = pages[it["name"]][1]
        if (root / page).exists() and not re.search(rf"\b{it['name']}\b", (root / page).read_text()):
            yield f"{page} does not name {it['name']}: tell what conf/experiment/{it['name']}.yaml is for"


# --- data ----------------------------------------------------------------------------------------------------


def missing_of_data(root: Path) -> Iterator[str]:
    """The page of data sets has a row for each option, and each DataModule its test."""
    options = sorted((root / "conf" / "datamodule").glob("*.yaml"))
    lines = (root / "docs" / "data.md").read_text().splitlines()
    head = next(number for number, line in enumerate(lines) if line.startswith("| key |"))
    end = next(number for number, line in enumerate(lines) if number > head and not line.startswith("|"))
    rows = {lines[number].split("`")[1]: number + 1 for number in range(head + 2, end)}
    for path in options:
        if path.stem not in rows:
            row = lines[head].replace("key", f"`{path.stem}`", 1)
            yield f"docs/data.md, line {end}: the table ends without {path.name} of conf/datamodule; add {row}"
        *room, file, _ = OmegaConf.load(path).get("_target_", "..").split(".")
        if file and not (test := Path(root, "tests", *room, f"test_{file}.py")).exists():
            yield f"{test.relative_to(root)} is missing, for conf/datamodule/{path.name}; write_tiny there makes its files"
    for name in rows.keys() - {path.stem for path in options}:
        yield f"docs/data.md, line {rows[name]}: there is no conf/datamodule/{name}.yaml"


def needs_files(root: Path, option: str) -> bool:
    """Whether a choice of data reads files: its config, or one that it builds on, names a place or leaves it open."""
    path = root / "conf" / "datamodule" / f"{option}.yaml"
    parents = [it for it in OmegaConf.load(path).get("defaults", []) if it != "_self_"]
    named = re.search(r"\$\{paths\.data_dir\}|\?\?\?", path.read_text())
    return named is not None or any(needs_files(root, it) for it in parents)


# --- sweeps --------------------------------------------------------------------------------------------------


def experiment_of_sweep(sweep: str, root: Path, experiments: list[dict[str, Any]]) -> str | None:
    """The experiment that a sweep chooses itself, else the one that its name begins with, else the embedded default of the
    method that it begins with.

    A method's embedded default is its ``<method>_<data>`` whose data needs no file: ``infogan_digits``.
    """
    path = root / "conf" / "sweep" / f"{sweep}.yaml"
    if path.exists() and (chosen := re.search(r"override /experiment: (\w+)", path.read_text())):
        return chosen[1]
    names = [it["name"] for it in experiments if begins(sweep, it["name"])]
    embedded = {it["name"].partition(f"_{it['data']}")[0]: it["name"]
                for it in sorted(experiments, key=lambda it: -len(it["name"])) if not needs_files(root, it["data"])}  # fmt: skip
    of_methods = [embedded[method] for method in sorted(embedded, key=len) if begins(sweep, method)]
    return max(names, key=len) if names else (of_methods[-1] if of_methods else None)


def begins(name: str, start: str) -> bool:
    return f"{name}_".startswith(f"{start}_")


def missing_of_sweeps(root: Path, experiments: list[dict[str, Any]]) -> Iterator[str]:
    for path in sorted((root / "conf" / "sweep").glob("*.yaml")):
        if experiment_of_sweep(path.stem, root, experiments) is None:
            yield (
                f"conf/sweep/{path.name} begins with the name of no experiment, and of no method with an experiment "
                "whose data needs no file: name it <experiment>_... or <method>_..."
            )
