"""Vectors find the pieces that are spelled as their words; a file that is not of one width is told by its line."""

import gzip
from functools import partial
from pathlib import Path

import pytest
import torch

from datamodules.text.vectors import vectors_of
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from lightning_modules.networks.discriminators import BagOfWords, BiLstm, Convolutions

PIECES = [*SPECIAL, "dog", "Dog", "cat", "##s", "Paris", "."]
GLOVE = ". 0.5 0.5\ndog 1 2\n. . 9 9\nat me 7 7\nparis 3 4\nDog 5 6\nbird 8 8\n"


@pytest.fixture
def vocabulary(tmp_path: Path) -> str:
    (tmp_path / "vocab.txt").write_text("".join(f"{it}\n" for it in PIECES))
    return str(tmp_path / "vocab.txt")


def told(vectors: torch.Tensor, known: torch.Tensor) -> dict[str, list[float]]:
    return {PIECES[row]: vectors[row].tolist() for row in known.nonzero().squeeze(1).tolist()}


EXPECTED = {"dog": [1.0, 2.0], "Dog": [5.0, 6.0], "Paris": [3.0, 4.0], ".": [0.5, 0.5]}


@pytest.mark.parametrize("kind", ["plain", "packed", "with a heading"])
def test_a_piece_has_the_vector_of_the_word_it_is(tmp_path, vocabulary, kind, capsys):
    file = tmp_path / ("glove.txt.gz" if kind == "packed" else "glove.txt")
    if kind == "packed":
        file.write_bytes(gzip.compress(GLOVE.encode()))
    else:
        file.write_text(("7 2\n" if kind == "with a heading" else "") + GLOVE)
    assert told(*vectors_of(str(file), vocabulary, "key")) == EXPECTED
    assert f"key: 4 of 11 pieces have a vector in {file.name}; the others begin at random." in capsys.readouterr().err
    vectors_of(str(file), vocabulary, "key")
    assert not capsys.readouterr().err  # it is read once


@pytest.mark.parametrize("made", [BagOfWords, partial(Convolutions, widths=(2,), filters=3), BiLstm])
def test_embeddings_begin_with_them_and_others_at_their_spread(tmp_path, vocabulary, made):
    (tmp_path / "glove.txt").write_text(GLOVE)
    network = made(2000, 2, vectors=str(tmp_path / "glove.txt"), vocabulary=vocabulary)
    assert told(network.word.weight.detach(), torch.tensor([it in EXPECTED for it in PIECES])) == EXPECTED
    others = network.word.weight.detach()[len(PIECES) :]
    assert others.std().item() == pytest.approx(torch.tensor(list(EXPECTED.values())).std().item(), rel=0.1)
    assert network.word.weight.requires_grad


BAD = [
    ("dog 1 2\ncat 1 2 3\n", "glove.txt, line 2 has 3 numbers, and the first vector 2: mend it, or leave it out"),
    ("dog 1 2\ncat 1\n", "glove.txt, line 2 has 1 numbers, and the first vector 2"),
    ("dog 1 2\n\n", "glove.txt, line 2 has 0 numbers, and the first vector 2"),
    ("dog\n", "glove.txt, line 1 has a word and no numbers"),
    ("dog 1 2\ncat 1 x\n", "glove.txt, line 2 has a vector of 'cat' with something that is no number"),
    ("dog 1 2\ncat 1 nan\n", "glove.txt, line 2 has a vector of 'cat' with something that is no number"),
    ("bird 1 2\n", "glove.txt has no vector of any piece of .*vocab.txt: give vectors of its words"),
    ("", "glove.txt has no vector of any piece"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD)
def test_what_is_no_table_of_vectors_is_told(tmp_path, vocabulary, content, sentence):
    (tmp_path / "glove.txt").write_text(content)
    with pytest.raises(UserError, match=sentence):
        vectors_of(str(tmp_path / "glove.txt"), vocabulary, "key")


def test_what_does_not_fit_the_network_is_told(tmp_path, vocabulary):
    (tmp_path / "glove.txt").write_text(GLOVE)
    how = {"vectors": str(tmp_path / "glove.txt"), "vocabulary": vocabulary}
    with pytest.raises(
        UserError, match=r"network.embedding_size is 3, and the vectors of .* have 2 numbers: set it to 2"
    ):
        BagOfWords(11, 3, **how)
    with pytest.raises(UserError, match=r"network.vocabulary_size is 10, and .* has 11 pieces: set it to 11"):
        BagOfWords(10, 2, **how)
    with pytest.raises(
        UserError, match=r"network.vectors needs the vocabulary .*: set lightning_module.network.vocabul"
    ):
        BagOfWords(11, 2, vectors=how["vectors"])
    with pytest.raises(UserError, match=r"network.vectors=nowhere.txt is no file: give vectors in GloVe's format"):
        BagOfWords(11, 2, vectors="nowhere.txt", vocabulary=vocabulary)
