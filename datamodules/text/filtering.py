"""Texts with a pool of endings, some of which are assigned to each; which ones changes from round to round."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.image_files import say
from datamodules.splits import Table
from datamodules.text.pools import Pooled, read_pool
from datamodules.text.tokens import TokenTable, WordPieceDataModule
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError, did_you_mean
from foundation.randomness import keyed_generator, keyed_uniforms

LENGTHS, BY_NATS = 2, 4
"""Features of a row: tokens of text and ending; and nats of the ending behind its text, by itself, of its end, and of
the text."""
STARTS = ("first", "random")


class EndingTable(Table):
    """Texts with C endings each, rows of a table of pairs. A batch has ``input_ids`` and ``segment_ids`` [B, C, L],
    ``lengths`` [B, C], ``label`` [B] (the right one's place) and ``features`` [B, C, F].

    Args:
        ends: all pairs of a text and an ending.
        features: float32 [rows of ends, F].
        columns: ``rows`` [N, C], ``label`` [N], and ``item`` [N], the texts' places in the pool.
    """

    def __init__(self, ends: TokenTable, features: Tensor, columns: Mapping[str, Tensor]) -> None:
        super().__init__(columns)
        self.ends, self.features = ends, features

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        batch = super().__getitem__(positions)
        rows = batch.pop("rows")
        pairs = self.ends[rows.flatten()]
        told = {key: pairs[key].view(*rows.shape, *pairs[key].shape[1:])
                for key in ("input_ids", "segment_ids", "lengths")}  # fmt: skip
        return batch | told | {"features": self.features[rows]}

    def with_columns(self, columns: Mapping[str, Tensor]) -> "EndingTable":
        return EndingTable(self.ends, self.features, columns)

    def to(self, device: torch.device) -> "EndingTable":
        moved = super().to(device)
        return EndingTable(self.ends.to(device), self.features.to(device), moved.columns)


@dataclass(frozen=True)
class Ends:
    """All endings of some texts: rows of the pairs, whose each is, and its place there (0 is the right one)."""

    rows: Tensor
    texts: Tensor
    places: Tensor


class FilteringDataModule(WordPieceDataModule):
    """Texts with a right ending, a pool of others, and ``negatives`` of these assigned to each.

    In each round texts have other parts, drawn anew: some are filtered (and tested on), ``val_size`` are there to stop
    by, and the others are learnt from; none has two parts. What is shown are the first ``shown`` negatives, in training
    others of them in each epoch. A subclass gives the pool.

    Args:
        negatives: assigned to each text.
        shown: of them, beside the right ending.
        start: the ``first`` of a text's candidates are assigned when it begins (SWAG), or ``random`` ones (HellaSwag).
        least: candidates of a text; those with fewer are left out, and counted aloud. None: ``negatives`` and one.
        most: candidates of a text that are read; None: all.
        filtered: the share of texts that a round filters.
        splits: see ``SplitDataModule``; ``val_size`` texts are there to stop by.
    """

    def __init__(
        self,
        *,
        negatives: int = 3,
        shown: int = 3,
        start: str = "random",
        least: int | None = None,
        most: int | None = None,
        filtered: float = 0.2,
        max_length: int = 128,
        **splits: Any,
    ) -> None:
        super().__init__(max_length=max_length, **splits)
        least = negatives + 1 if least is None else least
        if negatives < 1 or not 1 <= shown <= negatives:
            raise UserError(
                f"datamodule.negatives={negatives} and datamodule.shown={shown}: show 1 or more of the negatives."
            )
        if start not in STARTS:
            raise UserError(f"datamodule.start is {start!r}: {did_you_mean(str(start), STARTS)}")
        if least < negatives or (most is not None and most < least):
            raise UserError(
                f"datamodule.least={least} and datamodule.most={most} are no numbers of candidates for "
                f"datamodule.negatives={negatives}: give {negatives} or more, the second at least the first."
            )
        if not 0 < filtered < 1:
            raise UserError(f"datamodule.filtered is {filtered}: give a share of the texts between 0 and 1.")
        self.negatives, self.shown, self.start = negatives, shown, start
        self.least, self.most, self.share = least, most, filtered
        self.num_classes = shown + 1
        self.round, self.epoch = 0, 0
        self.history: list[dict[str, float]] = []

    @abstractmethod
    def load_pool(self) -> list[Pooled]: ...

    # --- the pool ------------------------------------------------------------------------------------------------

    def load(self) -> dict[str, EndingTable]:
        everything = self.load_pool()
        self.pool = [it for it in everything if len(it.candidates) >= self.least]
        if dropped := len(everything) - len(self.pool):
            say(f"{self.name}: {dropped:,} of {len(everything):,} texts have fewer than {self.least} candidates "
                "(datamodule.least) and are left out.", bool(self.trainer and self.trainer.global_rank))  # fmt: skip
        self._refuse_too_few(len(everything))
        if self.most is not None:
            for it in self.pool:
                it.candidates, it.generators = it.candidates[: self.most], it.generators[: self.most]
                it.nats = it.nats[: self.most + 1]
        self.sizes_of = torch.tensor([len(it.candidates) for it in self.pool])
        self.widest = int(self.sizes_of.max())
        self.first_row = torch.cat([torch.zeros(1, dtype=torch.int64), (self.sizes_of + 1).cumsum(0)])
        texts = [it.context for it in self.pool for _ in range(len(it.candidates) + 1)]
        endings = [ending for it in self.pool for ending in (it.ending, *it.candidates)]
        self.ends = self.table(texts, endings)
        self.features = self._features()
        self.assignment = self._first_assignment()
        self.since = torch.zeros_like(self.assignment)
        return self.tables_of_round()

    def cut(self, loaded: dict[str, EndingTable]) -> dict[str, EndingTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return loaded

    def _refuse_too_few(self, given: int) -> None:
        left = len(self.pool) - max(round(self.share * len(self.pool)), 1) - self.val_size
        if left < 1:
            raise UserError(
                f"{self.name}: {len(self.pool):,} of {given:,} texts have {self.least} candidates or more; with "
                f"datamodule.filtered={self.share} and datamodule.val_size={self.val_size} none is left to train on: "
                "write more candidates, or set datamodule.least, negatives or val_size lower."
            )

    def _features(self) -> Tensor:
        """Of all pairs, each with mean 0 and spread 1."""
        first = self.ends.columns["first"] if "first" in self.ends.columns else torch.zeros(len(self.ends))
        columns = [first, self.ends.known_lengths - first]
        if all(it.nats for it in self.pool):
            columns += torch.tensor([row for it in self.pool for row in it.nats]).unbind(1)
            columns.append(torch.cat([torch.full((len(it.nats),), it.context_nats) for it in self.pool]))
        values = torch.stack([it.double() for it in columns], 1)
        return ((values - values.mean(0)) / values.std(0).clamp(min=1e-6)).float()

    def _first_assignment(self) -> Tensor:
        if self.start == "first":
            return torch.arange(self.negatives).repeat(len(self.pool), 1)
        draws = torch.from_numpy(self._uniforms("first assignment", self.widest))
        draws = draws.masked_fill(torch.arange(self.widest) >= self.sizes_of.unsqueeze(1), 2.0)
        return draws.argsort(1)[:, : self.negatives]

    def _uniforms(self, stream: str, columns: int, *key: int) -> np.ndarray:
        return keyed_uniforms(self.seed, stream, *key, rows=np.arange(len(self.pool)), columns=columns)

    # --- parts of a round ----------------------------------------------------------------------------------------

    def parts_of_round(self) -> dict[str, Tensor]:
        """The texts of each split, by their places in the pool."""
        order = torch.randperm(len(self.pool), generator=keyed_generator(self.seed, "parts", self.round))
        test = max(round(self.share * len(self.pool)), 1)
        sizes = [test, self.val_size, len(self.pool) - test - self.val_size]
        return {name: it.sort().values for name, it in zip(("test", "val", "train"), order.split(sizes), strict=True)}

    @property
    def filtered(self) -> Tensor:
        """The texts that this round filters."""
        return self.parts_of_round()["test"]

    def tables_of_round(self) -> dict[str, EndingTable]:
        parts = self.parts_of_round()
        return {split: self._table(split, parts[split]) for split in ("train", "val", "test")}

    def _table(self, split: str, items: Tensor) -> EndingTable:
        assigned = self.assignment[items]
        if split == "train" and self.shown < self.negatives:
            draws = torch.from_numpy(self._uniforms("shown", self.negatives, self.epoch))[items]
            assigned = assigned.gather(1, draws.argsort(1)[:, : self.shown])
        right = torch.zeros(len(items), 1, dtype=torch.int64)
        rows = torch.cat([right, 1 + assigned[:, : self.shown]], 1) + self.first_row[items].unsqueeze(1)
        # The right ending has a place that says nothing, so that a score that is the same for all is no answer.
        place = torch.from_numpy((self._uniforms("place", 1)[:, 0] * (self.shown + 1)).astype(np.int64))[items]
        swapped = rows.clone()
        swapped[:, 0] = rows.gather(1, place.unsqueeze(1)).squeeze(1)
        swapped.scatter_(1, place.unsqueeze(1), rows[:, :1])
        return EndingTable(self.ends, self.features, {"rows": swapped, "label": place, "item": items})

    # --- what changes --------------------------------------------------------------------------------------------

    def begin_epoch(self, epoch: int) -> None:
        if epoch != self.epoch and self.shown < self.negatives:
            self.epoch = epoch
            self.replace("train", self._table("train", self.parts_of_round()["train"]))

    def begin_round(self, number: int) -> None:
        self.round = number
        self._replace_all()

    def _replace_all(self) -> None:
        for split, table in self.tables_of_round().items():
            if split != "val" or self.val_size:
                self.replace(split, table)

    def assign(self, items: Tensor, assignment: Tensor, came: Tensor, row: dict[str, float]) -> None:
        """Other negatives of some texts, from the next round on. came: those that are others. row: of the history."""
        self.assignment, self.since = self.assignment.clone(), self.since.clone()
        self.assignment[items] = assignment
        self.since[items] = torch.where(came, self.round + 1, self.since[items])
        self.history.append(row)

    def state_dict(self) -> dict[str, Any]:
        return {
            "assignment": self.assignment, "since": self.since, "round": self.round, "epoch": self.epoch,
            "history": self.history,
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        given = state_dict["assignment"]
        if given.shape != self.assignment.shape or (given >= self.sizes_of.unsqueeze(1)).any():
            raise UserError(
                f"{self.name} is another pool than the run's: it has {len(self.pool):,} texts with {self.negatives} "
                f"negatives, and the run {len(given):,} with {given.shape[1]}, or fewer candidates. Give its own files."
            )
        self.assignment, self.since = given, state_dict["since"]
        self.round, self.epoch = state_dict["round"], state_dict["epoch"]
        self.history = [dict(it) for it in state_dict["history"]]
        self._replace_all()

    # --- what a filter asks --------------------------------------------------------------------------------------

    def ends_of(self, items: Tensor) -> Ends:
        """Every ending of these texts."""
        counts = self.sizes_of[items] + 1
        texts = torch.arange(len(items)).repeat_interleave(counts)
        places = torch.arange(len(texts)) - (counts.cumsum(0) - counts)[texts]
        return Ends(self.first_row[items][texts] + places, texts, places)

    def parts(self, rows: Tensor, among: Tensor, tokens: int) -> Iterator[Tensor]:
        """Positions ``among`` those of rows, those of like lengths together, at most so many tokens at once."""
        lengths = self.ends.known_lengths[rows[among]]
        order = among[lengths.argsort()]
        first = 0
        while first < len(order):
            longest = self.ends.known_lengths[rows[order[first:]]].cummax(0).values
            fit = int((longest * torch.arange(1, len(longest) + 1) <= tokens).sum())
            yield order[first : first + max(fit, 1)]
            first += max(fit, 1)

    def row_of(self, rows: Tensor) -> dict[str, Tensor]:
        """Pairs by their rows, with their features."""
        batch = self.ends[rows]
        return {key: batch[key] for key in ("input_ids", "segment_ids", "lengths")} | {"features": self.features[rows]}

    # --- what comes out, and what a record says of it --------------------------------------------------------------

    def outcome(self, first: bool = False) -> Iterator[dict[str, Any]]:
        """See ``FiltersEndings``."""
        assignment, since = (self._first_assignment(), torch.zeros_like(self.since)) if first else (
            self.assignment, self.since)  # fmt: skip
        everything = torch.arange(len(self.pool))
        places = self._table("test", everything).columns["label"].tolist()
        for number, (it, place) in enumerate(zip(self.pool, places, strict=True)):
            chosen = assignment[number, : self.shown].tolist()
            endings, origins = [it.candidates[c] for c in chosen], [it.generators[c] for c in chosen]
            came = since[number, : self.shown].tolist()
            # As in the table: what stood at the right one's place stands first.
            for row, right in ((endings, it.ending), (origins, "right"), (came, 0)):
                row.insert(0, right)
                row[0], row[place] = row[place], row[0]
            yield {
                "ind": it.item, "activity_label": it.group, "ctx": it.context, "endings": endings, "label": place,
                "origins": origins, "rounds": came,
            }  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Also what the pool has, how it is assigned, and how many rounds have filtered it; sizes are of texts."""
        generators: dict[str, int] = {}
        for it in self.pool:
            for name in it.generators:
                generators[name] = generators.get(name, 0) + 1
        return super().describe() | {
            "texts": len(self.pool), "candidates": int(self.sizes_of.sum()), "generators": generators,
            "negatives": self.negatives, "shown": self.shown, "start": self.start, "filtered": self.share,
            "rounds": self.round,
        }  # fmt: skip


class PoolDataModule(FilteringDataModule):
    """A pool out of files.

    Args:
        pool: a file of JSON lines, or several (``pools.py``).
        vocabulary, lowercase: see ``TextFilesDataModule``.
        name: what a record calls the data.
        filtering: see ``FilteringDataModule``.
    """

    test_name = "texts that the last round has not learnt from"

    def __init__(
        self, *, pool: str | Sequence[str], vocabulary: str, lowercase: bool = True, name: str = "pool",
        **filtering: Any,
    ) -> None:  # fmt: skip
        super().__init__(**filtering)
        self.files, self.name = pool, name
        self.tokenizer = WordPiece.of_file(vocabulary, lowercase)

    def load_pool(self) -> list[Pooled]:
        return read_pool(self.files)
