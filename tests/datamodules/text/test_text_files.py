import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.text import corpus
from datamodules.text.tales import tale, words
from datamodules.text.text_files import TextFilesDataModule
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from foundation.randomness import keyed_generator

SHARED = Path(os.environ.get("DATA_DIR", "data")) / "text"


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    """Twelve tales as text, and a vocabulary of their words, where the shipped configs look for both."""
    (data_dir / "text" / "pretrain").mkdir(parents=True)
    (data_dir / "text" / "vocab").mkdir()
    tales = ["\n".join(tale(keyed_generator(0, "tiny tales", number))) for number in range(12)]
    (data_dir / "text" / "pretrain" / "tales.txt").write_text("\n\n".join(tales) + "\n")
    pieces = "".join(f"{piece}\n" for piece in [*SPECIAL, *words()])
    (data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt").write_text(pieces)


def made(folder: Path, **settings) -> TextFilesDataModule:
    places = {
        "files": str(folder / "text" / "pretrain"),
        "vocabulary": str(folder / "text" / "vocab" / "bert-base-uncased-vocab.txt"),
        "cache_dir": str(folder / "cache"),
    }
    return TextFilesDataModule(**{"batch_size": 4, "max_length": 40, "name": "mine"} | places | settings)


def test_text_is_tokenised_once_and_read_from_the_cache(tmp_path, monkeypatch, capsys):
    write_tiny(tmp_path)
    datamodule = made(tmp_path)
    datamodule.prepare_data()
    monkeypatch.setattr(corpus.CorpusFiles, "_make", None)
    datamodule.setup()
    assert isinstance(datamodule.corpus.token_ids, np.memmap)
    told = datamodule.describe()
    assert (told["name"], told["documents"], told["vocabulary_size"]) == ("mine", 12, 140)
    batch = next(iter(datamodule.train_dataloader()))
    assert batch["input_ids"].shape[0] == 4
    ids = datamodule.corpus.token_ids
    assert datamodule.tokenizer.unknown not in ids
    assert "damaged" not in capsys.readouterr().err


def test_running_text_has_a_document_a_file(tmp_path):
    write_tiny(tmp_path)
    (tmp_path / "books").mkdir()
    for number in range(5):
        sentences = tale(keyed_generator(0, "tiny tales", number))
        text = " ".join(f"{it[0].upper()}{it[1:-2]}." for it in sentences).replace(" the ", "\nthe ")
        (tmp_path / "books" / f"{number}.txt").write_text(text)
    datamodule = made(tmp_path, files=str(tmp_path / "books"), layout="running")
    datamodule.setup()
    lengths = [len(tale(keyed_generator(0, "tiny tales", number))) for number in range(5)]
    assert np.diff(datamodule.corpus.documents).tolist() == lengths


def test_files_that_are_no_documents_or_no_text_are_told(tmp_path):
    write_tiny(tmp_path)
    one = tmp_path / "one.txt"
    one.write_text("on monday anna goes to the barn .\nthen she goes to the field .\n")
    with pytest.raises(UserError, match="mine is 1 document, and 4 are the fewest"):
        made(tmp_path, files=str(one)).setup()
    one.write_text("")
    with pytest.raises(UserError, match=r"one.txt: there is no text to train on"):
        made(tmp_path, files=str(one)).setup()
    with pytest.raises(UserError, match=r"datamodule.layout is 'line': did you mean 'lines'\?"):
        made(tmp_path, layout="line")
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL[:4], *words()]))
    with pytest.raises(UserError, match=r"vocab.txt has no \[MASK\]"):
        made(tmp_path, vocabulary=str(tmp_path / "vocab.txt"))


def test_another_text_under_the_same_name_is_not_gone_on_with(tmp_path):
    write_tiny(tmp_path)
    before = made(tmp_path)
    before.setup()
    state = before.state_dict()
    with open(tmp_path / "text" / "pretrain" / "tales.txt", "a") as file:
        file.write("\non monday tom goes to the barn .\n")
    after = made(tmp_path)
    after.setup()
    with pytest.raises(UserError, match="mine is another text than the run was trained on"):
        after.load_state_dict(state)


@pytest.mark.skipif(not (SHARED / "pretrain" / "inaugural.txt.gz").exists(), reason="needs DATA_DIR with text/pretrain")
def test_real_text_in_the_released_vocabulary(tmp_path):
    files = [str(SHARED / "pretrain" / f"{name}.txt.gz") for name in ("inaugural", "wikitext2_valid")]
    vocabulary = str(SHARED / "vocab" / "bert-base-uncased-vocab.txt")
    datamodule = made(tmp_path, files=files, vocabulary=vocabulary, max_length=128, test_size=100, val_size=50)
    datamodule.setup()
    told = datamodule.describe()
    assert (told["documents"], told["val"], told["test"], told["vocabulary_size"]) == (119, 50, 100, 30522)
    whole = datamodule.tables["train"]
    batch = whole[torch.arange(len(whole))]
    assert int(batch["lengths"].max()) == 128
    share = float(batch["is_random_next"].float().mean())
    assert 0.5 < share < 0.65
    masked = (batch["input_ids"] == 103).sum() / (batch["masked_ids"] >= 0).sum()
    assert float(masked) == pytest.approx(0.8, abs=0.01)
