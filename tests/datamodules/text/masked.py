"""A masked language model, as small as one can be, on the tales: what text of which each epoch has its own asks of the
house. It tells a word by the mean of the words in its row."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told

NODES: dict[str, Any] = {
    "lightning_module": {
        "_target_": "tests.datamodules.text.masked.MaskedWords",
        "vocabulary_size": 140,
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.02},
        "seed": 0,
    },
    "datamodule": {
        "_target_": "datamodules.text.tales.TalesDataModule",
        "documents": 60,
        "max_length": 48,
        "max_predictions_per_seq": 8,
        "batch_size": 12,
        "val_size": 10,
        "test_size": 20,
        "seed": 0,
    },
}
WORDS = ["callbacks=[default]", "optimized_metric=null", "paper.metric=null", "paper.value=null",
         "trainer.max_steps=-1", "trainer.max_epochs=4"]  # fmt: skip


class MaskedWords(TakesTurns):
    """Logs the loss of what it evaluates, too."""

    max_length = None

    def __init__(self, vocabulary_size: int, optimizer: OptimizerFactory, dropout: float = 0.1, **turns: Any) -> None:
        super().__init__(**turns)
        self.vocabulary_size, self.optimizer = vocabulary_size, optimizer
        self.embedding, self.dropout = nn.Embedding(vocabulary_size, 8), nn.Dropout(dropout)
        self.linear = nn.Linear(8, vocabulary_size)

    def metrics(self, stage: str) -> dict[str, Any]:
        return {f"{stage}/loss": "min"}

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def loss(self, inputs: Any) -> Told:
        return {"loss": self.nats(inputs).mean(), "index": inputs["index"]}

    def nats(self, batch: Batch) -> Tensor:
        """Of each row, [B]."""
        ids = batch["input_ids"]
        is_text = torch.arange(ids.shape[1], device=ids.device) < batch["lengths"].unsqueeze(1)
        words = self.dropout(self.embedding(ids)) * is_text.unsqueeze(2)
        logits = self.linear(words.sum(1) / batch["lengths"].unsqueeze(1)).unsqueeze(2)
        told = batch["masked_ids"]
        each = cross_entropy(logits.expand(-1, -1, told.shape[1]), told, reduction="none", ignore_index=-100)
        return each.sum(1) / (told >= 0).sum(1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/loss", self.nats(batch).mean(), batch_size=len(batch["index"]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test/loss", self.nats(batch).mean(), batch_size=len(batch["index"]))
