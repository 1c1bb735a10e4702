"""WordPiece vocabularies: text to token ids and back, by the ``tokenizers`` library."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from foundation.errors import UserError

MASK = "[MASK]"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", MASK)
PREFIX = "##"
LONGEST_WORD = 100  # characters; a longer one is [UNK], as in the released tokenizer.json (Google's code has 200)

# Batches of texts are cut among threads by the library. A fork does not have them, and would wait for them for ever, so
# that in one texts are cut by its only thread; the library itself would also warn of it.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
os.register_at_fork(after_in_child=lambda: os.environ.update(TOKENIZERS_PARALLELISM="false"))


class WordPiece:
    """Ids of special tokens are ``pad``, ``unknown``, ``cls``, ``sep`` and ``mask``; len() is the vocabulary's size.

    A text that holds a special token's name, such as ``[MASK]``, has that token there.

    Args:
        tokenizer: a ``tokenizers.Tokenizer``. Its padding, truncation and special tokens round a text are not used.
        source: the file or data set that it is of, for sentences.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        if missing := [it for it in SPECIAL if tokenizer.token_to_id(it) is None]:
            raise UserError(f"The vocabulary of {source} has no {', '.join(missing)}: BERT needs {', '.join(SPECIAL)}.")
        self.tokenizer, self.source = tokenizer, source
        self.pad, self.unknown, self.cls, self.sep, self.mask = map(tokenizer.token_to_id, SPECIAL)

    @classmethod
    def of_file(cls, file: str | Path, lowercase: bool = True) -> "WordPiece":
        """A ``vocab.txt``, one piece a line, or a ``tokenizer.json``, whose own rules hold instead of ``lowercase``."""
        path = Path(file).expanduser()
        if not path.is_file():
            raise UserError(
                f"datamodule.vocabulary={file} is no file: give a vocab.txt or tokenizer.json, or make one of your own "
                "text with: python -m datamodules.text.vocabulary text.txt --out vocab.txt"
            )
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            line = path.read_bytes()[: error.start].count(b"\n") + 1
            raise UserError(f"datamodule.vocabulary={file}, line {line} is no UTF-8: give a vocab.txt.") from None
        except OSError as error:
            raise UserError(f"datamodule.vocabulary={file} cannot be read: {error.strerror or error}.") from None
        if path.suffix == ".json":
            return cls(tokenizer_of_json(content, str(file)), str(file))
        pieces = content.removesuffix("\n").split("\n")
        return cls.of_pieces([it.removesuffix("\r") for it in pieces], str(file), lowercase)

    @classmethod
    def of_pieces(cls, pieces: Sequence[str], source: str, lowercase: bool = True) -> "WordPiece":
        """The pieces in the order of their ids; those inside of a word begin with ``##``.

        Text is cut as BERT's is: control characters dropped, spaces round CJK characters, punctuation by itself, and
        with ``lowercase`` made lower case without accents.
        """
        from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

        ids = {piece: number for number, piece in enumerate(pieces)}
        if len(ids) < len(pieces):
            again = next(number for number, piece in enumerate(pieces) if ids[piece] != number)
            raise UserError(
                f"The vocabulary of {source} has {pieces[again]!r} in lines {again + 1} and {ids[pieces[again]] + 1}: "
                "each piece stands once, and its line is its id."
            )
        model = models.WordPiece(vocab=ids, unk_token=SPECIAL[1], continuing_subword_prefix=PREFIX,
                                 max_input_chars_per_word=LONGEST_WORD)  # fmt: skip
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.add_special_tokens([AddedToken(it, normalized=False, special=True) for it in SPECIAL if it in ids])
        return cls(tokenizer, source)

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def pieces(self) -> list[str]:
        """In the order of their ids."""
        found = {number: piece for piece, number in self.tokenizer.get_vocab().items()}
        return [found.get(number, SPECIAL[1]) for number in range(max(found) + 1)]

    @cached_property
    def continues_word(self) -> np.ndarray:
        """bool [pieces]: whether a piece goes on with the word that the one before began."""
        return np.array([it.startswith(PREFIX) for it in self.pieces])

    @cached_property
    def sha256(self) -> str:
        """Of all that decides the ids of a text."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def ids_of(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text's pieces, without [CLS] and [SEP] round them."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [it.ids for it in encodings]

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """``[CLS] text [SEP]`` of each, its pieces cut behind so that it has at most ``max_length`` tokens."""
        return [[self.cls, *ids[: max_length - 2], self.sep] for ids in self.ids_of(texts)]

    def encode_pairs(
        self, texts: Sequence[str], others: Sequence[str], max_length: int
    ) -> tuple[list[list[int]], list[int]]:
        """``[CLS] text [SEP] other [SEP]`` of each pair, at most ``max_length`` tokens, and how many of them are the
        first segment's. Tokens are cut behind, of whichever has more of them (of the other where both have as many).
        """
        encoded, first = [], []
        for ids, other in zip(self.ids_of(texts), self.ids_of(others), strict=True):
            kept, kept_other = cut_longest_first(len(ids), len(other), max_length - 3)
            encoded.append([self.cls, *ids[:kept], self.sep, *other[:kept_other], self.sep])
            first.append(kept + 2)
        return encoded, first

    def decode(self, ids: Iterable[int]) -> list[str]:
        """The pieces of ids."""
        return [self.pieces[number] for number in ids]


def cut_longest_first(length: int, other: int, most: int) -> tuple[int, int]:
    """What is left of two lengths when the longer one loses a token, the second on ties, until both have ``most``."""
    if length + other <= most:
        return length, other
    shorter = min(length, other)
    if 2 * shorter >= most:
        return most - most // 2, most // 2
    return (shorter, most - shorter) if length <= other else (most - shorter, shorter)


def tokenizer_of_json(content: str, source: str) -> Any:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(content)
        kind = json.loads(content)["model"].get("type", "WordPiece")
    except Exception as error:  # the library raises plain Exceptions
        raise UserError(f"datamodule.vocabulary={source} is no tokenizer.json ({error}): give another.") from None
    if kind != "WordPiece":
        raise UserError(f"datamodule.vocabulary={source} is a {kind} tokenizer, and BERT's is WordPiece: give another.")
    return tokenizer
