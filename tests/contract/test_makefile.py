"""What make is given reaches a command as it is, and nothing in it is executed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TELLS = "import json, os, sys; open('told.json', 'w').write(json.dumps(sys.argv[1:]))\n"
HARMS = [
    '"; touch harmed; echo "',
    "'; touch harmed; echo '",
    "`touch harmed`",
    "$(touch harmed)",
    "$(shell touch harmed)",
    "$$(touch harmed)",
    "${IFS}$(eval X:=$(shell touch harmed))",
    "a\\\n touch harmed",
    "; touch harmed #",
    "$(MAKE) $(error stopped)",
    "-h && touch harmed",
]
TARGETS = {
    "RUN": ["record", "sample", "predict", "export", "curves", "report"],
    "INPUT": ["predict", "vocabulary"],
    "METRIC": ["curves"],
    "EXPERIMENT": ["train", "batch-size"],
    "ARGS": [
        "train",
        "batch-size",
        "test",
        "sample",
        "predict",
        "export",
        "curves",
        "report",
        "dashboard",
        "bench",
        "vocabulary",
    ],
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Makefile among commands that write down what they were given."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "launch").mkdir()
    shutil.copy(ROOT / "launch" / "words.py", folder / "launch")
    (folder / "requirements.lock").touch()
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/bash\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    (folder / ".venv" / "ready").touch()
    for name in ("train", "sample", "predict", "pytest"):
        (folder / f"{name}.py").write_text(TELLS)
    for name in ("tables", "onnx", "curves", "report", "dashboard"):
        (folder / "finished").mkdir(exist_ok=True)
        (folder / "finished" / f"{name}.py").write_text(TELLS)
    (folder / "launch" / "batch_size.py").write_text(TELLS)
    (folder / "datamodules" / "text").mkdir(parents=True)
    (folder / "datamodules" / "text" / "vocabulary.py").write_text(TELLS)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__main__.py").write_text(TELLS)
    return folder


def make(project: Path, target: str, in_environment: bool = False, **variables: str) -> list[str]:
    """What the target's command was given; nothing else was executed."""
    (project / "told.json").unlink(missing_ok=True)
    before = sorted(path.name for path in project.iterdir())
    words = [] if in_environment else [f"{name}={value}" for name, value in variables.items()]
    environment = os.environ | {"PYTHONPATH": "."} | (variables if in_environment else {})
    ended = subprocess.run(["make", target, *words], cwd=project, env=environment, capture_output=True, text=True)
    after = sorted(path.name for path in project.iterdir() if path.name not in ("told.json", "__pycache__"))
    assert after == [name for name in before if name != "__pycache__"], ended.stdout + ended.stderr
    told = project / "told.json"
    return json.loads(told.read_text()) if told.exists() else [ended.stderr]


@pytest.mark.parametrize(("variable", "target"), [(key, it) for key, found in TARGETS.items() for it in found])
def test_nothing_that_a_variable_holds_is_executed(project, variable, target):
    given = {"RUN": "a", "INPUT": "b", "METRIC": "c"}
    whole = (variable, target) == ("RUN", "report")  # starting make and Python takes time
    for number, harm in enumerate(HARMS if whole else ["".join(HARMS)]):
        told = make(project, target, in_environment=number % 3 == 2, **given | {variable: harm})
        if variable in ("INPUT", "METRIC", "EXPERIMENT") or (variable == "RUN" and target != "curves"):
            assert any(it.endswith(harm) for it in told), told


def test_a_name_with_blanks_and_quotes_reaches_each_command_as_one(project):
    odd = 'out puts/it\'s "a" $run; (1)'
    assert make(project, "record", RUN=odd) == ["record", "--", odd]
    assert make(project, "report", RUN=odd, ARGS="--out 'my page.html'") == ["--out", "my page.html", "--", odd]
    assert make(project, "sample", RUN=odd, ARGS="count=3") == [f"run={odd}", "count=3"]
    assert make(project, "predict", RUN=odd, INPUT="my photos") == [f"run={odd}", "input=my photos"]
    assert make(project, "train", EXPERIMENT="x", ARGS="'name=a b' seed=1") == ["experiment=x", "name=a b", "seed=1"]


def test_curves_takes_several_folders_a_pattern_and_one_with_blanks(project):
    (project / "runs" / "a b").mkdir(parents=True)
    (project / "runs" / "c").mkdir()
    assert make(project, "curves", METRIC="m", RUN="runs/a b") == ["--", "m", "runs/a b"]
    assert make(project, "curves", METRIC="m", RUN="runs/c 'runs/a b'") == ["--", "m", "runs/c", "runs/a b"]
    assert make(project, "curves", METRIC="m", RUN="runs/*") == ["--", "m", "runs/a b", "runs/c"]


def test_a_quote_that_is_left_open_is_told(project):
    (told,) = make(project, "train", ARGS="name='a")
    assert "error: ARGS=name='a cannot be split into words (No closing quotation)" in told
