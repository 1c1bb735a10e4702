"""What test_watched_figures.py runs, and, as a process of its own, runs on 1 and 2 ranks."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from launch.command_line import compose_job
from launch.runs import build
from tests.lightning_modules.test_resnet import SMALL

PLATEAUS = {"_target_": "lightning_modules.schedules.DropsOnPlateaus", "_partial_": True, "patience": 1, "drop": 0.5}


def config_of(folder: Path, scheduler: dict[str, Any], *overrides: str) -> dict[str, Any]:
    words = ["experiment=resnet_digits", "trainer=cpu", "logger=none", *SMALL, "datamodule.batch_size=12",
             "trainer.max_steps=12", "datamodule.val_size=40", "trainer.val_check_interval=2", "~callbacks.progress",
             "+trainer.enable_progress_bar=false", *overrides]  # fmt: skip
    config = compose_job("train", words, str(folder))
    config["lightning_module"]["scheduler"] = PLATEAUS | scheduler
    return config


def fitted(config: dict[str, Any], checkpoint: Path | None = None) -> dict[str, Any]:
    """The rates of each iteration, and what schedule and weights have become."""
    run, rates = build(config), []
    step = run.module.training_step

    def noted(*arguments: Any) -> Any:
        rates.append(float(run.trainer.optimizers[0].param_groups[0]["lr"]))
        return step(*arguments)

    run.module.training_step = noted
    run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
    schedule: Any = run.trainer.lr_scheduler_configs[0].scheduler
    return {"rates": rates, "seen": schedule.state_dict(), "weights": run.module.state_dict()}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for size in (1, 2):
        words = ["trainer=ddp_cpu", "trainer.devices=2", "+trainer.strategy.start_method=fork"] if size > 1 else []
        watching = {"monitor": "train/error", "over": 2}
        run = build(config_of(folder / str(size), watching, "trainer.precision=64-true", *words))
        for part in run.module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.eval()  # each rank would normalise by its own share
        run.trainer.fit(run.module, datamodule=run.datamodule)
        saved = torch.load(folder / str(size) / "checkpoints" / "last.ckpt", weights_only=True)
        print(json.dumps(saved["lr_schedulers"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
