"""The recurrent encoder and decoder with attention that RAML's released codes train (Bahdanau, Cho & Bengio 2014,
arXiv:1409.0473; Luong, Pham & Manning 2015, arXiv:1508.04025).
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from foundation.errors import UserError, did_you_mean
from lightning_modules.networks.draw import LSTM
from lightning_modules.networks.products import Linear
from lightning_modules.networks.sequence_to_sequence import (
    Memory,
    SequenceToSequence,
    State,
    check_widths,
    unseen_padding,
)
from lightning_modules.networks.unrolled import UnrolledLinear, unrolled

Score = Literal["general", "dot", "bahdanau"]


class BidirectionalLSTM(nn.Module):
    """Each direction over whole rows at once; the other one reads each row from its own end."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.onwards, self.backwards = (nn.LSTM(inputs, hidden, batch_first=True) for _ in range(2))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """[B, S, inputs] -> [B, S, 2 hidden]; what stands behind a row's end means nothing."""
        turned = reversal(lengths, x.shape[1]).unsqueeze(2)
        onwards, _ = self.onwards(x)
        backwards, _ = self.backwards(x.gather(1, turned.expand_as(x)))
        return torch.cat([onwards, backwards.gather(1, turned.expand_as(backwards))], 2)


def reversal(lengths: Tensor, width: int) -> Tensor:
    """Where each place of a row [B, width] goes when its tokens are turned round; the padding stays."""
    places, lengths = torch.arange(width, device=lengths.device), lengths.unsqueeze(1)
    return torch.where(places < lengths, lengths - 1 - places, places)


class AttentionLSTM(SequenceToSequence):
    """A bidirectional LSTM reads, an LSTM writes and looks at what was read: tanh(W [h; context]) is what tells the
    next token, and with ``input_feeding`` also what the next step sees.

    Args:
        vocabulary_size, target_vocabulary_size: see ``SequenceToSequence``.
        hidden_size: of the decoder; and where these are None, of embeddings of tokens on both sides
            (``embedding_size``) and of each of the encoder's directions (``encoder_size``).
        layers: of the encoder.
        score: how a state h looks at a vector s of the source: ``general``, h^T W s; ``dot``, h^T s, for which an
            encoder of half the size is needed; ``bahdanau``, v^T tanh(W h + U s).
        input_feeding: without it all steps of a known target are computed at once, in a fraction of the time.
        dropout: of embeddings, between layers and of what tells the next token.
        initial_range: all weights begin uniformly between this and its negative.
    """

    def __init__(
        self,
        vocabulary_size: int,
        target_vocabulary_size: int,
        embedding_size: int | None = None,
        hidden_size: int = 256,
        encoder_size: int | None = None,
        layers: int = 1,
        score: Score = "general",
        input_feeding: bool = True,
        dropout: float = 0.2,
        initial_range: float = 0.1,
    ) -> None:
        super().__init__(vocabulary_size, target_vocabulary_size)
        embedding_size = hidden_size if embedding_size is None else embedding_size
        encoder_size = hidden_size if encoder_size is None else encoder_size
        check_widths(embedding_size=embedding_size, hidden_size=hidden_size, encoder_size=encoder_size, layers=layers)
        read = 2 * encoder_size
        if score not in get_args(Score):
            raise UserError(f"lightning_module.network.score is {score}: {did_you_mean(score, get_args(Score))}")
        if score == "dot" and read != hidden_size:
            raise UserError(
                f"lightning_module.network.score=dot compares {hidden_size} numbers of the decoder with {read} of the "
                f"encoder's two directions: set lightning_module.network.encoder_size to half of hidden_size, or score "
                "to general."
            )
        self.hidden_size, self.score = hidden_size, score
        self.source, self.target = (
            nn.Embedding(size, embedding_size) for size in (vocabulary_size, target_vocabulary_size)
        )
        self.encoder = nn.ModuleList(
            BidirectionalLSTM(read if number else embedding_size, encoder_size) for number in range(layers)
        )
        self.first_cell = Linear(read, hidden_size)
        if input_feeding:
            self.input_gates, self.cell = Linear(embedding_size, 4 * hidden_size), LSTM(hidden_size, hidden_size)
        else:
            self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True)
        self.input_feeding = input_feeding
        self.keys = nn.Identity() if score == "dot" else Linear(read, hidden_size, bias=False)
        if score == "bahdanau":
            self.query, self.energy = UnrolledLinear(hidden_size, hidden_size), nn.Linear(hidden_size, 1, bias=False)
        # W [h; context] in two parts: the source's is computed once for all steps.
        self.values, self.combined = Linear(read, hidden_size, bias=False), UnrolledLinear(hidden_size, hidden_size)
        self.output = Linear(hidden_size, target_vocabulary_size)
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -initial_range, initial_range)

    def encode(self, input_ids: Tensor, lengths: Tensor) -> Memory:
        """Keys and values [B, S, H], what hides the padding [B, 1, S], and the decoder's first cell [B, H]."""
        lengths = lengths.clamp(min=1)
        x = self.dropout(self.source(input_ids))
        for number, layer in enumerate(self.encoder):
            x = layer(self.dropout(x) if number else x, lengths)
        last = (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2] // 2)
        onwards, backwards = x.chunk(2, 2)
        ends = torch.cat([onwards.gather(1, last).squeeze(1), backwards[:, 0]], 1)
        keys, values = (in_two_dimensions(layer, x) for layer in (self.keys, self.values))
        return keys, values, unseen_padding(lengths, input_ids.shape[1], keys.dtype), self.first_cell(ends)

    def begin(self, memory: Memory, count: int) -> State:
        """Output, cell and what tells the next token, [B, n, H] each."""
        cell = memory[3].unsqueeze(1).repeat(1, count, 1)
        return cell.tanh(), cell, torch.zeros_like(cell)

    def forced(self, memory: Memory, inputs: Tensor) -> Tensor:
        embedded = self.dropout(self.target(inputs))
        state = self.begin(memory, inputs.shape[1])
        if not self.input_feeding:
            first = tuple(it.flatten(0, 1).unsqueeze(0) for it in state[:2])
            outputs, _ = self.lstm(embedded.flatten(0, 1), first)
            return self.attended(outputs.reshape(len(inputs), -1, self.hidden_size), memory).view(*inputs.shape, -1)
        gates = in_two_dimensions(self.input_gates, embedded)
        vectors = []
        with unrolled(self):
            for of_step in gates.unbind(2):
                state = self.advanced(of_step, state, memory)
                vectors.append(state[2])
        return torch.stack(vectors, 2)

    def step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        embedded = self.dropout(self.target(tokens))
        if self.input_feeding:
            state = self.advanced(in_two_dimensions(self.input_gates, embedded), state, memory)
            return state[2], state
        before = tuple(it.flatten(0, 1).unsqueeze(0) for it in state[:2])
        _, (output, cell) = self.lstm(embedded.flatten(0, 1).unsqueeze(1), before)
        output, cell = (it.view(state[0].shape) for it in (output, cell))
        attended = self.attended(output, memory)
        return attended, (output, cell, attended)

    def advanced(self, gates: Tensor, state: State, memory: Memory) -> State:
        """One step of the fed decoder. gates: [B, n, 4 H], what the input adds."""
        output, cell, fed = (it.flatten(0, 1) for it in state)
        output, cell = (it.view(state[0].shape) for it in self.cell([fed], output, cell, gates.flatten(0, 1)))
        return output, cell, self.attended(output, memory)

    def attended(self, states: Tensor, memory: Memory) -> Tensor:
        """tanh(W [h; context]), [B, Q, H]. states: [B, Q, H]."""
        keys, values, unseen, _ = memory
        if self.score == "bahdanau":
            query = in_two_dimensions(self.query, states)
            scores = self.energy((query.unsqueeze(2) + keys.unsqueeze(1)).tanh()).squeeze(3)
        else:
            scores = states @ keys.mT
        context = (scores + unseen).softmax(2) @ values
        return self.dropout((in_two_dimensions(self.combined, states) + context).tanh())

    def logits(self, vectors: Tensor) -> Tensor:
        return self.output(vectors)


def in_two_dimensions(layer: nn.Module, x: Tensor) -> Tensor:
    """A linear layer of [..., in], as a product of two matrices."""
    return layer(x.flatten(0, -2)).unflatten(0, x.shape[:-1])
