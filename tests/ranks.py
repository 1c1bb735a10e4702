"""What tests/test_ranks.py runs in a process of its own: one experiment on 1, 2 and 3 ranks, printed as JSON.

A fork after a backward pass fails where a GPU exists, so CUDA is hidden and the pytest process stays out of it.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import multiprocessing, nn

from callbacks.cluster_accuracy import ClusterAccuracyMetric
from datamodules.batches import GlobalBatches
from launch.command_line import compose_job
from launch.runs import build
from tests.lightning_modules.test_infogan import TINY

STEPS = 20


def run_on(world_size: int, folder: Path):
    """InfoGAN on digits in float64 with frozen batch statistics; 7 evaluation batches, the last one short."""
    overrides = ["trainer=cpu" if world_size == 1 else "trainer=ddp_cpu", f"trainer.devices={world_size}", "logger=none",
                 f"trainer.max_steps={STEPS}", *TINY["infogan_digits"], "datamodule.batch_size=12",
                 "datamodule.eval_batch_size=53", "trainer.precision=64-true", "callbacks=[default,cluster_accuracy,cluster_information]",
                 "~callbacks.progress", "+trainer.enable_progress_bar=false"]  # fmt: skip
    overrides = [it for it in overrides if not it.startswith("callbacks.image_grid")]
    overrides += ["+trainer.strategy.start_method=fork"] if world_size > 1 else []
    run = build(compose_job("train", overrides, str(folder / str(world_size))))
    run.module.double()  # what comes back from a fork is loaded into the parent's module
    for part in run.module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eval()
    return run


def without_examples(world_size: int, folder: Path) -> dict[str, float]:
    """Cluster accuracy on two test images: of three ranks one has none."""
    run = run_on(world_size, folder)
    run.datamodule.setup()
    table = run.datamodule.tables["test"]  # type: ignore
    run.datamodule.tables["test"] = type(table)(table.images[:2], table.labels[:2])  # type: ignore
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    return {key: float(value) for key, value in run.trainer.callback_metrics.items() if "kmeans" not in key}


def samples_on(world_size: int) -> list[float]:
    """What the ranks' shares of 7 samples add up to, in order."""
    module = run_on(1, Path("unused")).module.eval()
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


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for size in (41, 2):
        for world_size in (1, 2, 3):
            multiprocessing.start_processes(count_on_rank, (world_size, folder, size), world_size, start_method="fork")
    found = {}
    for world_size in (1, 2, 3):
        run = run_on(world_size, folder)
        run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
        accuracy = {key: float(value) for key, value in run.trainer.callback_metrics.items()}
        run = run_on(world_size, folder)
        run.trainer.fit(run.module, datamodule=run.datamodule)
        weights = torch.cat([parameter.detach().flatten() for parameter in run.module.parameters()])
        torch.save(weights, folder / f"{world_size}.pt")
        few, samples = without_examples(world_size, folder), samples_on(world_size)
        found[world_size] = {"metrics": accuracy, "few": few, "samples": samples, "dtype": str(weights.dtype)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
