"""A workspace in wandb made from conf/: a section for each method, and every key in it is one that is logged.

make dashboard                                    # publishes it; without a key writes what it would publish
python -m finished.dashboard --entity my-team --project relight --out outputs/dashboard.json
"""

import argparse
import importlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from hydra.utils import get_object

from foundation.errors import UserError, told_as_sentences
from foundation.metrics import GROUPS, former_keys, group_of
from foundation.protocols import said
from foundation.published import TESTED, published
from launch.command_line import CONF, compose_job
from launch.declared import Parts
from launch.wandb_run import has_key

INSTALL = (
    "wandb-workspaces is not installed: add it with `uv pip install --python .venv/bin/python wandb-workspaces`, or "
    "`.venv/bin/pip install wandb-workspaces`."
)


@dataclass
class Panel:
    """One panel: its keys as lines over the iterations, as bars of final values, as pictures, or one table."""

    kind: Literal["lines", "bars", "pictures", "table"]
    title: str
    keys: list[str]


@dataclass
class Section:
    """The panels of one method."""

    method: str
    panels: list[Panel] = field(default_factory=list)


@dataclass
class Logged:
    """What one experiment logs, by its own declaration."""

    experiment: str
    method: str
    paper: dict[str, Any]
    data: dict[str, str]
    """Its name and split."""
    metrics: set[str]
    pictures: set[str]
    tables: set[str] = field(default_factory=set)


def what_experiments_log() -> list[Logged]:
    return [what_is_logged(path.stem) for path in sorted((CONF / "experiment").glob("*.yaml"))]


def what_is_logged(experiment: str) -> Logged:
    """Its module and callbacks are built, at full size and without memory, and asked."""
    config = compose_job("train", [f"experiment={experiment}"])
    parts = Parts.of(config, device="meta")
    method = config["lightning_module"]["_target_"].split(".")[-2]
    kind = get_object(config["datamodule"]["_target_"])
    data = {"name": config["datamodule"].get("name") or kind.name, "split": said(kind, "test_name")}
    return Logged(experiment, method, config["paper"] or {}, data, set(parts.metrics()), parts.shown("pictures"),
                  parts.shown("tables"))  # fmt: skip


def sections(experiments: Iterable[Logged]) -> list[Section]:
    """A section a method, over all its experiments."""
    methods: dict[str, list[Logged]] = {}
    for it in experiments:
        methods.setdefault(it.method, []).append(it)
    return [Section(method, panels_of(them)) for method, them in sorted(methods.items())]


def panels_of(experiments: list[Logged]) -> list[Panel]:
    """The papers' figures, losses, validation, training, pictures, tables, the test's other figures, throughput.

    Every key that is declared has its place, by its stage and by how its name begins or ends.
    """
    metrics: set[str] = set().union(*(it.metrics for it in experiments))
    pictures: set[str] = set().union(*(it.pictures for it in experiments))
    tables: set[str] = set().union(*(it.tables for it in experiments))
    of_papers = figures(experiments)
    tested = sorted(key for key in metrics if key.startswith(TESTED) and [key] not in [it.keys for it in of_papers])
    over_iterations = sorted(metrics - set(tested) - {key for it in of_papers for key in it.keys})
    group = {kind: [key for key in over_iterations if group_of(key) == kind] for kind in GROUPS}
    validated = [key for key in group["figures"] if key.startswith("val/")]
    panels = [
        *of_papers,
        Panel("lines", "losses", group["losses"]),
        *(Panel("lines", key, [key]) for key in validated),
        *(Panel("lines", key, [key]) for key in group["figures"] if key not in validated),
        *(Panel("pictures", key, [key]) for key in sorted(pictures)),
        *(Panel("table", key, [key]) for key in sorted(tables)),
        *(Panel("bars", key, [key]) for key in tested),
        *(Panel("lines", key, [key, *former_keys(key)]) for key in group["speed"]),
        Panel("lines", "learning rates", group["learning rates"]),
    ]
    return [it for it in panels if it.keys]


def figures(experiments: list[Logged]) -> list[Panel]:
    """For each metric that the papers report, the runs' values, with the papers' in the title."""
    reported: dict[str, list[str]] = {}
    for it in experiments:
        if it.paper.get("metric"):
            values = reported.setdefault(it.paper["metric"], [])
            figure = published(it.paper, it.paper["metric"], it.data, None)
            values += [] if figure is None else [f"{figure} for {it.experiment} on {' '.join(it.data.values())}"]
    return [
        Panel("bars", f"{key} (paper: {', '.join(values) or 'not reported'})", [key])
        for key, values in sorted(reported.items())
    ]


def publish(plan: list[Section], entity: str, project: str) -> str:
    """Save the workspace in wandb; returns its address."""
    workspace = made_workspace(plan, entity, project)
    workspace.save()
    return workspace.url


def made_workspace(plan: list[Section], entity: str, project: str) -> Any:
    """The same as objects of wandb-workspaces."""
    workspaces, panels = library("workspaces"), library("reports.v2")
    make = {
        "lines": lambda it: panels.LinePlot(title=it.title, x="iteration", y=it.keys),
        "bars": lambda it: panels.BarPlot(title=it.title, metrics=it.keys),
        "pictures": lambda it: panels.MediaBrowser(title=it.title, media_keys=it.keys),
        "table": lambda it: panels.WeavePanelSummaryTable(table_name=it.keys[0]),
    }
    parts = [
        workspaces.Section(name=section.method, panels=[make[it.kind](it) for it in section.panels], is_open=True)
        for section in plan
    ]
    return workspaces.Workspace(entity=entity, project=project, name="Relight", sections=parts)


def library(part: str) -> Any:
    """A module of wandb-workspaces, which is an extra of its own."""
    try:
        return importlib.import_module(f"wandb_workspaces.{part}")
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("wandb_workspaces"):
            raise
        raise UserError(INSTALL) from None


def entity_of_key() -> str:
    """Whose runs a key's owner makes unless told otherwise."""
    import wandb

    try:
        entity = wandb.Api(timeout=20).default_entity
    except (wandb.Error, OSError, ValueError) as error:
        raise UserError(f"wandb cannot be reached: {str(error).splitlines()[0]}") from None
    if not entity:
        raise UserError("wandb knows no default entity for this key: name one with --entity.")
    return entity


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default="relight", help="as logger.wandb.project")
    parser.add_argument("--entity", help="a person or team in wandb; unless given, the key's own")
    parser.add_argument("--out", type=Path, default=Path("outputs/dashboard.json"), help="where to write without a key")
    given = parser.parse_args(arguments)
    plan = sections(what_experiments_log())
    if has_key():
        library("workspaces")  # before anybody is asked over the network
        print(publish(plan, given.entity or entity_of_key(), given.project))
        return
    given.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"project": given.project, "sections": [asdict(it) for it in plan]}
    given.out.write_text(json.dumps(content, indent=2) + "\n")
    print(given.out)
    print("No wandb key is configured, so nothing is published: `wandb login`, then `make dashboard` again.")


if __name__ == "__main__":
    with told_as_sentences():
        main()
