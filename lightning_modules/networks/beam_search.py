"""Beam search: the likeliest texts are made longer, word by word, and of those that have ended the best is taken."""

import torch
from torch import Tensor

from datamodules.text.words import BEGIN, END, PADDING
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.sequence_to_sequence import SequenceToSequence


@torch.no_grad()
def beam_search(
    network: SequenceToSequence,
    input_ids: Tensor,
    lengths: Tensor,
    limits: Tensor,
    beam: int,
    length_penalty: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The best text found of each source: ids [B, T] without begin and end, zeros behind, and lengths [B].

    A text of L tokens, its end among them, scores log p / L^length_penalty. Of a source the search ends when as many
    texts have ended as it has beams, when none of those that go on can come to a better score, or at its limit, where
    all have to end. What is found does not depend on the batch that a source is in; one that is done takes no time.

    Args:
        input_ids: [B, S]; lengths: [B].
        limits: [B], tokens of a text, its end among them; 1 or more.
        length_penalty: 0 or more; 0 prefers short texts, 1 takes the mean over tokens.
    """
    size, device = len(lengths), lengths.device
    if not size:
        return input_ids.new_zeros(0, 0), lengths
    texts = torch.full((size, int(limits.max())), PADDING, device=device)
    found_lengths = torch.zeros_like(lengths)
    memory = network.encode(input_ids, lengths)
    state = network.begin(memory, beam)
    rows = torch.arange(size, device=device)  # those that go on
    tokens = torch.full((size, beam), BEGIN, device=device)
    scores = torch.full((size, beam), -torch.inf, device=device)
    scores[:, 0] = 0
    best, ended = scores.new_full((size,), -torch.inf), torch.zeros_like(lengths)
    written = tokens.unsqueeze(2)[:, :, :0]
    time = 0
    while len(rows):
        time += 1
        vectors, state = network.step(tokens, state, memory)
        log_p = at_least_single(network.logits(vectors.flatten(0, 1))).log_softmax(1)
        log_p[:, [PADDING, BEGIN]] = -torch.inf
        totals = scores.unsqueeze(2) + log_p.unflatten(0, scores.shape)
        must_end = limits == time
        goes_on = torch.arange(totals.shape[2], device=device) != END
        totals = totals.masked_fill(must_end[:, None, None] & goes_on, -torch.inf)
        values, places = totals.flatten(1).topk(min(2 * beam, totals[0].numel()), dim=1)
        origin, chosen = places // totals.shape[2], places % totals.shape[2]
        ends = (chosen == END) & values.isfinite()
        # Of twice as many candidates as beams at least half go on, since each beam ends but once.
        counted = ends.clone()
        counted[:, beam:] = False
        ended = ended + counted.sum(1)
        score, which = torch.where(counted, values / time**length_penalty, -torch.inf).max(1)
        better = score > best
        best = torch.where(better, score, best)
        came_from = origin.gather(1, which.unsqueeze(1))
        text = written.gather(1, came_from.unsqueeze(2).expand(-1, -1, time - 1)).squeeze(1)
        texts[rows, : time - 1] = torch.where(better.unsqueeze(1), text, texts[rows, : time - 1])
        found_lengths[rows] = torch.where(better, time - 1, found_lengths[rows])
        order = ends.long().argsort(dim=1, stable=True)[:, :beam]
        scores = torch.where(ends, -torch.inf, values).gather(1, order)
        tokens, origin = chosen.gather(1, order), origin.gather(1, order)
        hopeless = best >= scores[:, 0] / limits.to(scores.dtype) ** length_penalty
        left = ~(must_end | hopeless | (ended >= beam))
        keep = left.nonzero().squeeze(1)
        from_beams = (keep.unsqueeze(1) * beam + origin[keep]).flatten()
        shape = len(keep), beam
        state = tuple(it.flatten(0, 1)[from_beams].unflatten(0, shape) for it in state)
        written = written.flatten(0, 1)[from_beams].unflatten(0, shape)
        if len(keep) < len(left):
            memory = tuple(it[keep] for it in memory)
            rows, tokens, scores, best, ended, limits = (it[keep] for it in (rows, tokens, scores, best, ended, limits))
        written = torch.cat([written, tokens.unsqueeze(2)], 2)
    longest = int(found_lengths.max())
    texts = texts[:, :longest]
    return texts.masked_fill(torch.arange(longest, device=device) >= found_lengths.unsqueeze(1), PADDING), found_lengths
