"""The base of the callbacks that hold texts that a module makes against those that it should make."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.examples import evenly_chosen
from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import log_table
from callbacks.instruments.rows_of_ranks import rows_of
from callbacks.instruments.tables import write_table
from foundation.errors import UserError
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import HoldsReferences, Translates
from foundation.whole_files import whole


class OutputsMetric(Metric):
    """Keeps what was made of each example, by its number: the same on any number of ranks."""

    full_state_update = False
    index: list[Tensor]
    ids: list[Tensor]
    lengths: list[Tensor]

    def __init__(self, **metric: Any) -> None:
        super().__init__(**metric)
        for name in ("index", "ids", "lengths"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, index: Tensor, ids: Tensor, lengths: Tensor) -> None:
        """[B], [B, T] and [B] int64."""
        places = torch.arange(ids.shape[1], device=ids.device)
        self.index.append(index)
        self.ids.append(ids[places < lengths.unsqueeze(1)])
        self.lengths.append(lengths)

    def compute(self) -> dict[int, list[int]]:
        """The ids of each example, in their order."""
        index, lengths, ids = rows_of(self.index), rows_of(self.lengths), rows_of(self.ids)
        if index is None or lengths is None:
            return {}
        if ids is None:  # nothing was made of any
            return {it: [] for it in sorted(index.tolist())}
        of_examples = [it.tolist() for it in ids.split(lengths.tolist())]
        return dict(sorted(zip(index.tolist(), of_examples, strict=True)))


class OutputsMeasurement(Measurement):
    """Logs what a subclass makes of outputs and references, and leaves ``outputs.txt`` of a test, what was made of each
    example, a line each in their order, and ``outputs.csv``: some of them with their sources and references.

    Args:
        folder: where these go.
        shown: examples in the table, evenly spread.
    """

    metric: OutputsMetric
    requires = Translates
    requires_data = HoldsReferences
    names: dict[str, Direction]
    """What is logged, with the direction that is better."""
    key: str
    """Of a config's ``callbacks``, for sentences."""

    def __init__(self, folder: str, shown: int) -> None:
        if shown < 1:
            raise UserError(f"callbacks.{self.key}.shown is {shown}: give a number of examples, 1 or more.")
        self.folder, self.shown = Path(folder), shown

    @abstractmethod
    def scores(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """Of all examples; there is one or more."""

    def metrics(self, module: Any, stage: str) -> Directions:
        return {} if stage == "train" else in_stage(stage, self.names)

    def tables(self, module: Any) -> set[str]:
        return {"test/outputs_table"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.metric = OutputsMetric().to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.data, self.split = trainer.datamodule, "test" if trainer.testing else "val"  # pyright: ignore
        self.metric.update(outputs["index"], outputs["output_ids"], outputs["output_lengths"])

    def figures(self) -> dict[str, float]:
        self.made = {number: self.data.decode(ids) for number, ids in self.metric.compute().items()}
        references = self.data.references(self.split)
        of_made = [references[number] for number in self.made]
        return self.scores([*self.made.values()], of_made) if self.made else dict.fromkeys(self.names, float("nan"))

    @rank_zero_only
    def write(self, trainer: Trainer, module: Any) -> None:
        with whole(self.folder / "outputs.txt") as unfinished:
            unfinished.write_text("".join(f"{it}\n" for it in self.made.values()), encoding="utf-8")
        sources, references = self.data.sources("test"), self.data.references("test")
        numbers = list(self.made)
        chosen = torch.tensor(numbers)[evenly_chosen(torch.arange(len(numbers)), len(numbers), self.shown)].tolist()
        rows = [(sources[it], " | ".join(references[it]), self.made[it]) for it in chosen]
        write_table(self.folder / "outputs.csv", [("source", "reference", "output"), *rows])
        log_table(trainer, "test/outputs_table", self.folder / "outputs.csv")
