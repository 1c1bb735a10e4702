from pathlib import Path

import pytest

from datamodules.text import vocabulary
from datamodules.text.vocabulary import main, train_vocabulary
from datamodules.text.wordpiece import SPECIAL, WordPiece
from foundation.errors import UserError

TEXT = "The low lower lowest.\nÉlan, élan!\n\nnew newer newest low low\n" * 10


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_a_vocabulary_begins_with_the_special_tokens_and_covers_its_text(text):
    pieces = train_vocabulary([str(text)], 80)
    assert tuple(pieces[:5]) == SPECIAL
    assert len(set(pieces)) == len(pieces) <= 80
    assert {"low", "new", "elan", "##est"} <= set(pieces)
    tokenizer = WordPiece.of_pieces(pieces, "test")
    assert tokenizer.unknown not in sum(tokenizer.ids_of(TEXT.split("\n")), [])


def test_the_same_text_gives_the_same_vocabulary_however_it_is_read(text, monkeypatch):
    first = train_vocabulary([str(text)], 60)
    assert all(train_vocabulary([str(text)], 60) == first for _ in range(3))
    monkeypatch.setattr(vocabulary, "CHUNK", 2)
    assert train_vocabulary([str(text)], 60) == first


def test_case_and_accents_stay_where_they_are_asked_for(text):
    assert "Élan" in train_vocabulary([str(text)], 100, lowercase=False)


def test_rare_characters_are_left_out_above_the_most(text, monkeypatch):
    monkeypatch.setattr(vocabulary, "ALPHABET", 8)
    pieces = train_vocabulary([str(text)], 60)
    assert sum(len(it.removeprefix("##")) == 1 for it in pieces) == 16
    assert "é" not in pieces
    assert "," not in pieces


def test_the_command_writes_a_file_that_datamodules_read(text, tmp_path, capsys):
    main([str(text), "--out", str(tmp_path / "vocab.txt"), "--size", "64"])
    read = WordPiece.of_file(tmp_path / "vocab.txt")
    assert read.pieces == train_vocabulary([str(text)], 64)
    assert f"vocab.txt: {len(read)} pieces" in capsys.readouterr().out
    with pytest.raises(UserError, match="--out .* cannot be written"):
        main([str(text), "--out", str(tmp_path / "none" / "vocab.txt"), "--size", "64"])


def test_what_cannot_be_is_told(text, tmp_path):
    with pytest.raises(UserError, match=r"--size is 20: the text has \d+ characters, which need \d+ pieces or more"):
        train_vocabulary([str(text)], 20)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(UserError, match=r"empty.txt: there is no text to make a vocabulary of"):
        train_vocabulary([str(tmp_path / "empty.txt")], 100)
