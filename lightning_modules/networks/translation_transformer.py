"""A Transformer that makes a text out of a text (Vaswani et al. 2017, arXiv:1706.03762), normalised before each part
and not behind it, so that it learns without a long warm-up."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from foundation.errors import UserError
from lightning_modules.networks.products import Linear
from lightning_modules.networks.sequence_to_sequence import (
    Memory,
    SequenceToSequence,
    State,
    check_widths,
    unseen_padding,
)


class Attention(nn.Module):
    """Queries that look at keys and values, in heads."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.keys_values, self.out = Linear(size, size), Linear(size, 2 * size), Linear(size, size)

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of x [N, L, H], [N, heads, L, d] each."""
        keys, values = flat(self.keys_values, x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return keys, values

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, **how: Any) -> Tensor:
        """x: [N, Q, H] -> [N, Q, H]."""
        query = flat(self.query, x).unflatten(2, (self.heads, -1)).transpose(1, 2)
        looked = scaled_dot_product_attention(query, keys, values, **how)
        return flat(self.out, looked.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.rise, self.fall = Linear(size, width), Linear(width, size)

    def forward(self, x: Tensor) -> Tensor:
        return flat(self.fall, flat(self.rise, x).relu())


class EncoderLayer(nn.Module):
    def __init__(self, size: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(2))
        self.attention, self.feed_forward = Attention(size, heads), FeedForward(size, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, unseen: Tensor) -> Tensor:
        """x: [B, S, H]; unseen: [B, 1, 1, S]."""
        normed = self.norms[0](x)
        x = x + self.dropout(self.attention(normed, *self.attention.seen(normed), attn_mask=unseen))
        return x + self.dropout(self.feed_forward(self.norms[1](x)))


class DecoderLayer(nn.Module):
    def __init__(self, size: int, heads: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(size) for _ in range(3))
        self.attention, self.of_source = Attention(size, heads), Attention(size, heads)
        self.feed_forward, self.dropout = FeedForward(size, width), nn.Dropout(dropout)

    def forward(
        self, x: Tensor, before: tuple[Tensor, Tensor] | None, source: tuple[Tensor, Tensor], unseen: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x: [N, T, H], n texts for each of B sources; ``before``: keys and values [N, heads, t, d] of the tokens
        before x, None where there are none and x is whole; source: [B, heads, S, d]; unseen: [B, 1, 1, S]."""
        normed = self.norms[0](x)
        own = self.attention.seen(normed)
        if before is not None:
            own = torch.cat([before[0], own[0]], 2), torch.cat([before[1], own[1]], 2)
        x = x + self.dropout(self.attention(normed, *own, is_causal=before is None))
        together = self.norms[1](x).view(len(unseen), -1, x.shape[2])
        x = x + self.dropout(self.of_source(together, *source, attn_mask=unseen).view(x.shape))
        return x + self.dropout(self.feed_forward(self.norms[2](x))), own


class TranslationTransformer(SequenceToSequence):
    """Positions are sines, so that texts may be longer than those of training.

    Args:
        vocabulary_size, target_vocabulary_size: see ``SequenceToSequence``.
        hidden_size, layers, heads: of the encoder and of the decoder.
        intermediate_size: of the feed-forward layers; None: four times the hidden one.
        dropout: of embeddings and of what each part adds.
    """

    def __init__(
        self,
        vocabulary_size: int,
        target_vocabulary_size: int,
        hidden_size: int = 256,
        layers: int = 3,
        heads: int = 4,
        intermediate_size: int | None = None,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(vocabulary_size, target_vocabulary_size)
        check_widths(hidden_size=hidden_size, layers=layers, heads=heads)
        if hidden_size % (2 * heads):
            raise UserError(
                f"lightning_module.network.hidden_size is {hidden_size}, which {heads} heads cannot share: give a "
                f"multiple of {2 * heads}."
            )
        self.hidden_size, self.heads = hidden_size, heads
        self.source, self.target = (
            nn.Embedding(size, hidden_size) for size in (vocabulary_size, target_vocabulary_size)
        )
        sizes = hidden_size, heads, intermediate_size or 4 * hidden_size, dropout
        self.encoder = nn.ModuleList(EncoderLayer(*sizes) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderLayer(*sizes) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden_size) for _ in range(2))
        self.output, self.dropout = Linear(hidden_size, target_vocabulary_size), nn.Dropout(dropout)
        for embedding in (self.source, self.target):
            nn.init.normal_(embedding.weight, std=hidden_size**-0.5)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def embedded(self, embedding: nn.Embedding, ids: Tensor, first: int = 0) -> Tensor:
        """[N, L] -> [N, L, H]; ``first``: the position of the first token."""
        positions = sines(first, ids.shape[1], self.hidden_size, embedding.weight)
        return self.dropout(embedding(ids) * math.sqrt(self.hidden_size) + positions)

    def encode(self, input_ids: Tensor, lengths: Tensor) -> Memory:
        """What hides the padding [B, 1, 1, S]; of each layer of the decoder keys and values, [B, heads, S, d] each."""
        unseen = unseen_padding(lengths, input_ids.shape[1], self.output.weight.dtype).unsqueeze(1)
        x = self.embedded(self.source, input_ids)
        for layer in self.encoder:
            x = layer(x, unseen)
        x = self.norms[0](x)
        seen = [it for layer in self.decoder for it in layer.of_source.seen(x)]  # pyright: ignore
        return unseen, *seen

    def begin(self, memory: Memory, count: int) -> State:
        """Of each layer of the decoder no keys and no values, [B, n, heads, 0, d]."""
        none = memory[1].new_zeros(len(memory[0]), count, self.heads, 0, self.hidden_size // self.heads)
        return (none,) * (2 * len(self.decoder))

    def forced(self, memory: Memory, inputs: Tensor) -> Tensor:
        x = self.embedded(self.target, inputs.flatten(0, 1))
        for layer, source in zip(self.decoder, pairs(memory[1:]), strict=True):
            x, _ = layer(x, None, source, memory[0])
        return self.norms[1](x).view(*inputs.shape, -1)

    def step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        after: list[Tensor] = []
        x = self.embedded(self.target, tokens.flatten().unsqueeze(1), first=state[0].shape[3])
        before = pairs(tuple(it.flatten(0, 1) for it in state))
        for layer, own, source in zip(self.decoder, before, pairs(memory[1:]), strict=True):
            x, seen = layer(x, own, source, memory[0])
            after += seen
        return self.norms[1](x).view(*tokens.shape, -1), tuple(it.unflatten(0, tokens.shape) for it in after)

    def logits(self, vectors: Tensor) -> Tensor:
        return self.output(vectors)


def sines(first: int, count: int, size: int, like: Tensor) -> Tensor:
    """[count, size]: sines and cosines whose waves are from 2 pi to 10000 times 2 pi positions long."""
    positions = torch.arange(first, first + count, device=like.device, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, size, 2, device=like.device) * (-math.log(10000.0) / size))
    return torch.cat([(positions * rates).sin(), (positions * rates).cos()], 1).to(like.dtype)


def pairs(tensors: tuple[Tensor, ...]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(tensors[::2], tensors[1::2], strict=True))


def flat(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer of [N, L, in], as a product of two matrices."""
    return layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])
