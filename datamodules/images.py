"""The base of the image sets that fit in memory."""

import hashlib
from abc import abstractmethod
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import GlobalBatches
from launch.errors import UserError
from launch.randomness import keyed_generator


class ImageTable(Dataset[dict[str, Tensor]]):
    """A split in memory; indexing with a tensor of positions gives a whole batch.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        assert images.dtype == torch.uint8
        assert images.ndim == 4
        assert len(images) == len(labels)
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        positions = positions.to(self.images.device)
        return {"index": positions, "image": self.images[positions], "label": self.labels[positions]}

    def to(self, device: torch.device) -> "ImageTable":
        return ImageTable(self.images.to(device), self.labels.to(device))


class ImageDataModule(LightningDataModule):
    """Splits of uint8 images, given to the module as floats in [0, 1].

    A batch holds ``index`` [B] int64 (the example's number in its split), ``image`` [B, C, H, W] float and
    ``label`` [B] int64. A subclass names its shape and classes and implements ``load``.

    Args:
        batch_size: examples a training step over all ranks together.
        eval_batch_size: examples an evaluation step over all ranks together.
        val_size: how many training examples are set aside for validation; 0 means no validation.
        seed: decides the order of training.
        split_seed: decides which examples are set aside; its own key, so that runs that differ in ``seed``
            are measured on the same examples.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int

    def __init__(
        self,
        *,
        batch_size: int,
        val_size: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        eval_batch_size: int = 1000,
    ) -> None:
        super().__init__()
        for key, size in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of examples, 1 or more.")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.seed, self.split_seed = val_size, seed, split_seed
        self.tables: dict[str, ImageTable] = {}

    @abstractmethod
    def load(self) -> tuple[ImageTable, ImageTable]:
        """The training and the test examples, before validation is set aside."""

    def setup(self, stage: str | None = None) -> None:
        if self.tables:
            return
        train, test = self.load()
        if not 0 <= self.val_size < len(train):
            raise UserError(
                f"datamodule.val_size={self.val_size} leaves nothing to train on: {self.name} has {len(train)} "
                "training examples. Choose 0 (no validation) or a smaller number."
            )
        shuffled = torch.randperm(len(train), generator=keyed_generator(self.split_seed, "split"))
        kept, aside = shuffled[self.val_size :].sort().values, shuffled[: self.val_size].sort().values
        self.tables = {
            "train": ImageTable(train.images[kept], train.labels[kept]),
            "val": ImageTable(train.images[aside], train.labels[aside]),
            "test": test,
        }

    def describe(self) -> dict[str, Any]:
        """Name, sizes and a fingerprint of every split: what a record says of its data."""
        sha256 = hashlib.sha256()
        for table in self.tables.values():
            sha256.update(table.images.numpy().tobytes())
            sha256.update(table.labels.numpy().tobytes())
        sizes = {split: len(table) for split, table in self.tables.items()}
        return {"name": self.name, **sizes, "sha256": sha256.hexdigest()}

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader("train", self.batch_size, seed=self.seed)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        return self._loader("val", self.eval_batch_size, seed=None) if self.val_size else []

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader("test", self.eval_batch_size, seed=None)

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Tensor]:
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32
        assert isinstance(dtype, torch.dtype)
        scaled = batch["image"].to(torch.promote_types(dtype, torch.float32)).div_(255)
        return batch | {"image": scaled.to(dtype)}

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader[dict[str, Tensor]]:
        table, rank, world_size = self.tables[split], 0, 1
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            table = table.to(self.trainer.strategy.root_device)  # indexing on the device: no copy a step
        batches = GlobalBatches(
            len(table), batch_size, seed=seed, rank=rank, world_size=world_size, consumed=self._consumed(seed)
        )
        return DataLoader(table, sampler=batches, batch_size=None, generator=torch.Generator())

    def _consumed(self, seed: int | None):
        trainer = self.trainer
        if seed is None or trainer is None:
            return lambda: 0
        return lambda: trainer.fit_loop.epoch_loop.batch_progress.current.ready
