"""Relight from Python and notebooks, and the ``relight`` command of an installed package.

    from relight import load, train

    metrics = train("infogan_digits", {"trainer.max_steps": 100})
    metrics["test/cluster_accuracy"], metrics.folder
    finished = load(metrics.folder)
    finished.module.sample(torch.arange(16))

A package has the folders of the repository inside ``relight/``; both put them on the path under their own names.
"""

import runpy
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from launch.runs import Finished

HOME = Path(__file__).resolve().parent
SCRIPTS = ("train", "evaluate", "sample", "predict")
MODULES = {
    "report": "finished.report",
    "curves": "finished.curves",
    "export": "finished.onnx",
    "pack": "finished.packing",
    "batch-size": "launch.batch_size",
}

if str(HOME) not in sys.path:
    sys.path.insert(0, str(HOME))


class Metrics(dict[str, float]):
    """All final metrics of a run under the keys they were logged with.

    Args:
        folder: where the run lies, with its checkpoint, record and pictures.
    """

    def __init__(self, values: Mapping[str, float], folder: Path) -> None:
        super().__init__(values)
        self.folder = folder


def train(experiment: str, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Metrics:
    """Train and measure an experiment in this process, as ``python train.py experiment=...`` does.

    Args:
        overrides: values by the keys of the config, such as {"trainer.max_steps": 100}; or what would be typed, such as
            ["trainer.max_steps=100", "logger=csv"]. Groups are chosen by their names: {"logger": "csv"}.

    Raises:
        UserError: a key, a value or the data does not fit; nothing was trained.
    """
    from launch.from_python import train_here
    from train import train as train_job

    return Metrics(*train_here(train_job, experiment, overrides))


def load(run: str | Path, checkpoint: str = "last", accelerator: str = "auto") -> "Finished":
    """A finished run to be used: its module in evaluation mode on a device, its DataModule, its config.

    Args:
        run: the folder, or the file that ``finished.packing`` has made of one. One from elsewhere may name this
            project's classes alone, and runs none of its own code.
        checkpoint: a file of its ``checkpoints/`` without .ckpt.
        accelerator: as Lightning's.
    """
    from launch.packed import folder_of
    from launch.runs import load_on_device

    return load_on_device(folder_of(run), checkpoint, accelerator)


def main() -> None:
    """relight train experiment=infogan_digits: the commands of the repository, wherever the package lies."""
    known = [*SCRIPTS, *MODULES]
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        asked = sys.argv[1] if len(sys.argv) > 1 else ""
        text = f"relight {'|'.join(known)} ..., such as: relight train experiment=infogan_digits"
        if asked in ("", "-h", "--help"):
            print(f"{text}\nrelight train --help lists experiments and settings.")
            raise SystemExit(0)
        print(f"error: {asked} is no command of relight: {text}", file=sys.stderr)
        raise SystemExit(2)
    name = sys.argv.pop(1)
    if name in SCRIPTS:
        sys.argv[0] = str(HOME / f"{name}.py")  # what Lightning starts other ranks by
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(MODULES[name], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
