"""A classifier of sentences, as small as one can be: what a first text method asks of the house.

The sentences are made by a rule and need no file: words for warm and cold, and whether there are more of these or
those.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.text.tokens import TokensDataModule, TokenTable
from foundation.protocols import ClassifiesText
from foundation.randomness import keyed_generator
from lightning_modules.classifier import Classifier
from lightning_modules.optimized import Batch

COLD, WARM = ["frost", "ice", "snow", "winter"], ["fire", "heat", "summer", "sun"]
OTHERS = ["a", "and", "brings", "no", "of", "the", "we", "with"]
WORDS = ["<padding>", "<unknown>", *COLD, *WARM, *OTHERS]


def sentence(generator: torch.Generator) -> tuple[str, int]:
    """3 to 12 words, and whether cold (0) or warm (2) ones are more, or neither (1)."""
    length = int(torch.randint(3, 13, (1,), generator=generator))
    words = [WORDS[number] for number in torch.randint(2, len(WORDS), (length,), generator=generator).tolist()]
    balance = sum((word in WARM) - (word in COLD) for word in words)
    return " ".join(words), (balance > 0) - (balance < 0) + 1


class Sentences(TokensDataModule):
    """Sentence i of a split is a function of (split_seed, split, i)."""

    name = "sentences"
    num_classes = 3
    class_names = ("cold", "neither", "warm")
    vocabulary_size = len(WORDS)

    def load(self) -> dict[str, TokenTable]:
        return {split: self._made(split, size) for split, size in (("train", 300), ("test", 60))}

    def _made(self, split: str, size: int) -> TokenTable:
        made = [sentence(keyed_generator(self.split_seed, f"sentences {split}", number)) for number in range(size)]
        return TokenTable.of(self.encode([text for text, _ in made]), torch.tensor([label for _, label in made]))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        numbers = {word: number for number, word in enumerate(WORDS)}
        return [[numbers.get(word, 1) for word in text.lower().split()[: self.max_length]] for text in texts]


class BagOfWords(nn.Module):
    """The logits are the sum of what each word has to say."""

    max_length = None

    def __init__(self, vocabulary_size: int, num_classes: int) -> None:
        super().__init__()
        self.vocabulary_size, self.num_classes = vocabulary_size, num_classes
        self.embedding, self.dropout = nn.Embedding(vocabulary_size, 8), nn.Dropout(0.1)
        self.linear = nn.Linear(8, num_classes)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        is_word = torch.arange(input_ids.shape[1], device=input_ids.device) < lengths.unsqueeze(1)
        words = self.dropout(self.embedding(input_ids)) * is_word.unsqueeze(2)
        return self.linear(words.sum(dim=1))


class SentenceClassifier(Classifier):
    """Reads ``input_ids`` and ``lengths``."""

    def __init__(self, network: BagOfWords, **classifier: Any) -> None:
        super().__init__(network, **classifier)
        self.vocabulary_size, self.max_length = network.vocabulary_size, network.max_length

    def capabilities(self) -> set[type]:
        return {ClassifiesText}

    def class_logits(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        return self.network(input_ids, lengths)

    def logits(self, batch: Batch) -> Tensor:
        return self.class_logits(batch["input_ids"], batch["lengths"])
