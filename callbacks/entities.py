"""How well names are found in texts: CoNLL's precision, recall and F1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.entities import counted, f1, kinds_of
from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import log_table
from callbacks.instruments.tables import write_table
from foundation.metrics import Directions, in_stage
from foundation.protocols import TagsTokens, said

COUNTS = ("has", "told", "right")


class EntitiesMetric(Metric):
    """Counts names by their types, and words, so that the figures depend on neither batches nor ranks."""

    full_state_update = False
    names: Tensor
    words: Tensor

    def __init__(self, tags: Sequence[str], **metric: Any) -> None:
        super().__init__(**metric)
        self.tags, self.kinds = list(tags), kinds_of(tags)
        self.add_state("names", torch.zeros(len(COUNTS), len(self.kinds), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("words", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")  # right ones and all

    def update(self, tags: Tensor, labels: Tensor) -> None:
        """[B, L] int64 each; labels are -100 where no word begins."""
        is_word = labels >= 0
        self.words += torch.stack([(tags == labels)[is_word].sum(), is_word.sum()])
        for told, are, kept in zip(tags.tolist(), labels.tolist(), is_word.tolist(), strict=True):
            words = [number for number, it in enumerate(kept) if it]
            found = counted([self.tags[are[it]] for it in words], [self.tags[told[it]] for it in words])
            rows = [[found[what][kind] for kind in self.kinds] for what in COUNTS]
            self.names += torch.tensor(rows, device=self.names.device).view_as(self.names)

    def compute(self) -> dict[str, float]:
        right, words = self.words.tolist()
        figures = dict(zip(("precision", "recall", "f1"), shares(*self.names.sum(1).tolist()), strict=True))
        return figures | {"word_accuracy": right / max(words, 1)}

    def by_type(self) -> list[tuple[str, float, float, float, int]]:
        """Type, precision, recall, F1 and how many there are; of all ranks' where they are synchronised."""
        rows = zip(self.kinds, self.names.T.tolist(), strict=True)
        return [(kind, *shares(*counts), counts[0]) for kind, counts in rows]


def shares(has: int, told: int, right: int) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 of nothing."""
    return right / max(told, 1), right / max(has, 1), f1(has, told, right)


class Entities(Measurement):
    """Logs ``<stage>/f1``, ``precision`` and ``recall`` of names, of which first word, last word and type have to be
    right, over all types together as CoNLL's own script (``conlleval``) has them, and ``word_accuracy``, the share of
    words whose tag is right. Words that a sentence is cut before count nowhere. After the test ``entities.csv`` in the
    run's folder has a row a type.

    Args:
        folder: where the table goes.
    """

    metric: EntitiesMetric
    requires = TagsTokens
    needs_labels = True

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def metrics(self, module: Any, stage: str) -> Directions:
        names: Directions = {"f1": "max", "precision": "max", "recall": "max", "word_accuracy": "max"}
        return {} if stage == "train" else in_stage(stage, names)

    def tables(self, module: Any) -> set[str]:
        return {"test/entities"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        names = said(trainer.datamodule, "class_names")  # pyright: ignore[reportAttributeAccessIssue]
        tags = list(names or map(str, range(said(pl_module, "num_classes"))))
        self.metric = EntitiesMetric(tags).to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["tags"], outputs["token_label"])

    def write(self, trainer: Trainer, module: Any) -> None:
        with self.metric.sync_context():
            self._write(trainer)

    @rank_zero_only
    def _write(self, trainer: Trainer) -> None:
        path = self.folder / "entities.csv"
        write_table(path, [("type", "precision", "recall", "f1", "names"), *self.metric.by_type()])
        log_table(trainer, "test/entities", path)
