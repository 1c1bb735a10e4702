"""The base of the sets of texts that are made into texts, and their table."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batches import GlobalBatches, LengthOrder, TokenBatches
from datamodules.image_files import say
from datamodules.splits import SplitDataModule, Table
from datamodules.text.tokens import TokenTable
from datamodules.text.words import Vocabulary, sha256_of, vocabulary_of
from foundation.errors import UserError
from foundation.randomness import keyed_generator

TENTH = 10


@dataclass(frozen=True)
class Texts:
    """Examples: what each is made of, and what may be made of it, one text or more, the first of which is the target
    that a loss is taken of."""

    sources: Sequence[str]
    references: Sequence[tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def targets(self) -> list[str]:
        return [them[0] for them in self.references]

    def take(self, numbers: Tensor) -> "Texts":
        rows: list[int] = numbers.tolist()
        return Texts([self.sources[it] for it in rows], [self.references[it] for it in rows])


class PairsTable(Table):
    """A batch has ``input_ids`` [B, S] int64 with ``lengths`` [B], and ``target_ids`` [B, T] int64 with
    ``target_lengths`` [B], without begin and end, each padded behind with 0.

    Args:
        source, target: tables of as many texts.
        texts: of which rows of theirs the column ``row`` says; of all of them where it is None.
    """

    def __init__(self, source: TokenTable, target: TokenTable, texts: Texts, row: Tensor | None = None) -> None:
        sides = {"source": source.columns, "target": target.columns}
        columns = {f"{side}_{name}": it for side, columns in sides.items() for name, it in columns.items()}
        super().__init__(columns | {"row": torch.arange(len(texts)) if row is None else row})
        self.source, self.target, self.texts = source, target, texts

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        target = self.target[positions]
        return self.source[positions] | {"target_ids": target["input_ids"], "target_lengths": target["lengths"]}

    def with_columns(self, columns: Mapping[str, Tensor]) -> "PairsTable":
        source, target = (
            table.with_columns({name: columns[f"{side}_{name}"] for name in table.columns})
            for side, table in {"source": self.source, "target": self.target}.items()
        )
        return PairsTable(source, target, self.texts, columns["row"])

    def to(self, device: torch.device) -> "PairsTable":
        row = self.columns["row"].to(device)
        return PairsTable(self.source.to(device), self.target.to(device), self.texts, row)

    def own_texts(self) -> Texts:
        return self.texts.take(self.columns["row"])

    @property
    def both_lengths(self) -> Tensor:
        """Of the target with its end, which is what takes the time, and of the source; int64 [N, 2]."""
        return torch.stack([self.target.known_lengths + 1, self.source.known_lengths], 1)

    def contents(self) -> Iterator[Tensor]:
        """Also the texts, which decide what outputs are held against."""
        yield from self.source.contents()
        yield from self.target.contents()
        own = self.own_texts()
        for source, references in zip(own.sources, own.references, strict=True):
            yield torch.from_numpy(np.frombuffer("\n".join([source, *references]).encode(), dtype=np.uint8).copy())


class PairsDataModule(SplitDataModule):
    """Splits of pairs of texts as token ids. A batch is as of ``PairsTable``, with ``index`` [B] int64.

    Ids in both vocabularies: 0 padding, 1 unknown, 2 begin, 3 end, words from 4. Training batches are of texts of
    nearly one length (``TokenBatches``). A subclass implements ``read`` and ``make_vocabularies``. The vocabularies
    are kept in checkpoints, so that whoever uses a finished run needs none of its files.

    Args:
        batch_tokens: of a training step over all ranks together, at most: its pairs times the tokens of its longest
            text, end and padding among them.
        max_length: tokens of a source or of a target. Pairs with a longer one are left out of training, and a line
            counts them; validation and test keep theirs.
        test_size: examples of the test where the data has none of its own; None: a tenth.
        train_size: examples of training that ``split_seed`` chooses, so that less is learnt from less; None: all.
        splits: see ``SplitDataModule``.
    """

    num_classes = None

    def __init__(
        self,
        *,
        batch_tokens: int,
        max_length: int = 80,
        test_size: int | None = None,
        train_size: int | None = None,
        batch_size: int | None = None,  # the base's, which a config would have to give otherwise
        **splits: Any,
    ) -> None:
        if batch_size is not None:
            raise UserError(
                f"datamodule.batch_size={batch_size}: batches of {self.name} have as many tokens, and not examples: "
                "set datamodule.batch_tokens."
            )
        super().__init__(batch_size=None, **splits)
        for key, size in {"batch_tokens": batch_tokens, "max_length": max_length}.items():
            if size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of tokens, 1 or more.")
        for key, size in {"test_size": test_size, "train_size": train_size}.items():
            if size is not None and size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of examples, 1 or more, or null.")
        self.batch_tokens, self.longest = batch_tokens, max_length
        self.test_size, self.train_size = test_size, train_size
        self._restored: dict[str, Vocabulary] | None = None

    @abstractmethod
    def read(self) -> dict[str, Texts]:
        """``train``, ``val`` and ``test``, whole."""

    def aside(self, texts: Texts, *splits: str) -> dict[str, Texts]:
        """The examples that ``split_seed`` chooses for each of these splits and, of the others, for ``train``."""
        test_size = max(len(texts) // TENTH, 1) if self.test_size is None else self.test_size
        sizes = {split: {"test": test_size, "val": self.val_size}[split] for split in splits}
        if sum(sizes.values()) >= len(texts):
            asked = " and ".join(f"datamodule.{split}_size={size}" for split, size in sizes.items())
            raise UserError(
                f"{asked} leave nothing to train on: {self.name} has {len(texts):,} examples. Choose smaller numbers."
            )
        shuffled = torch.randperm(len(texts), generator=keyed_generator(self.split_seed, "split"))
        found = (
            dict(zip(sizes, shuffled[: sum(sizes.values())].split(list(sizes.values())), strict=True)) if sizes else {}
        )
        left = shuffled[sum(sizes.values()) :]
        found["train"] = left[: self.train_size]
        return {split: texts.take(numbers.sort().values) for split, numbers in found.items()}

    def some(self, texts: Texts, size: int) -> Texts:
        """So many of them, which ``split_seed`` chooses."""
        shuffled = torch.randperm(len(texts), generator=keyed_generator(self.split_seed, "split"))
        return texts.take(shuffled[:size].sort().values)

    @abstractmethod
    def make_vocabularies(self, train: Texts) -> dict[str, Vocabulary]:
        """``source`` and ``target``, of the training part alone. They may be one."""

    @cached_property
    def texts(self) -> dict[str, Texts]:
        found = self.read()
        if not len(found["train"]):
            raise UserError(f"{self.name} has no pairs to train on.")
        return found

    @cached_property
    def _made(self) -> dict[str, Vocabulary]:
        return self.make_vocabularies(self.texts["train"])

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """``source`` and ``target``: those of the run that it is of, else of its training texts."""
        return self._made if self._restored is None else self._restored

    @property
    def vocabulary_size(self) -> int:
        return len(self.vocabularies["source"])

    @property
    def target_vocabulary_size(self) -> int:
        return len(self.vocabularies["target"])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The source ids of anybody's texts, whether it is set up or not."""
        return self.vocabularies["source"].ids_of(texts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of target ids."""
        return self.vocabularies["target"].text_of(ids)

    def sources(self, split: str) -> Sequence[str]:
        return self.tables[split].own_texts().sources

    def references(self, split: str) -> Sequence[Sequence[str]]:
        return self.tables[split].own_texts().references

    # --- splits ----------------------------------------------------------------------------------------------------

    def load(self) -> dict[str, PairsTable]:
        tables = {split: self._table(texts) for split, texts in self.texts.items()}
        whole = tables["train"]
        fits = ((whole.source.known_lengths <= self.longest) & (whole.target.known_lengths <= self.longest)).nonzero()
        left_out = len(whole) - len(fits)
        if left_out == len(whole):
            raise UserError(
                f"datamodule.max_length={self.longest} leaves nothing to train on: each pair of {self.name} has a "
                "longer text. Choose a larger one."
            )
        if left_out:
            quiet = self.trainer is not None and self.trainer.global_rank > 0
            what = f"pairs longer than datamodule.max_length={self.longest} are left out of training"
            say(f"{self.name}: {left_out:,} of {len(whole):,} {what}.", quiet)
            tables["train"] = whole.take(fits.flatten())
        return tables

    def cut(self, loaded: dict[str, PairsTable]) -> dict[str, PairsTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return loaded

    def _table(self, texts: Texts) -> PairsTable:
        source, target = (self.vocabularies[side] for side in ("source", "target"))
        return PairsTable(
            TokenTable.of(source.ids_of(texts.sources)), TokenTable.of(target.ids_of(texts.targets)), texts
        )

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader("train", self.batch_tokens, seed=self.seed)

    def _batches(self, split: str, batch_size: int, seed: int | None) -> GlobalBatches:
        """batch_size: tokens of a training batch, examples of another."""
        lengths = self.tables[split].both_lengths
        if seed is None:
            return LengthOrder(lengths, batch_size, **self._shares(seed))
        return TokenBatches(lengths, batch_size, seed=seed, **self._shares(seed))

    # --- what a checkpoint and a record say of it --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"vocabularies": {side: it.told() for side, it in self.vocabularies.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict != self.state_dict():
            raise UserError(
                f"The training text of {self.name}, or how it is cut into words, is another than the run was trained "
                "on, and so are the vocabularies: give its own files and keys."
            )

    def restore(self, state: dict[str, Any]) -> None:
        """The vocabularies, at once: files that are read after that are read in them."""
        if self.tables:
            self.load_state_dict(state)
            return
        told = state["vocabularies"]
        target = vocabulary_of(told["target"])
        joint = told["source"] == told["target"]
        self._restored = {"source": target if joint else vocabulary_of(told["source"]), "target": target}

    def describe(self) -> dict[str, Any]:
        """Also the sizes of the vocabularies, their fingerprint and how batches are cut."""
        sizes = {"vocabulary_size": self.vocabulary_size, "target_vocabulary_size": self.target_vocabulary_size}
        prints = {side: sha256_of(it) for side, it in self.vocabularies.items()}
        how = {"batch_tokens": self.batch_tokens, "max_length": self.longest}
        return super().describe() | sizes | how | {"vocabulary_sha256": prints}
