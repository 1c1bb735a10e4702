"""A run needs none of the packages that only some runs use: it trains, is recorded and reported without them.

What is said where one is asked for stands in the test of whatever asks.
"""

import json
import tomllib

from finished import tables
from tests.forks import ROOT, run_in_fork
from tests.lightning_modules.test_infogan import TINY

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
NEEDED_TO_TEST = {"pytest", "pytest-xdist", "pyright", "ruff"}
IMPORTED_AS = {"hydra-joblib-launcher": "hydra_plugins", "hydra-submitit-launcher": "hydra_plugins",
               "hydra-optuna-sweeper": "hydra_plugins", "mlflow-skinny": "mlflow"}  # fmt: skip

BEGIN = ["experiment=infogan_digits", "trainer=cpu", *TINY["infogan_digits"], "trainer.max_steps=2"]


def names() -> list[str]:
    """What can be imported where an extra is installed, and wandb, whose logger is chosen like the others."""
    packages = {it.split("<")[0].split(">")[0].split("=")[0].strip() for extra in EXTRAS.values() for it in extra}
    return sorted({IMPORTED_AS.get(it, it).replace("-", "_") for it in packages - NEEDED_TO_TEST} | {"wandb"})


def test_a_run_needs_no_package_of_an_extra_and_no_wandb(tmp_path):
    hidden = ",".join(names())
    assert {"wandb", "transformers", "h5py", "onnx", "hydra_plugins", "mlflow", "tensorboard"} <= set(names())
    run = tmp_path / "run"
    words = [*BEGIN, "logger=csv", f"hydra.run.dir={run}"]
    trained = run_in_fork("-m", "tests.absent", hidden, "train.py", *words)
    assert trained.returncode == 0, trained.stderr
    record = json.loads((run / "record.json").read_text())
    assert record["status"] == "finished"
    assert record["versions"]["wandb"] is None
    assert record["versions"]["torch"]
    reported = run_in_fork("-m", "tests.absent", hidden, "-m", "finished.report", run)
    assert reported.returncode == 0, reported.stderr
    assert (run / "report.html").exists()
    (run / "record.json").write_text(json.dumps(record | {"clean": True, "commit": "0" * 40, "changes": []}))
    assert json.loads(tables.record(run, tmp_path / "results").read_text())["metrics"] == record["metrics"]
