"""From Python and as a package."""

import sys
import tomllib
from pathlib import Path

import pytest

from foundation.errors import UserError
from foundation.source_tree import ROOMS
from launch.from_python import as_typed
from relight import HOME, MODULES, SCRIPTS, load, train
from tests.forks import run_in_fork
from tests.lightning_modules import test_resnet

SMALL = [*test_resnet.TINY["resnet_digits"], "trainer=cpu", "logger=csv", "trainer.max_steps=3"]


def test_a_run_from_python_is_a_run(tmp_path):
    metrics = train("resnet_digits", [*SMALL, f"paths.output_dir={tmp_path}"])
    assert metrics["test/error"] == pytest.approx(1 - metrics["test/accuracy"])
    assert metrics.folder.parent == tmp_path / "resnet_digits"
    assert {"config.yaml", "hydra.yaml", "overrides.yaml"} == {it.name for it in (metrics.folder / ".hydra").iterdir()}
    finished = load(metrics.folder, accelerator="cpu")
    assert not finished.module.training
    assert finished.config["trainer"]["max_steps"] == 3
    done = run_in_fork("evaluate.py", f"run={metrics.folder}", "trainer=cpu")
    assert done.returncode == 0, done.stderr
    assert f"{metrics['test/error']:.4f}" in done.stdout


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"lr": 3}, "write lightning_module.optimizer.lr=3"),
        ({"trainer": "ddp_cpu"}, "one process"),
        ("logger=csv", "give a list"),
        (["--cfg", "job"], "for the command line"),
        ({"seed": object()}, "no value of a config"),
    ],
)
def test_what_does_not_fit_is_told_and_nothing_is_trained(overrides, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told):
        train("resnet_digits", overrides)
    assert list(tmp_path.iterdir()) == []


def test_values_are_written_as_hydra_reads_them():
    values = {
        "a": None,
        "b": True,
        "c": 1e-4,
        "d": "x y",
        "e": [1, "two", None],
        "f": {"k": "v"},
        "g": "true",
        "h": "csv",
    }
    assert [as_typed(*it) for it in values.items()] == [
        "a=null", "b=true", "c=0.0001", "d='x y'", "e=[1, two, null]", "f={k: v}", "g='true'", "h=csv"]  # fmt: skip


def test_a_package_has_all_rooms_commands_and_experiments_inside(tmp_path):
    """As the wheel lays them out: the same files below relight/, whose command trains."""
    build = tomllib.loads((HOME / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    layout = build["wheel"]["force-include"]
    assert {*ROOMS, "finished", "conf", "relight.py", *(f"{it}.py" for it in SCRIPTS)} == layout.keys()
    assert {it.lstrip("/") for it in build["sdist"]["include"]} == {*layout, "README.md"}
    for source, place in layout.items():
        assert place.startswith("relight/")
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).symlink_to(HOME / source)
    for module in MODULES.values():
        assert (tmp_path / "relight" / f"{module.replace('.', '/')}.py").exists()
    script = tmp_path / "command.py"
    script.write_text(f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport relight\nrelight.main()\n")
    done = run_in_fork(script, "train", "experiment=resnet_digits", *SMALL, f"paths.output_dir={tmp_path / 'runs'}")
    assert done.returncode == 0, done.stderr
    assert "test/error" in done.stdout
    assert list((tmp_path / "runs" / "resnet_digits").glob("*/record.json"))
    done = run_in_fork(script, "trian")
    assert done.returncode == 2
    assert "trian is no command of relight" in done.stderr


def test_it_puts_its_folder_on_the_path():
    assert str(HOME) in sys.path
    assert (Path(HOME) / "conf" / "train.yaml").exists()
