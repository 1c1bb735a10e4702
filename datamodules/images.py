"""The base of the image sets, and the table of those that fit in memory."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import Augment, shift_and_flip
from datamodules.batches import GlobalBatches, consumed_in_epoch
from datamodules.binarization import Binarize
from datamodules.semi_supervised import StreamBatches, labelled_subset, streams_of
from foundation.errors import UserError
from foundation.randomness import keyed_generator


class ImageTable(Dataset[dict[str, Tensor]]):
    """A split in memory; indexing with a tensor of positions gives a whole batch.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N]; None where the data has none.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        assert images.dtype == torch.uint8
        assert images.ndim == 4
        assert labels is None or len(images) == len(labels)
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        positions = positions.to(self.images.device)
        batch = {"index": positions, "image": self.images[positions]}
        return batch if self.labels is None else batch | {"label": self.labels[positions]}

    def take(self, positions: Tensor) -> "ImageTable":
        """The examples at these positions, as a table of their own."""
        return ImageTable(self.images[positions], None if self.labels is None else self.labels[positions])

    def to(self, device: torch.device) -> "ImageTable":
        return ImageTable(self.images.to(device), None if self.labels is None else self.labels.to(device))


class ImageDataModule(LightningDataModule):
    """Splits of uint8 images, given to the module as floats in [0, 1].

    A batch holds ``index`` [B] int64 (the example's number in its split), ``image`` [B, C, H, W] float and, where
    the data has labels, ``label`` [B] int64; with ``num_labels`` a training batch is a dict of three such (see
    ``semi_supervised.py``). A subclass names its shape and classes (None: no labels) and implements ``load``.

    Args:
        batch_size: examples a training step over all ranks together.
        eval_batch_size: examples an evaluation step over all ranks together.
        val_size: how many examples validation has; 0 means no validation. They are set aside from training, or
            chosen from the official validation split where the data has one: training never sees that split.
        seed: decides the order and the augmentation of training.
        split_seed: decides which examples are set aside; its own key, so that runs that differ in ``seed``
            are measured on the same examples.
        augment: shifts and flips of training images; None leaves them as they are.
        binarize: makes all images black and white; None leaves them grey.
        num_labels: how many training examples keep their labels, as many of each class; 0: no stream of them; None: all
            do, and there is one stream.
        label_seed: decides which; its own key, so that runs that differ in ``seed`` know the same labels.
    """

    name: str
    image_shape: tuple[int, int, int]
    num_classes: int | None

    class_names: Sequence[str] | None = None
    """In the order of their labels; None where they have no names but the numbers."""

    def __init__(
        self,
        *,
        batch_size: int,
        val_size: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        eval_batch_size: int = 1000,
        augment: Augment | Mapping[str, Any] | None = None,
        binarize: Binarize | Mapping[str, Any] | None = None,
        num_labels: int | None = None,
        label_seed: int = 0,
    ) -> None:
        super().__init__()
        if num_labels is not None and num_labels < 0:
            raise UserError(f"datamodule.num_labels is {num_labels}: give 0 or more, or null for all.")
        for key, size in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of examples, 1 or more.")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.seed, self.split_seed = val_size, seed, split_seed
        self.augment = Augment(**augment) if isinstance(augment, Mapping) else augment
        self.binarize = Binarize(**binarize) if isinstance(binarize, Mapping) else binarize
        self.num_labels, self.label_seed = num_labels, label_seed
        self.drawn: tuple[int, Tensor] | None = None  # an epoch and its draws
        self.tables: dict[str, ImageTable] = {}

    @abstractmethod
    def load(self) -> dict[str, ImageTable]:
        """``train`` and ``test``, and ``val`` where the data has an official validation split."""

    def setup(self, stage: str | None = None) -> None:
        if self.tables:
            return
        tables = self.load()
        if self.binarize is not None:
            tables = {
                split: ImageTable(self.binarize.apply(it.images, split), it.labels) for split, it in tables.items()
            }
        official = tables.get("val")
        source = tables["train"] if official is None else official
        if not 0 <= self.val_size < len(source) + (official is not None):
            raise UserError(self._unfit_val_size(len(source), official is not None))
        shuffled = torch.randperm(len(source), generator=keyed_generator(self.split_seed, "split"))
        kept, aside = shuffled[self.val_size :].sort().values, shuffled[: self.val_size].sort().values
        train = source.take(kept) if official is None and self.val_size else tables["train"]
        self.tables = {"train": train, "val": source.take(aside), "test": tables["test"]}

    def describe(self) -> dict[str, Any]:
        """Name, sizes and a fingerprint of every split: what a record says of its data."""
        sha256 = hashlib.sha256()
        for table in self.tables.values():
            for content in (table.images, table.labels):
                if content is not None:
                    sha256.update(content.reshape(-1).numpy().data)
        sizes = {split: len(table) for split, table in self.tables.items()}
        how = {} if self.binarize is None else {"binarized": f"sampled once, seed {self.binarize.seed}"}
        return {"name": self.name, **sizes, **how, **self.labelling(), "sha256": sha256.hexdigest()}

    def labelling(self) -> dict[str, Any]:
        """How many labels are kept, and which."""
        return {} if self.num_labels is None else {"labels": self.num_labels, "label_seed": self.label_seed}

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader("train", self.batch_size, seed=self.seed)

    def val_dataloader(self) -> DataLoader[dict[str, Tensor]] | list[Any]:
        return self._loader("val", self.eval_batch_size, seed=None) if self.val_size else []

    def test_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        return self._loader("test", self.eval_batch_size, seed=None)

    def some_images(self, count: int) -> Tensor:
        """Training images that the seed chooses, [count, C, H, W] float32 in [0, 1]; the same on every rank."""
        table = self.tables["train"]
        order = torch.randperm(len(table), generator=keyed_generator(self.seed, "some images"))
        return table[order[torch.arange(count) % len(order)]]["image"].float() / 255

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Any]:
        batch = self.scaled(batch)
        if self.num_labels is not None and self.trainer is not None and self.trainer.training:
            return streams_of(batch, labelled=self.num_labels > 0)
        return batch

    def scaled(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on its device, augmented in training, its images in [0, 1]."""
        images = batch["image"]
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            images = shift_and_flip(images, self._draws(batch["index"]), self.augment.pad)
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32
        assert isinstance(dtype, torch.dtype)
        scaled = images.to(torch.promote_types(dtype, torch.float32)).div_(255)
        return batch | {"image": scaled.to(dtype)}

    def _draws(self, index: Tensor) -> Tensor:
        """This epoch's draws for these training examples; those of all are made at once and stay on the device."""
        assert self.augment is not None
        assert self.trainer is not None
        epoch = self.trainer.current_epoch
        if self.drawn is None or self.drawn[0] != epoch:
            self.drawn = epoch, self.augment.draw(len(self.tables["train"]), self.seed, epoch).to(index.device)
        return self.drawn[1][index]

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader[dict[str, Tensor]]:
        table = self.tables[split]
        if self.trainer is not None:
            table = table.to(self.trainer.strategy.root_device)  # indexing on the device: no copy a step
        batches = self._batches(split, batch_size, seed)
        return DataLoader(table, sampler=batches, batch_size=None, generator=torch.Generator())

    def _batches(self, split: str, batch_size: int, seed: int | None) -> GlobalBatches:
        """This rank's; in training those of the streams, where there are several."""
        table, rank, world_size = self.tables[split], 0, 1
        if self.trainer is not None:
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
        how = {"seed": seed, "rank": rank, "world_size": world_size, "consumed": self._consumed(seed)}
        if split != "train" or self.num_labels is None:
            return GlobalBatches(len(table), batch_size, **how)
        labelled = labelled_subset(table.labels, self.num_labels, self.num_classes, self.label_seed, self.name)
        return StreamBatches(labelled, len(table), batch_size, **how)

    def _consumed(self, seed: int | None) -> Callable[[], int]:
        return consumed_in_epoch(None if seed is None else self.trainer)

    def _unfit_val_size(self, available: int, official: bool) -> str:
        if official:
            return (
                f"datamodule.val_size={self.val_size} cannot be chosen from the official validation split of "
                f"{self.name}, of which {available} images are here: choose 0 (no validation) to {available}."
            )
        return (
            f"datamodule.val_size={self.val_size} leaves nothing to train on: {self.name} has {available} "
            "training examples. Choose 0 (no validation) or a smaller number."
        )
