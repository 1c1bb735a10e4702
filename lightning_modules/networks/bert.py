"""BERT's network, a Transformer encoder that normalises behind each sum, and its heads (section 3 of
arXiv:1810.04805 and the released code); and, as options, what was found since to learn more within a day on one GPU
(Geiping & Goldstein 2022, arXiv:2212.14034).

Padding costs nothing: the tokens of a batch lie one behind the other, [T, H], in all that sees one token at a time.
Only attention knows of rows.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import gelu, scaled_dot_product_attention

from foundation.errors import UserError
from lightning_modules.networks.products import Linear, to_round

SEGMENTS = 2
INITIAL_STD = 0.02
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "gelu_tanh": partial(gelu, approximate="tanh")}
"""With the error function, as released files on the Hub say, and Google's approximation."""
Activation = Literal["gelu", "gelu_tanh"]
POSITIONS = ("learned", "sinusoidal")
THE_PAPER_S = {"causal": False, "norm_first": False, "gated": False, "biases": True, "positions": "learned"}
"""Options of the network that released files have no word for."""


class Move(torch.autograd.Function):
    """Rows to places, or out of them again, no two to one: each is the gradient of the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, slots: int | None) -> Tensor:
        ctx.save_for_backward(places)
        ctx.slots, ctx.rows = slots, len(x)
        if slots is None:
            return x.index_select(0, places)
        return x.new_zeros(slots, *x.shape[1:]).index_copy_(0, places, x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (places,) = ctx.saved_tensors
        return Move.apply(gradient, places, ctx.rows if ctx.slots is None else None), None, None  # pyright: ignore


@dataclass(frozen=True)
class Rows:
    """Where the tokens of a batch [B, L] lie: row i has ``lengths[i]`` of them, at least one, and then padding.

    Packed are the tokens alone, T of them, row after row; without ``places`` all B L places are, padding included.
    Sizes are read by ``shape``, since ``len`` would be a constant of an exported graph.
    """

    lengths: Tensor
    """[B] int64."""
    longest: int
    """L."""
    places: Tensor | None
    """[T] int64 of B L: tokens, rising, and on a CPU a few of padding behind them."""
    is_token: Tensor | None
    """[B, L]; None where nothing is padding."""

    @classmethod
    def of(cls, lengths: Tensor, longest: int, padding_free: bool = True) -> "Rows":
        """Without padding only as the lengths are read: on a GPU the host waits for them, and under a compiler, which
        wants sizes that no value decides, everything stays in its place."""
        is_token = torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
        if not padding_free or torch.compiler.is_compiling():
            return cls(lengths, longest, None, is_token)
        places = is_token.flatten().nonzero().squeeze(1)
        if len(places) == is_token.numel():
            return cls(lengths, longest, None, None)
        return cls(lengths, longest, in_round_numbers(places, is_token) if lengths.is_cpu else places, is_token)

    def packed(self, x: Tensor) -> Tensor:
        """[B, L, ...] -> [T, ...]."""
        flat = x.flatten(0, 1)
        return flat if self.places is None else Move.apply(flat, self.places, None)  # pyright: ignore

    def unpacked(self, x: Tensor) -> Tensor:
        """[T, ...] -> [B, L, ...], zeros where padding was taken away."""
        slots = self.lengths.shape[0] * self.longest
        spread = x if self.places is None else Move.apply(x, self.places, slots)
        return spread.unflatten(0, (self.lengths.shape[0], self.longest))  # pyright: ignore

    def positions(self) -> Tensor:
        """[T], each token's in its row."""
        return self.packed(torch.arange(self.longest, device=self.lengths.device).repeat(self.lengths.shape[0], 1))

    def starts(self) -> Tensor:
        """[B], where each row begins among the packed tokens."""
        if self.places is None:
            return torch.arange(self.lengths.shape[0], device=self.lengths.device) * self.longest
        return self.lengths.cumsum(0) - self.lengths


def in_round_numbers(chosen: Tensor, is_chosen: Tensor) -> Tensor:
    """Places, and behind them so many of those that are not chosen that there are few numbers of places: by these a
    CPU's library keeps kernels, some megabytes of them for each number that it has met."""
    if not (missing := to_round(len(chosen))):
        return chosen
    return torch.cat([chosen, (~is_chosen).flatten().nonzero().squeeze(1)[:missing]])


def attend(qkv: Tensor, rows: Rows, dropout: float = 0.0, causal: bool = False) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V within each row, of packed queries, keys and values [T, 3, heads, d] -> [T, heads, d].

    causal: a token sees those before it and itself. Padded once more, but where a GPU has a kernel for rows of any
    length: in half precision without dropout, which that one lacks.
    """
    if rows.places is not None and not dropout and has_kernel_for_rows(qkv):
        ends = torch.nn.functional.pad(rows.lengths.cumsum(0), (1, 0)).to(torch.int32)
        window = (-1, 0 if causal else -1)
        query, key, value = qkv.unbind(1)
        out = varlen_attn(query, key, value, ends, ends, rows.longest, rows.longest, window_size=window)
        assert isinstance(out, Tensor)
        return out
    query, key, value = rows.unpacked(qkv).permute(2, 0, 3, 1, 4)  # [B, heads, L, d] each
    # What a token sees of a row from the left has no padding in it.
    seen = None if causal or rows.is_token is None else rows.is_token[:, None, None]
    out = scaled_dot_product_attention(query, key, value, seen, dropout, is_causal=causal)
    return rows.packed(out.transpose(1, 2))


def has_kernel_for_rows(qkv: Tensor) -> bool:
    return qkv.is_cuda and qkv.dtype in (torch.float16, torch.bfloat16)


class SelfAttention(nn.Module):
    """Queries, keys and values by one product."""

    def __init__(self, size: int, heads: int, dropout: float, causal: bool, biases: bool) -> None:
        super().__init__()
        self.heads, self.dropout, self.causal = heads, dropout, causal
        self.qkv, self.out = Linear(size, 3 * size, bias=biases), Linear(size, size, bias=biases)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """[T, H] -> [T, H]."""
        qkv = self.qkv(x).unflatten(1, (3, self.heads, -1))
        return self.out(attend(qkv, rows, self.dropout if self.training else 0.0, self.causal).flatten(1))

    def weights(self, x: Tensor, rows: Rows) -> Tensor:
        """[T, H] -> who looks at whom, [B, heads, L, L]; rows of it sum to one."""
        query, key, _ = rows.unpacked(self.qkv(x).unflatten(1, (3, self.heads, -1))).permute(2, 0, 3, 1, 4)
        scores = (query @ key.mT).float() / query.shape[-1] ** 0.5
        seen = torch.ones(rows.longest, rows.longest, dtype=torch.bool, device=x.device)
        seen = seen.tril() if self.causal else seen
        if rows.is_token is not None:
            seen = seen & rows.is_token[:, None, None]
        return scores.masked_fill(~seen, float("-inf")).softmax(3)


class FeedForward(nn.Module):
    """Wider, and back again. Gated, half of the wide vector says how much of the other half is let through."""

    def __init__(self, size: int, wide: int, activation: str, gated: bool, biases: bool) -> None:
        super().__init__()
        self.rise = Linear(size, wide, bias=biases)
        self.fall = Linear(wide // 2 if gated else wide, size, bias=biases)
        self.activation, self.gated = ACTIVATIONS[activation], gated

    def forward(self, x: Tensor) -> Tensor:
        """[T, H] -> [T, H]."""
        if not self.gated:
            return self.fall(self.activation(self.rise(x)))
        passed, gate = self.rise(x).chunk(2, 1)
        return self.fall(passed * self.activation(gate))


class Layer(FeedForward):
    """x -> LN(x + attention), then LN(x + feed-forward); or with each norm first, x + attention(LN(x)), and so on."""

    def __init__(
        self, size: int, heads: int, intermediate: int, activation: str, dropout: float, attention_dropout: float,
        causal: bool, epsilon: float, norm_first: bool, gated: bool, biases: bool,
    ) -> None:  # fmt: skip
        super().__init__(size, intermediate, activation, gated, biases)
        self.attention = SelfAttention(size, heads, attention_dropout, causal, biases)
        self.attention_norm, self.norm = norm(size, epsilon), norm(size, epsilon)
        self.dropout, self.norm_first = nn.Dropout(dropout), norm_first

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.attention_norm(x), rows))
            return x + self.dropout(super().forward(self.norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, rows)))
        return self.norm(x + self.dropout(super().forward(x)))

    def looks_at(self, x: Tensor, rows: Rows) -> Tensor:
        """Who looks at whom in it, [B, heads, L, L]."""
        return self.attention.weights(self.attention_norm(x) if self.norm_first else x, rows)


class Sinusoids(nn.Module):
    """Positions as waves of many lengths (Vaswani et al. 2017), times one number that is learnt."""

    waves: Tensor

    def __init__(self, max_length: int, size: int) -> None:
        super().__init__()
        frequencies = torch.exp(torch.arange(0, size, 2) * (-math.log(1e4) / size))
        angles = torch.arange(max_length).unsqueeze(1) * frequencies
        waves = torch.stack([angles.sin(), angles.cos()], 2).flatten(1)[:, :size]
        self.register_buffer("waves", waves, persistent=False)
        self.scale = nn.Parameter(torch.tensor(size**-0.5))

    def forward(self, positions: Tensor) -> Tensor:
        """[T] -> [T, H]."""
        return self.scale * self.waves[positions]


class Embeddings(nn.Module):
    """The sum of what a token, its position and its segment say, normalised."""

    def __init__(
        self, vocabulary_size: int, size: int, max_length: int, dropout: float, epsilon: float, positions: str
    ) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary_size, size)
        self.position = nn.Embedding(max_length, size) if positions == "learned" else Sinusoids(max_length, size)
        self.segment, self.norm, self.dropout = nn.Embedding(SEGMENTS, size), norm(size, epsilon), nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, positions: Tensor, segment_ids: Tensor) -> Tensor:
        """All [T] -> [T, H]."""
        return self.dropout(self.norm(self.word(input_ids) + self.position(positions) + self.segment(segment_ids)))


class Bert(nn.Module):
    """Token ids -> a vector of each token.

    Args:
        vocabulary_size: token ids lie below it.
        layers, hidden_size, heads: of the encoder.
        intermediate_size: of the feed-forward layers; None: four times the hidden one.
        max_length: tokens of the longest row; each position has an embedding.
        activation: ``gelu``, or ``gelu_tanh`` as Google's own files were trained with: with the wrong one the hidden
            states of released weights are off by 3e-3.
        dropout: of hidden states. attention_dropout: of who looks at whom.
        causal: a token sees none behind it (the left-to-right model of section 5.1).
        padding_free: compute nothing for padding. False: sizes that a batch's shape alone decides.
        norm_first: normalise what goes into attention and feed-forward, and once behind the last layer; else each sum.
        gated: half of the feed-forward's wide vector lets the other half through.
        biases: of the layers' products.
        positions: ``learned``, or ``sinusoidal``, waves with one scale.
        initial_std: of weights, in the beginning.
    """

    def __init__(
        self,
        vocabulary_size: int,
        layers: int = 12,
        hidden_size: int = 768,
        heads: int = 12,
        intermediate_size: int | None = None,
        max_length: int = 512,
        activation: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        causal: bool = False,
        padding_free: bool = True,
        layer_norm_epsilon: float = 1e-12,
        norm_first: bool = False,
        gated: bool = False,
        biases: bool = True,
        positions: str = "learned",
        initial_std: float = INITIAL_STD,
    ) -> None:
        super().__init__()
        if hidden_size % heads:
            raise UserError(
                f"lightning_module.network.hidden_size is {hidden_size}, which {heads} heads cannot share: give a "
                "multiple of heads."
            )
        check_activation(activation)
        if not 0 <= attention_dropout < 1:
            raise UserError(
                f"lightning_module.network.attention_dropout is {attention_dropout}: give a share from 0 to below 1."
            )
        if positions not in POSITIONS:
            known = ", ".join(POSITIONS)
            raise UserError(f"lightning_module.network.positions is {positions}: give one of {known}.")
        if initial_std <= 0:
            raise UserError(f"lightning_module.network.initial_std is {initial_std}: give a number above 0.")
        self.vocabulary_size, self.max_length, self.hidden_size = vocabulary_size, max_length, hidden_size
        self.heads, self.activation, self.causal, self.padding_free = heads, activation, causal, padding_free
        self.intermediate_size = intermediate_size or 4 * hidden_size
        if gated and self.intermediate_size % 2:
            raise UserError(
                f"lightning_module.network.intermediate_size is {self.intermediate_size}, of which a gate takes half: "
                "give an even number."
            )
        self.layer_norm_epsilon, self.initial_std = layer_norm_epsilon, initial_std
        self.sizes: dict[str, Any] = {
            "vocabulary_size": vocabulary_size, "layers": layers, "hidden_size": hidden_size, "heads": heads,
            "intermediate_size": self.intermediate_size, "max_length": max_length, "activation": activation,
            "causal": causal, "norm_first": norm_first, "gated": gated, "biases": biases, "positions": positions,
        }  # fmt: skip
        self.embeddings = Embeddings(vocabulary_size, hidden_size, max_length, dropout, layer_norm_epsilon, positions)
        self.layers = nn.ModuleList(
            Layer(hidden_size, heads, self.intermediate_size, activation, dropout, attention_dropout, causal,
                  layer_norm_epsilon, norm_first, gated, biases)
            for _ in range(layers)
        )  # fmt: skip
        self.norm = norm(hidden_size, layer_norm_epsilon) if norm_first else nn.Identity()
        self.apply(partial(begin, std=initial_std))

    @property
    def is_the_paper_s(self) -> bool:
        """Whether released files could hold it: sees both sides, and has none of what was found since."""
        return self.sizes.items() >= THE_PAPER_S.items()

    def encode(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> tuple[Tensor, Rows]:
        """input_ids, segment_ids: [B, L]; lengths: [B] -> the packed tokens' vectors [T, H], and where they lie."""
        x, rows = self.embedded(input_ids, lengths, segment_ids)
        for layer in self.layers:
            x = layer(x, rows)
        return self.norm(x), rows

    def embedded(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, Rows]:
        rows = Rows.of(lengths, input_ids.shape[1], self.padding_free)
        segments = torch.zeros_like(input_ids) if segment_ids is None else segment_ids
        return self.embeddings(rows.packed(input_ids), rows.positions(), rows.packed(segments)), rows

    def forward(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """[B, L, H]; what stands in padding means nothing."""
        x, rows = self.encode(input_ids, lengths, segment_ids)
        return rows.unpacked(x)

    def attention(self, input_ids: Tensor, lengths: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        """Who looks at whom, [layers, B, heads, L, L] float32."""
        x, rows = self.embedded(input_ids, lengths, segment_ids)
        weights = []
        for layer in self.layers:
            weights.append(layer.looks_at(x, rows))  # pyright: ignore
            x = layer(x, rows)
        return torch.stack(weights)


class Pooler(nn.Module):
    """What a row says as a whole: its first token's vector, once more transformed; where that sees no other, its last.

    Args:
        hidden_size: of a vector.
        last: take the last token's, as of a causal network.
    """

    def __init__(self, hidden_size: int, last: bool = False) -> None:
        super().__init__()
        self.dense, self.last = Linear(hidden_size, hidden_size), last
        self.apply(begin)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """[T, H] -> [B, H] in -1..1."""
        return self.dense(x[rows.starts() + (rows.lengths - 1 if self.last else 0)]).tanh()


class TokenHead(nn.Module):
    """Which token stands there; the last product is by the embeddings themselves."""

    def __init__(self, network: Bert) -> None:
        super().__init__()
        self.dense, self.norm = Linear(network.hidden_size, network.hidden_size), norm_like(network)
        self.activation = ACTIVATIONS[network.activation]
        self.bias = nn.Parameter(torch.zeros(network.vocabulary_size))
        self.apply(begin)

    def forward(self, x: Tensor, embeddings: Tensor) -> Tensor:
        """x: [N, H]; embeddings: [V, H] -> logits [N, V]."""
        return nn.functional.linear(self.norm(self.activation(self.dense(x))), embeddings, self.bias)


def head(inputs: int, outputs: int) -> nn.Linear:
    """The one new layer of a task."""
    layer = Linear(inputs, outputs)
    begin(layer)
    return layer


def norm(size: int, epsilon: float) -> nn.LayerNorm:
    return nn.LayerNorm(size, eps=epsilon)


def norm_like(network: Bert) -> nn.LayerNorm:
    return norm(network.hidden_size, network.layer_norm_epsilon)


def begin(layer: nn.Module, std: float = INITIAL_STD) -> None:
    """As released: weights and embeddings normal, cut at two standard deviations; biases 0."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise UserError(f"lightning_module.network.activation is {name}: give one of {', '.join(ACTIVATIONS)}.")
