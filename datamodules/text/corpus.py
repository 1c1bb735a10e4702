"""Documents as token ids, in one array that is mapped into memory: tokenised once, whatever their size."""

import hashlib
import json
import os
import re
import tempfile
import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

from datamodules.image_files import say, shown
from datamodules.text.sentences import TextFile, files_of
from datamodules.text.wordpiece import WordPiece
from foundation.errors import UserError

FORMAT = 1  # of the cache, and of how text becomes sentences: a change here makes former caches unused
CHUNK = 4096  # sentences that are tokenised at once
FLUSHED = 2**18  # tokens that wait to be written
CHECKED_WHOLE = 2**30  # bytes; of a larger cache the sizes alone are checked at a start


@dataclass(frozen=True)
class Corpus:
    """Documents of sentences of one token or more.

    Args:
        token_ids: [T] unsigned, all sentences one behind the other.
        sentences: int64 [S + 1], where each begins in the tokens, and T.
        documents: int64 [D + 1], where each begins among the sentences, and S.
        sha256: of all three.
    """

    token_ids: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    sha256: str

    @classmethod
    def of(cls, documents: Iterable[Sequence[Sequence[int]]]) -> "Corpus":
        """documents: the token ids of each one's sentences, some of both."""
        documents = list(documents)
        sentences = [sentence for document in documents for sentence in document]
        assert all(sentences)
        assert all(documents)
        token_ids = np.fromiter((it for sentence in sentences for it in sentence), np.uint32)
        begins, documents_begin = (np.cumsum([0, *map(len, them)], dtype=np.int64) for them in (sentences, documents))
        content = b"".join(it.tobytes() for it in (token_ids, begins, documents_begin))
        return cls(token_ids, begins, documents_begin, hashlib.sha256(content).hexdigest())

    def __len__(self) -> int:
        """Documents."""
        return len(self.documents) - 1

    @property
    def tokens_of_documents(self) -> np.ndarray:
        """int64 [D]."""
        return np.diff(self.sentences[self.documents])

    def sizes(self) -> dict[str, int]:
        return {"documents": len(self), "sentences": len(self.sentences) - 1, "tokens": len(self.token_ids)}


class CorpusFiles:
    """Files of text as a corpus, kept in a folder of the cache.

    Args:
        name: of the data set, for what is said and for the folder.
        files: of text (``.txt``, ``.txt.gz``), or folders of them.
        layout: ``lines`` has one sentence a line and a blank line between documents; in ``running`` text a file is a
            document, and a rule finds its sentences.
    """

    def __init__(self, name: str, files: str | Sequence[str], layout: str, vocabulary: WordPiece, cache_dir: Path):
        self.name, self.layout, self.vocabulary = name, layout, vocabulary
        self.files = files_of(files)
        self.folder = cache_dir / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}-{self._key()}"

    def load(self, quiet: bool = False) -> Corpus:
        """From the cache where it is there. Quiet where another process says the same."""
        corpus = self._read(quiet)
        if corpus is None:
            self._make(quiet)
            corpus = self._read(quiet)
            if corpus is None:
                raise UserError(f"{self.folder} cannot be read, although it was just made: is its disk in order?")
        return corpus

    def _key(self) -> str:
        """A hash of all that decides the tokens."""
        stats = [(str(path.resolve()), it.st_size, it.st_mtime_ns) for path in self.files for it in [path.stat()]]
        code = [FORMAT, version("tokenizers")]
        content = {"code": code, "layout": self.layout, "vocabulary": self.vocabulary.sha256, "files": stats}
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]

    def _read(self, quiet: bool) -> Corpus | None:
        if not self.folder.is_dir():
            return None
        try:
            told = json.loads((self.folder / "corpus.json").read_text())
            token_ids = np.memmap(self.folder / "token_ids", mode="r", dtype=np.dtype(told["dtype"]))
            sentences = np.memmap(self.folder / "sentences", mode="r", dtype=np.int64)
            documents = np.memmap(self.folder / "documents", mode="r", dtype=np.int64)
            corpus = Corpus(token_ids, sentences, documents, told["sha256"])
            ends = len(token_ids), len(sentences) - 1
            intact = corpus.sizes() == told["sizes"] and ends == (int(sentences[-1]), int(documents[-1]))
            if intact and token_ids.nbytes <= CHECKED_WHOLE:
                intact = [zlib.crc32(it.data) for it in (token_ids, sentences, documents)] == told["crc32"]
        except (OSError, ValueError, KeyError, TypeError):  # whatever is made of bytes that are not what was written
            intact, corpus = False, None
        if intact:
            return corpus
        say(f"{self.name}: the cache {self.folder} is damaged and is made again.", quiet)
        self._set_aside()
        return None

    def _set_aside(self) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder.parent, ignore_cleanup_errors=True) as unwanted:
            os.replace(self.folder, Path(unwanted) / "damaged")

    def _make(self, quiet: bool) -> None:
        """Whole or not at all."""
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder.parent) as unfinished:
                inside = Path(unfinished) / "corpus"
                inside.mkdir()
                self._write(inside, quiet)
                try:
                    os.replace(inside, self.folder)
                except OSError:
                    if not self.folder.is_dir():  # another process was the first
                        raise
        except OSError as error:
            raise UserError(
                f"{self.name}: token ids cannot be kept in {self.folder.parent} ({error.strerror or error}): set "
                "RELIGHT_CACHE or paths.cache_dir to a folder that you may write to and that has room."
            ) from None

    def _write(self, folder: Path, quiet: bool) -> None:
        with TokenWriter(folder, len(self.vocabulary)) as writer:
            steps = self._tokenised(writer)
            total = sum(path.stat().st_size for path in self.files) // 1000
            for _ in steps if quiet else shown(steps, total, f"tokenising {self.name}", "kB"):
                pass
        if not writer.sizes["documents"]:
            raise UserError(
                f"{self.files[0]}{' and the others' * (len(self.files) > 1)}: there is no text to train on."
            )
        (folder / "corpus.json").write_text(json.dumps(writer.told()))

    def _tokenised(self, writer: "TokenWriter") -> Iterator[int]:
        """Writes all, and gives how many kB of the files were read since it last said so."""
        before = 0  # bytes of the files before
        said = 0
        for path in self.files:
            file = TextFile(path)
            sentences = file.documents(self.layout)
            while chunk := list(islice(sentences, CHUNK)):
                ids = iter(self.vocabulary.ids_of([it for it in chunk if it is not None]))
                for it in chunk:
                    writer.end_document() if it is None else writer.add(next(ids))
                yield (now := (before + file.done) // 1000) - said
                said = now
            before += file.size


class TokenWriter:
    """Writes the three arrays of a corpus as their content comes, holding none of them."""

    def __init__(self, folder: Path, vocabulary_size: int) -> None:
        self.dtype = np.dtype(np.uint16 if vocabulary_size <= 2**16 else np.uint32)
        names = ("token_ids", "sentences", "documents")
        self.files: dict[str, IO[bytes]] = {name: open(folder / name, "wb") for name in names}  # noqa: SIM115
        self.hashes = {name: hashlib.sha256() for name in self.files}
        self.sizes = {"documents": 0, "sentences": 0, "tokens": 0}
        self.checksums = dict.fromkeys(self.files, 0)
        self.first = 0  # sentence of the document that has not ended
        self.waiting = {"token_ids": array("I"), "sentences": array("q", [0]), "documents": array("q", [0])}

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.flush()
        for file in self.files.values():
            file.close()

    def add(self, ids: Sequence[int]) -> None:
        """A sentence; one without tokens is none."""
        if ids:
            self.waiting["token_ids"].extend(ids)
            self.sizes["tokens"] += len(ids)
            self.sizes["sentences"] += 1
            self.waiting["sentences"].append(self.sizes["tokens"])
            if len(self.waiting["token_ids"]) > FLUSHED:
                self.flush()

    def end_document(self) -> None:
        """One without sentences is none."""
        if self.sizes["sentences"] > self.first:
            self.first = self.sizes["sentences"]
            self.sizes["documents"] += 1
            self.waiting["documents"].append(self.first)

    def flush(self) -> None:
        for name, numbers in self.waiting.items():
            dtype = self.dtype if name == "token_ids" else np.dtype(np.int64)
            content = np.array(numbers, dtype=dtype).tobytes()
            self.files[name].write(content)
            self.hashes[name].update(content)
            self.checksums[name] = zlib.crc32(content, self.checksums[name])
            del numbers[:]

    def told(self) -> dict[str, Any]:
        sha256 = hashlib.sha256("".join(it.hexdigest() for it in self.hashes.values()).encode()).hexdigest()
        return {"sizes": self.sizes, "dtype": self.dtype.str, "sha256": sha256, "crc32": [*self.checksums.values()]}
