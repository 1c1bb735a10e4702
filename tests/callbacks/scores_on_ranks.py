"""What test_inception_score.py measures, and, as a process of its own, measures on 1, 2 and 3 ranks."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, multiprocessing
from torch.utils.data import DataLoader

from callbacks.inception_score import InceptionScore, InceptionScoreMetric
from callbacks.instruments.confident_samples import ConfidentSamples
from callbacks.instruments.frechet_distance import GaussianMetric
from callbacks.instruments.judges import Judge
from datamodules.images import ImageTable
from foundation.protocols import SamplesImages
from foundation.randomness import keyed_generator

CLASSES, FEATURES, SHAPE = 4, 6, (1, 5, 5)


class Glance(Judge):
    """Random linear features, and logits of them."""

    score, distance = "glance_score", "glance_distance"
    classes, features = CLASSES, FEATURES

    def __init__(self, lacking: str | None = None, unfetched: str | None = None) -> None:
        super().__init__()
        self.lacking, self.unfetched, self.seen = lacking, unfetched, 0
        generator = torch.Generator().manual_seed(1)
        self.seeing = torch.randn(25, FEATURES, generator=generator)
        self.telling = torch.randn(FEATURES, CLASSES, generator=generator)

    def unavailable_because(self) -> str | None:
        return self.lacking

    def fetch(self) -> str | None:
        return self.unfetched

    def refusal(self, image_shape: Any) -> str | None:
        return None if tuple(image_shape) == SHAPE else f"it looks at {SHAPE}"

    def describe_for_record(self) -> dict[str, Any]:
        return {"network": "Glance"}

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(images)
        features = (images.flatten(1).float() / 255) @ self.seeing
        return features @ self.telling, features


class Sampler(LightningModule):
    """Image i is drawn from i alone."""

    image_shape = SHAPE
    seed = 0

    def __init__(self) -> None:
        super().__init__()
        self.normalization = torch.nn.BatchNorm2d(1)

    def capabilities(self) -> set[type]:
        return {SamplesImages}

    def sample(self, indices: Tensor) -> Tensor:
        drawn = [torch.rand(SHAPE, generator=keyed_generator(self.seed, "image", int(it))) for it in indices]
        torch.rand(3)  # a model that draws from the global generator, too
        return self.normalization(torch.stack(drawn)) * 0.8

    def test_step(self, batch: Any, batch_idx: int) -> None:
        return None

    validation_step = test_step


class Squares(LightningDataModule):
    """37 training images, 23 test images."""

    name, val_size = "squares", 1

    def __init__(self) -> None:
        super().__init__()
        pixels = torch.randint(256, (60, *SHAPE), generator=torch.Generator().manual_seed(2)).to(torch.uint8)
        self.tables = {"train": ImageTable(pixels[:37]), "test": ImageTable(pixels[37:])}

    def test_dataloader(self) -> Any:
        return DataLoader(
            self.tables["test"], batch_size=None, sampler=torch.arange(23).split(12), generator=torch.Generator()
        )  # type: ignore

    val_dataloader = test_dataloader


def score_by(judge: Judge, folder: Path, **arguments: Any) -> InceptionScore:
    sizes: dict[str, Any] = {"val_images": 20, "test_images": 31, "splits": 3, "batch_size": 4, "real_images": True}
    return InceptionScore(str(folder), judge, str(folder / "cache"), **sizes | arguments)


def trainer_with(*callbacks: Any, **arguments: Any) -> Trainer:
    return Trainer(accelerator="cpu", callbacks=list(callbacks), logger=False, enable_progress_bar=False,
                   enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False,
                   **arguments)  # fmt: skip


def judged(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(count, CLASSES, generator=generator), torch.randn(count, FEATURES, generator=generator)


def shares(size: int, world_size: int) -> list[Tensor]:
    """Uneven; of three ranks the last has none."""
    return {1: [torch.arange(size)], 2: [torch.arange(size)[::3], torch.cat([torch.arange(size)[it::3] for it in (1, 2)])],
            3: [torch.arange(5), torch.arange(5, size), torch.arange(0)]}[world_size]  # fmt: skip


def measure_on_rank(rank: int, world_size: int, folder: Path) -> None:
    meeting = f"file://{folder}/meet{world_size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    logits, features = judged(29)
    score, gaussian, confident = (
        InceptionScoreMetric(CLASSES, 29, 3),
        GaussianMetric(FEATURES),
        ConfidentSamples(CLASSES, 12),
    )
    own = shares(29, world_size)[rank]
    for index in own.split(4) if len(own) else [own]:
        score.update(logits[index], index)
        gaussian.update(features[index])
        confident.update(logits[index], index)
    images, mean, covariance = gaussian.compute()
    found = {
        "score": score.compute(),
        "gaussian": [images, mean.tolist(), covariance.tolist()],
        "confident": confident.compute().tolist(),
    }
    (folder / f"metric{world_size}r{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def run_under_ddp(world_size: int, folder: Path) -> None:
    arguments: dict[str, Any] = {"devices": world_size}
    if world_size > 1:
        arguments["strategy"] = DDPStrategy(process_group_backend="gloo", start_method="fork")
    callback = score_by(Glance(), folder / f"run{world_size}")
    trainer = trainer_with(callback, **arguments)
    trainer.test(Sampler(), Squares(), verbose=False)
    found = {key: float(value) for key, value in trainer.callback_metrics.items()}
    (folder / f"ddp{world_size}.json").write_text(json.dumps(found))


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for world_size in (1, 2, 3):
        multiprocessing.start_processes(measure_on_rank, (world_size, folder), world_size, start_method="fork")
    for world_size in (1, 2, 3):
        run_under_ddp(world_size, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
