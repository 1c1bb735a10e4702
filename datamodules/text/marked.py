"""Vocabularies as who writes endings needs them: what stands before a text, what ends one, and how ids are read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError

TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
END_OF_TEXT = "<|endoftext|>"
SENTENCE_ENDS = (".", "!", "?")


class MarkedPieces:
    """Of a run: ``[CLS] text ending [SEP]``.

    begin: ids before a text. end: of what ends one. never: ids that are not written.
    """

    def __init__(self, tokenizer: WordPiece) -> None:
        self.tokenizer, self.sha256 = tokenizer, tokenizer.sha256
        self.begin, self.end, self.unknown = [tokenizer.cls], tokenizer.sep, tokenizer.unknown
        self.never = [tokenizer.pad, tokenizer.unknown, tokenizer.cls, tokenizer.mask]
        self.stops: list[int] = []

    def __len__(self) -> int:
        return len(self.tokenizer)

    def ids_of_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return self.tokenizer.ids_of(texts)

    ids_of_endings = ids_of_texts

    def start(self, ids: Sequence[int]) -> list[int]:
        """A text as it is read, with what stands before it."""
        return [*self.begin, *ids]

    def spelling(self, ids: Sequence[int]) -> str:
        """Pieces put together to words, with punctuation where it is written."""
        from tokenizers import decoders

        return decoders.WordPiece().decode(self.tokenizer.decode(ids))


class MarkedBytes:
    """Of a released GPT-2, whose tokens are runs of bytes: nothing stands before a text, unless it is empty, and an
    ending begins with a space.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``.
        end: of ``<|endoftext|>``.
        sha256: of what decides the ids of a text.
    """

    def __init__(self, tokenizer: Any, end: int) -> None:
        import hashlib

        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.tokenizer, self.end = tokenizer, end
        self.sha256 = hashlib.sha256(tokenizer.to_str().encode()).hexdigest()
        self.begin: list[int] = []
        self.unknown, self.never = end, list[int]()
        found = (tokenizer.token_to_id(it) for it in SENTENCE_ENDS)
        self.stops = [it for it in found if it is not None]

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    def ids_of_texts(self, texts: Sequence[str]) -> list[list[int]]:
        return self._ids([it.rstrip() for it in texts])

    def ids_of_endings(self, texts: Sequence[str]) -> list[list[int]]:
        return self._ids([f" {it.lstrip()}" for it in texts])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return [it.ids for it in self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def start(self, ids: Sequence[int]) -> list[int]:
        return list(ids) or [self.end]

    def spelling(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False).strip()


Marked = MarkedPieces | MarkedBytes


def of_folder(folder: Path) -> Marked:
    """That of a released language model: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``."""
    from tokenizers import Tokenizer

    file, apart = folder / TOKENIZER, (folder / VOCABULARY, folder / MERGES)
    if not file.is_file() and not all(it.is_file() for it in apart):
        raise UserError(f"{folder} has neither {TOKENIZER} nor {VOCABULARY} and {MERGES}: a text has no tokens.")
    try:
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else of_merges(*apart)
        kind = json.loads(tokenizer.to_str())["model"]["type"]
    except Exception as error:  # the library raises plain Exceptions
        names = TOKENIZER if file.is_file() else f"{VOCABULARY} or {MERGES}"
        raise UserError(f"{folder}: {names} cannot be read ({error}): download it once more.") from None
    if kind == "WordPiece":
        return MarkedPieces(WordPiece(tokenizer, str(file)))
    if kind != "BPE" or (end := tokenizer.token_to_id(END_OF_TEXT)) is None:
        raise UserError(f"{folder} has a vocabulary of kind {kind} without {END_OF_TEXT}: it is no GPT-2's.")
    return MarkedBytes(tokenizer, end)


def of_merges(vocabulary: Path, merges: Path) -> Any:
    """Pairs of bytes as GPT-2 merges them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if tokenizer.token_to_id(END_OF_TEXT) is not None:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False, special=True)])
    return tokenizer
