"""What a sweep costs beside its training: jobs one after the other, and side by side with joblib.

    python -m benchmarks.sweep                                           # ten jobs of 300 iterations, both ways
    python -m benchmarks.sweep --jobs 10 --override trainer.max_steps=3000
    python -m benchmarks.sweep --launcher joblib --at-once 2

Measure on a machine that does nothing else. A job's overhead is its share of the command's wall time that was no fit
and no test: starting Python, importing torch and lightning, composing, building, the table and the picture. Side by
side, the share is of the wall time times the jobs at once.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from foundation.errors import UserError, told_as_sentences
from foundation.records import read_record

TRAIN = Path(__file__).resolve().parent.parent / "train.py"


@dataclass(frozen=True)
class Measured:
    """One sweep. ``fit_s`` and ``test_s`` are a job's, from its record; all in seconds."""

    launcher: str
    at_once: int
    wall_s: float
    fit_s: list[float]
    test_s: list[float]

    def overhead_s(self) -> float:
        """Of a job."""
        return (self.at_once * self.wall_s - sum(self.fit_s) - sum(self.test_s)) / len(self.fit_s)

    def line(self) -> str:
        return (
            f"{self.launcher:<8} {self.at_once} at once, {len(self.fit_s)} jobs: {self.wall_s:7.1f} s in all, a job "
            f"{mean(self.fit_s):6.2f} s fit + {mean(self.test_s):5.2f} s test + {self.overhead_s():5.2f} s overhead"
        )


def measure(launcher: str, jobs: int, at_once: int, overrides: list[str]) -> Measured:
    """Run the sweep as a person would, into a folder that is deleted afterwards."""
    chosen = [f"launcher={launcher}", f"hydra.launcher.n_jobs={at_once}"] if launcher == "joblib" else []
    with TemporaryDirectory() as place:
        words = ["-m", f"seed=range({jobs})", *chosen, *overrides, f"paths.output_dir={place}"]
        started = time.monotonic()
        done = subprocess.run([sys.executable, str(TRAIN), *words], stdout=subprocess.DEVNULL, check=False)
        wall_s = time.monotonic() - started
        if done.returncode:
            raise UserError(f"The sweep with launcher {launcher} failed; what it said stands above.")
        records = [read_record(it.parent) for it in Path(place).glob("sweeps/*/*/*/record.json")]
    times = [record["wall_time_s"] for record in records]
    return Measured(launcher, at_once, wall_s, [it["fit"] for it in times], [it["test"] for it in times])


def main(arguments: list[str] | None = None) -> list[Measured]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--launcher", choices=["basic", "joblib"], help="both unless given")
    parser.add_argument("--at-once", type=int, default=2, help="jobs side by side with joblib")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py")
    given = parser.parse_args(arguments)
    overrides = ["experiment=infogan_digits", "trainer=cpu", "trainer.max_steps=300", *given.override]
    launchers = [given.launcher] if given.launcher else ["basic", "joblib"]
    return [measure(it, given.jobs, given.at_once if it == "joblib" else 1, overrides) for it in launchers]


if __name__ == "__main__":
    with told_as_sentences():
        print(*(it.line() for it in main()), sep="\n")
