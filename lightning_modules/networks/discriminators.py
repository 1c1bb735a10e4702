"""Networks that tell a right ending from written ones: each gives a row, a text with one ending, a score by itself.

A row is ``[CLS] text [SEP] ending [SEP]``. All take a dict of ``input_ids`` and ``segment_ids`` [R, L], ``lengths``
[R] and ``features`` [R, F], use what they need of it, and give [R, heads] float32: one score, or an ensemble's.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from datamodules.text.vectors import given_vectors
from foundation.errors import UserError
from lightning_modules.networks.bert import Bert, Pooler, head
from lightning_modules.networks.precision import at_least_single
from lightning_modules.networks.products import to_round

Ends = Mapping[str, Tensor]


def is_token(ends: Ends) -> Tensor:
    """[R, L] bool."""
    return torch.arange(ends["input_ids"].shape[1], device=ends["lengths"].device) < ends["lengths"].unsqueeze(1)


class FeatureScorer(nn.Module):
    """Lengths, and a language model's nats, through a perceptron with SELU (SWAG's first discriminator).

    Args:
        features: F; with mean 0 and spread 1 over a pool.
        hidden_size, layers: of the perceptron.
        dropout: of its hidden layers, so that mean and spread stay.
    """

    heads = 1

    def __init__(self, features: int, hidden_size: int = 2048, layers: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        sizes = [features, *[hidden_size] * layers]
        self.features = features
        hidden = [[nn.Linear(one, other), nn.SELU(), nn.AlphaDropout(dropout)] for one, other in pairwise(sizes)]
        self.hidden = nn.Sequential(*(it for of_layer in hidden for it in of_layer))
        self.out = nn.Linear(hidden_size, 1)

    def forward(self, ends: Ends) -> Tensor:
        return self.out(self.vectors(ends))

    def vectors(self, ends: Ends) -> Tensor:
        """[R, hidden_size]."""
        if "features" not in ends or ends["features"].shape[1] != self.features:
            found = ends["features"].shape[1] if "features" in ends else 0
            raise UserError(
                f"lightning_module.network.features is {self.features}, and the pool gives {found}: 2 lengths, and 4 "
                "more where it has a language model's nats (python -m finished.endings <run> --pool ... writes them)."
            )
        return self.hidden(ends["features"])


class TokenScorer(nn.Module):
    """What those that read tokens have in common: embeddings, another for the text and for the ending.

    Args:
        vocabulary_size: token ids lie below it.
        embedding_size: of a token.
        dropout: of embeddings.
        vectors: a file of words' vectors that embeddings begin with (``datamodules/text/vectors.py``); None: all begin
            at random.
        vocabulary: whose pieces the tokens are, for ``vectors``.
    """

    heads = 1

    def __init__(
        self, vocabulary_size: int, embedding_size: int = 100, dropout: float = 0.3, vectors: str | None = None,
        vocabulary: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.vocabulary_size = vocabulary_size
        self.word, self.segment = nn.Embedding(vocabulary_size, embedding_size), nn.Embedding(2, embedding_size)
        nn.init.normal_(self.word.weight, std=0.1)
        nn.init.normal_(self.segment.weight, std=0.1)
        if vectors is not None:
            drawn = self.word.weight.detach() / 0.1
            given = given_vectors(vectors, vocabulary, embedding_size, vocabulary_size, drawn)
            self.word.weight.data.copy_(given)
        self.dropout = nn.Dropout(dropout)

    def embedded(self, ends: Ends) -> Tensor:
        """[R, L, embedding_size], zeros in the padding."""
        x = self.dropout(self.word(ends["input_ids"]) + self.segment(ends["segment_ids"]))
        return x * is_token(ends).unsqueeze(2)


class BagOfWords(TokenScorer):
    """The mean of a text's tokens and that of its ending's, through one hidden layer. Arguments: of ``TokenScorer``."""

    def __init__(
        self, vocabulary_size: int, embedding_size: int = 100, hidden_size: int = 100, dropout: float = 0.3,
        vectors: str | None = None, vocabulary: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(vocabulary_size, embedding_size, dropout, vectors, vocabulary)
        self.hidden, self.out = nn.Linear(2 * embedding_size, hidden_size), nn.Linear(hidden_size, 1)

    def forward(self, ends: Ends) -> Tensor:
        return self.out(self.vectors(ends))

    def vectors(self, ends: Ends) -> Tensor:
        x, tokens = self.embedded(ends), is_token(ends)
        parts = [tokens & (ends["segment_ids"] == part) for part in (0, 1)]
        means = [(x * it.unsqueeze(2)).sum(1) / it.sum(1, keepdim=True).clamp(min=1) for it in parts]
        return self.hidden(torch.cat(means, 1)).relu()


class Convolutions(TokenScorer):
    """Filters over runs of tokens, and the largest answer of each anywhere.

    Args:
        widths: tokens of a filter. filters: of each width.
        scorer: see ``TokenScorer``.
    """

    def __init__(
        self, vocabulary_size: int, embedding_size: int = 100, widths: tuple[int, ...] = (2, 3, 4, 5),
        filters: int = 128, dropout: float = 0.3, vectors: str | None = None, vocabulary: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(vocabulary_size, embedding_size, dropout, vectors, vocabulary)
        self.filters = nn.ModuleList(nn.Conv1d(embedding_size, filters, it, padding=it - 1) for it in widths)
        self.out = nn.Linear(len(widths) * filters, 1)

    def forward(self, ends: Ends) -> Tensor:
        return self.out(self.vectors(ends))

    def vectors(self, ends: Ends) -> Tensor:
        x = self.embedded(ends).mT
        if x.is_cpu and (missing := to_round(x.shape[2])):  # few lengths, for the reason of ``in_round_numbers``
            x = pad(x, (0, missing))
        found = []
        for of_width in self.filters:
            answers = of_width(x).relu()
            beyond = answers.shape[2] - x.shape[2] + ends["lengths"].unsqueeze(1)  # from where on none sees a token
            seen = torch.arange(answers.shape[2], device=x.device) < beyond
            found.append((answers * seen.unsqueeze(1)).amax(2))
        return torch.cat(found, 1)


class BiLstm(TokenScorer):
    """An LSTM from both sides, and the largest of each of its numbers. Arguments: of ``TokenScorer``."""

    def __init__(
        self, vocabulary_size: int, embedding_size: int = 100, hidden_size: int = 200, dropout: float = 0.3,
        vectors: str | None = None, vocabulary: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(vocabulary_size, embedding_size, dropout, vectors, vocabulary)
        self.lstm = nn.LSTM(embedding_size, hidden_size, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * hidden_size, 1)

    def forward(self, ends: Ends) -> Tensor:
        return self.out(self.vectors(ends))

    def vectors(self, ends: Ends) -> Tensor:
        packed = pack_padded_sequence(
            self.embedded(ends), ends["lengths"].cpu(), batch_first=True, enforce_sorted=False
        )
        x, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=ends["input_ids"].shape[1])
        return x.masked_fill(~is_token(ends).unsqueeze(2), float("-inf")).amax(1)


class Ensemble(nn.Module):
    """Several at once, each with a score of its own, and one more that sees what all of them say of a row (SWAG).

    Args:
        members: make them, by name; each has ``vectors`` and, behind them, ``out``.
        hidden_size: of the layer that sees all.
    """

    def __init__(self, members: dict[str, Callable[[], nn.Module]], hidden_size: int = 2048) -> None:
        super().__init__()
        if not members:
            raise UserError("lightning_module.network.members is empty: name networks, each with its settings.")
        self.members = nn.ModuleDict({name: make() for name, make in members.items()})
        self.heads = len(members) + 1
        sizes = [it.out.in_features for it in self.members.values()]  # pyright: ignore
        self.joint = nn.Sequential(nn.Linear(sum(sizes), hidden_size), nn.SELU(), nn.Linear(hidden_size, 1))  # pyright: ignore

    def forward(self, ends: Ends) -> Tensor:
        vectors = {name: it.vectors(ends) for name, it in self.members.items()}  # pyright: ignore
        own = [it.out(vectors[name]) for name, it in self.members.items()]  # pyright: ignore
        return torch.cat([*own, self.joint(torch.cat([*vectors.values()], 1))], 1)


class BertScorer(nn.Module):
    """BERT with one new layer, as in fine-tuning; padding costs nothing.

    Args:
        network: makes a ``Bert``.
        dropout: in front of the new layer.
    """

    heads = 1

    def __init__(self, network: Callable[[], Bert], dropout: float = 0.1) -> None:
        super().__init__()
        self.network, self.dropout = network(), nn.Dropout(dropout)
        self.pooler, self.classifier = Pooler(self.network.hidden_size), head(self.network.hidden_size, 1)

    def forward(self, ends: Ends) -> Tensor:
        x, rows = self.network.encode(ends["input_ids"], ends["lengths"], ends["segment_ids"])
        return at_least_single(self.classifier(self.dropout(self.pooler(x, rows))))
