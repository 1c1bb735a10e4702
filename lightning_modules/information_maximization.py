"""Clustering without labels by regularised information maximisation, as an extra that a method may ask for.

A classifier that has never seen a label should use all its categories evenly, be sure of each image, and not
change its mind when the image is moved a little (Krause et al. 2010, RIM; Hu et al. 2017, IMSAT,
arXiv:1702.08720). The terms look at real images alone. ``InformationMaximization`` trains a classifier by them and
nothing else: what they find without the method that asks for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from foundation.metrics import Directions
from foundation.protocols import WeighsClustersOfImages
from foundation.randomness import keyed_generator
from lightning_modules.across_ranks import share
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.dcgan import Discriminator
from lightning_modules.networks.motion import Motion, matrices, moved
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told


@dataclass(frozen=True, kw_only=True)
class RealImageTerms(Motion):
    """Weights of the three terms, and how far an image is moved for the third."""

    balance: float
    confidence: float
    consistency: float


def drawn_motions(size: int, seed: int, iteration: int) -> Tensor:
    """Of a global batch, [size, 6] in [-1, 1]."""
    return torch.rand(size, 6, generator=keyed_generator(seed, "transform", iteration)) * 2 - 1


def balance(mean_probabilities: Tensor) -> Tensor:
    """H(E[Q(c|x)]) in nats, between 0 and log K. mean_probabilities: [K], the mean over the global batch."""
    return -(mean_probabilities * mean_probabilities.clamp_min(1e-8).log()).sum()


def confidence(log_probabilities: Tensor) -> Tensor:
    """-E[H(Q(c|x))] in nats, between -log K and 0. log_probabilities: [B, K]."""
    return (log_probabilities.exp() * log_probabilities).sum(dim=1).mean()


def consistency(log_probabilities: Tensor, moved_log_probabilities: Tensor) -> Tensor:
    """-E[KL(Q(c|x) || Q(c|Tx))] in nats, at most 0; no gradient reaches Q(c|x), the target. Both: [B, K]."""
    target = log_probabilities.detach()
    return -(target.exp() * (target - moved_log_probabilities)).sum(dim=1).mean()


def real_image_bonus(
    logits: Tensor, moved_logits: Tensor, terms: RealImageTerms, global_mean: Callable[[Tensor], Tensor]
) -> Tensor:
    """The weighted sum of the three terms, to be maximised. Logits of one category: [B, K].

    ``global_mean`` averages a mean over these examples over all others of the global batch, with gradient.
    """
    log_probabilities, moved = log_softmax(logits, dim=1), log_softmax(moved_logits, dim=1)
    return (
        terms.balance * balance(global_mean(log_probabilities.exp().mean(dim=0)))
        + terms.confidence * confidence(log_probabilities)
        + terms.consistency * consistency(log_probabilities, moved)
    )


class InformationMaximization(TakesTurns):
    """InfoGAN's trunk and Q, taught by the three terms alone: no generator, no adversarial loss, no bound.

    Motions are drawn as InfoGAN draws them, so an iteration of the same seed sees the same moved images.

    Args:
        discriminator: its trunk and Q's head learn, its real-or-fake head is not used; all outputs of Q are logits of
            one category.
        terms: their weights and the motion.
        optimizer: makes an optimiser out of parameters.
        turns: see ``TakesTurns``.
    """

    needs_find_unused_parameters = True  # the real-or-fake head

    def __init__(
        self,
        discriminator: Discriminator,
        *,
        terms: RealImageTerms | Mapping[str, Any],
        optimizer: OptimizerFactory,
        **turns: Any,
    ) -> None:
        super().__init__(**turns)
        self.discriminator, self.optimizer = discriminator, optimizer
        self.terms = RealImageTerms(**terms) if isinstance(terms, Mapping) else terms
        self.num_clusters = [discriminator.posterior_size]
        self.image_shape = discriminator.image_shape

    def players(self) -> dict[str, Player]:
        moved = [*self.discriminator.trunk.parameters(), *self.discriminator.posterior.parameters()]
        return {"": Player(moved, self.optimizer, self.loss, sees_means=True)}

    def draws(self, iteration: int, size: int) -> Inputs:
        """How an iteration moves its images."""
        motions = share(self.trainer, drawn_motions(size, self.seed, iteration))
        return {"motion": matrices(motions, self.terms, *self.image_shape[1:])}

    def loss(self, inputs: Inputs) -> Told:
        images, logits = inputs["image"], self.category_logits(inputs["image"])
        logits_of_moved = self.category_logits(moved(images, inputs["motion"]))
        bonus = real_image_bonus(logits, logits_of_moved, self.terms, self.global_mean)
        return {"loss": -bonus, "real_image_bonus_nats": bonus}

    def category_logits(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> [B, K]."""
        return at_least_single(self.discriminator.code_posterior(images))

    # --- what callbacks ask ----------------------------------------------------------------------------------

    def capabilities(self) -> set[type]:
        return {WeighsClustersOfImages}

    def metrics(self, stage: str) -> Directions:
        return {**super().metrics(stage), **({"train/real_image_bonus_nats": "max"} if stage == "train" else {})}

    @torch.no_grad()
    def assign_clusters(self, images: Tensor) -> Tensor:
        return self.category_logits(images).argmax(dim=1, keepdim=True)

    @torch.no_grad()
    def cluster_probabilities(self, images: Tensor) -> list[Tensor]:
        return [self.category_logits(images).softmax(dim=1)]

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        seen = {key: batch[key] for key in ("index", "label") if key in batch}
        return seen | {"cluster": self.assign_clusters(batch["image"])}

    test_step = validation_step
