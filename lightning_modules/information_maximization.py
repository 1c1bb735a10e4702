"""Clustering without labels by regularised information maximisation, as an extra that a method may ask for.

A classifier that has never seen a label should use all its categories evenly, be sure of each image, and not
change its mind when the image is moved a little (Krause et al. 2010, RIM; Hu et al. 2017, IMSAT,
arXiv:1702.08720). The terms look at real images alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import log_softmax

from lightning_modules.networks.motion import Motion


@dataclass(frozen=True, kw_only=True)
class RealImageTerms(Motion):
    """Weights of the three terms, and how far an image is moved for the third."""

    balance: float
    confidence: float
    consistency: float


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

    ``global_mean`` averages a tensor over the ranks with gradient, so that balance is of the global batch.
    """
    log_probabilities, moved = log_softmax(logits, dim=1), log_softmax(moved_logits, dim=1)
    return (
        terms.balance * balance(global_mean(log_probabilities.exp().mean(dim=0)))
        + terms.confidence * confidence(log_probabilities)
        + terms.consistency * consistency(log_probabilities, moved)
    )
