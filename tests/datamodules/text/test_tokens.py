from collections.abc import Sequence

import pytest
import torch

from datamodules.text.tokens import TokensDataModule, TokenTable
from foundation.errors import UserError

TEXTS = [[5, 6, 7], [8], [], [9, 5, 6, 7, 1], [4, 4]]


def table() -> TokenTable:
    return TokenTable.of(TEXTS, labels=torch.arange(5))


class Numbers(TokensDataModule):
    """Text i is i + 1 times the word i + 1."""

    name = "numbers"
    num_classes = None
    vocabulary_size = 21

    def load(self) -> dict[str, TokenTable]:
        texts = self.encode([" ".join([str(number)] * number) for number in range(1, 21)])
        return {"train": TokenTable.of(texts), "test": TokenTable.of(texts[:3])}

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[int(word) for word in text.split()[: self.max_length]] for text in texts]


def test_a_batch_is_padded_to_its_longest_text():
    batch = table()[torch.tensor([1, 0, 4])]
    assert batch["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7], [4, 4, 0]]
    assert batch["input_ids"].dtype == torch.int64
    assert batch["lengths"].tolist() == [1, 3, 2]
    assert batch["label"].tolist() == batch["index"].tolist() == [1, 0, 4]


def test_a_text_may_be_empty_and_a_batch_too():
    assert table()[torch.tensor([2])]["input_ids"].shape == (1, 0)
    assert table()[torch.tensor([2, 1])]["input_ids"].tolist() == [[0], [8]]
    assert table()[torch.tensor([], dtype=torch.int64)]["input_ids"].shape == (0, 0)


def test_rows_that_are_taken_are_a_table_of_their_own():
    taken = table().take(torch.tensor([3, 1]))
    assert len(taken) == 2
    batch = taken[torch.arange(2)]
    assert batch["input_ids"].tolist() == [TEXTS[3], [8, 0, 0, 0, 0]]
    assert batch["label"].tolist() == [3, 1]
    assert batch["index"].tolist() == [0, 1]


def test_a_fingerprint_is_of_the_texts_wherever_they_lie():
    def contents(one: TokenTable) -> list[list]:
        return [content.tolist() for content in one.contents()]

    taken = table().take(torch.tensor([3, 1]))
    packed = TokenTable.of([TEXTS[3], TEXTS[1]], labels=torch.tensor([3, 1]))
    assert contents(taken) == contents(packed)
    assert contents(taken) != contents(table())


def test_splits_lengths_and_description():
    datamodule = Numbers(batch_size=4, val_size=5, max_length=12)
    datamodule.setup()
    seen = torch.zeros(15, dtype=torch.int64)
    for batch in datamodule.train_dataloader():
        assert batch.keys() == {"index", "input_ids", "lengths"}
        assert batch["input_ids"].shape == (4, batch["lengths"].max())
        numbers = batch["input_ids"][:, 0]
        assert torch.equal(batch["lengths"], numbers.clamp(max=12))
        seen[batch["index"]] += 1
    assert sorted(seen.tolist()) == [0] * 3 + [1] * 12  # an incomplete last batch is dropped
    described = datamodule.describe()
    assert described["train"] == 15
    assert (described["vocabulary_size"], described["max_length"]) == (21, 12)
    other = Numbers(batch_size=4, val_size=5, max_length=11)
    other.setup()
    assert other.describe()["sha256"] != described["sha256"]


def test_a_length_of_none_is_refused():
    with pytest.raises(UserError, match="datamodule.max_length is 0: give a number of tokens, 1 or more"):
        Numbers(batch_size=4, max_length=0)
