"""BERT's pre-training (Devlin, Chang, Lee & Toutanova 2018, arXiv:1810.04805).

    python train.py experiment=bert_tiny_text           # texts made by a grammar, a minute on two cores
    python train.py experiment=bert_mini_pretrain
    python train.py experiment=bert_mini_pretrain +lightning_module/objective=left_to_right

A token that was masked is guessed from both sides, and whether the second part of a row is what follows the first
(section 3.1). The paper's ablation is ``objective``: no next sentence, and left to right without it (section 5.1).
What it reaches and where it departs from the paper: docs/methods/bert.md.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from foundation.metrics import Directions
from foundation.protocols import EmbedsText, FillsMasks, HasReleasedLayout, PredictsTokens
from lightning_modules.across_ranks import mean_without_gradient
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.bert import Bert, Pooler, Rows, TokenHead, head, in_round_numbers
from lightning_modules.networks.bert_released import (
    from_released,
    is_released,
    released_config,
    sizes_in,
    sizes_of,
    to_released,
)
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told

Objective = Literal["mlm_and_nsp", "mlm", "left_to_right"]
UNUSED = -100
"""In place of an id that is not asked for."""
UNSEEN = ("heads", "activation", "causal")
"""Of a network, what its weights do not show."""
AT_LEAST = 1e-5
"""What the released code adds to the number of masked tokens."""


def next_tokens(input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and the ids that follow there, [B, L - 1] both: what a model that reads from the left guesses."""
    positions = torch.arange(input_ids.shape[1] - 1, device=input_ids.device)
    follows = positions + 1 < lengths.unsqueeze(1)
    return positions.repeat(len(input_ids), 1), torch.where(follows, input_ids[:, 1:], UNUSED)


def token_weight(rows: int, asked: float | Tensor, ranks: int = 1) -> float | Tensor:
    """What each row's sum of nll is multiplied by, so that the mean over all rows of all ranks is the released code's
    ``sum nll / (N + 1e-5)``, N tokens being asked for in the global batch.

    rows, asked: of a rank, on average.
    """
    return rows / (asked + AT_LEAST / ranks)


class ReadsPairs:
    """What the released files call its weights, and what all that stands on a ``Bert`` says of it."""

    network: Bert
    reads_pairs = True

    @property
    def vocabulary_size(self) -> int:
        return self.network.vocabulary_size

    @property
    def max_length(self) -> int:
        return self.network.max_length

    def from_elsewhere(self, weights: dict[str, Tensor], config: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """Refuses a BERT of other sizes, of which no more than a few layers would begin there."""
        released, own = is_released(weights), self.network.sizes
        ours = from_released(weights) if released else weights
        if released and config is not None:
            theirs = sizes_of(config, "init_from")
        else:
            network = (config or {}).get("network") or {}
            theirs = sizes_in(ours) | {it: network[it] for it in UNSEEN if it in network}
        if differing := [f"lightning_module.network.{it}={theirs[it]}" for it in theirs if theirs[it] != own[it]]:
            raise UserError(f"init_from is a BERT of other sizes: set {' '.join(differing)}.")
        return ours

    def released_weights(self: Any) -> dict[str, Tensor]:
        return to_released(self.state_dict())

    def released_config(self) -> dict[str, Any]:
        return released_config(self.network, **self.released_as())

    def layout(self) -> set[type]:
        """Whether it can be written as a folder of the Hub."""
        return {HasReleasedLayout} if self.network.is_the_paper_s else set()

    @abstractmethod
    def released_as(self) -> dict[str, Any]:
        """What ``config.json`` says of its heads: ``architectures``, and more of a task."""

    def embed(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """The mean of a row's vectors, [B, H] float32 (or double)."""
        x, rows = self.network.encode(input_ids, lengths, segment_ids)
        vectors = at_least_single(rows.unpacked(x))
        if rows.is_token is not None:
            vectors = vectors * rows.is_token.unsqueeze(2)
        return vectors.sum(1) / lengths.unsqueeze(1)


class BertPretraining(ReadsPairs, TakesTurns):
    """Minimises the mean nll of the masked tokens, and adds that of whether B is random (or follows).

    A batch holds ``input_ids`` and ``segment_ids`` [B, L], ``lengths`` [B], ``masked_positions`` and ``masked_ids``
    [B, P] (-100 where unused), and ``is_random_next`` [B]; read from the left, the first three alone.

    Args:
        network: from the left alone (``causal``) where ``objective`` is.
        objective: ``mlm_and_nsp``, ``mlm``, or ``left_to_right``: what follows each token.
        optimizer: makes an optimiser out of parameters.
        turns: see ``TakesTurns``.
    """

    def __init__(
        self, network: Bert, *, objective: Objective = "mlm_and_nsp", optimizer: OptimizerFactory, **turns: Any
    ) -> None:
        super().__init__(**turns)
        if objective not in get_args(Objective):
            known = ", ".join(get_args(Objective))
            raise UserError(f"lightning_module.objective is {objective}: give one of {known}.")
        if network.causal != (objective == "left_to_right"):
            raise UserError(
                f"lightning_module.objective={objective} and lightning_module.network.causal={network.causal} do not "
                "go together: a network that guesses what follows may not see it, and one that fills masks should. "
                "Choose both by +lightning_module/objective."
            )
        self.network, self.objective, self.optimizer = network, objective, optimizer
        self.token_head = TokenHead(network)
        self.predicts_next_sentence = objective == "mlm_and_nsp"
        if self.predicts_next_sentence:
            self.pooler, self.next_sentence = Pooler(network.hidden_size), head(network.hidden_size, 2)

    # --- training ----------------------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def host_inputs(self, batch: Batch, iteration: int) -> Inputs:
        _, ids = self.asked(batch)
        asked = mean_without_gradient(self.trainer, (ids != UNUSED).sum().float())
        return batch | {"token_weight": token_weight(len(ids), asked, self.trainer.world_size)}

    def loss(self, inputs: Inputs) -> Told:
        x, rows = self.encode(inputs)
        nats, _ = self.guessed(x, rows, *self.asked(inputs))
        mlm = (nats.sum(1) * inputs["token_weight"]).mean()
        if not self.predicts_next_sentence:
            return {"loss": mlm}
        logits = at_least_single(self.next_sentence(self.pooler(x, rows)))
        nsp = cross_entropy(logits, inputs["is_random_next"])
        return {"loss": mlm + nsp, f"{self.guess}_nats": mlm, "nsp_nats": nsp}

    def encode(self, batch: Batch) -> tuple[Tensor, Rows]:
        return self.network.encode(batch["input_ids"], batch["lengths"], batch.get("segment_ids"))

    def asked(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Positions and original ids of what is guessed, [B, P] both."""
        if self.objective == "left_to_right":
            return next_tokens(batch["input_ids"], batch["lengths"])
        wanted = ["masked_positions", "masked_ids", *["is_random_next"] * self.predicts_next_sentence]
        if missing := [it for it in wanted if it not in batch]:
            raise UserError(
                f"lightning_module.objective={self.objective} needs {missing[0]}, which the data does not give: choose "
                "datamodule.masking and datamodule.next_sentence by +lightning_module/objective."
            )
        return batch["masked_positions"], batch["masked_ids"]

    def guessed(self, x: Tensor, rows: Rows, positions: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """nll [B, P] of these ids, 0 where none is asked for, and the likeliest ids there.

        The head, most of a small model's work, sees no other token; without padding not even unused slots.
        """
        places, used = (rows.starts().unsqueeze(1) + positions).flatten(), None
        wanted = ids.flatten()
        if self.network.padding_free and not torch.compiler.is_compiling():
            used = (is_asked := wanted != UNUSED).nonzero().squeeze(1)
            used = in_round_numbers(used, is_asked) if used.is_cpu else used
            places, wanted = places[used], wanted[used]
        logits = at_least_single(self.token_head(x[places], self.network.embeddings.word.weight))
        nats = cross_entropy(logits, wanted, ignore_index=UNUSED, reduction="none")
        likeliest = wanted if self.training else logits.argmax(1)
        if used is not None:
            nats, likeliest = (it.new_zeros(ids.numel()).index_copy(0, used, it) for it in (nats, likeliest))
        return nats.view(ids.shape), likeliest.view(ids.shape)

    # --- measuring ---------------------------------------------------------------------------------------------

    @property
    def guess(self) -> str:
        """What is guessed, as its metrics are called."""
        return "lm" if self.objective == "left_to_right" else "mlm"

    def metrics(self, stage: str) -> Directions:
        parts: Directions = {}
        if stage == "train" and self.predicts_next_sentence:
            parts = {f"train/{self.guess}_nats": "min", "train/nsp_nats": "min"}
        return {**super().metrics(stage), **parts}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        x, rows = self.encode(batch)
        positions, ids = self.asked(batch)
        nats, likeliest = self.guessed(x, rows, positions, ids)
        told = {"index": batch["index"], "token_ids": ids, "token_nats": nats, "likeliest_ids": likeliest}
        if self.predicts_next_sentence:
            logits = at_least_single(self.next_sentence(self.pooler(x, rows)))
            told |= {"is_random_next": batch["is_random_next"], "next_sentence_logits": logits}
        return told

    test_step = validation_step

    # --- what callbacks and predict.py ask ---------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        both_sides = set() if self.objective == "left_to_right" else {FillsMasks}
        return {PredictsTokens, EmbedsText} | both_sides | self.layout()

    def released_as(self) -> dict[str, Any]:
        return {"architectures": ["BertForPreTraining" if self.predicts_next_sentence else "BertForMaskedLM"]}

    def token_logits(
        self, input_ids: Tensor, lengths: Tensor, positions: Tensor, segment_ids: Tensor | None = None
    ) -> Tensor:
        x, rows = self.network.encode(input_ids, lengths, segment_ids)
        places = (rows.starts().unsqueeze(1) + positions).flatten()
        logits = self.token_head(x[places], self.network.embeddings.word.weight)
        return at_least_single(logits).unflatten(0, positions.shape)

    def next_sentence_logits(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor) -> Tensor:
        x, rows = self.network.encode(input_ids, lengths, segment_ids)
        return at_least_single(self.next_sentence(self.pooler(x, rows)))

    def attention(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        return self.network.attention(input_ids, lengths, segment_ids)
