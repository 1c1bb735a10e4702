"""What test_raml.py runs in a process of its own: the method on one, two and three ranks, in float64."""

import json
import sys
from pathlib import Path

import torch

from launch.command_line import compose_job
from launch.runs import build
from tests.lightning_modules.test_raml import TINY


def train(world_size: int, folder: Path) -> dict[str, float]:
    """Into the second epoch, and tested; dropout is off, since it is each rank's own."""
    overrides = ["experiment=raml_copy", "trainer=cpu" if world_size == 1 else "trainer=ddp_cpu", "logger=none",
                 f"trainer.devices={world_size}", *TINY["raml_copy"], "trainer.max_steps=14", "trainer.precision=64-true",
                 "lightning_module.proposal=edit_distance", "lightning_module.network.dropout=0",
                 "datamodule.eval_batch_size=9", "~callbacks.edit_distribution", "trainer.log_every_n_steps=5", "~callbacks.progress",
                 "+trainer.enable_progress_bar=false"]  # fmt: skip
    overrides = [it for it in overrides if it != "trainer.precision=32-true"]
    overrides += ["+trainer.strategy.start_method=fork"] if world_size > 1 else []
    run = build(compose_job("train", overrides, str(folder / str(world_size))))
    run.module.double()
    run.trainer.fit(run.module, datamodule=run.datamodule)
    found = {"train/loss": float(run.trainer.callback_metrics["train/loss"])}
    torch.save(torch.cat([it.detach().flatten() for it in run.module.parameters()]), folder / f"{world_size}.pt")
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    return found | {key: float(it) for key, it in run.trainer.callback_metrics.items() if key.startswith("test/")}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    print(json.dumps({world_size: train(world_size, folder) for world_size in (1, 2, 3)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
