"""BERT's fine-tuning: all of a network on a task, with one new layer (section 4 of arXiv:1810.04805).

    python train.py experiment=bert_sst2 init_from=outputs/bert_mini_pretrain/<folder>   # a run of one's own
    python train.py experiment=bert_sst2 init_from=<a folder from the Hub>               # released weights
    python train.py experiment=bert_sst2                                                 # from scratch

What each is for and what it reaches: docs/methods/bert_fine_tuning.md.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from foundation.errors import UserError
from foundation.protocols import (
    Classifies,
    ClassifiesText,
    EmbedsText,
    EstimatesNumbers,
    FindsSpans,
    TagsTokens,
    said,
)
from lightning_modules.across_ranks import mean_without_gradient
from lightning_modules.bert import UNUSED, ReadsPairs, token_weight
from lightning_modules.classifier import Classifier
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.bert import Bert, Pooler, head
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told


class OfTexts(ReadsPairs):
    """One layer on what the pooler says of a text or a pair."""

    def add_head(self: Any, network: Bert, outputs: int, dropout: float) -> None:
        check_dropout(dropout)
        if getattr(self, "compile_mode", None) is not None:
            raise UserError(
                f"lightning_module.compile_mode is {self.compile_mode}, and texts are of lengths that change with each "
                "batch, for each of which a network would be compiled anew: leave it null."
            )
        self.pooler, self.dropout = Pooler(network.hidden_size, last=network.causal), nn.Dropout(dropout)
        self.classifier = head(network.hidden_size, outputs)

    def scores(self: Any, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None) -> Tensor:
        """input_ids, segment_ids: [B, L]; lengths: [B] -> [B, outputs] float32 (or double)."""
        x, rows = self.network.encode(input_ids, lengths, segment_ids)
        return at_least_single(self.classifier(self.dropout(self.pooler(x, rows))))


class BertClassifier(OfTexts, Classifier):
    """A class for each text or pair of texts: GLUE's tasks but STS-B, or a table of one's own.

    A batch holds ``input_ids`` [B, L], ``lengths`` [B], ``label`` [B], and of pairs ``segment_ids`` [B, L].

    Args:
        network: a ``Bert``.
        num_classes: of the task.
        dropout: in front of the new layer.
        classifier: see ``Classifier``.
    """

    def __init__(self, network: Bert, *, num_classes: int, dropout: float = 0.1, **classifier: Any) -> None:
        super().__init__(network, num_classes=num_classes, **classifier)
        self.add_head(network, num_classes, dropout)

    def capabilities(self) -> set[type]:
        return {ClassifiesText, EmbedsText} | self.layout()

    def released_as(self) -> dict[str, Any]:
        names = self.class_names or [str(it) for it in range(self.num_classes)]
        return {"architectures": ["BertForSequenceClassification"]} | labelled(names)

    def class_logits(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        return self.scores(input_ids, lengths, segment_ids)

    def logits(self, batch: Batch) -> Tensor:
        return self.scores(batch["input_ids"], batch["lengths"], batch.get("segment_ids"))


class BertChooser(OfTexts, Classifier):
    """Which of several endings goes on with a text (SWAG, HellaSwag; section 4.4): each gets a score by itself.

    A batch holds ``input_ids`` and ``segment_ids`` [B, C, L], ``lengths`` [B, C] and ``label`` [B].

    Args:
        network: a ``Bert``.
        choices: C.
        dropout: in front of the new layer.
        classifier: see ``Classifier``.
    """

    def __init__(self, network: Bert, *, choices: int = 4, dropout: float = 0.1, **classifier: Any) -> None:
        super().__init__(network, num_classes=choices, **classifier)
        self.add_head(network, 1, dropout)

    def capabilities(self) -> set[type]:
        return {Classifies} | self.layout()

    def released_as(self) -> dict[str, Any]:
        return {"architectures": ["BertForMultipleChoice"]}

    def logits(self, batch: Batch) -> Tensor:
        lengths = batch["lengths"]
        ids, segments = batch["input_ids"].flatten(0, 1), batch["segment_ids"].flatten(0, 1)
        return self.scores(ids, lengths.flatten(), segments).view(lengths.shape)


class BertRegressor(OfTexts, TakesTurns):
    """A number for each text or pair (STS-B), by the squared error.

    A batch is that of ``BertClassifier``, with ``label`` [B] float32.

    Args:
        network: a ``Bert``.
        optimizer: makes an optimiser out of parameters.
        dropout: in front of the new layer.
        turns: see ``TakesTurns``.
    """

    needs_labels = True

    def __init__(self, network: Bert, *, optimizer: OptimizerFactory, dropout: float = 0.1, **turns: Any) -> None:
        super().__init__(**turns)
        self.network, self.optimizer = network, optimizer
        self.add_head(network, 1, dropout)

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def capabilities(self) -> set[type]:
        return {EstimatesNumbers, EmbedsText} | self.layout()

    def released_as(self) -> dict[str, Any]:
        single = {"problem_type": "regression"} | labelled(["number"])
        return {"architectures": ["BertForSequenceClassification"]} | single

    def estimate(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        return self.scores(input_ids, lengths, segment_ids).squeeze(1)

    def loss(self, inputs: Inputs) -> Told:
        found = self.estimate(inputs["input_ids"], inputs["lengths"], inputs.get("segment_ids"))
        return {"loss": mse_loss(found, inputs["label"].to(found.dtype))}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        found = self.estimate(batch["input_ids"], batch["lengths"], batch.get("segment_ids"))
        return {"index": batch["index"], "estimate": found, "label": batch["label"]}

    test_step = validation_step


class OfTokens(ReadsPairs):
    """One layer on each token's vector."""

    def scores(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[B, L, outputs] float32 (or double), zeros in the padding."""
        x, rows = self.network.encode(batch["input_ids"], batch["lengths"], batch.get("segment_ids"))
        spread = at_least_single(rows.unpacked(self.of_vectors(x)))
        return spread if rows.is_token is None else spread * rows.is_token.unsqueeze(2)

    @abstractmethod
    def of_vectors(self, x: Tensor) -> Tensor:
        """[T, H] -> [T, outputs]."""


class BertSpans(OfTokens, TakesTurns):
    """Where in a text the answer to a question begins and ends (SQuAD; sections 4.2 and 4.3); at 0 where it is not.

    A batch holds ``input_ids`` and ``segment_ids`` [B, L] (the question, then the text), ``lengths`` [B], ``start`` and
    ``end`` [B], the first and the last token of the answer.

    Args:
        network: a ``Bert``.
        optimizer: makes an optimiser out of parameters.
        turns: see ``TakesTurns``.
    """

    needs_labels = True

    def __init__(self, network: Bert, *, optimizer: OptimizerFactory, **turns: Any) -> None:
        super().__init__(**turns)
        self.network, self.optimizer = network, optimizer
        self.spans = head(network.hidden_size, 2)

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def capabilities(self) -> set[type]:
        return {FindsSpans} | self.layout()

    def released_as(self) -> dict[str, Any]:
        return {"architectures": ["BertForQuestionAnswering"]}

    def of_vectors(self, x: Tensor) -> Tensor:
        return self.spans(x)

    def span_logits(self, batch: Mapping[str, Tensor]) -> Tensor:
        scores, length = self.scores(batch), batch["input_ids"].shape[1]
        is_padding = torch.arange(length, device=scores.device) >= batch["lengths"].unsqueeze(1)
        return scores.masked_fill(is_padding.unsqueeze(2), float("-inf")).mT

    def loss(self, inputs: Inputs) -> Told:
        logits = self.span_logits(inputs)
        return {"loss": (cross_entropy(logits[:, 0], inputs["start"]) + cross_entropy(logits[:, 1], inputs["end"])) / 2}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        return {"index": batch["index"], "span_logits": self.span_logits(batch)}

    test_step = validation_step


class BertTagger(OfTokens, TakesTurns):
    """A tag for each word, by its first piece (CoNLL-2003; section 5.3).

    A batch holds ``input_ids`` [B, L], ``lengths`` [B] and ``token_label`` [B, L], -100 where no word begins.

    Args:
        network: a ``Bert``.
        num_classes: of the task.
        optimizer: makes an optimiser out of parameters.
        dropout: in front of the new layer.
        turns: see ``TakesTurns``.
    """

    needs_labels = True
    reads_pairs = False

    def __init__(
        self, network: Bert, *, num_classes: int, optimizer: OptimizerFactory, dropout: float = 0.1, **turns: Any
    ) -> None:
        super().__init__(**turns)
        check_dropout(dropout)
        self.network, self.optimizer, self.num_classes = network, optimizer, num_classes
        self.dropout, self.classifier = nn.Dropout(dropout), head(network.hidden_size, num_classes)
        self.class_names: list[str] | None = None  # of the data that it was trained on

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def capabilities(self) -> set[type]:
        return {TagsTokens} | self.layout()

    def released_as(self) -> dict[str, Any]:
        names = self.class_names or [str(it) for it in range(self.num_classes)]
        return {"architectures": ["BertForTokenClassification"]} | labelled(names)

    def of_vectors(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(x))

    def tag_logits(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        return self.scores({"input_ids": input_ids, "lengths": lengths})

    def host_inputs(self, batch: Batch, iteration: int) -> Inputs:
        asked = mean_without_gradient(self.trainer, (batch["token_label"] != UNUSED).sum().float())
        return batch | {"token_weight": token_weight(len(batch["token_label"]), asked, self.trainer.world_size)}

    def loss(self, inputs: Inputs) -> Told:
        logits, labels = self.scores(inputs), inputs["token_label"]
        nats = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNUSED, reduction="none")
        return {"loss": (nats.view(labels.shape).sum(1) * inputs["token_weight"]).mean()}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        return {"index": batch["index"], "tags": self.scores(batch).argmax(2), "token_label": batch["token_label"]}

    test_step = validation_step

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if names := said(getattr(self.trainer, "datamodule", None), "class_names"):
            self.class_names = list(names)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["class_names"] = self.class_names

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.class_names = checkpoint["class_names"]


def labelled(names: Sequence[str]) -> dict[str, Any]:
    """How ``config.json`` names classes."""
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise UserError(f"lightning_module.dropout is {dropout}: give a share from 0 to below 1.")
