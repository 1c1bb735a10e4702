"""The exponentiated payoff distribution q(y | y*; tau) ~ exp(r(y, y*) / tau) (eq. 4 of arXiv:1609.00150), and samples.

A target's edits are drawn in two steps (section 2.2): how many, by P(e), and then a target that is as far away, each as
likely as any other. P(e) is the number of targets at a distance e, times exp(-e / tau). Of a real vocabulary nearly all
targets are as far away as can be, whatever tau is; so the rescaled distribution, that of the released codes, has
exp(-(e / tau) (1 + log options)), where ``options`` is in how many ways a token can be edited.

Words are token ids from ``FIRST`` on. What marks a beginning, an end or padding is neither edited nor put in, and
an unknown word may become any word. Every draw is a function of (seed, epoch, example, sample): it depends neither on
the batch that the example is in, nor on a device.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.text.words import FIRST
from foundation.randomness import keyed_uniforms_on_device

Distance = Literal["hamming", "edit_distance"]
LONGEST_IN_TABLE = 64
"""Tokens of targets for which the probabilities of all numbers of substitutions are kept: 4 MB."""
SAMPLE = 2**40
"""Samples of an example are this far from one another among the rows of what is drawn."""


# --- how far away ----------------------------------------------------------------------------------------------------


def log_factorials(most: int) -> np.ndarray:
    """log n! for n = 0..most."""
    return np.cumsum(np.log(np.maximum(np.arange(most + 1), 1)))


def log_hamming_counts(longest: int) -> np.ndarray:
    """log C(m, e), [longest + 1, longest + 1] by m and e: targets of m tokens that differ in e, times options^e."""
    factorials, m = log_factorials(longest), np.arange(longest + 1)[:, None]
    e = np.arange(longest + 1)
    counts = factorials[m] - factorials[e] - factorials[np.maximum(m - e, 0)]
    return np.where(e <= m, counts, -np.inf)


def log_edit_counts(longest: int) -> np.ndarray:
    """log of the sum in eq. 11, [longest + 1, 2 longest + 1] by m and e; e is 2 m at most.

        c(e, m) / v^e = sum over s = 0..min(m, e) of C(m, s) C(m + e - 2 s, e - s)

    which are the coefficients of (z + 1 / (1 - z))^m / (1 - z), so that each row follows from the one before it.
    """
    rows = [np.zeros(2 * longest + 1)]
    for _ in range(longest):
        shifted = np.concatenate([[-np.inf], rows[-1][:-1]])
        rows.append(np.logaddexp(shifted, np.logaddexp.accumulate(rows[-1])))
    counts = np.stack(rows)
    return np.where(np.arange(2 * longest + 1) <= 2 * np.arange(longest + 1)[:, None], counts, -np.inf)


def options_of(distance: Distance, words: int) -> int:
    """Into what a token can be edited: any other word; with insertions and deletions any word, or none."""
    return words - 1 if distance == "hamming" else words


def price_of_edit(options: int, tau: float, rescaled: bool) -> float:
    """What an edit costs: q(y) ~ exp(-price e)."""
    return (1 + np.log(options)) / tau if rescaled else 1 / tau


@lru_cache(maxsize=8)
def distance_probabilities(distance: Distance, longest: int, words: int, tau: float, rescaled: bool) -> np.ndarray:
    """P(e) of targets of m tokens, float64 by m = 0..longest and e: [longest + 1, E], rows that sum to one.

    words: how many there are to choose from. rescaled: see above; False: eq. 4 as it stands.
    """
    counts = log_hamming_counts(longest) if distance == "hamming" else log_edit_counts(longest)
    options = options_of(distance, words)
    logits = counts + np.arange(counts.shape[1]) * (np.log(options) - price_of_edit(options, tau, rescaled))
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    # Summed in order, so that a row does not depend on how long the longest is.
    return weights / np.cumsum(weights, axis=1)[:, -1:]


@lru_cache(maxsize=8)
def cumulated(distance: Distance, longest: int, words: int, tau: float, rescaled: bool, device: torch.device) -> Tensor:
    """The sums of P(e) up to each e, float64 [longest + 1, E]; 1 from the largest possible e on."""
    sums = np.cumsum(distance_probabilities(distance, longest, words, tau, rescaled), axis=1)
    return torch.from_numpy(sums / sums[:, -1:]).to(device)


def chosen_by(uniform: Tensor, sums: Tensor) -> Tensor:
    """The number of a choice, [N] int64. uniform: [N] in [0, 1); sums: [N, choices], of probabilities, rising to 1."""
    return (uniform.unsqueeze(1) >= sums).sum(1)


# --- targets at a distance -------------------------------------------------------------------------------------------


def lowest(keys: Tensor, allowed: Tensor, count: Tensor) -> Tensor:
    """[N, T] bool: of each row as many as ``count`` [N] says, those of the lowest keys that are ``allowed`` [N, T]."""
    keys = torch.where(allowed, keys, 2.0)
    limit = keys.sort(1).values.gather(1, (count - 1).clamp(min=0).unsqueeze(1))
    return (keys <= limit) & (count > 0).unsqueeze(1)


def other_words(ids: Tensor, uniform: Tensor, words: int) -> Tensor:
    """Another word in the place of each, all of them equally likely; of what is no word any. [...], [...] in [0, 1)."""
    is_word = ids >= FIRST
    drawn = FIRST + (uniform * (words - is_word.long())).long()
    return drawn + (is_word & (drawn >= ids))


def substituted(target_ids: Tensor, lengths: Tensor, edits: Tensor, uniform: Tensor, words: int) -> Tensor:
    """Targets with so many tokens replaced, [N, T]. target_ids: [N, T]; lengths, edits: [N]; uniform: [N, 2 T]."""
    allowed = torch.arange(target_ids.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    replaced = lowest(uniform[:, ::2], allowed, edits)
    return torch.where(replaced, other_words(target_ids, uniform[:, 1::2], words), target_ids)


def substitution_sums(lengths: Tensor, edits: Tensor, most: int) -> Tensor:
    """Of e edits of m tokens, the sums up to each s = 0..most of the probabilities that s are substitutions, the
    others being insertions: the addends of eq. 11. lengths, edits: [...] -> float64 [..., most + 1], at last 1."""
    m, e = lengths.unsqueeze(-1), edits.unsqueeze(-1)
    s = torch.arange(most + 1, device=lengths.device)
    table = torch.from_numpy(log_factorials(int((m + e).max()) if m.numel() else 0)).to(lengths.device)
    possible = s <= torch.minimum(m, e)
    s = torch.where(possible, s, 0)
    kept, inserted = m - s, e - s
    logits = table[m] - table[s] - 2 * table[kept] + table[kept + inserted] - table[inserted]
    sums = torch.where(possible, logits, -torch.inf).softmax(-1).cumsum(-1)
    return sums / sums[..., -1:]


@lru_cache(maxsize=4)
def all_substitution_sums(longest: int, device: torch.device) -> Tensor:
    """By m = 0..longest and e = 0..2 longest."""
    lengths, edits = torch.arange(longest + 1), torch.arange(2 * longest + 1)
    every_length = lengths.unsqueeze(1).expand(-1, len(edits))
    return substitution_sums(every_length, edits.expand(len(lengths), -1), longest).to(device)


def substitutions_among(edits: Tensor, lengths: Tensor, longest: int, uniform: Tensor) -> Tensor:
    """How many of the edits are substitutions, [N]. edits, uniform: [N]; lengths: [N], at most ``longest``."""
    if longest > LONGEST_IN_TABLE:
        return chosen_by(uniform, substitution_sums(lengths, edits, longest))
    return chosen_by(uniform, all_substitution_sums(power_of_two(longest), lengths.device)[lengths, edits])


def power_of_two(longest: int) -> int:
    """The next one, so that few tables are made."""
    return 2 ** max(longest - 1, 1).bit_length()


def edited(
    target_ids: Tensor,
    lengths: Tensor,
    edits: Tensor,
    substitutions: Tensor,
    tokens: Tensor,
    new: Tensor,
    words: int,
) -> tuple[Tensor, Tensor]:
    """Targets after so many edits, some of them substitutions: [N, T'] with zeros behind, and lengths [N].

    A deletion is a substitution by nothing (section 2.2). Of the m - s tokens that stay, each arrangement with the
    e - s new ones is equally likely; what is substituted lies before the new ones of the same gap. The Levenshtein
    distance is at most e: an insertion beside a deletion, or of a word that was there, may undo some of it.

    target_ids: [N, T]; lengths, edits, substitutions: [N]; in [0, 1) tokens: [N, 2 T], of each whether it is replaced
    and by what, and new: [N, 2 L], L being m + e at least, of each place whether it is new and of each word which.
    """
    width, m, s = target_ids.shape[1], lengths, substitutions
    is_token = torch.arange(width, device=m.device) < m.unsqueeze(1)
    replaced = lowest(tokens[:, ::2], is_token, s)
    deleted, others = other_words_or_none(target_ids, tokens[:, 1::2], words)
    stays, deleted = is_token & ~replaced, replaced & deleted
    # The slots of what stays, among those of what stays and what is new.
    slots = torch.arange(max(int((m + edits - 2 * s).max()), 1) if len(m) else 1, device=m.device)
    is_new = lowest(new[:, ::2][:, : len(slots)], slots < (m + edits - 2 * s).unsqueeze(1), edits - s)
    of_staying = is_new.long().argsort(dim=1, stable=True)
    number = (stays.cumsum(1) - 1).clamp(min=0)
    before = of_staying.gather(1, number.clamp(max=len(slots) - 1)) - number  # new tokens before each that stays
    before = torch.where(stays, before, 0).cummax(1).values
    there = (is_token & ~deleted).long()
    place = before + there.cumsum(1) - there
    after = m - deleted.sum(1) + edits - s
    longest = max(int(after.max()) if len(m) else 0, width)
    out = FIRST + (new[:, 1::2][:, :longest] * words).long()
    out = torch.cat([out, out.new_zeros(len(m), 1)], 1)  # one more place, for what goes nowhere
    old = torch.where(replaced, others, target_ids)
    out = out.scatter(1, torch.where(there.bool(), place, longest), old)[:, :longest]
    return out.masked_fill(torch.arange(longest, device=m.device) >= after.unsqueeze(1), 0), after


def other_words_or_none(ids: Tensor, uniform: Tensor, words: int) -> tuple[Tensor, Tensor]:
    """Whether nothing takes a token's place, and else which word: any other one and nothing are equally likely."""
    choices = words + 1 - (ids >= FIRST).long()
    drawn = uniform * choices
    return drawn < 1, other_words(ids, ((drawn - 1) / (choices - 1).clamp(min=1)).clamp(min=0), words)


# --- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Targets near given ones: n of each of B, every one behind the other."""

    ids: Tensor
    """[B, n, T] int64, zeros behind."""
    lengths: Tensor
    """[B, n]."""
    weights: Tensor
    """[B, n] float32, rows that sum to one."""


@dataclass(frozen=True)
class Draws:
    """Numbers in [0, 1) of an epoch's examples."""

    seed: int
    epoch: int
    rows: Tensor
    """[N] int64: example + SAMPLE * sample."""

    @classmethod
    def of(cls, seed: int, epoch: int, index: Tensor, samples: int) -> "Draws":
        """index: [B] -> rows of B * samples, those of an example one behind the other."""
        if samples > 1:
            index = (index.unsqueeze(1) + torch.arange(samples, device=index.device) * SAMPLE).flatten()
        return cls(seed, epoch, index)

    def uniform(self, stream: str, columns: int) -> Tensor:
        """float64 [N, columns]; what a column has does not depend on how many there are."""
        return keyed_uniforms_on_device(self.seed, stream, self.epoch, rows=self.rows, columns=columns)


def drawn_distances(
    uniform: Tensor, distance: Distance, lengths: Tensor, longest: int, words: int, tau: float, rescaled: bool
) -> Tensor:
    """How far from its target each sample is, [N]. uniform: [N]; lengths: [N], at most ``longest``."""
    sums = cumulated(distance, power_of_two(longest), words, tau, rescaled, lengths.device)
    return chosen_by(uniform, sums[lengths])


def near(
    draws: Draws, distance: Distance, target_ids: Tensor, lengths: Tensor, words: int, tau: float, rescaled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """A sample of each target: ids [N, T'], lengths [N] and distances [N]. target_ids: [N, T]; lengths: [N]."""
    width = target_ids.shape[1]
    if not width:
        return target_ids, lengths, torch.zeros_like(lengths)
    uniform = draws.uniform("raml edits", 2 + 2 * width)
    edits = drawn_distances(uniform[:, 0], distance, lengths, width, words, tau, rescaled)
    tokens = uniform[:, 2:]
    if distance == "hamming":
        return substituted(target_ids, lengths, edits, tokens, words), lengths, edits
    substitutions = substitutions_among(edits, lengths, width, uniform[:, 1])
    most = max(int((lengths + edits).max()) if len(lengths) else 0, width)
    new = draws.uniform("raml insertions", 2 * most)
    return *edited(target_ids, lengths, edits, substitutions, tokens, new, words), edits


def importance_weights(rewards: Tensor, log_proposal: Tensor, tau: float) -> Tensor:
    """w ~ exp(r / tau) / q(y) of samples of a proposal q, self-normalised: [B, n], rows that sum to one.

    rewards, log_proposal: [B, n]; the latter up to a number for each row, as -``price_of_edit`` times the distance is.
    """
    return (rewards / tau - log_proposal).softmax(1)


def with_spans_replaced(
    draws: Draws, target_ids: Tensor, lengths: Tensor, words: int, longest_span: int = 4
) -> tuple[Tensor, Tensor]:
    """Targets with a span of 1 to 4 tokens replaced, [N, T], and how many [N]: the candidates of a released code.

    The last token stays, so that a target of one token or none is left as it is.
    """
    width = target_ids.shape[1]
    place, tokens = draws.uniform("raml spans", 2), draws.uniform("raml span words", width)
    most = (lengths - 1).clamp(0, longest_span)
    size = torch.minimum((place[:, 0] * most).long() + 1, most)
    start = (place[:, 1] * (lengths - size)).long().unsqueeze(1)
    positions = torch.arange(width, device=lengths.device)
    inside = (positions >= start) & (positions < start + size.unsqueeze(1))
    return torch.where(inside, other_words(target_ids, tokens, words), target_ids), size


def chosen_among(draws: Draws, logits: Tensor) -> Tensor:
    """Samples [B, n] of candidates by the softmax of their logits [B, candidates]."""
    sums = logits.double().softmax(1).cumsum(1)
    sums = sums / sums[:, -1:]
    uniform = draws.uniform("raml choices", 1).view(len(logits), -1)
    return (uniform.unsqueeze(2) >= sums.unsqueeze(1)).sum(2)


# --- a reward --------------------------------------------------------------------------------------------------------


def sentence_bleu(ids: Tensor, lengths: Tensor, reference_ids: Tensor, reference_lengths: Tensor) -> Tensor:
    """BLEU of each text by one reference, float64 [N] in [0, 1]; longer n-grams than one word are counted from 1 on
    (Lin and Och 2004), so that a text of few words has a score. Of two texts without a word it is 1.

    ids: [N, T]; reference_ids: [N, R]; lengths: [N].
    """
    width, reference_width = ids.shape[1], reference_ids.shape[1]
    places, theirs = (torch.arange(it, device=ids.device) for it in (width, reference_width))
    used, reference_used = places < lengths.unsqueeze(1), theirs < reference_lengths.unsqueeze(1)
    own_equal = equal_tokens(ids, ids, used, used)
    equal = equal_tokens(ids, reference_ids, used, reference_used)
    own, found = own_equal, equal
    log_precision = torch.zeros(len(ids), dtype=torch.float64, device=ids.device)
    for order in range(1, 5):
        if order > 1:
            own, found = longer(own, own_equal, order), longer(found, equal, order)
        of_own, of_reference = own.sum(2), found.sum(2)
        matches = (torch.minimum(of_own, of_reference) / of_own.clamp(min=1)).double().sum(1)
        total, more = (lengths - order + 1).clamp(min=0).double(), int(order > 1)
        log_precision += ((matches + more) / (total + more).clamp(min=1)).log() / 4
    brevity = (1 - reference_lengths.double() / lengths.double().clamp(min=1)).clamp(max=0)
    score = (log_precision + brevity).exp()
    return torch.where(lengths > 0, score, (reference_lengths == 0).double())


def equal_tokens(left: Tensor, right: Tensor, left_used: Tensor, right_used: Tensor) -> Tensor:
    """[N, T, R] bool, of used tokens alone."""
    return (left.unsqueeze(2) == right.unsqueeze(1)) & left_used.unsqueeze(2) & right_used.unsqueeze(1)


def longer(equal: Tensor, tokens: Tensor, order: int) -> Tensor:
    """Which n-grams are equal, of those of n - 1 tokens that are, and of tokens. [N, T, R] bool, by their starts."""
    last = tokens[:, order - 1 :, order - 1 :]
    grown = torch.zeros_like(equal)
    grown[:, : last.shape[1], : last.shape[2]] = equal[:, : last.shape[1], : last.shape[2]] & last
    return grown
