"""Networks that guess each token by those before it: an LSTM, and a Transformer decoder laid out as GPT-2's (Radford et
al. 2019).

Both read a text once (``begin``) and go on from there with any number of continuations (``go_on``): what they keep of
the text, a state or keys and values, is shared by all of them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as dropped
from torch.nn.utils.rnn import pack_padded_sequence

from foundation.errors import UserError
from lightning_modules.networks.bert import ACTIVATIONS, INITIAL_STD, Rows, attend, check_activation, norm
from lightning_modules.networks.products import Linear, linear


class LstmLanguageModel(nn.Module):
    """Long short-term memories, one upon the other; the head's weights are the embeddings.

    A dropped number is dropped in all of a text (Gal and Ghahramani 2016).

    Args:
        vocabulary_size: token ids lie below it.
        layers, hidden_size: of the memories.
        embedding_size: None: ``hidden_size``; else one more product comes before the head.
        dropout: of embeddings, between layers and before the head.
        padding_free: guess nothing in the padding. False: sizes that a batch's shape alone decides.
    """

    max_length = None

    def __init__(
        self,
        vocabulary_size: int,
        layers: int = 2,
        hidden_size: int = 512,
        embedding_size: int | None = None,
        dropout: float = 0.2,
        padding_free: bool = True,
    ) -> None:
        super().__init__()
        self.vocabulary_size, self.padding_free, self.dropout = vocabulary_size, padding_free, dropout
        size = embedding_size or hidden_size
        self.word = nn.Embedding(vocabulary_size, size)
        self.layers = nn.ModuleList(
            nn.LSTM(size if number == 0 else hidden_size, hidden_size, batch_first=True) for number in range(layers)
        )
        self.narrow = Linear(hidden_size, size) if size != hidden_size else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(vocabulary_size))
        nn.init.uniform_(self.word.weight, -0.1, 0.1)

    def encode(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Rows]:
        """input_ids: [B, L]; lengths: [B] -> what the head reads of each token, [T, E], and where they lie."""
        x = self.dropped(self.word(input_ids))
        for layer in self.layers:
            x = self.dropped(layer(x)[0])  # what stands behind a text changes nothing in it
        rows = Rows.of(lengths, input_ids.shape[1], self.padding_free)
        return self.narrow(rows.packed(x)), rows

    def dropped(self, x: Tensor) -> Tensor:
        """[B, L, H], the same numbers at all places of a row."""
        if not self.training or not self.dropout:
            return x
        return x * dropped(torch.ones_like(x[:, :1]), self.dropout)

    def logits(self, x: Tensor) -> Tensor:
        """[N, E] -> [N, V]."""
        return linear(x, self.word.weight, self.bias)

    def begin(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
        """What the head reads of each text's last token, [B, E], and the state behind it."""
        x: Any = pack_padded_sequence(self.word(input_ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states = []
        for layer in self.layers:
            x, state = layer(x)
            states.append(state)
        return self.narrow(states[-1][0][0]), states

    def go_on(self, past: Any, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Rows, Any]:
        """input_ids: [B K, L], K continuations of each text; lengths: [B K] -> [T, E], where they lie, and the state
        behind all of them, which is of use where all have L tokens."""
        x, states = self.word(input_ids), []
        for layer, (hidden, cell) in zip(self.layers, past, strict=True):
            branches = len(input_ids) // hidden.shape[1]
            state = tuple(it.repeat_interleave(branches, 1).contiguous() for it in (hidden, cell))
            x, state = layer(x, state)
            states.append(state)
        rows = Rows.of(lengths, input_ids.shape[1])
        return self.narrow(rows.packed(x)), rows, states


@dataclass(frozen=True)
class Past:
    """What a decoder keeps of B texts, and of the continuations of each that it has read.

    kept: of each layer the texts' keys and values, [2, B, heads, C, d]. own: those of the continuations so far,
    [2, B K, heads, t, d]; None of none.
    """

    kept: list[Tensor]
    own: list[Tensor] | None
    lengths: Tensor
    """[B], of the texts."""

    @property
    def read(self) -> int:
        """Tokens of each continuation so far."""
        return 0 if self.own is None else self.own[0].shape[3]


def attend_to_past(qkv: Tensor, rows: Rows, kept: Tensor, own: Tensor | None, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of continuations to the text that they go on with and, from the left, to themselves.

    The text's keys lie in memory once, however many continuations it has. qkv: [T, 3, heads, d]; kept, own, lengths:
    as in ``Past`` -> [T, heads, d], and ``own`` with these tokens behind.
    """
    query, key, value = rows.unpacked(qkv).permute(2, 0, 3, 1, 4)  # [R, heads, L, d] each
    now = torch.stack([key, value])
    own = now if own is None else torch.cat([own, now], 3)
    texts, places, read = kept.shape[1], query.shape[2], own.shape[3] - query.shape[2]
    query = query / query.shape[3] ** 0.5
    of_texts = query.unflatten(0, (texts, -1)).transpose(1, 2)  # [B, heads, K, L, d]
    to_text = of_texts.flatten(2, 3) @ kept[0].mT
    is_text = torch.arange(kept.shape[3], device=qkv.device) < lengths.unsqueeze(1)
    to_text = to_text.masked_fill(~is_text[:, None, None], float("-inf")).unflatten(2, of_texts.shape[2:4])
    to_own = query @ own[0].mT
    seen = torch.ones(places, read + places, dtype=torch.bool, device=qkv.device).tril(read)
    to_own = to_own.masked_fill(~seen, float("-inf"))
    scores = torch.cat([to_text.transpose(1, 2).flatten(0, 1), to_own], 3).softmax(3)
    on_text, on_own = scores.split([kept.shape[3], read + places], 3)
    of_texts = on_text.unflatten(0, (texts, -1)).transpose(1, 2)  # [B, heads, K, L, C]
    from_text = (of_texts.flatten(2, 3) @ kept[1]).unflatten(2, of_texts.shape[2:4]).transpose(1, 2).flatten(0, 1)
    return rows.packed((from_text + on_own @ own[1]).transpose(1, 2)), own


class Block(nn.Module):
    """x + attention of LN(x), then x + feed-forward of LN(x)."""

    def __init__(self, size: int, heads: int, intermediate: int, activation: str, dropout: float, epsilon: float):
        super().__init__()
        self.heads, self.activation, self.rate = heads, ACTIVATIONS[activation], dropout
        self.attention_norm, self.qkv, self.out = norm(size, epsilon), Linear(size, 3 * size), Linear(size, size)
        self.norm, self.rise, self.fall = norm(size, epsilon), Linear(size, intermediate), Linear(intermediate, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, rows: Rows) -> Tensor:
        """[T, H] -> [T, H]."""
        found = attend(self.queries(x), rows, self.rate if self.training else 0.0, causal=True)
        return self.behind(x, found)

    def queries(self, x: Tensor) -> Tensor:
        """And keys and values, [T, 3, heads, d]."""
        return self.qkv(self.attention_norm(x)).unflatten(1, (3, self.heads, -1))

    def behind(self, x: Tensor, found: Tensor) -> Tensor:
        """found: by attention, [T, heads, d]."""
        x = x + self.dropout(self.out(found.flatten(1)))
        return x + self.dropout(self.fall(self.activation(self.rise(self.norm(x)))))


class TransformerLanguageModel(nn.Module):
    """Attention from the left alone, norms in front of each sum, a position's embedding; the head's weights are the
    embeddings.

    Args:
        vocabulary_size: token ids lie below it.
        layers, hidden_size, heads: of the decoder.
        intermediate_size: of the feed-forward layers; None: four times the hidden one.
        max_length: tokens of the longest text.
        activation: ``gelu_tanh`` as GPT-2's, or ``gelu``.
        dropout: of embeddings, attention and what is added.
        padding_free: compute nothing for padding. False: sizes that a batch's shape alone decides.
    """

    def __init__(
        self,
        vocabulary_size: int,
        layers: int = 4,
        hidden_size: int = 256,
        heads: int = 4,
        intermediate_size: int | None = None,
        max_length: int = 512,
        activation: str = "gelu_tanh",
        dropout: float = 0.1,
        padding_free: bool = True,
        layer_norm_epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if hidden_size % heads:
            raise UserError(
                f"lightning_module.network.hidden_size is {hidden_size}, which {heads} heads cannot share: give a "
                "multiple of heads."
            )
        check_activation(activation)
        self.vocabulary_size, self.max_length, self.padding_free = vocabulary_size, max_length, padding_free
        self.sizes: dict[str, Any] = {
            "vocabulary_size": vocabulary_size, "layers": layers, "hidden_size": hidden_size, "heads": heads,
            "intermediate_size": intermediate_size or 4 * hidden_size, "max_length": max_length,
            "activation": activation,
        }  # fmt: skip
        self.word, self.position = nn.Embedding(vocabulary_size, hidden_size), nn.Embedding(max_length, hidden_size)
        self.layers = nn.ModuleList(
            Block(hidden_size, heads, intermediate_size or 4 * hidden_size, activation, dropout, layer_norm_epsilon)
            for _ in range(layers)
        )
        self.norm, self.dropout = norm(hidden_size, layer_norm_epsilon), nn.Dropout(dropout)
        for it in self.modules():
            if isinstance(it, nn.Linear | nn.Embedding):
                nn.init.normal_(it.weight, std=INITIAL_STD)
            if isinstance(it, nn.Linear):
                nn.init.zeros_(it.bias)
        for layer in self.layers:  # as GPT-2's: the sum of what all layers add stays as large as one's
            for it in (layer.out, layer.fall):
                nn.init.normal_(it.weight, std=INITIAL_STD / (2 * layers) ** 0.5)  # pyright: ignore

    def encode(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Rows]:
        """input_ids: [B, L]; lengths: [B] -> what the head reads of each token, [T, H], and where they lie."""
        rows = Rows.of(lengths, input_ids.shape[1], self.padding_free)
        x = self.embedded(input_ids, rows, rows.positions())
        for layer in self.layers:
            x = layer(x, rows)
        return self.norm(x), rows

    def embedded(self, input_ids: Tensor, rows: Rows, positions: Tensor) -> Tensor:
        return self.dropout(self.word(rows.packed(input_ids)) + self.position(positions))

    def logits(self, x: Tensor) -> Tensor:
        """[N, H] -> [N, V]."""
        return linear(x, self.word.weight)

    def begin(self, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Past]:
        """What the head reads of each text's last token, [B, H], and the keys and values of all."""
        rows = Rows.of(lengths, input_ids.shape[1])
        x, kept = self.embedded(input_ids, rows, rows.positions()), []
        for layer in self.layers:
            qkv = layer.queries(x)  # pyright: ignore
            kept.append(rows.unpacked(qkv[:, 1:]).permute(2, 0, 3, 1, 4).contiguous())
            x = layer.behind(x, attend(qkv, rows, causal=True))  # pyright: ignore
        return self.norm(x[rows.starts() + lengths - 1]), Past(kept, None, lengths)

    def go_on(self, past: Past, input_ids: Tensor, lengths: Tensor) -> tuple[Tensor, Rows, Past]:
        """input_ids: [B K, L], K continuations of each text; lengths: [B K] -> [T, H], where they lie, and all that
        was read, which is of use where all have L tokens."""
        rows, own = Rows.of(lengths, input_ids.shape[1]), []
        before = past.lengths.repeat_interleave(len(input_ids) // len(past.lengths)) + past.read
        places = torch.arange(input_ids.shape[1], device=input_ids.device) + before.unsqueeze(1)
        x = self.embedded(input_ids, rows, rows.packed(places))
        for number, layer in enumerate(self.layers):
            of_layer = None if past.own is None else past.own[number]
            found, read = attend_to_past(layer.queries(x), rows, past.kept[number], of_layer, past.lengths)  # pyright: ignore
            x = layer.behind(x, found)  # pyright: ignore
            own.append(read)
        return self.norm(x), rows, Past(past.kept, own, past.lengths)
