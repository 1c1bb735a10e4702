from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.text.tales import NAMES, TRADES, tale, words
from datamodules.text.token_labels import TokenLabelsDataModule
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from foundation.randomness import keyed_generator


def lines_of(number: int) -> str:
    """A sentence in CoNLL 2003's format: word, part of speech, chunk, name."""
    names = {it: "B-PER" for them in NAMES.values() for it in them} | {
        place: "B-LOC" for places, *_ in TRADES.values() for place in places
    }
    sentence = tale(keyed_generator(0, "tiny names", number))[0]
    return "".join(f"{word} NN B-NP {names.get(word, 'O')}\n" for word in sentence.split())


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    """CoNLL 2003's three files in their format, and a vocabulary, where the shipped config looks."""
    (data_dir / "text" / "vocab").mkdir(parents=True)
    (data_dir / "text" / "conll2003").mkdir()
    pieces = "".join(f"{piece}\n" for piece in [*SPECIAL, *words()])
    (data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt").write_text(pieces)
    for name, first, size in (("train", 0, 60), ("testa", 60, 20), ("testb", 80, 20)):
        sentences = "\n".join(lines_of(number) for number in range(first, first + size))
        (data_dir / "text" / "conll2003" / f"eng.{name}").write_text(f"-DOCSTART- -X- -X- O\n\n{sentences}\n")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    write_tiny(folder)
    return folder


def made(data_dir: Path, **settings) -> TokenLabelsDataModule:
    folder = data_dir / "text" / "conll2003"
    files = {
        key: str(folder / f"eng.{name}")
        for key, name in (("file", "train"), ("val_file", "testa"), ("test_file", "testb"))
    }
    vocabulary = str(data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt")
    return TokenLabelsDataModule(**{"batch_size": 8, "val_size": 20, "vocabulary": vocabulary} | files | settings)


def test_a_word_s_label_is_at_its_first_piece(data_dir):
    datamodule = made(data_dir)
    assert datamodule.class_names == ["O", "B-LOC", "B-PER"]  # before it is set up
    datamodule.setup()
    assert datamodule.sizes() == {"train": 60, "val": 20, "test": 20}
    batch = datamodule.tables["test"][torch.tensor([4, 0])]
    assert batch["token_label"].shape == batch["input_ids"].shape
    for row, number in enumerate((84, 80)):
        expected, ids = [-100], [2]
        for line in lines_of(number).splitlines():
            word, *_, label = line.split()
            (pieces,) = datamodule.tokenizer.ids_of([word])
            ids += pieces
            expected += [datamodule.class_names.index(label), *[-100] * (len(pieces) - 1)]
        width = batch["input_ids"].shape[1]
        assert batch["input_ids"][row].tolist() == [*ids, 3] + [0] * (width - len(ids) - 1)
        assert batch["token_label"][row].tolist() == expected + [-100] * (width - len(expected))
    moved = datamodule.tables["test"].take(torch.tensor([4])).to(torch.device("cpu"))
    length = int(moved.columns["lengths"][0])
    assert torch.equal(moved[torch.tensor([0])]["token_label"][0], batch["token_label"][0, :length])


def test_without_a_file_of_validation_it_is_taken_from_training(data_dir):
    datamodule = made(data_dir, val_file=None, val_size=5)
    datamodule.setup()
    assert datamodule.sizes() == {"train": 55, "val": 5, "test": 20}


def test_words_behind_the_longest_text_are_counted_aloud(data_dir, capsys):
    datamodule = made(data_dir, max_length=6)
    datamodule.setup()
    assert "lie behind datamodule.max_length=6 and are not seen" in capsys.readouterr().err
    assert int(datamodule.tables["train"].known_lengths.max()) == 6


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("a O\nb\n", {"label_column": 1}, r"mine, line 2 has 1 cells, not columns 0 and 1"),
    ("a O\nb X\n", {"classes": ["O", "B-PER"]}, r"mine, line 2: 'X' is no class; "),
    ("a O\n", {}, "mine has fewer than two labels: set datamodule.label_column"),
    ("\n", {"classes": ["O", "B"]}, "mine has no sentences"),
    ("a O\nb X\n", {}, r"eng.test., line \d+: '.*' is no class"),
]


@pytest.mark.parametrize(("content", "settings", "told"), BAD)
def test_what_cannot_be_is_told(data_dir, tmp_path, content, settings, told):
    (tmp_path / "mine").write_text(content)
    with pytest.raises(UserError, match=told):
        made(data_dir, file=str(tmp_path / "mine"), **settings).setup()
