"""Adversarial filtering (SWAG: Zellers, Bisk, Schwartz & Choi 2018, arXiv:1808.05326; HellaSwag: Zellers, Holtzman,
Bisk, Farhadi & Choi 2019, arXiv:1905.07830).

    python train.py experiment=filtering_synthetic          # a planted artefact is filtered out: a minute, no file
    python train.py experiment=filtering_hellaswag_weak datamodule.pool=pool.jsonl
    python train.py experiment=filtering_hellaswag_strong datamodule.pool=pool.jsonl init_from=<a BERT>

A text has a right ending and a pool of written ones. In each round a new discriminator learns on some texts to tell the
right ending from those that are assigned; of the others, which it has not seen, endings that it tells are exchanged for
some of the pool that it takes for better than the right one. What is left is hard for it, and the question is for whom
else. What it reaches and where it departs from the papers: docs/methods/adversarial_filtering.md.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.metrics import Direction, Directions
from foundation.protocols import Classifies
from foundation.randomness import keyed_generator, keyed_uniforms, seeded_for_a_while
from lightning_modules.classifier import Classifier
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.bert_released import from_released, is_released
from lightning_modules.networks.discriminators import BiLstm
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.products import as_in_training, to_round
from lightning_modules.optimized import Batch
from lightning_modules.turns import Player, Told

NEVER = float("-inf")


@dataclass(frozen=True)
class Swapped:
    """assignment: [N, k] int64, which of a text's candidates its negatives are; came: [N, k] bool, which are others."""

    assignment: Tensor
    came: Tensor


def swap_easiest(
    scores: Tensor, right: Tensor, assignment: Tensor, most: int, uniforms: Tensor, weighted: bool = False
) -> Swapped:
    """Both papers' step: of each text up to ``most`` easy negatives, which score less than the right ending, are
    exchanged for as many adversarial candidates, which are not assigned and score more; equal ones are neither.

    As many are exchanged as there are of both. Which ones is uniform (SWAG), or weighted (HellaSwag) without
    replacement by softmax(-score) of the easy and softmax(score) of the adversarial: the largest under Gumbel's noise.

    Args:
        scores: [N, M] of the candidates; -inf where there is none.
        right: [N] of the right endings.
        assignment: [N, k] int64 of 0..M - 1, in a row no two the same.
        most: 0 or more.
        uniforms: [N, 2 M] in [0, 1).
    """
    noise = -(-uniforms.clamp(min=1e-12).log()).log()
    is_assigned = torch.zeros_like(scores, dtype=torch.bool).scatter(1, assignment, True)
    adversarial = ~is_assigned & (scores > right.unsqueeze(1))
    assigned = scores.gather(1, assignment)
    easy = assigned < right.unsqueeze(1)
    pull = scores if weighted else torch.zeros_like(scores)
    candidates = (pull + noise[:, : scores.shape[1]]).masked_fill(~adversarial, NEVER)
    leaving = noise[:, scores.shape[1] :].gather(1, assignment)
    leaving = ((-assigned if weighted else 0) + leaving).masked_fill(~easy, NEVER)
    count = torch.minimum(adversarial.sum(1), easy.sum(1)).clamp(max=most)
    after, came = assignment.clone(), torch.zeros_like(easy)
    comers = candidates.argsort(1, descending=True)[:, : assignment.shape[1]]
    for place, column in enumerate(leaving.argsort(1, descending=True)[:, : comers.shape[1]].unbind(1)):
        rows = (count > place).nonzero().squeeze(1)
        after[rows, column[rows]] = comers[rows, place]
        came[rows, column[rows]] = True
    return Swapped(after, came)


def binary_accuracy(scores: Tensor, right: Tensor, assignment: Tensor) -> float:
    """The share of pairs of a right ending and an assigned one in which the right one scores more."""
    return (right.unsqueeze(1) > scores.gather(1, assignment)).double().mean().item()


def choice_accuracy(scores: Tensor, right: Tensor, assignment: Tensor) -> float:
    """The share of texts whose right ending scores more than all that are assigned."""
    return (right > scores.gather(1, assignment).amax(1)).double().mean().item()


def swaps_allowed(accuracy: float, limits: Sequence[float], most: int) -> int:
    """How many of a text's negatives may be exchanged, by the binary accuracy: 0 up to the first limit, one more above
    each. HellaSwag: 0 up to .525, 1 up to .575, else 2; SWAG has no limits, and 2."""
    return most if not limits else min(sum(accuracy > it for it in limits), most)


class AdversarialFiltering(Classifier):
    """Rounds of whole epochs. In each a network of new weights learns by the cross-entropy of the right ending among
    those that are shown; its best weights, by texts that are set aside, exchange negatives of other texts that are set
    aside, when the next round begins. The last round exchanges nothing: what it tests on is filtered, and new to it.

    A batch holds ``input_ids`` and ``segment_ids`` [B, C, L], ``lengths`` [B, C], ``label`` [B] and ``features`` [B, C,
    F]. The DataModule is a ``FilteringDataModule``.

    Args:
        network: makes one, of ``networks.discriminators``.
        choices: endings that are shown, the right one among them.
        epochs_a_round: epochs of each round; the last is as long as the run has epochs left.
        most_swaps: of a text in a round.
        limits: see ``swaps_allowed``.
        weighted: whether what is exchanged is drawn by its score, see ``swap_easiest``.
        tokens_at_once: of the pool, when it is scored.
        classifier: see ``Classifier``.
    """

    initial_prefixes = (("", "network."), ("network.", ""))

    def __init__(
        self,
        network: Callable[[], nn.Module],
        *,
        choices: int,
        epochs_a_round: int,
        most_swaps: int = 2,
        limits: Sequence[float] = (),
        weighted: bool = False,
        tokens_at_once: int = 16384,
        **classifier: Any,
    ) -> None:
        least = {"choices": 2, "epochs_a_round": 1, "most_swaps": 1, "tokens_at_once": 1}
        for key, value in zip(least, (choices, epochs_a_round, most_swaps, tokens_at_once), strict=True):
            if value < least[key]:
                raise UserError(f"lightning_module.{key} is {value}: give {least[key]} or more.")
        if list(limits) != sorted(limits):
            raise UserError(f"lightning_module.limits is {list(limits)}: give rising shares.")
        super().__init__(network(), num_classes=choices, **classifier)
        self.make_network, self.heads = network, int(getattr(self.network, "heads", 1))
        self.best = deepcopy(self.network).requires_grad_(False)
        self.best_nats: Tensor
        self.head: Tensor
        self.register_buffer("best_nats", torch.tensor(float("inf"), dtype=torch.float64))
        self.register_buffer("head", torch.tensor(self.heads - 1))
        self.epochs_a_round, self.most_swaps, self.limits = epochs_a_round, most_swaps, list(limits)
        self.weighted, self.tokens_at_once = weighted, tokens_at_once
        self.pretrained: dict[str, Tensor] = {}
        self.taken: set[str] = set()
        self.seen = torch.zeros(2, self.heads, dtype=torch.float64)  # nats and right answers of each head
        self.seen_texts = 0

    def capabilities(self) -> set[type]:
        return {Classifies}

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.network.parameters()), self.optimizer, self.loss)}

    def not_capturable(self) -> str | None:
        if any(isinstance(it, BiLstm) for it in self.modules()):
            return "an LSTM asks for the lengths of the texts: choose another lightning_module/discriminator"
        return super().not_capturable()

    # --- a network's answer ------------------------------------------------------------------------------------

    def of_heads(self, batch: Mapping[str, Any], network: nn.Module) -> Tensor:
        """[B, C, heads] float32 (or double)."""
        shape = batch["lengths"].shape
        names = ("input_ids", "segment_ids", "lengths", "features")
        ends = {key: batch[key].flatten(0, 1) for key in names if key in batch}
        logits = at_least_single(network(ends)).flatten(1)
        return logits.view(*shape, logits.shape[1])  # a rank may have no text

    def logits(self, batch: Batch) -> Tensor:
        """Of the network in training."""
        return self.of_heads(batch, self.network)[..., self.head]

    def loss(self, inputs: Inputs) -> Told:
        of_heads = self.of_heads(inputs, self.network)
        loss = sum(cross_entropy(it, inputs["label"]) for it in of_heads.unbind(2))
        logits = of_heads.select(2, self.heads - 1)
        return {"loss": loss, "index": inputs["index"], "logits": logits, "label": inputs["label"]}  # pyright: ignore

    @property
    def judge(self) -> nn.Module:
        """The round's best weights; where nothing was validated, its last."""
        return self.best if self.best_nats.isfinite() else self.network

    # --- early stopping ----------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.seen, self.seen_texts = torch.zeros_like(self.seen, device=self.device), 0

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        of_heads = self.of_heads(batch, self.network)
        for number, it in enumerate(of_heads.unbind(2)):
            self.seen[0, number] += cross_entropy(it.double(), batch["label"], reduction="sum")
            self.seen[1, number] += (it.argmax(1) == batch["label"]).sum()
        self.seen_texts += len(batch["label"])
        return {"index": batch["index"], "logits": of_heads[..., self.head], "label": batch["label"]}

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        seen: Any = self.trainer.strategy.reduce(self.seen, reduce_op="sum")
        nats = seen[0].sum() / max(self.total(self.seen_texts), 1)
        if nats < self.best_nats:
            self.best.load_state_dict(self.network.state_dict())
            self.best_nats.copy_(nats)
            self.head.copy_(seen[1].argmax())

    def total(self, number: int) -> float:
        """Over all ranks."""
        summed: Any = self.trainer.strategy.reduce(torch.tensor(float(number), device=self.device), reduce_op="sum")
        return float(summed)

    def test_step(self, batch: Batch, batch_idx: int) -> Batch:
        logits = self.of_heads(batch, self.judge)[..., self.head]
        return {"index": batch["index"], "logits": logits, "label": batch["label"]}

    # --- rounds ------------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        super().on_train_start()
        if not self.pretrained and not self.trainer.global_step:
            state = self.network.state_dict()
            self.pretrained = {it: state[it].detach().clone() for it in state if f"network.{it}" in self.taken}

    def on_train_epoch_start(self) -> None:
        datamodule: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        number = self.current_epoch // self.epochs_a_round
        if number > datamodule.round:
            self.filter(datamodule)
            datamodule.begin_round(number)
            self.begin_anew(number)
        super().on_train_epoch_start()

    def filter(self, datamodule: Any) -> None:
        """Score the whole pool of the texts that this round has set aside, and exchange negatives of theirs."""
        items = datamodule.filtered
        scores, right = self.scored(datamodule, items)
        before = datamodule.assignment[items]
        told = binary_accuracy(scores, right, before)
        most = swaps_allowed(told, self.limits, self.most_swaps)
        draws = keyed_uniforms(self.seed, "swaps", datamodule.round, rows=items.numpy(), columns=2 * scores.shape[1])
        swapped = swap_easiest(scores, right, before, most, torch.from_numpy(draws), self.weighted)
        shown = self.num_classes - 1
        row = {
            "round": datamodule.round,
            "accuracy_before": choice_accuracy(scores, right, before[:, :shown]),
            "accuracy_after": choice_accuracy(scores, right, swapped.assignment[:, :shown]),
            "binary_accuracy_before": told,
            "binary_accuracy_after": binary_accuracy(scores, right, swapped.assignment),
            "texts": len(items),
            "swaps": int(swapped.came.sum()),
        }
        datamodule.assign(items, swapped.assignment, swapped.came, row)
        for key in ("accuracy_before", "accuracy_after"):
            self.log(f"train/{key}", float(row[key]), batch_size=1)

    def scored(self, datamodule: Any, items: Tensor) -> tuple[Tensor, Tensor]:
        """Of all candidates of these texts, [N, M] on the CPU, -inf where there is none; of the right endings, [N]."""
        ends = datamodule.ends_of(items)  # rows, and where each belongs in the result
        found = torch.zeros(len(ends.rows), dtype=torch.float64, device=self.device)
        share = torch.arange(len(ends.rows)).tensor_split(self.trainer.world_size)[self.trainer.global_rank]
        with evaluating(self), as_in_training():
            for positions in datamodule.parts(ends.rows, share, self.tokens_at_once):
                rows = ends.rows[positions]
                if self.device.type == "cpu":  # some rows once more, for the reason of ``in_round_numbers``
                    rows = torch.cat([rows, rows[: to_round(len(rows))]])
                batch = {key: it.to(self.device).unsqueeze(1) for key, it in datamodule.row_of(rows).items()}
                scores = self.of_heads(batch, self.judge)[: len(positions), 0, self.head]
                found[positions.to(self.device)] = scores.double()
        summed: Any = self.trainer.strategy.reduce(found, reduce_op="sum")
        whole = torch.full((len(items), datamodule.widest + 1), NEVER, dtype=torch.float64)
        whole[ends.texts, ends.places] = summed.cpu()
        return whole[:, 1:], whole[:, 0]

    def begin_anew(self, number: int) -> None:
        """Other weights, but for what ``init_from`` has given; no memory of the optimiser."""
        seed = int(torch.randint(2**31, (1,), generator=keyed_generator(self.seed, "round", number)))
        with seeded_for_a_while(seed):
            fresh = self.make_network().state_dict()
        self.network.load_state_dict(fresh | self.pretrained)
        self.best_nats.fill_(float("inf"))
        for optimizer in self.trainer.optimizers:
            for state in optimizer.state.values():
                for it in state.values():
                    it.zero_()  # in place, where a captured iteration finds it

    def metrics(self, stage: str) -> Directions:
        more: dict[str, Direction] = {}
        if stage == "train":
            more = {"train/accuracy_before": None, "train/accuracy_after": None}
        return {**super().metrics(stage), **more}

    # --- weights from elsewhere --------------------------------------------------------------------------------

    def from_elsewhere(self, weights: dict[str, Tensor], config: Mapping[str, Any] | None) -> dict[str, Tensor]:
        return from_released(weights) if is_released(weights) else weights

    def adopted(self, weights: dict[str, Tensor], file: str, class_names: Sequence[str] | None) -> dict[str, Tensor]:
        own = self.state_dict()
        self.taken |= {name for name, it in weights.items() if it.shape == own[name].shape}
        return weights

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["pretrained"] = self.pretrained

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.pretrained = {name: it.to(self.device) for name, it in checkpoint["pretrained"].items()}
