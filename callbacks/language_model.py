"""How well tokens are guessed, those that were masked or those that follow; and whether a sentence follows another."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import KnowsWords, PredictsTokens


class LanguageModelMetric(Metric):
    """Sums over tokens and over texts, so that the figures depend on neither batches nor ranks (those in nats, summed
    in double precision, up to their last digits)."""

    full_state_update = False
    nats: Tensor
    right: Tensor
    counts: Tensor
    pairs: Tensor

    def __init__(self, vocabulary_size: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("nats", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("right", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(vocabulary_size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("pairs", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")  # right ones and all

    def update(self, token_ids: Tensor, token_nats: Tensor, likeliest_ids: Tensor) -> None:
        """[B, P] each; ids are -100 in places that are not used."""
        used = token_ids >= 0
        self.nats += token_nats[used].double().sum()
        self.right += (likeliest_ids == token_ids)[used].sum()
        self.counts += torch.bincount(token_ids[used], minlength=len(self.counts))

    def update_pairs(self, is_random_next: Tensor, logits: Tensor) -> None:
        """is_random_next: [B] int64; logits: [B, 2]."""
        self.pairs[0] += (logits.argmax(1) == is_random_next).sum()
        self.pairs[1] += len(logits)

    def compute(self) -> dict[str, float]:
        tokens = max(int(self.counts.sum()), 1)
        shares = self.counts.double() / tokens
        return {
            "nats": float(self.nats) / tokens,
            "accuracy": int(self.right) / tokens,
            "unigram_nats": float(torch.special.entr(shares).sum()),
            "nsp_accuracy": int(self.pairs[0]) / max(int(self.pairs[1]), 1),
        }

    def perplexities(self, continues_word: Tensor) -> dict[str, float]:
        """Of a token and of a word. continues_word: bool, of each id; ids that the text cannot have may be missing."""
        begun = self.counts.cpu()[: len(continues_word)][~continues_word].sum()
        numbers = {"perplexity": self.counts.sum(), "word_perplexity": begun}
        return {name: float((self.nats.cpu() / max(int(it), 1)).exp()) for name, it in numbers.items()}


class LanguageModel(Measurement):
    """Logs ``<stage>/mlm_nats``, the mean -log of a masked token's probability, ``mlm_accuracy``, and
    ``mlm_unigram_nats``; of a model that reads from the left they are ``lm_...``. Where the module is trained on it
    also ``nsp_accuracy``, the share of pairs of which it is told rightly whether the second is random.

    A model that reads from the left also has ``lm_perplexity``, e to the nats of a token, and ``lm_word_perplexity``, e
    to those of a word: all nats over the number of guessed tokens that begin a word, a mark of an end being one. The
    second alone can be held against a model with another vocabulary.

    The unigram entropy is that of the guessed tokens' own frequencies: no guess that does not look at the text has
    fewer nats.
    """

    metric: LanguageModelMetric
    requires = PredictsTokens
    requires_data = KnowsWords

    def __init__(self) -> None:
        self.guess = ""

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage == "train":
            return {}
        guess = module.guess
        names: dict[str, Direction] = {
            f"{guess}_nats": "min", f"{guess}_accuracy": "max", f"{guess}_unigram_nats": None,
        }  # fmt: skip
        if guess == "lm":
            names |= {"lm_perplexity": "min", "lm_word_perplexity": "min"}
        if module.predicts_next_sentence:
            names["nsp_accuracy"] = "max"
        return in_stage(stage, names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, PredictsTokens)
        self.guess = pl_module.guess
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        self.continues_word = torch.from_numpy(datamodule.continues_word)
        self.metric = LanguageModelMetric(pl_module.vocabulary_size).to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["token_ids"], outputs["token_nats"], outputs["likeliest_ids"])
        if module.predicts_next_sentence:
            self.metric.update_pairs(outputs["is_random_next"], outputs["next_sentence_logits"])

    def figures(self) -> dict[str, float]:
        found = self.metric.compute()
        found |= self.metric.perplexities(self.continues_word)
        return {"nsp_accuracy": found.pop("nsp_accuracy")} | {f"{self.guess}_{name}": it for name, it in found.items()}
