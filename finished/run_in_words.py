"""What train.py says of a run: at its start, at its end, where everything lies and what can be typed next."""

import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from callbacks.averaged_weights import weights_of
from callbacks.instruments.run_clock import clock_of
from callbacks.run_record import tested_on
from foundation.errors import UserError
from foundation.length import Length, told
from foundation.protocols import SamplesImages, serves
from foundation.published import TESTED, published
from foundation.run_files import pictures_in, tables_in


def heading(config: dict[str, Any], run: Any) -> str:
    trainer = run.trainer
    devices = f"{trainer.world_size} x {trainer.strategy.root_device.type}, {trainer.precision}"
    devices += {"off": "", "on": ", iterations captured"}.get(run.captured, f", capture {run.captured}")
    length, folder = Length.of(config["trainer"]), config["paths"]["run_dir"]
    waits = f"\nwaiting for the others of {trainer.num_nodes} machines" if trainer.num_nodes > 1 else ""
    return f"{config['name']}, seed {config['seed']}: {length} on {devices}, into {folder}{waits}"


def ending(config: dict[str, Any], run: Any, metrics: dict[str, float], folder: Path) -> str:
    measured = summary(config, metrics, folder, weights_of(run.trainer), tested_on(run.trainer))
    return f"{measured}\n{what_next(run, folder)}"


def summary(config: dict[str, Any], metrics: dict[str, float], folder: Path, weights: str, data: dict[str, Any]) -> str:
    """What a person wants to know at the end: the figures, the paper's beside its own, and where to look."""
    lines = [f"{config['name']}, seed {config['seed']}" + (f", weights {weights}:" if weights != "trained" else ":")]
    for key, value in sorted(metrics.items()):
        if key.startswith(TESTED):
            of_paper = published(config["paper"], key, data, config)
            lines.append(f"  {key:<31} {value:.4f}" + ("" if of_paper is None else f"   (paper: {of_paper})"))
    return "\n".join(["", *lines, *(f"  {name:<20}{path}" for name, path in places_in(folder).items())])


def what_next(run: Any, folder: Path) -> str:
    """How long training took, over all starts of the run, and what can be typed now."""
    from finished.predictors import predictor_of  # what no run needs before its end

    named, clock = shlex.quote(str(folder)), clock_of(run.trainer)
    is_clone = Path(__file__).parent.with_name("Makefile").exists()  # else an installed package
    sample, predict = ("python sample.py", "python predict.py") if is_clone else ("relight sample", "relight predict")
    commands = [f"make report RUN={named}", f"make record RUN={named}"] if is_clone else [f"relight report {named}"]
    commands += [f"{sample} run={named}"] if serves(run.module, SamplesImages) else []
    with suppress(UserError):  # it does not predict
        predictor_of(run.module, named)
        commands += [f"{predict} run={named} input=<file>"]
    took = "" if clock is None else f"trained for {told(clock.before)}; "
    first, *others = commands
    return "\n".join([f"  {took}next: {first}", *(f"{'':<8}{it}" for it in others)])


def places_in(folder: Path) -> dict[str, Path]:
    """Where to look: what callbacks have left, of a picture and its table the picture, and what every run has."""
    left = {path.stem: path for path in (*tables_in(folder), *pictures_in(folder)) if path.parent == folder}
    always = {"metrics": "metrics.csv", "checkpoint": "checkpoints/last.ckpt", "record": "record.json"}
    named = {"pictures": folder / "images"} | left | {name: folder / place for name, place in always.items()}
    return {name.replace("_", " "): path for name, path in named.items() if path.exists()}
