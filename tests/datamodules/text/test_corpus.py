import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from datamodules.text import corpus as corpus_module
from datamodules.text.corpus import Corpus, CorpusFiles
from datamodules.text.wordpiece import SPECIAL, WordPiece
from foundation.errors import UserError

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]
VOCABULARY = WordPiece.of_pieces([*SPECIAL, *WORDS], "test")
TEXT = {"one.txt": "a b\nc\n\n\n\x00\n\nd e f\n", "two.txt.gz": "g\n\nh h\n"}
TOKENS, SENTENCES, DOCUMENTS = [5, 6, 7, 8, 9, 10, 11, 12, 12], [0, 2, 3, 6, 7, 9], [0, 2, 3, 4, 5]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    for name, content in TEXT.items():
        raw = content.encode()
        (tmp_path / "text" / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    return tmp_path


def files(folder: Path, layout="lines", vocabulary: WordPiece = VOCABULARY) -> CorpusFiles:
    return CorpusFiles("test", str(folder / "text"), layout, vocabulary, folder / "cache")


def held(corpus: Corpus) -> list[list[int]]:
    return [it.tolist() for it in (corpus.token_ids, corpus.sentences, corpus.documents)]


def test_documents_are_one_array_and_a_sentence_without_tokens_is_none(folder):
    corpus = files(folder).load()
    assert held(corpus) == [TOKENS, SENTENCES, DOCUMENTS]
    assert isinstance(corpus.token_ids, np.memmap)
    assert corpus.token_ids.dtype == np.uint16
    assert corpus.sizes() == {"documents": 4, "sentences": 5, "tokens": 9}
    assert corpus.tokens_of_documents.tolist() == [3, 3, 1, 2]


def test_chunks_and_flushes_change_nothing(folder, monkeypatch):
    whole = files(folder).load()
    monkeypatch.setattr(corpus_module, "CHUNK", 2)
    monkeypatch.setattr(corpus_module, "FLUSHED", 3)
    monkeypatch.setattr(corpus_module, "FORMAT", -1)
    again = files(folder).load()
    assert held(again) == held(whole)
    assert again.sha256 == whole.sha256


def test_what_is_in_the_cache_is_not_tokenised_again(folder, monkeypatch):
    first = files(folder).load()
    monkeypatch.setattr(WordPiece, "ids_of", None)
    assert held(files(folder).load()) == held(first)


def test_another_file_vocabulary_or_layout_has_a_cache_of_its_own(folder):
    before = files(folder).folder
    others = WordPiece.of_pieces([*SPECIAL, *WORDS[::-1]], "test")
    assert files(folder).folder == before
    assert len({before, files(folder, "running").folder, files(folder, vocabulary=others).folder}) == 3
    (folder / "text" / "one.txt").write_text("a\n")
    assert files(folder).folder != before


@pytest.mark.parametrize("name", ["token_ids", "sentences", "documents", "corpus.json"])
@pytest.mark.parametrize("how", ["changed", "shorter", "gone"])
def test_a_damaged_cache_is_made_again_with_a_line(folder, capsys, name, how):
    damaged = files(folder).folder / name
    files(folder).load()
    content = damaged.read_bytes()
    if how == "gone":
        damaged.unlink()
    else:
        damaged.write_bytes(content[:-1] if how == "shorter" else content[:9] + bytes([content[9] ^ 1]) + content[10:])
    assert held(files(folder).load()) == [TOKENS, SENTENCES, DOCUMENTS]
    assert f"test: the cache {damaged.parent} is damaged and is made again." in capsys.readouterr().err
    assert damaged.read_bytes() == content
    assert [it.name for it in (folder / "cache").iterdir()] == [damaged.parent.name]


def test_nothing_is_kept_of_text_that_is_refused(folder):
    (folder / "text" / "three.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(UserError, match=r"three.txt, line 2 is no UTF-8"):
        files(folder).load()
    assert list((folder / "cache").iterdir()) == []


@pytest.mark.parametrize("content", ["", "\n\n \n", "\x00\n"])
def test_text_without_words_is_refused(tmp_path, content):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "one.txt").write_text(content)
    with pytest.raises(UserError, match=r"one.txt: there is no text to train on"):
        files(tmp_path).load()


def test_a_cache_that_cannot_be_written_is_told(folder):
    (folder / "cache").write_text("a file")
    with pytest.raises(UserError, match="test: token ids cannot be kept in .*: set RELIGHT_CACHE"):
        files(folder).load()


def test_a_large_vocabulary_has_wider_ids(folder):
    large = WordPiece.of_pieces([*SPECIAL, *map(str, range(2**16)), *WORDS], "test")
    corpus = files(folder, vocabulary=large).load()
    assert corpus.token_ids.tolist() == [it + 2**16 for it in TOKENS]
    assert corpus.token_ids.dtype == np.uint32


def test_the_fingerprint_is_of_the_content_whatever_the_files_are_called(folder):
    before = files(folder).load().sha256
    (folder / "text" / "one.txt").rename(folder / "text" / "a.txt")
    assert files(folder).load().sha256 == before
    told = json.loads((files(folder).folder / "corpus.json").read_text())
    assert told["sha256"] == before


def test_a_corpus_in_memory_is_laid_out_alike():
    corpus = Corpus.of([[[5, 6], [7]], [[8, 9, 10]], [[11]], [[12, 12]]])
    assert held(corpus) == [TOKENS, SENTENCES, DOCUMENTS]
    assert corpus.sha256 != Corpus.of([[[5, 6]], [[7], [8, 9, 10]], [[11]], [[12, 12]]]).sha256
