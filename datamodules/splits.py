"""The base of every data set: splits of rows, how they are batched, and what a record says of them."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self

import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.batches import GlobalBatches, consumed_in_epoch
from datamodules.overlap import trained_on
from datamodules.replacement import differs_between_ranks, is_trained_on, read_anew, reader_of
from foundation.errors import UserError, did_you_mean, in_one_line
from foundation.published import part_of
from foundation.randomness import keyed_generator


def sent(values: Tensor, device: torch.device) -> Tensor:
    """On a device, by a copy for which the host does not wait: one out of ordinary memory would wait for all that a GPU
    has been given to do before."""
    if not values.is_cpu or device.type == "cpu":
        return values.to(device)
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


class Table(Dataset[dict[str, Tensor]]):
    """A split in memory; indexing with a tensor of positions gives a whole batch, which says them as ``index``.

    A kind of rows that takes more than indexing overrides what it needs of this.

    Args:
        columns: tensors of one length, by the names that a batch has them under.
    """

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        assert len(set(map(len, columns.values()))) == 1
        self.columns = dict(columns)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        positions = sent(positions, self.device)
        return {"index": positions} | {name: column[positions] for name, column in self.columns.items()}

    @property
    def device(self) -> torch.device:
        """Where its rows are made."""
        return next(iter(self.columns.values())).device

    def take(self, positions: Tensor) -> Self:
        """The rows at these positions, as a table of their own."""
        return self.with_columns({name: column[positions] for name, column in self.columns.items()})

    def to(self, device: torch.device) -> Self:
        return self.with_columns({name: column.to(device) for name, column in self.columns.items()})

    def with_columns(self, columns: Mapping[str, Tensor]) -> Self:
        """The same kind of table with other content."""
        return type(self)(columns)

    def contents(self) -> Iterator[Tensor]:
        """All that decides its rows, on the CPU: what a fingerprint is made of."""
        yield from self.columns.values()


def fingerprint_of(*tables: Any) -> str:
    """sha256 of all that decides their rows."""
    sha256 = hashlib.sha256()
    for table in tables:
        for content in table.contents():
            sha256.update(content.reshape(-1).numpy().data)
    return sha256.hexdigest()


class SplitDataModule(LightningDataModule):
    """Splits of rows, batched by ``GlobalBatches``. A batch holds ``index`` [B] int64, the rows' numbers in the split.

    A subclass names its data and implements ``load``. One whose tables change during a fit calls ``replace`` where they
    do, and keeps in its ``state_dict`` what decides them.

    Args:
        batch_size: examples a training step over all ranks together; None in a set that cuts batches by something else.
        eval_batch_size: examples an evaluation step over all ranks together.
        val_size: how many examples validation has; 0 means no validation. They are set aside from training, or
            chosen from the official validation split where the data has one: training never sees that split.
        seed: decides the order of training, and what is drawn for it.
        split_seed: decides which examples are set aside; its own key, so that runs that differ in ``seed``
            are measured on the same examples.
    """

    name: str
    num_classes: int | None
    """None where the data has no labels."""
    test_name: str = "test"
    """What is tested on, as papers call it."""
    whole_test: int | None = None
    """How many examples that has; None where every copy has all."""
    tests_on_training_data: bool = False
    """What a test measures is then called ``train_set/...``."""

    def __init__(
        self,
        *,
        batch_size: int | None,
        val_size: int = 0,
        seed: int = 0,
        split_seed: int = 0,
        eval_batch_size: int = 1000,
    ) -> None:
        super().__init__()
        for key, size in {"batch_size": batch_size, "eval_batch_size": eval_batch_size}.items():
            if size is not None and size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of examples, 1 or more.")
        if batch_size is None and type(self).train_dataloader is SplitDataModule.train_dataloader:
            raise UserError("datamodule.batch_size is null: give a number of examples, 1 or more.")
        if val_size < 0:
            raise UserError(f"datamodule.val_size is {val_size}: give a number of examples, 0 (no validation) or more.")
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.val_size, self.seed, self.split_seed = val_size, seed, split_seed
        self._tables: dict[str, Any] = {}
        self._awaited: dict[str, Any] | None = None

    @property
    def tables(self) -> Mapping[str, Any]:
        """Its splits; empty until it is set up. One of them is changed by ``replace``."""
        return MappingProxyType(self._tables)

    @tables.setter
    def tables(self, tables: Mapping[str, Any]) -> None:
        before, self._tables = self._tables, dict(tables) | self._tables
        for split in before.keys() & tables.keys():
            if tables[split] is not before[split]:
                self.replace(split, tables[split])

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Tables of ``train`` and ``test``, and ``val`` where the data has an official validation split."""

    def cut(self, loaded: dict[str, Any]) -> dict[str, Any]:
        """The splits out of what was loaded: ``val_size`` examples that ``split_seed`` chooses are validation."""
        official = loaded.get("val")
        source = loaded["train"] if official is None else official
        if self.val_size >= len(source) + (official is not None):
            raise UserError(self._unfit_val_size(len(source), official is not None))
        shuffled = torch.randperm(len(source), generator=keyed_generator(self.split_seed, "split"))
        kept, aside = shuffled[self.val_size :].sort().values, shuffled[: self.val_size].sort().values
        train = source.take(kept) if official is None and self.val_size else loaded["train"]
        return {"train": train, "val": source.take(aside), "test": loaded["test"]}

    def setup(self, stage: str | None = None) -> None:
        if self.tables:
            return
        try:
            loaded = self.load()
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
                raise
            raise UserError(
                f"datamodule {self.name} does not fit into this machine's memory ({in_one_line(error)}): give a "
                "smaller size."
            ) from None
        if not self.tests_on_training_data and (found := trained_on(loaded["train"], loaded["test"])):
            raise UserError(
                f"{len(found):,} of the {len(loaded['test']):,} test examples of {self.name} are training examples, "
                f"the first {found[0]}, so their figures would be no test's: take them out of one of the two."
            )
        self.tables = self.cut(loaded)
        if self._awaited is not None:
            state, self._awaited = self._awaited, None
            self.load_state_dict(state)

    def replace(self, split: str, table: Any) -> None:
        """Another table takes a split's place; the next batch is of it, and an epoch may have more or fewer of them.

        Between two epochs alone, best at the start of one (``on_train_epoch_start``), and of validation and test
        between two of them: an order is of as many examples as an epoch has. Tables are replaced, never written into:
        a loader may have a copy of its own on the device. Every rank does the same at the same place.
        """
        trainer = self.trainer
        if split not in self._tables:
            raise ValueError(f"{self.name} has no table of {split}: {did_you_mean(split, self._tables)}")
        if split == "val" and not self.val_size:
            raise ValueError(f"datamodule.val_size=0 leaves no validation, so that {self.name} cannot change it.")
        if trainer is not None:
            self._check_change(trainer, split, table)
        self._tables[split] = table
        if trainer is not None:
            read_anew(trainer, split)

    def _check_change(self, trainer: Trainer, split: str, table: Any) -> None:
        changes = f"{type(self).__name__} changes its table of {split}"
        if reader := reader_of(trainer, split):
            raise ValueError(f"{changes} in the middle of {reader}: change it at the start of an epoch, or at its end.")
        if is_trained_on(trainer) and type(self).state_dict is LightningDataModule.state_dict:
            raise ValueError(
                f"{changes}, which a checkpoint has to know: say in state_dict what decides it (tensors and plain "
                "values), and make it again in load_state_dict."
            )
        if trainer.world_size > 1 and differs_between_ranks(trainer, fingerprint_of(table)):
            raise ValueError(f"{changes} to another on each rank: let what it depends on be the same on all.")

    def restore(self, state: dict[str, Any]) -> None:
        """Take the state that a finished run left, now or as soon as there are tables.

        One that needs a part of it without tables, such as a vocabulary, overrides this and takes that part at once.
        """
        if self.tables:
            self.load_state_dict(state)
        else:
            self._awaited = state

    def describe(self) -> dict[str, Any]:
        """Name, sizes and a fingerprint of every split: what a record says of its data."""
        return {**self.tested_on(), **self.sizes(), "sha256": fingerprint_of(*self.tables.values())}

    def tested_on(self) -> dict[str, Any]:
        """What a test's figures are of: the data's name, and the split's with its size where that is a part of it."""
        return {"name": self.name, "split": part_of(self.test_name, len(self.tables["test"]), self.whole_test)}

    def sizes(self) -> dict[str, int]:
        return {split: len(table) for split, table in self.tables.items()}

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.batch_size is not None
        return self._loader("train", self.batch_size, seed=self.seed)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        return self._loader("val", self.eval_batch_size, seed=None) if self.val_size else []

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader("test", self.eval_batch_size, seed=None)

    def _loader(self, split: str, batch_size: int, seed: int | None) -> DataLoader[Any]:
        """seed: of training; None evaluates."""
        table, pinned = self.tables[split], False
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            table = table.to(device)  # indexing on the device: no copy a step but of which rows
            pinned = device.type == "cuda" and table.device.type == "cpu"  # where it stays on the host
        batches = self._batches(split, batch_size, seed)
        return DataLoader(table, sampler=batches, batch_size=None, generator=torch.Generator(), pin_memory=pinned)

    def _batches(self, split: str, batch_size: int, seed: int | None) -> GlobalBatches:
        """This rank's."""
        return GlobalBatches(len(self.tables[split]), batch_size, seed=seed, **self._shares(seed))

    def _shares(self, seed: int | None) -> dict[str, Any]:
        """Which of ``GlobalBatches`` are this rank's, and still to come."""
        if self.trainer is None:
            return {}
        consumed = {} if seed is None else {"consumed": consumed_in_epoch(self.trainer)}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size} | consumed

    def _unfit_val_size(self, available: int, official: bool) -> str:
        if official:
            return (
                f"datamodule.val_size={self.val_size} cannot be chosen from the official validation split of "
                f"{self.name}, of which {available} are here: choose 0 (no validation) to {available}."
            )
        return (
            f"datamodule.val_size={self.val_size} leaves nothing to train on: {self.name} has {available} "
            "training examples. Choose 0 (no validation) or a smaller number."
        )
