"""Vectors of words out of files in GloVe's format (Pennington, Socher & Manning 2014), for a vocabulary's pieces."""

import math
import os
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from datamodules.image_files import say
from datamodules.text.sentences import TextFile
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError


def vectors_of(file: str, vocabulary: str | None, key: str) -> tuple[Tensor, Tensor]:
    """The vector of each piece of a vocabulary, [V, size] float32, zeros where the file has none; and which it has, [V]
    bool. Read once in a process, as long as the file stays as it is.

    Args:
        file: a word and its numbers a line, with spaces between; packed (.gz) or not. A first line that says how many
            words and numbers there are, as word2vec's, is passed over.
        vocabulary: a ``vocab.txt`` or ``tokenizer.json``. A piece has the vector of the word that it is spelled as, or
            of the same in lower case; one inside of a word (``##ing``), which is no word, has none.
        key: that names the file, for sentences.
    """
    if vocabulary is None:
        raise UserError(f"{key} needs the vocabulary whose pieces they are of: set {beside(key, 'vocabulary')}.")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"{key}={file} is no file: give vectors in GloVe's format, a word and its numbers a line.")
    told = path.stat()
    return read(path, vocabulary, key, told.st_mtime_ns, told.st_size)


def beside(key: str, name: str) -> str:
    return f"{key.rpartition('.')[0]}.{name}"


@lru_cache(maxsize=2)
def read(path: Path, vocabulary: str, key: str, changed: int, size: int) -> tuple[Tensor, Tensor]:
    pieces = WordPiece.of_file(vocabulary).pieces
    wanted: dict[str, list[int]] = {}
    for number, piece in enumerate(pieces):
        for spelling in {piece, piece.lower()}:
            wanted.setdefault(spelling, []).append(number)
    vectors, exact, known = torch.empty(0), torch.zeros(len(pieces), dtype=torch.bool), torch.zeros(0)
    width, text = 0, TextFile(path)
    for line in text.lines():
        words = line.rstrip("\r\n").rstrip(" ").split(" ")
        if text.line == 1 and len(words) == 2 and all(it.isdecimal() for it in words):
            continue
        if not width:
            width = len(words) - 1
            vectors, known = torch.zeros(len(pieces), width), torch.zeros(len(pieces), dtype=torch.bool)
        # Words of the largest files have spaces in them; the numbers are the last of a line.
        if width < 1 or len(words) <= width or (len(words) > width + 1 and is_number(words[-width - 1])):
            what = f"has {len(words) - 1} numbers, and the first vector {width}"
            raise text.refused(what if width else "has a word and no numbers", "mend it, or leave it out")
        word = " ".join(words[:-width])
        if word not in wanted:
            continue
        numbers = torch.tensor([number_of(it) for it in words[-width:]])
        if not bool(numbers.isfinite().all()):
            raise text.refused(f"has a vector of {word!r} with something that is no number", "mend it, or leave it out")
        for row in wanted[word]:
            if not exact[row]:
                vectors[row], known[row], exact[row] = numbers, True, pieces[row] == word
    if not bool(known.any()):
        raise UserError(f"{key}={path} has no vector of any piece of {vocabulary}: give vectors of its words.")
    count = f"{int(known.sum()):,} of {len(pieces):,}"
    say(f"{key}: {count} pieces have a vector in {path.name}; the others begin at random.", quiet=not is_first())
    return vectors, known


def is_number(word: str) -> bool:
    return math.isfinite(number_of(word))


def number_of(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def is_first() -> bool:
    """Of the processes of a launch."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def given_vectors(
    file: str, vocabulary: str | None, embedding_size: int, vocabulary_size: int, others: Tensor
) -> Tensor:
    """Embeddings [vocabulary_size, embedding_size]: of pieces with a vector that, of others their row of ``others``,
    which is drawn with spread 1, at the spread that the given ones have."""
    key = "lightning_module.network.vectors"
    vectors, known = vectors_of(file, vocabulary, key)
    pieces, width = vectors.shape
    if width != embedding_size:
        raise UserError(
            f"{beside(key, 'embedding_size')} is {embedding_size}, and the vectors of {file} have {width} numbers: set "
            f"it to {width}."
        )
    if pieces > vocabulary_size:
        raise UserError(
            f"{beside(key, 'vocabulary_size')} is {vocabulary_size:,}, and {vocabulary} has {pieces:,} pieces: set it "
            f"to {pieces}."
        )
    whole = others * vectors[known].std()
    whole[:pieces][known] = vectors[known]
    return whole
