"""RAML: maximum likelihood on targets that are nearly right (Norouzi et al. 2016, arXiv:1609.00150).

    python train.py experiment=raml_copy                # rows of letters, a minute on two cores
    python train.py experiment=raml_cmudict
    python train.py experiment=raml_multi30k lightning_module.objective=label_smoothing

What earns a reward is likely in q(y | y*) ~ exp(r(y, y*) / tau), and a network is trained on samples of it (eq. 7):
drawn without the network, they cost next to nothing. ``objective`` has what it is compared with: maximum likelihood,
label smoothing and scheduled sampling. What it reaches and where it departs from the paper: docs/methods/raml.md.
"""

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torchmetrics import MeanMetric

from datamodules.text.words import BEGIN, END, FIRST, PADDING
from foundation.errors import UserError, did_you_mean
from foundation.metrics import Directions
from foundation.protocols import EditsTargets, Translates, said
from lightning_modules.across_ranks import mean_without_gradient
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.beam_search import beam_search
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.sequence_to_sequence import Memory, SequenceToSequence
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.payoffs import (
    Draws,
    Samples,
    chosen_among,
    distance_probabilities,
    importance_weights,
    near,
    options_of,
    price_of_edit,
    sentence_bleu,
    with_spans_replaced,
)
from lightning_modules.turns import Player, TakesTurns, Told

Objective = Literal["ml", "label_smoothing", "scheduled_sampling", "raml"]
Proposal = Literal["hamming", "edit_distance", "ngram"]
Reward = Literal["distance", "bleu"]
FEWEST_WORDS = 2


def with_marks(target_ids: Tensor, target_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """What a decoder reads and what it is to say, both [B, n, T + 1]: BEGIN and the target; the target and END, and
    padding. target_ids: [B, n, T]; target_lengths: [B, n]."""
    said = pad(target_ids, (0, 1)).scatter(2, target_lengths.unsqueeze(2), END)
    return pad(target_ids, (1, 0), value=BEGIN), said


def share_of_truth(iteration: int, decay: float) -> float:
    """How often scheduled sampling shows the true token: k / (k + exp(i / k)) (Bengio et al. 2015)."""
    return decay / (decay + math.exp(min(iteration / decay, 500)))


class RAML(TakesTurns):
    """Trains a network that makes texts of texts; the loss is in nats by a token of the true targets and their ends.

    A batch holds ``index`` [B], ``input_ids`` [B, S] with ``lengths`` [B], and ``target_ids`` [B, T] with
    ``target_lengths`` [B], without begin and end.

    Args:
        network: see ``SequenceToSequence``.
        objective: ``raml``; ``ml``, on the targets themselves; ``label_smoothing``, which gives a share of each token's
            probability to all tokens alike; ``scheduled_sampling``, after tokens that the network draws more and more.
        tau: of the payoff distribution, above 0: the higher, the further from the target.
        samples: of each target in a step; their source is read once.
        proposal: what is drawn: ``hamming``, words replaced by others; ``edit_distance``, also put in and left out;
            ``ngram``, out of ``candidates``, of which one is the target and each other has a span replaced.
        reward: minus the ``distance``, or sentence ``bleu``. The first two proposals are drawn by their distance, and
            weighted where the reward is another; of n-grams samples are drawn by exp(reward / tau).
        rescaled: see ``lightning_modules/payoffs.py``.
        smoothing: of ``label_smoothing``.
        truth_decay: of ``scheduled_sampling``: in iterations, how long the truth is shown.
        beam_size, length_penalty: see ``beam_search``; ``validation_beam_size`` while it is trained.
        longest_output: ``factor`` times a source's tokens plus ``extra``.
        optimizer: makes an optimiser out of parameters.
        turns: see ``TakesTurns``.
    """

    def __init__(
        self,
        network: SequenceToSequence,
        *,
        objective: Objective = "raml",
        tau: float = 0.85,
        samples: int = 1,
        proposal: Proposal = "hamming",
        reward: Reward = "distance",
        rescaled: bool = True,
        candidates: int = 100,
        smoothing: float = 0.1,
        truth_decay: float = 500.0,
        beam_size: int = 5,
        validation_beam_size: int = 1,
        length_penalty: float = 1.0,
        longest_output: dict[str, float],
        optimizer: OptimizerFactory,
        **turns: Any,
    ) -> None:
        super().__init__(**turns)
        known = {"objective": (objective, Objective), "proposal": (proposal, Proposal), "reward": (reward, Reward)}
        for key, (value, names) in known.items():
            if value not in get_args(names):
                hint = did_you_mean(str(value), get_args(names))
                raise UserError(f"lightning_module.{key} is {value}: {hint}")
        self.network, self.objective, self.optimizer = network, objective, optimizer
        self.proposal: Proposal = proposal
        self.tau, self.samples, self.reward = tau, samples, reward
        self.rescaled, self.candidates = rescaled, candidates
        self.smoothing = smoothing if objective == "label_smoothing" else 0.0
        self.truth_decay, self.length_penalty = truth_decay, length_penalty
        self.beam_size, self.validation_beam_size = beam_size, validation_beam_size
        if longest_output.keys() != {"factor", "extra"}:
            keys = ", ".join(longest_output) or "no key"
            raise UserError(f"lightning_module.longest_output has {keys}: give factor and extra.")
        self.output_factor, self.output_extra = longest_output["factor"], int(longest_output["extra"])
        self.words = network.target_vocabulary_size - FIRST
        self.check()
        self.nats_of = nn.ModuleDict({stage: MeanMetric().set_dtype(torch.float64) for stage in ("val", "test")})

    def check(self) -> None:
        """A UserError where a number is out of its range."""
        in_range = {
            "tau": (self.tau, 0 < self.tau < math.inf, "a temperature above 0; near 0 (0.01) it is maximum likelihood"),
            "samples": (self.samples, self.samples >= 1, "1 or more"),
            "candidates": (self.candidates, self.candidates >= 2, "2 or more"),
            "smoothing": (self.smoothing, 0 <= self.smoothing < 1, "a share from 0 to below 1"),
            "truth_decay": (self.truth_decay, self.truth_decay > 0, "a number of iterations above 0"),
            "length_penalty": (self.length_penalty, 0 <= self.length_penalty < math.inf, "0 or more"),
            "longest_output.factor": (self.output_factor, 0 <= self.output_factor < math.inf, "0 or more"),
            "longest_output.extra": (self.output_extra, self.output_extra >= 1, "1 or more"),
        }
        for key, (value, holds, wanted) in in_range.items():
            if not holds:
                raise UserError(f"lightning_module.{key} is {value}: give {wanted}.")
        vocabulary = self.network.target_vocabulary_size
        for key, beam in {"beam_size": self.beam_size, "validation_beam_size": self.validation_beam_size}.items():
            if not 1 <= beam <= vocabulary:
                raise UserError(
                    f"lightning_module.{key} is {beam}: give 1 to {vocabulary}, the size of the target vocabulary."
                )
        if self.words < FEWEST_WORDS:
            raise UserError(
                f"lightning_module.network.target_vocabulary_size is {vocabulary}: give {FIRST + FEWEST_WORDS} or "
                f"more, {FIRST} marks and words."
            )
        if self.reward == "bleu" and self.proposal != "ngram" and self.samples == 1 and self.objective == "raml":
            raise UserError(
                "lightning_module.reward=bleu weighs the samples of a target by one another, and of "
                "lightning_module.samples=1 knows nothing: set samples to 2 or more, or proposal to ngram."
            )

    def not_capturable(self) -> str | None:
        return super().not_capturable() or "its batches differ in size with the lengths of their texts"

    # --- training ----------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Words that are in no text of the data are not drawn either."""
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        given = said(data, "target_vocabulary_size")
        if given is not None:
            self.words = max(given - FIRST, FEWEST_WORDS)

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def host_inputs(self, batch: Batch, iteration: int) -> Inputs:
        tokens = (batch["target_lengths"] + 1).sum().double()
        return self.inputs_of(batch, iteration, mean_without_gradient(self.trainer, tokens))

    def inputs_of(self, batch: Batch, iteration: int, tokens: Tensor) -> Inputs:
        """The batch, and what is drawn and weighted for it; tokens: of a rank's targets and their ends, on average."""
        # The mean over all ranks' rows of what is weighted by this is the mean over the global batch's tokens.
        inputs = batch | {"token_weight": (len(batch["index"]) / tokens).float()}
        if self.objective == "raml":
            drawn = self.sampled(batch["index"], batch["target_ids"], batch["target_lengths"])
            return inputs | {"sample_ids": drawn.ids, "sample_lengths": drawn.lengths, "sample_weights": drawn.weights}
        if self.objective == "scheduled_sampling":
            draws, width = Draws.of(self.seed, self.current_epoch, batch["index"], 1), batch["target_ids"].shape[1] + 1
            is_true = draws.uniform("truth", width) < share_of_truth(iteration, self.truth_decay)
            return inputs | {"is_true": is_true, "uniform": draws.uniform("own tokens", width).float()}
        return inputs

    def sampled(self, index: Tensor, target_ids: Tensor, target_lengths: Tensor) -> Samples:
        """Targets to be trained on, and what each counts. index, target_lengths: [B]; target_ids: [B, T]."""
        shape = len(index), self.samples
        if self.proposal == "ngram":
            return self.sampled_spans(index, target_ids, target_lengths)
        draws = Draws.of(self.seed, self.current_epoch, index, self.samples)
        targets, lengths = target_ids, target_lengths
        if self.samples > 1:
            targets, lengths = (it.repeat_interleave(self.samples, 0) for it in (targets, lengths))
        ids, after, edits = near(draws, self.proposal, targets, lengths, self.words, self.tau, self.rescaled)
        if self.reward == "distance":
            weights = torch.full(shape, 1 / self.samples, device=index.device)
        else:
            rewards = sentence_bleu(ids, after, targets, lengths)
            price = price_of_edit(options_of(self.proposal, self.words), self.tau, self.rescaled)
            weights = importance_weights(rewards.view(shape), -price * edits.view(shape), self.tau).float()
        return Samples(ids.unflatten(0, shape), after.view(shape), weights)

    def sampled_spans(self, index: Tensor, target_ids: Tensor, target_lengths: Tensor) -> Samples:
        draws = Draws.of(self.seed, self.current_epoch, index, self.candidates)
        shape = len(index), self.candidates
        targets, lengths = (it.repeat_interleave(self.candidates, 0) for it in (target_ids, target_lengths))
        ids, replaced = with_spans_replaced(draws, targets, lengths, self.words)
        ids = ids.unflatten(0, shape)
        ids[:, 0], replaced = target_ids, replaced.view(shape)
        replaced[:, 0] = 0
        if self.reward == "distance":
            rewards = -replaced.double()
        else:
            rewards = sentence_bleu(ids.flatten(0, 1), lengths, targets, lengths).view(shape)
        which = chosen_among(Draws.of(self.seed, self.current_epoch, index, self.samples), rewards / self.tau)
        chosen = ids.gather(1, which.unsqueeze(2).expand(-1, -1, ids.shape[2]))
        weights = torch.full(which.shape, 1 / self.samples, device=index.device)
        return Samples(chosen, target_lengths.unsqueeze(1).expand(which.shape), weights)

    def loss(self, inputs: Inputs) -> Told:
        memory = self.network.encode(inputs["input_ids"], inputs["lengths"])
        if self.objective == "raml":
            nats = self.nats(memory, inputs["sample_ids"], inputs["sample_lengths"])
            nats = (nats * inputs["sample_weights"]).sum(1)
        else:
            choices = (inputs["is_true"], inputs["uniform"]) if self.objective == "scheduled_sampling" else ()
            nats = self.nats(memory, inputs["target_ids"][:, None], inputs["target_lengths"][:, None], *choices)[:, 0]
        return {"loss": (nats * inputs["token_weight"]).mean()}

    def nats(self, memory: Memory, target_ids: Tensor, target_lengths: Tensor, *choices: Tensor) -> Tensor:
        """-log p of each target and its end, smoothed in training where that is the objective: [B, n] float32.

        target_ids: [B, n, T]; target_lengths: [B, n]; choices: ``is_true`` and ``uniform`` of scheduled sampling, [B,
        T + 1] each.
        """
        read, to_say = with_marks(target_ids, target_lengths)
        if choices:
            vectors = self.network.partly_forced(memory, read, *(it.unsqueeze(1) for it in choices))
        else:
            vectors = self.network.forced(memory, read)
        logits = at_least_single(self.network.logits(vectors.flatten(0, 2)))
        smoothing = self.smoothing if self.training else 0.0
        nats = cross_entropy(
            logits, to_say.flatten(), ignore_index=PADDING, reduction="none", label_smoothing=smoothing
        )
        return nats.view(to_say.shape).sum(2)

    # --- measuring ---------------------------------------------------------------------------------------------

    def metrics(self, stage: str) -> Directions:
        own: Directions = {} if stage == "train" else {f"{stage}/loss": "min"}
        return {**super().metrics(stage), **own}

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        return self.logged("val", self.measured(batch, self.validation_beam_size))

    def test_step(self, batch: Batch, batch_idx: int) -> Batch:
        return self.logged("test", self.measured(batch, self.beam_size))

    def logged(self, stage: str, told: Batch) -> Batch:
        """``<stage>/loss``, nats by a token, without smoothing."""
        tokens = told["target_lengths"] + 1
        mean: Any = self.nats_of[stage]
        mean.update(told["nll"] / tokens, tokens)
        self.log(f"{stage}/loss", mean, on_step=False, on_epoch=True, batch_size=len(tokens))
        return told

    def measured(self, batch: Batch, beam_size: int) -> Batch:
        """The best output that is found, and -log p of the target."""
        lengths = batch["target_lengths"]
        memory = self.network.encode(batch["input_ids"], batch["lengths"])
        nats = self.nats(memory, batch["target_ids"][:, None], lengths[:, None])[:, 0]
        ids, found = self.searched(batch["input_ids"], batch["lengths"], beam_size)
        told = {"index": batch["index"], "output_ids": ids, "output_lengths": found}
        return told | {"nll": nats, "target_lengths": lengths}

    def searched(self, input_ids: Tensor, lengths: Tensor, beam_size: int) -> tuple[Tensor, Tensor]:
        limits = (lengths * self.output_factor).long() + self.output_extra
        return beam_search(self.network, input_ids, lengths, limits, beam_size, self.length_penalty)

    # --- what callbacks and predict.py ask ---------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        return {Translates} | ({EditsTargets} if self.objective == "raml" and self.proposal != "ngram" else set())

    @property
    def vocabulary_size(self) -> int:
        return self.network.vocabulary_size

    @property
    def target_vocabulary_size(self) -> int:
        return self.network.target_vocabulary_size

    def translate(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.searched(input_ids, lengths, self.beam_size)

    def edit_probabilities(self, longest: int) -> np.ndarray:
        return distance_probabilities(self.proposal, longest, self.words, self.tau, self.rescaled)  # pyright: ignore
