"""What test_rounds.py runs in a process of its own: the method with rounds on one rank and on two, in double precision
and without dropout; and one whose ranks would train on different data."""

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launch.command_line import compose_job
from launch.runs import build
from tests.contract.rounds import EPOCHS, NODES, ShrinkingDigits


def run_on(world_size: int, folder: Path) -> Any:
    words = ["experiment=resnet_digits", "logger=none", *EPOCHS, "trainer.precision=64-true", "~callbacks.progress",
             "+trainer.enable_progress_bar=false", f"trainer={'cpu' if world_size == 1 else 'ddp_cpu'}",
             f"trainer.devices={world_size}"]  # fmt: skip
    words += ["+trainer.strategy.start_method=fork"] if world_size > 1 else []
    nodes = deepcopy(NODES)
    nodes["lightning_module"]["network"]["dropout"] = 0.0
    run = build(compose_job("train", words, str(folder / str(world_size))) | nodes)
    run.module.double()
    return run


def differing(self: ShrinkingDigits, kept: Tensor) -> None:
    rank = self.trainer.global_rank  # type: ignore
    self.replace("train", self.whole.take(kept[rank:]))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for size in (2, 1):
        run = run_on(size, folder)
        run.trainer.fit(run.module, datamodule=run.datamodule)
        checkpoint = torch.load(folder / str(size) / "checkpoints" / "last.ckpt", weights_only=True)
        weights = torch.cat([it.flatten() for it in checkpoint["state_dict"].values()])
        kept = checkpoint["ShrinkingDigits"]["kept"]
        torch.save({"weights": weights, "kept": kept, "iterations": checkpoint["global_step"]}, folder / f"{size}.pt")
    ShrinkingDigits.keep = differing
    run = run_on(2, folder / "differing")
    try:
        run.trainer.fit(run.module, datamodule=run.datamodule)
    except Exception as error:
        (folder / "differing.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
