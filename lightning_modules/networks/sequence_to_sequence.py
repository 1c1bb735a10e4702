"""What a network that makes a text out of a text can do, whatever it is made of.

Decoders hold n texts for each of B sources, so that samples of a target, or the beams of a search, share what was
computed of their source.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.unrolled import unrolled

Memory = tuple[Tensor, ...]
"""What a decoder sees of B sources, each tensor [B, ...]."""
State = tuple[Tensor, ...]
"""What a decoder goes on from, each tensor [B, n, ...]."""


class SequenceToSequence(nn.Module):
    """Token ids -> logits of the target's next token, given those before it.

    Args:
        vocabulary_size: source ids lie below it. target_vocabulary_size: target ids and logits.
    """

    def __init__(self, vocabulary_size: int, target_vocabulary_size: int) -> None:
        super().__init__()
        self.vocabulary_size, self.target_vocabulary_size = vocabulary_size, target_vocabulary_size

    @abstractmethod
    def encode(self, input_ids: Tensor, lengths: Tensor) -> Memory:
        """input_ids: [B, S], padded behind; lengths: [B]. What stands in the padding changes nothing."""

    @abstractmethod
    def forced(self, memory: Memory, inputs: Tensor) -> Tensor:
        """Vectors [B, n, T, H] that know of the inputs [B, n, T] up to each and including it."""

    @abstractmethod
    def begin(self, memory: Memory, count: int) -> State:
        """Of ``count`` texts a source, before the first input."""

    @abstractmethod
    def step(self, tokens: Tensor, state: State, memory: Memory) -> tuple[Tensor, State]:
        """``forced`` of one more input, [B, n] -> [B, n, H]."""

    @abstractmethod
    def logits(self, vectors: Tensor) -> Tensor:
        """[N, H] -> [N, target_vocabulary_size]."""

    def partly_forced(self, memory: Memory, inputs: Tensor, is_true: Tensor, uniform: Tensor) -> Tensor:
        """``forced``, but where ``is_true`` [B, n, T] is False a token that the network draws stands for the input.

        uniform: [B, n, T] in [0, 1), which decide what is drawn. The first input is taken as it is.
        """
        state, tokens, vectors = self.begin(memory, inputs.shape[1]), inputs[:, :, 0], []
        with unrolled(self):
            for time in range(inputs.shape[2]):
                if time:
                    drawn = self.drawn(vectors[-1], uniform[:, :, time])
                    tokens = torch.where(is_true[:, :, time], inputs[:, :, time], drawn)
                x, state = self.step(tokens, state, memory)
                vectors.append(x)
        return torch.stack(vectors, 2)

    @torch.no_grad()
    def drawn(self, vectors: Tensor, uniform: Tensor) -> Tensor:
        """A token each, [B, n], by the softmax of its logits. vectors: [B, n, H]; uniform: [B, n] in [0, 1)."""
        sums = at_least_single(self.logits(vectors.flatten(0, 1))).softmax(1).cumsum(1)
        limit = uniform.flatten().to(sums.dtype).unsqueeze(1) * sums[:, -1:]
        return (sums <= limit).sum(1).clamp(max=sums.shape[1] - 1).view(uniform.shape)


def is_token(lengths: Tensor, width: int) -> Tensor:
    """[B, width] bool."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def unseen_padding(lengths: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """What is added to attention's scores, [B, 1, width]: 0, and -inf where a source has ended. A source without a
    token is seen as padding."""
    seen = is_token(lengths.clamp(min=1), width)
    return torch.zeros(seen.shape, dtype=dtype, device=lengths.device).masked_fill(~seen, -torch.inf).unsqueeze(1)


def check_widths(**widths: int) -> None:
    for key, width in widths.items():
        if width < 1:
            raise UserError(f"lightning_module.network.{key} is {width}: give 1 or more.")
