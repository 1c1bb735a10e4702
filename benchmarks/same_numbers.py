"""Do two commits compute the same? Weights after some iterations of tiny runs, and all that their tests measure.

    python -m benchmarks.same_numbers d7f15d4                  # against the tree as it stands
    python -m benchmarks.same_numbers d7f15d4 HEAD --only draw

Each side trains in a process of its own, out of its own files, with one thread; a redesign must leave both without a
difference. The runs need no file: digits and scenes of them, every turn, term and average that five methods have.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from foundation.errors import UserError, told_as_sentences

ROOT = Path(__file__).resolve().parent.parent
ITERATIONS = 20
CASES = {
    "infogan": ["infogan_digits"],
    "infogan, Q moved by a turn of its own": [
        "infogan_digits", "lightning_module.q_optimizer=own", "lightning_module.real_images=null",
    ],
    "infogan, Q moved with G, clipped": [
        "infogan_digits", "lightning_module.q_optimizer=with_g", "lightning_module.gradient_clip_norm=0.5",
        "lightning_module.real_images=null", "lightning_module.mutual_information_warmup=7",
    ],
    "improved_gan": ["improved_gan_digits"],
    "improved_gan against D, historical averages": [
        "improved_gan_digits", "lightning_module.matching=null", "lightning_module.generator_target=1",
        "lightning_module.generator_steps=2", "lightning_module.historical_averaging=0.1",
    ],
    "draw": ["draw_digits"],
    "resnet": ["resnet_digits"],
    "resnet, averaged": ["resnet_digits", "callbacks=[default,classification,averaged_weights]"],
    "faster_rcnn": ["faster_rcnn_shapes"],
}  # fmt: skip

# Run inside either tree: nothing of it may be newer than the older of two commits.
TRAINS = """
import hashlib, importlib, json, sys, tempfile
import torch
from launch.command_line import compose_job
from launch.runs import build

torch.set_num_threads(1)
experiment, iterations, *more = sys.argv[1:]
method = compose_job("train", ["experiment=" + experiment])["lightning_module"]["_target_"].split(".")[1]
tiny = importlib.import_module("tests.lightning_modules.test_" + method).TINY[experiment]
tiny = [it for it in tiny if it.partition("=")[0] not in {other.partition("=")[0] for other in more}]
overrides = ["experiment=" + experiment, "trainer=cpu", "logger=none", "trainer.precision=32-true",
             "trainer.log_every_n_steps=5", *tiny, *more, "trainer.max_steps=" + iterations]
if "callbacks=" in str(more):
    overrides = [it for it in overrides if not it.startswith("callbacks.")]
with tempfile.TemporaryDirectory() as folder:
    run = build(compose_job("train", overrides, folder))
    run.trainer.fit(run.module, datamodule=run.datamodule)
    sha256 = hashlib.sha256()
    for name, values in sorted(run.module.state_dict().items()):
        sha256.update(name.encode() + values.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    trained = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    found = trained | {key: float(value) for key, value in run.trainer.callback_metrics.items()}
timed = ("_s", "seconds")
print("FOUND", json.dumps({"weights": sha256.hexdigest()} |
                          {key: repr(value) for key, value in sorted(found.items()) if not key.endswith(timed)}))
"""


@contextmanager
def tree_of(commit: str | None) -> Iterator[Path]:
    """A commit's files in a folder of their own for as long as they are needed; None: the tree as it stands."""
    if commit is None:
        yield ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "tree"
        done = subprocess.run(["git", "worktree", "add", "--detach", str(place), commit], cwd=ROOT, capture_output=True)
        if done.returncode:
            raise UserError(f"{commit} cannot be checked out: {done.stderr.decode().strip().splitlines()[-1]}")
        try:
            yield place
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(place)], cwd=ROOT, check=True)


def trained_in(tree: Path, case: list[str], iterations: int) -> dict[str, str]:
    """The hash of the weights, and all figures but times, as texts that keep every digit."""
    experiment, *overrides = case
    command = [sys.executable, "-c", TRAINS, experiment, str(iterations), *overrides]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tree)})
    told = [line.removeprefix("FOUND ") for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if done.returncode or not told:
        raise UserError(f"{experiment} fails in {tree}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(told[0])


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """A line for each figure that differs or stands on one side alone."""
    keys = sorted(before.keys() | after.keys())
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", help="a commit")
    parser.add_argument("after", nargs="?", help="another; unless given, the tree as it stands")
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--iterations", type=int, default=ITERATIONS)
    given: Any = parser.parse_args(arguments)
    different = 0
    with tree_of(given.before) as before, tree_of(given.after) as after:
        for name, case in CASES.items():
            if given.only in name:
                found = [trained_in(tree, case, given.iterations) for tree in (before, after)]
                lines = differences(*found)
                different += bool(lines)
                same = f"the same weights and {len(found[0]) - 1} figures"
                print(f"{name}: {'; '.join(lines) if lines else same}", flush=True)
    return int(different > 0)


if __name__ == "__main__":
    with told_as_sentences():
        sys.exit(main())
