"""What tests/foundation/test_denormals.py runs in a process of its own with two threads: products of denormals in every
kind of thread and process that a run has, printed as JSON.

    python -m tests.foundation.denormals_everywhere true
"""

import json
import sys
import tempfile
from pathlib import Path
from threading import Thread
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, multiprocessing
from torch.utils.data import Dataset

from datamodules.photographs import made_by_workers
from launch.command_line import compose_job
from launch.runs import build
from tests.lightning_modules.test_resnet import TINY


def largest_product(size: int = 1) -> float:
    """Of numbers whose product is a denormal; more than 2^15 are multiplied by several threads."""
    return float((torch.full((size,), 1e-30) * torch.full((size,), 1e-10)).max())


class Backward(torch.autograd.Function):
    """Leaves what a product is in the thread of the backward pass."""

    found: list[float] = []

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore
        Backward.found.append(largest_product())
        return gradient


class Products(Dataset[dict[str, Tensor]]):
    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        return {"product": torch.tensor([largest_product()])}


def in_backward() -> float:
    x = torch.ones(3, requires_grad=True)
    Backward.apply(x).sum().backward()  # type: ignore
    return Backward.found.pop()


def in_a_thread() -> float:
    found: list[float] = []
    thread = Thread(target=lambda: found.append(in_backward()))
    thread.start()
    thread.join()
    return found[0]


def in_workers(start_method: str) -> float:
    multiprocessing.set_start_method(start_method, force=True)
    loader = made_by_workers(Products(), [torch.arange(2)] * 2, 1, None)  # type: ignore
    return max(float(batch["product"]) for batch in loader)


class Asks(LightningModule):
    """Writes what a product is where a rank begins to train."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.weight = file, torch.nn.Parameter(torch.ones(1))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.file.write_text(json.dumps(max(largest_product(), largest_product(2**20), in_backward())))
        return self.weight.sum()


def on_a_rank(config: dict[str, Any], start_method: str, folder: Path) -> float:
    strategy = {"_target_": "lightning.pytorch.strategies.DDPStrategy", "process_group_backend": "gloo",
                "start_method": start_method}  # fmt: skip
    run = build(config | {"trainer": config["trainer"] | {"strategy": strategy}})
    module = Asks(folder / start_method)
    run.trainer.callbacks = [it for it in run.trainer.callbacks if type(it).__name__ == "Denormals"]  # type: ignore
    run.trainer.fit(module, torch.utils.data.DataLoader([0]))  # type: ignore
    return json.loads(module.file.read_text())


def main(flush: bool, folder: Path) -> None:
    config = compose_job("train", ["experiment=resnet_digits", *TINY["resnet_digits"], "trainer=cpu", "logger=none",
                                   "+trainer.enable_checkpointing=false", "+trainer.enable_progress_bar=false",
                                   f"flush_denormals={flush}", "paper=null", "trainer.max_steps=1"]) | {"callbacks": {}}  # fmt: skip
    build(config)
    found = {
        "here": largest_product(),
        "a rank that is forked": on_a_rank(config, "fork", folder),  # OpenMP's threads do not survive a fork
        "a worker that is forked": in_workers("fork"),
        "a pool of threads": largest_product(2**20),
        "backward": in_backward(),
        "backward in a thread": in_a_thread(),
        "a worker that is spawned": in_workers("spawn"),
        "a rank that is spawned": on_a_rank(config, "spawn", folder),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        main(sys.argv[1] == "true", Path(place))
