"""A WordPiece vocabulary of your own text.

python -m datamodules.text.vocabulary text.txt --out vocab.txt --size 8000

Then datamodule.vocabulary=vocab.txt reads text in it. Pieces are found as in byte-pair encoding, by how often two stand
side by side, which is what the tokenizers library does under this name; the script that made BERT's own vocabulary was
never released.
"""

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datamodules.image_files import shown
from datamodules.text.sentences import LAYOUTS, TextFile, files_of
from datamodules.text.wordpiece import PREFIX, SPECIAL, WordPiece
from foundation.errors import UserError, told_as_sentences

ALPHABET = 1000  # characters, at most
CHUNK = 1000  # sentences that the library is given at once


def train_vocabulary(
    files: Sequence[str], size: int, *, lowercase: bool = True, layout: str = "lines", min_frequency: int = 2
) -> list[str]:
    """Pieces in the order of their ids: the special tokens, characters, then what they make together.

    Args:
        files: of text, or folders of them.
        size: pieces at most, special tokens among them.
        lowercase: text is made lower case without accents first.
        min_frequency: of a pair of pieces that becomes one.
    """
    from tokenizers import trainers

    found = files_of(files)
    tokenizer = WordPiece.of_pieces(SPECIAL, "the special tokens", lowercase).tokenizer
    alphabet = characters(tokenizer, chunks(found, layout, "looking for characters"))
    if not alphabet:
        raise UserError(f"{found[0]}{' and the others' * (len(found) > 1)}: there is no text to make a vocabulary of.")
    if size < (least := len(SPECIAL) + 2 * len(alphabet)):
        raise UserError(
            f"--size is {size}: the text has {len(alphabet)} characters, which need {least} pieces or more."
        )
    # The library settles ties by ids, and gives a continuing character's by chance, unless it is there already.
    known = [*SPECIAL, *(f"{PREFIX}{it}" for it in alphabet)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=min_frequency, special_tokens=known, initial_alphabet=alphabet,
        limit_alphabet=len(alphabet), continuing_subword_prefix=PREFIX, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(chunks(found, layout, "counting words"), trainer)
    pieces = WordPiece(tokenizer, "the text").pieces
    return pieces


def characters(tokenizer: Any, texts: Iterator[list[str]]) -> list[str]:
    """The most frequent ones, in their order; words with others are [UNK]."""
    counts: Counter[str] = Counter()
    for some in texts:
        counts.update(tokenizer.normalizer.normalize_str(" ".join(some)))
    kept = sorted((-count, it) for it, count in counts.items() if not it.isspace())[:ALPHABET]
    return sorted(it for _, it in kept)


def chunks(files: Sequence[Path], layout: str, doing: str) -> Iterator[list[str]]:
    waiting: list[str] = []

    def read() -> Iterator[int]:
        before = said = 0
        for path in files:
            file = TextFile(path)
            sentences = (it for it in file.documents(layout) if it is not None)
            while chunk := list(islice(sentences, CHUNK)):
                waiting[:] = chunk
                yield (now := (before + file.done) // 1000) - said
                said = now
            before += file.size

    for _ in shown(read(), sum(path.stat().st_size for path in files) // 1000, doing, "kB"):
        yield waiting


def write(pieces: Sequence[str], out: Path) -> None:
    """Whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=out.absolute().parent) as unfinished:
            (Path(unfinished) / "vocabulary").write_text("".join(f"{it}\n" for it in pieces), encoding="utf-8")
            os.replace(Path(unfinished) / "vocabulary", out)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written: {error.strerror or error}.") from None


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="text, or folders of it: .txt, .txt.gz")
    parser.add_argument("--out", type=Path, default=Path("vocab.txt"), help="the file that is written: %(default)s")
    parser.add_argument("--size", type=int, default=30522, help="pieces, at most: %(default)s")
    parser.add_argument(
        "--cased", action="store_true", help="keep capitals and accents; then datamodule.lowercase=false"
    )
    parser.add_argument(
        "--layout", choices=LAYOUTS, default="lines", help="; ".join(f"{k}: {v}" for k, v in LAYOUTS.items())
    )
    parser.add_argument("--min-frequency", type=int, default=2, help="of a pair that becomes a piece: %(default)s")
    given = parser.parse_args(arguments)
    pieces = train_vocabulary(
        given.files, given.size, lowercase=not given.cased, layout=given.layout, min_frequency=given.min_frequency
    )
    write(pieces, given.out)
    print(f"{given.out}: {len(pieces):,} pieces")


if __name__ == "__main__":
    with told_as_sentences():
        main()
