"""Vocabularies of the sequences that one text is made into another by: words, signs or characters.

A vocabulary is anything with the members of ``Vocabulary``; the first ids of each are the same four.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from foundation.errors import UserError, did_you_mean

PADDING, UNKNOWN, BEGIN, END = range(4)
FIRST = 4
"""The id of the first word. Those below it are in no text: what replaces a word at random is drawn from here on."""
MARKS = ("<pad>", "<unk>", "<s>", "</s>")

# A number with its points, a word with apostrophes and hyphens inside, or any other sign by itself.
WORD = re.compile("\\d+(?:[.,:]\\d+)+|\\w+(?:['\u2019-]\\w+)*|[^\\w\\s]")
BEHIND, BEFORE = set(".,!?;:%)]}'\u2026\u00bb\u201d\u2019"), set("([{\u00ab")
CLOSES = {'"': '"', "\u201e": "\u201c", "\u201c": "\u201d"}
"""Quotation marks, and which mark ends what they begin."""


class Vocabulary(Protocol):
    """Ids of texts and texts of ids; len() is the vocabulary's size."""

    def __len__(self) -> int: ...

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """Without begin and end."""
        ...

    def text_of(self, ids: Iterable[int]) -> str: ...

    def told(self) -> str:
        """All that decides it, as JSON, which ``vocabulary_of`` reads."""
        ...


def words_of(text: str) -> list[str]:
    """By rule: numbers with the points inside them, words with the apostrophes and hyphens inside them, each other
    sign by itself."""
    return WORD.findall(text)


def joined_words(words: Sequence[str]) -> str:
    """A text of words, with blanks where they stand between them: none in front of a full stop or behind a bracket.

    Of two quotation marks of one kind the first opens."""
    text, closing, glued = "", None, True
    for word in words:
        closes, opens = word == closing, word in CLOSES and word != closing
        text += word if glued or closes or word in BEHIND else f" {word}"
        closing = CLOSES[word] if opens else None if closes else closing
        glued = word in BEFORE or opens
    return text


SPLIT: dict[str, Any] = {"words": words_of, "blanks": str.split, "characters": list}
JOIN: dict[str, Any] = {"words": joined_words, "blanks": " ".join, "characters": "".join}


class Words:
    """Whole words, those that are not known being ``UNKNOWN``.

    Args:
        words: from the id ``FIRST`` on.
        by: what a text is cut into: ``words`` by the rule of ``words_of``, what stands between ``blanks``, or
            ``characters``.
        lowercase: texts are made lower case first.
    """

    def __init__(self, words: Sequence[str], by: str = "words", lowercase: bool = False) -> None:
        if by not in SPLIT:
            raise UserError(f"A vocabulary of {by!r} is not known: {did_you_mean(str(by), SPLIT)}")
        self.words, self.by, self.lowercase = list(words), by, lowercase
        self.ids = {word: FIRST + number for number, word in enumerate(self.words)}
        self.names = [*MARKS, *self.words]

    @classmethod
    def of_texts(cls, texts: Iterable[str], by: str = "words", lowercase: bool = False, min_count: int = 1) -> "Words":
        """Those that the texts have at least ``min_count`` times, the most frequent first."""
        empty, counts = cls([], by, lowercase), Counter[str]()
        for text in texts:
            counts.update(empty.split(text))
        kept = sorted((-count, word) for word, count in counts.items() if count >= min_count)
        return cls([word for _, word in kept], by, lowercase)

    def __len__(self) -> int:
        return FIRST + len(self.words)

    def split(self, text: str) -> list[str]:
        return SPLIT[self.by](text.lower() if self.lowercase else text)

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.ids.get(word, UNKNOWN) for word in self.split(text)] for text in texts]

    def text_of(self, ids: Iterable[int]) -> str:
        """A network may have more ids than the vocabulary: they are unknown, too."""
        return JOIN[self.by]([self.names[it if it < len(self.names) else UNKNOWN] for it in ids])

    def told(self) -> str:
        return json.dumps({"by": self.by, "lowercase": self.lowercase, "words": self.words}, ensure_ascii=False)


def vocabulary_of(told: str) -> Vocabulary:
    """The one that has ``told`` this."""
    content = json.loads(told)
    if "words" in content:
        return Words(content["words"], content["by"], content["lowercase"])
    from datamodules.text.subwords import Subwords

    return Subwords.of(content)


def sha256_of(vocabulary: Vocabulary) -> str:
    return hashlib.sha256(vocabulary.told().encode()).hexdigest()
