"""Text made token ids, against tokenizers' own encode_batch, and how fast instances come from the cache.

    python -m benchmarks.text
    python -m benchmarks.text --files data/text/pretrain --vocabulary data/text/vocab/bert-base-uncased-vocab.txt

- ``platform``: files of text read, tokenised and written as a corpus; an example is a sentence.
- ``encode_batch``: the same files read and given to the library at once, and the ids taken out of what it gives.
- ``tokens``, ``whole words``: batches of instances of that corpus, masked so; an example is an instance.

Without files it is our grammar's tales.
"""

import argparse
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from benchmarks.turns import Turns, table
from datamodules.text.corpus import CorpusFiles
from datamodules.text.sentences import TextFile, files_of
from datamodules.text.tales import tale, words
from datamodules.text.text_files import TextFilesDataModule
from datamodules.text.wordpiece import SPECIAL, WordPiece
from foundation.errors import told_as_sentences
from foundation.randomness import keyed_generator

PLATFORM, LIBRARY = "platform", "encode_batch"
MASKINGS = {"tokens": "tokens", "whole_words": "whole words"}
CPU = torch.device("cpu")


def write_tales(folder: Path, documents: int) -> tuple[str, str]:
    """A file of text and a vocabulary of its words."""
    told = ("\n".join(tale(keyed_generator(0, "tales", number))) for number in range(documents))
    (folder / "tales.txt").write_text("\n\n".join(told))
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words()]))
    return str(folder / "tales.txt"), str(folder / "vocab.txt")


def measure_tokenising(files: str, vocabulary: str, rounds: int) -> Turns:
    tokenizer = WordPiece.of_file(vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        places = (Path(folder) / str(number) for number in range(rounds + 2))

        def platform() -> int:
            return CorpusFiles("text", files, "lines", tokenizer, next(places)).load(quiet=True).sizes()["tokens"]

        def library() -> int:
            read = chain.from_iterable(TextFile(path).documents("lines") for path in files_of(files))
            encoded = tokenizer.tokenizer.encode_batch([it for it in read if it], add_special_tokens=False)
            return sum(len(it.ids) for it in encoded)

        corpus = CorpusFiles("text", files, "lines", tokenizer, next(places)).load(quiet=True)
        turns = Turns("tokenising", CPU, 1, corpus.sizes()["sentences"])
        in_turns(turns, {PLATFORM: platform, LIBRARY: library}, rounds, expected=corpus.sizes()["tokens"])
    return turns


def measure_instances(files: str, vocabulary: str, rounds: int, batches: int, batch_size: int) -> Turns:
    turns = Turns("instances of 128 tokens", CPU, batches, batch_size)
    with tempfile.TemporaryDirectory() as folder:
        tables = {}
        for masking, name in MASKINGS.items():
            settings: dict[str, Any] = {"masking": masking, "batch_size": batch_size, "max_length": 128}
            made = TextFilesDataModule(files=files, vocabulary=vocabulary, cache_dir=folder, **settings)
            made.setup()
            tables[name] = made.tables["train"]

        def epoch(name: str) -> int:
            order = torch.randint(len(tables[name]), (batches, batch_size))
            return sum(len(tables[name][positions]["index"]) for positions in order)

        in_turns(turns, {name: lambda name=name: epoch(name) for name in tables}, rounds, expected=batches * batch_size)
    return turns


def in_turns(turns: Turns, contestants: dict[str, Callable[[], int]], rounds: int, expected: int) -> None:
    """The first of ``rounds`` + 1 warms up."""
    for _ in range(rounds + 1):
        for name, work in contestants.items():
            turns.start()
            done = work()
            turns.stop(name)
            assert done == expected


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", help="of text, one sentence a line, or a folder of them")
    parser.add_argument("--vocabulary", help="a vocab.txt or tokenizer.json, with --files")
    parser.add_argument("--documents", type=int, default=3000, help="of tales, without --files")
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument("--batches", type=int, default=100, help="of instances in a round")
    parser.add_argument("--batch-size", type=int, default=32)
    given = parser.parse_args(arguments)
    if (given.files is None) != (given.vocabulary is None):
        parser.error("give --files and --vocabulary together, or neither")
    with tempfile.TemporaryDirectory() as folder:
        named = (given.files, given.vocabulary)
        files, vocabulary = write_tales(Path(folder), given.documents) if given.files is None else named
        return [
            measure_tokenising(files, vocabulary, given.rounds),
            measure_instances(files, vocabulary, given.rounds, given.batches, given.batch_size),
        ]


def report(measured: list[Turns]) -> str:
    tokenising, instances = measured
    return table([*tokenising.rows(LIBRARY), *instances.rows(MASKINGS["tokens"])])


if __name__ == "__main__":
    with told_as_sentences():
        print(report(main()))
