"""A run's folder with one file damaged: every command that reads it answers in sentences, or without needing it.

python -m tests.contract.damaged_runs 100      # that many damages, by chance; prints what was no answer
"""

import importlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch

from tests.contract.bad_inputs import IMPORTED, run_in_fork, tiny

FILES = (
    "record.json", "metrics.csv", "config.yaml", ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml",
    "checkpoints/last.ckpt",
)  # fmt: skip
Command = Callable[[Path, Path], list[str]]
OF_ALL: dict[str, Command] = {
    "resume": lambda run, out: ["train.py", f"resume={run}", "trainer.max_steps=3"],
    "evaluate": lambda run, out: ["evaluate.py", f"run={run}", "trainer=cpu"],
    "report": lambda run, out: ["-m", "finished.report", str(run), "--out", f"{out}/report.html"],
    "export": lambda run, out: ["-m", "finished.onnx", "--out", f"{out}/model.onnx", str(run)],
}
COMMANDS: dict[str, dict[str, Command]] = {
    "infogan_digits": OF_ALL
    | {
        "sample": lambda run, out: ["sample.py", f"run={run}", "count=2"],
        "curves": lambda run, out: ["-m", "finished.curves", "--out", f"{out}/curve.png", "train/loss_g", str(run)],
        "input": lambda run, out: beginning_with("infogan_digits", run, out),
    },
    "bert_tiny_text": OF_ALL
    | {
        "predict": lambda run, out: ["predict.py", f"run={run}", f"input={text(out)}", "accelerator=cpu"],
        "hub": lambda run, out: ["-m", "finished.hub", "--out", f"{out}/hub", str(run)],
        "input": lambda run, out: beginning_with("bert_tiny_text", run, out),
    },
}
"""By experiment: of a run of each, what is done with it."""


def beginning_with(experiment: str, run: Path, out: Path) -> list[str]:
    return ["train.py", f"experiment={experiment}", *tiny(experiment), f"init_from={run}", f"hydra.run.dir={out}/run"]


def text(folder: Path) -> Path:
    (folder / "text.txt").write_text("on [MASK] anna the farmer feeds two cows .\n")
    return folder / "text.txt"


def damage(path: Path, draw: Random) -> str:
    """Damages a file in place; says how."""
    content = path.read_bytes()
    kinds: dict[str, Callable[[], Any]] = {
        "empty": lambda: path.write_bytes(b""),
        "text": lambda: path.write_text("no such content: [\n"),
        "noise": lambda: path.write_bytes(draw.randbytes(200)),
        "half": lambda: path.write_bytes(content[: len(content) // 2]),
        "a list": lambda: path.write_text("[1, 2, 3]"),
        "a number": lambda: path.write_text("12"),
        "null": lambda: path.write_text("null"),
        "missing": path.unlink,
        "inner": lambda: changed_inside(path, draw),
        "inner too": lambda: changed_inside(path, draw),
        "inner again": lambda: changed_inside(path, draw),
    }
    kind = draw.choice(sorted(kinds))
    told = kinds[kind]()
    return f"{path.name}: {kind} {told if isinstance(told, str) else ''}"


ODD = (None, 0, -1, 1e300, "text", [], [1, "a"], {}, {"a": None}, True)


def changed_inside(path: Path, draw: Random) -> str:
    """One value, at whatever depth, replaced by one of another kind."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        told = replaced_one(content, draw)
        path.write_text(json.dumps(content))
    elif path.suffix == ".yaml":
        import yaml

        content = yaml.safe_load(path.read_text())
        told = replaced_one(content, draw)
        path.write_text(yaml.safe_dump(content))
    elif path.suffix == ".ckpt":
        content = torch.load(path, weights_only=True)
        told = replaced_one(content, draw)
        torch.save(content, path)
    else:
        lines = path.read_text().splitlines()
        number = draw.randrange(len(lines))
        lines[number] = draw.choice(["", "a,b", lines[number] + ",1,2,3", "\x00", '"' + lines[number]])
        told = f"line {number}"
        path.write_text("\n".join(lines))
    return told


def replaced_one(content: Any, draw: Random) -> str:
    places = [*places_in(content, "")]
    holder, key, name = draw.choice(places)
    value = draw.choice(ODD)
    holder[key] = value
    return f"{name}={value!r}"


def places_in(node: Any, path: str) -> Iterator[tuple[Any, Any, str]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, below in items:
        yield node, key, f"{path}.{key}"
        yield from places_in(below, f"{path}.{key}")


def made(folder: Path, experiment: str) -> Path:
    """A finished run of two steps."""
    run = folder / f"made_{experiment}"
    words = ["train.py", f"experiment={experiment}", *tiny(experiment), f"hydra.run.dir={run}"]
    status, told = run_in_fork(words, folder)
    assert status == 0, told
    return run


def unanswered(count: int, seed: int) -> Iterator[tuple[str, int, str]]:
    for name in IMPORTED:
        importlib.import_module(name)
    draw, sentences, unharmed = Random(seed), 0, 0
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        whole = {experiment: made(folder, experiment) for experiment in COMMANDS}
        for number in range(count):
            run, out = folder / str(number) / "run", folder / str(number) / "out"
            experiment = draw.choice(sorted(COMMANDS))
            shutil.copytree(whole[experiment], run)
            out.mkdir()
            command = draw.choice(sorted(COMMANDS[experiment]))
            what = damage(run / draw.choice(FILES), draw)
            status, told = run_in_fork(COMMANDS[experiment][command](run, out), out)
            unharmed += status == 0
            sentences += (sentence := status == 2 and any(it.startswith("error: ") for it in told.splitlines()))
            if "Traceback" in told or not (sentence or status == 0):
                yield f"{experiment}: {command}, {what}", status, told
            shutil.rmtree(folder / str(number))
    print(f"{count} damages: {sentences} answered in sentences, {unharmed} did no harm")


if __name__ == "__main__":
    faults = 0
    for what, status, told in unanswered(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0):
        faults += 1
        print(f"== {what}\nstatus {status}\n{told[-1500:]}", flush=True)
    sys.exit(faults > 0)
