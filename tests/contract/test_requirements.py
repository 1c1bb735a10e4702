"""What ``make setup`` installs: pinned, by hashes, from no named place, on Linux and macOS and each Python we offer."""

import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {key: them for key, them in PROJECT["optional-dependencies"].items() if key != "mlflow"}  # setup leaves it out
ASKED = [Requirement(it) for it in sum(EXTRAS.values(), PROJECT["dependencies"])]
MACHINES = [(system, python) for system in ("linux", "darwin") for python in ("3.11", "3.12", "3.13")]


@cache
def locked() -> list[Requirement]:
    """Each pin of requirements.lock, which holds nothing but pins, their hashes and whom they are for."""
    lines = [it for it in (ROOT / "requirements.lock").read_text().splitlines() if not it.lstrip().startswith("#")]
    pins = re.split(r"\n(?=\S)", "\n".join(lines))
    for pin in pins:
        assert re.fullmatch(r"[\w.-]+==[\w.]+(?: ; [^\\]+)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+", pin), pin
    return [Requirement(it.partition(" \\\n")[0]) for it in pins]


@pytest.mark.parametrize(("system", "python"), MACHINES)
def test_what_the_project_asks_for_is_pinned_once_and_within_its_bounds(system, python):
    machine = {"sys_platform": system, "python_version": python, "python_full_version": f"{python}.0"}
    pins = {it.name: Version(next(iter(it.specifier)).version) for it in locked() if fits(it, machine)}
    assert len(pins) == sum(fits(it, machine) for it in locked())
    assert {it.name: pins.get(it.name) for it in ASKED if pins.get(it.name) not in it.specifier} == {}


def fits(requirement: Requirement, machine: dict[str, str]) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(machine)


def test_releases_of_lightning_that_stole_credentials_are_excluded():
    """GHSA-w37p-236h-pfx3."""
    (lightning,) = (it for it in ASKED if it.name == "lightning")
    assert list(lightning.specifier.filter(["2.6.1", "2.6.2", "2.6.3", "2.6.4"])) == ["2.6.1", "2.6.4"]


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_setup_checks_the_hashes(installer, tmp_path):
    """With installers that note what they are asked."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("mkdir", "touch", "cp"):
        (tools / name).symlink_to(shutil.which(name) or "")
    note = f'echo "$@" >> {tmp_path}/asked; mkdir -p .venv/bin; test -e .venv/bin/python || cp $0 .venv/bin/python'
    stand_in = tools / ("uv" if installer == "uv" else "python3")
    stand_in.write_text(f"#!/bin/bash\n{note}\n")
    stand_in.chmod(0o755)
    make = shutil.which("make")
    assert make is not None
    done = subprocess.run([make, "setup"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (asked,) = (it for it in (tmp_path / "asked").read_text().splitlines() if "install" in it)
    assert "--require-hashes" in asked
    assert "--requirement requirements.lock" in asked
    assert (tmp_path / ".venv" / "ready").exists()
