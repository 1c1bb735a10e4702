"""What test_averaged_predictions.py measures, and, as a process of its own, measures on 1, 2 and 3 ranks."""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from launch.command_line import compose_job
from launch.runs import Run, build
from tests.lightning_modules.test_resnet import TINY

PHOTOGRAPHS = 9


def job(folder: Path, images: Path, *overrides: str) -> dict[str, Any]:
    words = ["experiment=resnet_imagenet", "trainer=cpu", "logger=none", *TINY["resnet_imagenet"],
             f"datamodule.folder={images}", "datamodule.eval_batch_size=4", "callbacks.averaged_predictions.batch_size=2",
             "paper.metric=null", "~callbacks.progress", "+trainer.enable_progress_bar=false", *overrides]  # fmt: skip
    return compose_job("train", words, str(folder))


def figures_of(run: Run) -> dict[str, float]:
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    return {key: float(value) for key, value in run.trainer.callback_metrics.items()}


def main(folder: Path, images: Path) -> None:
    torch.set_num_threads(1)
    for size in (1, 2, 3):
        words = (
            ["trainer=ddp_cpu", f"trainer.devices={size}", "+trainer.strategy.start_method=fork"] if size > 1 else []
        )
        print(json.dumps(figures_of(build(job(folder / str(size), images, *words), trains=False))))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
