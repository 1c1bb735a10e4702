"""What tests/test_ranks.py runs in a process of its own: experiments on 1, 2 and 3 ranks, printed as JSON.

A fork after a backward pass fails where a GPU exists, so CUDA is hidden and the pytest process stays out of it.
"""

import json
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import multiprocessing, nn

from callbacks.cluster_accuracy import ClusterAccuracyMetric
from datamodules.batches import GlobalBatches
from launch.command_line import compose_job
from launch.runs import build
from tests.lightning_modules import (
    test_adversarial_filtering,
    test_bert,
    test_draw,
    test_infogan,
    test_oracle_robustness,
    test_resnet,
    test_wrm,
)

STEPS = 20
EXPERIMENTS = {
    "infogan_digits": [
        *test_infogan.TINY["infogan_digits"],
        "callbacks=[default,cluster_accuracy,cluster_information]",
    ],
    "resnet_digits": test_resnet.TINY["resnet_digits"],
    "draw_digits": [*test_draw.TINY["draw_digits"], "callbacks=[default,likelihood_bound]"],
    "wrm_digits": [
        *test_wrm.TINY["wrm_digits"],
        "callbacks=[default,classification,certificate,robustness,deepcloak]",
        "callbacks.robustness.examples=60",
        "callbacks.deepcloak={shares: [10, 50], powers: [10], score_examples: 100, examples: 60}",
        "callbacks.deepcloak.attacks.pgd_linf.steps=2",
        "lightning_module.gamma={absolute: 1.0, relative: null}",
    ],
    "oracle_digits": [
        *test_oracle_robustness.TINY["oracle_digits"],
        "callbacks=[default,classification,oracle_violations]",
        "callbacks.oracle_violations.examples=60",
        "lightning_module.training=worst",
    ],
    # Without dropout, whose noise is each rank's own.
    "bert_tiny_text": [
        *test_bert.TINY["bert_tiny_text"],
        "callbacks=[default,language_model]",
        "lightning_module.network.dropout=0",
        "lightning_module.network.attention_dropout=0",
        "datamodule.test_size=100",
    ],
    # Five rounds of two epochs, whose exchanges all ranks make alike.
    "filtering_synthetic": [
        *test_adversarial_filtering.TINY["filtering_synthetic"],
        "callbacks=[default,classification]",
        "lightning_module.epochs_a_round=2",
    ],
}


@cache
def config_of(world_size: int, folder: Path, experiment: str) -> dict[str, Any]:
    """In float64; 7 evaluation batches, the last one short."""
    overrides = [f"experiment={experiment}", "trainer=cpu" if world_size == 1 else "trainer=ddp_cpu",
                 f"trainer.devices={world_size}", "logger=none", f"trainer.max_steps={STEPS}",
                 "trainer.log_every_n_steps=5", *EXPERIMENTS[experiment], "datamodule.batch_size=12",
                 "datamodule.eval_batch_size=53", "trainer.precision=64-true", "~callbacks.progress",
                 "+trainer.enable_progress_bar=false"]  # fmt: skip
    overrides = [it for it in overrides if not it.startswith(("callbacks.image_grid", "callbacks.drawing"))]
    overrides += ["+trainer.strategy.start_method=fork"] if world_size > 1 else []
    return compose_job("train", overrides, str(folder / f"{experiment}{world_size}"))


def run_on(world_size: int, folder: Path, experiment: str = "infogan_digits", micro_batch_size: int | None = None):
    """With frozen batch statistics."""
    config = deepcopy(config_of(world_size, folder, experiment))
    config["lightning_module"]["micro_batch_size"] = micro_batch_size
    run = build(config)
    run.module.double()  # what comes back from a fork is loaded into the parent's module
    for part in run.module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eval()
    return run


def without_examples(world_size: int, folder: Path, experiment: str) -> dict[str, float]:
    """Metrics of two test examples: of three ranks one has none."""
    run = run_on(world_size, folder, experiment)
    run.datamodule.setup()
    table = run.datamodule.tables["test"]  # type: ignore
    run.datamodule.replace("test", table.take(torch.arange(2)))  # type: ignore
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    return {key: float(value) for key, value in run.trainer.callback_metrics.items() if "kmeans" not in key}


class Statistics(Callback):
    """Writes how far the ranks' running statistics lie apart, in training and when a validation sees a batch."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.write(trainer, pl_module, "trained")

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.write(trainer, pl_module, "validated")

    def write(self, trainer: Trainer, module: LightningModule, when: str) -> None:
        own = torch.cat([it.flatten() for name, it in module.named_buffers() if "running_" in name])
        every = trainer.strategy.all_gather(own)
        if trainer.is_global_zero:
            told = json.loads(self.file.read_text()) if self.file.exists() else {}
            self.file.write_text(json.dumps(told | {when: float((every - every[0]).abs().max())}))


def validate_on_two(folder: Path) -> None:
    overrides = ["experiment=resnet_digits", "trainer=ddp_cpu", "trainer.devices=2", "logger=none",
                 "+trainer.strategy.start_method=fork", *test_resnet.TINY["resnet_digits"], "trainer.max_steps=3",
                 "datamodule.batch_size=12", "datamodule.val_size=40", "trainer.val_check_interval=3",
                 "~callbacks.progress", "+trainer.enable_progress_bar=false"]  # fmt: skip
    run = build(compose_job("train", overrides, str(folder / "statistics")))
    run.trainer.callbacks.append(Statistics(folder / "statistics.json"))  # type: ignore
    run.trainer.fit(run.module, datamodule=run.datamodule)


def samples_on(world_size: int, folder: Path) -> list[float]:
    """What the ranks' shares of 7 samples add up to, in order."""
    module = run_on(1, folder).module.eval()
    shares = [torch.arange(7).tensor_split(world_size)[rank] for rank in range(world_size)]
    return torch.cat([module.sample(share) for share in shares]).flatten(1).sum(1).tolist()  # type: ignore


def count_on_rank(rank: int, world_size: int, folder: Path, size: int) -> None:
    """The metric alone, on this rank's share of random clusters and labels."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet{size}x{world_size}", rank=rank, world_size=world_size
    )
    clusters, labels = torch.randint(3, (2, size), generator=torch.Generator().manual_seed(0))
    metric = ClusterAccuracyMetric(3, 3)
    for share in GlobalBatches(size, 4, seed=None, rank=rank, world_size=world_size):
        metric.update(clusters[share], labels[share])
    found = {"values": metric.compute(), "own": int(metric.confusion.sum())}
    (folder / f"metric{size}x{world_size}r{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def weights_of(module: LightningModule) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for size in (41, 2):
        for world_size in (1, 2, 3):
            multiprocessing.start_processes(count_on_rank, (world_size, folder, size), world_size, start_method="fork")
    found = {experiment: {size: measured(size, folder, experiment) for size in (1, 2, 3)} for experiment in EXPERIMENTS}
    for experiment in EXPERIMENTS:  # six examples on each of two ranks, in three parts
        run = run_on(2, folder, experiment, micro_batch_size=4)
        run.trainer.fit(run.module, datamodule=run.datamodule)
        torch.save(weights_of(run.module), folder / f"{experiment}cut.pt")
    validate_on_two(folder)
    print(json.dumps(found))


def measured(world_size: int, folder: Path, experiment: str) -> dict[str, Any]:
    run = run_on(world_size, folder, experiment)
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    tested = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
    run = run_on(world_size, folder, experiment)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    trained = {key: float(value) for key, value in run.trainer.callback_metrics.items() if "_s" not in key}
    weights = weights_of(run.module)
    torch.save(weights, folder / f"{experiment}{world_size}.pt")
    few = without_examples(world_size, folder, experiment)
    found: dict[str, Any] = {"metrics": tested, "trained": trained, "few": few}
    found["samples"] = samples_on(world_size, folder) if experiment == "infogan_digits" else None
    if world_size == 1:  # forks keep theirs to themselves
        found["swaps"] = [it["swaps"] for it in getattr(run.datamodule, "history", [])]
    return found | {"dtype": str(weights.dtype)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
