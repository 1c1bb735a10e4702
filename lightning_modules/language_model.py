"""A language model: the next token by those before it. It writes endings for texts, and says how likely given ones are.

    python train.py experiment=language_model_tales         # texts made by a grammar, a minute on two cores
    python train.py experiment=language_model_lstm          # an LSTM, on the text in DATA_DIR/text/pretrain
    python train.py experiment=language_model_transformer   # a Transformer decoder on the same
    python -m finished.endings <its folder> --contexts texts.jsonl --out pool.jsonl   # endings for texts of your own

SWAG's generator was of the first kind (Zellers et al. 2018, arXiv:1808.05326), HellaSwag's of the second (Zellers et
al. 2019, arXiv:1905.07830). What it reaches and where it departs from theirs: docs/methods/language_model.md.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from foundation.protocols import ContinuesText, HasReleasedLayout, PredictsTokens
from foundation.randomness import keyed_uniforms
from lightning_modules.across_ranks import mean_without_gradient
from lightning_modules.bert import UNUSED, next_tokens, token_weight
from lightning_modules.micro_batches import Inputs
from lightning_modules.networks.gpt2_released import released_config, to_released
from lightning_modules.networks.language_models import TransformerLanguageModel
from lightning_modules.networks.precision import at_least_single
from lightning_modules.optimized import Batch, OptimizerFactory
from lightning_modules.turns import Player, TakesTurns, Told

AT_ONCE = 2048
"""Tokens whose logits are in memory together when endings are scored."""
BRANCHES = 2**20
"""More endings than a text is ever given: ending j of text i draws by the key i BRANCHES + j."""


def top_p_choice(logits: Tensor, p: float, uniforms: Tensor) -> Tensor:
    """A token of each row out of its nucleus, [N] int64 (Holtzman et al. 2020, equation 2).

    The nucleus holds the likeliest tokens, as few as have a probability of p or more together, and whatever is as
    likely as the last of them; within it, chances are as the probabilities. The first number draws among all tokens,
    which is right wherever it falls into the nucleus, so that few rows are sorted: the others draw again by the second.

    Args:
        logits: [N, V] float32 or finer; -inf: never.
        p: above 0, up to 1.
        uniforms: [N, 2] in [0, 1).
    """
    probabilities = logits.softmax(1)
    chosen = drawn(probabilities, uniforms[:, 0])
    if p >= 1:
        return chosen
    of_chosen = probabilities.gather(1, chosen.unsqueeze(1))
    likelier = (probabilities * (probabilities > of_chosen)).sum(1)
    outside = (likelier >= p).nonzero().squeeze(1)
    if len(outside):
        left = probabilities[outside]
        ordered = left.sort(1, descending=True).values
        last = (ordered.cumsum(1) < p).sum(1, keepdim=True).clamp(max=logits.shape[1] - 1)
        nucleus = left * (left >= ordered.gather(1, last))
        chosen = chosen.index_copy(0, outside, drawn(nucleus, uniforms[outside, 1]))
    return chosen


def drawn(weights: Tensor, uniforms: Tensor) -> Tensor:
    """An index of each row with a chance as its weight; one of weight 0 never. weights: [N, V]; uniforms: [N]."""
    sums = weights.cumsum(1)
    total = sums[:, -1]
    below = torch.minimum(
        uniforms.to(sums.dtype) * total, total.nextafter(torch.zeros_like(total))
    )  # also when rounded
    return torch.searchsorted(sums, below.unsqueeze(1), right=True).squeeze(1)


class LanguageModel(TakesTurns):
    """Minimises the mean nll of each token that follows another.

    A batch holds ``input_ids`` [B, L] and ``lengths`` [B].

    Args:
        network: an ``LstmLanguageModel`` or a ``TransformerLanguageModel``.
        optimizer: makes an optimiser out of parameters.
        turns: see ``TakesTurns``.
    """

    guess, predicts_next_sentence = "lm", False

    def __init__(self, network: nn.Module, *, optimizer: OptimizerFactory, **turns: Any) -> None:
        super().__init__(**turns)
        self.network: Any = network
        self.optimizer = optimizer

    @property
    def vocabulary_size(self) -> int:
        return self.network.vocabulary_size

    @property
    def max_length(self) -> int | None:
        return self.network.max_length

    def capabilities(self) -> set[type]:
        layout = {HasReleasedLayout} if isinstance(self.network, TransformerLanguageModel) else set()
        return {PredictsTokens, ContinuesText} | layout

    def released_weights(self) -> dict[str, Tensor]:
        return to_released(self.network)

    def released_config(self) -> dict[str, Any]:
        return released_config(self.network)

    # --- training ----------------------------------------------------------------------------------------------

    def players(self) -> dict[str, Player]:
        return {"": Player(list(self.parameters()), self.optimizer, self.loss)}

    def host_inputs(self, batch: Batch, iteration: int) -> Inputs:
        _, ids = next_tokens(batch["input_ids"], batch["lengths"])
        asked = mean_without_gradient(self.trainer, (ids != UNUSED).sum().float())
        return batch | {"token_weight": token_weight(len(ids), asked, self.trainer.world_size)}

    def loss(self, inputs: Inputs) -> Told:
        nats, _, _ = self.guessed(inputs["input_ids"], inputs["lengths"])
        return {"loss": (nats.sum(1) * inputs["token_weight"]).mean()}

    def guessed(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """nll of each token that follows, [B, L - 1], 0 where none does; the ids themselves; and the likeliest ones."""
        x, rows = self.network.encode(input_ids, lengths)
        _, ids = next_tokens(input_ids, lengths)
        x, wanted, used = rows.unpacked(x)[:, :-1].flatten(0, 1), ids.flatten(), None
        if self.network.padding_free and not torch.compiler.is_compiling():
            used = (wanted != UNUSED).nonzero().squeeze(1)
            x, wanted = x[used], wanted[used]
        logits = at_least_single(self.network.logits(x))
        nats = cross_entropy(logits, wanted, ignore_index=UNUSED, reduction="none")
        likeliest = wanted if self.training else logits.argmax(1)
        if used is not None:
            nats, likeliest = (it.new_zeros(ids.numel()).index_copy(0, used, it) for it in (nats, likeliest))
        return nats.view(ids.shape), ids, likeliest.view(ids.shape)

    # --- measuring ---------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> Batch:
        nats, ids, likeliest = self.guessed(batch["input_ids"], batch["lengths"])
        return {"index": batch["index"], "token_ids": ids, "token_nats": nats, "likeliest_ids": likeliest}

    test_step = validation_step

    # --- endings of texts --------------------------------------------------------------------------------------

    def ending_nats(self, input_ids: Tensor, lengths: Tensor, endings: Tensor, ending_lengths: Tensor) -> Tensor:
        """Each text is read once, however many endings it has, and the head sees no token of it but the last."""
        batch, number, longest = endings.shape
        last, past = self.network.begin(input_ids, lengths)
        flat, flat_lengths = endings.flatten(0, 1), ending_lengths.flatten()
        before = last.repeat_interleave(number, 0).unsqueeze(1)  # what guesses the first token
        if longest > 1:
            x, rows, _ = self.network.go_on(past, flat[:, :-1], (flat_lengths - 1).clamp(min=1))
            before = torch.cat([before, rows.unpacked(x)], 1)
        is_token = torch.arange(longest, device=endings.device) < flat_lengths.unsqueeze(1)
        used = is_token.flatten().nonzero().squeeze(1)
        x, wanted = before.flatten(0, 1)[used], flat.flatten()[used]
        parts = zip(x.split(AT_ONCE), wanted.split(AT_ONCE), strict=True)
        told = [cross_entropy(at_least_single(self.network.logits(some)), ids, reduction="none") for some, ids in parts]
        nats = torch.cat(told) if told else before.new_zeros(0)
        spread = nats.new_zeros(is_token.numel()).index_copy(0, used, nats)
        return spread.view(batch, number, longest)

    def continuations(
        self,
        input_ids: Tensor,
        lengths: Tensor,
        keys: Sequence[int],
        count: int,
        *,
        longest: int,
        ends: Sequence[int],
        never: Sequence[int] = (),
        p: float = 1.0,
        temperature: float = 1.0,
    ) -> list[list[list[int]]]:
        number = len(input_ids) * count
        of_rows = (np.array(keys)[:, None] * BRANCHES + np.arange(count)).reshape(-1)
        draws = keyed_uniforms(self.seed, "endings", rows=of_rows, columns=2 * longest)
        uniforms = torch.from_numpy(draws).view(number, longest, 2).to(self.device)
        stops = torch.tensor(ends, device=self.device)
        last, past = self.network.begin(input_ids, lengths)
        x, one = last.repeat_interleave(count, 0), torch.ones(number, dtype=torch.int64, device=self.device)
        written = torch.full((number, longest), UNUSED, device=self.device)
        alive = torch.arange(number, device=self.device)
        for step in range(longest):
            logits = at_least_single(self.network.logits(x[alive])) / temperature
            logits[:, list(never)] = float("-inf")
            chosen = top_p_choice(logits, p, uniforms[alive, step])
            written[alive, step] = chosen
            alive = alive[~torch.isin(chosen, stops)]
            if step + 1 == longest or not len(alive):
                break
            following = written[:, step].clamp(min=0).unsqueeze(1)  # rows that have ended go along unread
            x, _, past = self.network.go_on(past, following, one)
        rows = [[it for it in row if it != UNUSED] for row in written.tolist()]
        return [rows[start : start + count] for start in range(0, number, count)]
