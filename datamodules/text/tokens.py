"""The base of the sets of texts, and the table of token ids of those that fit in memory."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.splits import SplitDataModule, Table
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError

PADDING = 0  # the id behind a text that is shorter than the longest of its batch


class TokenTable(Table):
    """A split in memory. Its texts lie one behind the other, so that it holds no padding, and rows that are taken out
    of it share them.

    A batch has ``input_ids`` [B, L] int64, padded to its longest text, and ``lengths`` [B] int64.

    Args:
        token_ids: [all tokens] of any integer type.
        starts, lengths: int64 [N], where each text lies in them.
        labels: int64 [N]; None where the data has none.
    """

    def __init__(self, token_ids: Tensor, starts: Tensor, lengths: Tensor, labels: Tensor | None = None) -> None:
        super().__init__({"starts": starts, "lengths": lengths} | ({} if labels is None else {"label": labels}))
        self.token_ids = token_ids
        self.known_lengths = lengths.cpu()  # sizes a batch without waiting for a device

    @classmethod
    def of(cls, texts: Iterable[Sequence[int]], labels: Tensor | None = None) -> "TokenTable":
        """texts: the token ids of each."""
        texts = list(texts)
        lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
        token_ids = torch.tensor(list(chain.from_iterable(texts)), dtype=torch.int32)
        return cls(token_ids, lengths.cumsum(0) - lengths, lengths, labels)

    @property
    def labels(self) -> Tensor | None:
        return self.columns.get("label")

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        batch = super().__getitem__(positions)
        starts, lengths = batch.pop("starts").unsqueeze(1), batch["lengths"].unsqueeze(1)
        longest = int(self.known_lengths[positions.cpu()].max()) if len(positions) else 0
        places = torch.arange(longest, device=starts.device)
        is_text = places < lengths
        input_ids = self.token_ids[torch.where(is_text, starts + places, 0)].long()
        return batch | {"input_ids": input_ids.masked_fill_(~is_text, PADDING)}

    def with_columns(self, columns: Mapping[str, Tensor]) -> "TokenTable":
        return TokenTable(self.token_ids, columns["starts"], columns["lengths"], columns.get("label"))

    def to(self, device: torch.device) -> "TokenTable":
        moved = super().to(device)
        moved.token_ids = moved.token_ids.to(device)
        return moved

    def contents(self) -> Iterator[Tensor]:
        """The texts as they are read, wherever they lie."""
        rows = torch.arange(len(self))
        for some in rows.split(4096):
            batch = self[some]
            yield batch["input_ids"].to(torch.int32)
        yield from (column for name, column in self.columns.items() if name != "starts")


class PairTable(TokenTable):
    """Pairs of texts, each pair one text of two segments. A batch also has ``segment_ids`` [B, L] int64: 0 through the
    first segment and in the padding, 1 in the second.

    Args:
        first: int64 [N], how many tokens are the first segment's.
        table: see ``TokenTable``.
    """

    def __init__(
        self, token_ids: Tensor, starts: Tensor, lengths: Tensor, labels: Tensor | None, first: Tensor
    ) -> None:
        super().__init__(token_ids, starts, lengths, labels)
        self.columns["first"] = first

    def __getitem__(self, positions: Tensor) -> dict[str, Tensor]:
        batch = super().__getitem__(positions)
        places = torch.arange(batch["input_ids"].shape[1], device=batch["lengths"].device)
        first, lengths = batch.pop("first").unsqueeze(1), batch["lengths"].unsqueeze(1)
        return batch | {"segment_ids": ((places >= first) & (places < lengths)).long()}

    def with_columns(self, columns: Mapping[str, Tensor]) -> "PairTable":
        return PairTable(self.token_ids, columns["starts"], columns["lengths"], columns.get("label"), columns["first"])


class TokensDataModule(SplitDataModule):
    """Splits of texts as token ids.

    A batch holds ``index`` [B] int64 (the example's number in its split), ``input_ids`` [B, L] int64 in
    0..vocabulary_size - 1, padded behind to the longest text of the batch, ``lengths`` [B] int64 and, where the data
    has labels, ``label`` [B] int64.

    A subclass names its classes (None: no labels) and says its vocabulary's size before it is set up, and implements
    ``load`` and ``encode``.

    Args:
        max_length: tokens of a text that are kept, from its beginning.
        splits: see ``SplitDataModule``.
    """

    vocabulary_size: int

    class_names: Sequence[str] | None = None
    """In the order of their labels; None where they have no names but the numbers."""

    def __init__(self, *, max_length: int, **splits: Any) -> None:
        super().__init__(**splits)
        if max_length < 1:
            raise UserError(f"datamodule.max_length is {max_length}: give a number of tokens, 1 or more.")
        self.max_length = max_length

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of anybody's texts, at most ``max_length`` of each, whether it is set up or not."""

    def describe(self) -> dict[str, Any]:
        """Also how many tokens there are to choose from, and how many of a text are kept."""
        return super().describe() | {"vocabulary_size": self.vocabulary_size, "max_length": self.max_length}


class WordPieceDataModule(TokensDataModule):
    """Splits of texts in a vocabulary of word pieces: ``[CLS] text [SEP]``. A subclass makes its ``tokenizer``.

    Args:
        max_length: tokens of a text that are kept, [CLS] and [SEP] among them.
        splits: see ``SplitDataModule``.
    """

    tokenizer: WordPiece
    """Makes token ids of texts, and says which are the special tokens'."""

    def __init__(self, *, max_length: int, **splits: Any) -> None:
        super().__init__(max_length=max_length, **splits)
        if max_length < 5:
            raise UserError(f"datamodule.max_length is {max_length}: two texts with [CLS] and [SEP] need 5 or more.")

    @property
    def vocabulary_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return len(self.tokenizer)

    @property
    def continues_word(self) -> np.ndarray:
        """See ``KnowsWords``."""
        return self.tokenizer.continues_word

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.encode(texts, self.max_length)

    def table(
        self, texts: Sequence[str], others: Sequence[str] | None = None, labels: Tensor | None = None
    ) -> TokenTable:
        """Of texts, or of pairs of them, cut to ``max_length``; a ``PairTable`` of pairs."""
        if others is None:
            return TokenTable.of(self.encode(texts), labels)
        encoded, first = self.tokenizer.encode_pairs(texts, others, self.max_length)
        whole = TokenTable.of(encoded, labels)
        columns = whole.columns
        return PairTable(whole.token_ids, columns["starts"], columns["lengths"], labels, torch.tensor(first))

    def describe(self) -> dict[str, Any]:
        """Also a fingerprint of the vocabulary."""
        return super().describe() | {"vocabulary_sha256": self.tokenizer.sha256}
