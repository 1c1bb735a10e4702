"""predict.py on a run that makes texts of texts: what it says is what the module makes of each by itself."""

import json
from pathlib import Path

import pytest
import torch

from datamodules.text.tokens import TokenTable
from foundation.errors import UserError
from foundation.evaluation import evaluating
from launch.runs import load_run
from tests.finished.test_words import predicted, table, typed, written
from tests.finished_runs import finished_run
from tests.lightning_modules import test_raml

TEXTS = ["a b c d e", "l k", "b ? a"]


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    learns = ["trainer.max_steps=20", "lightning_module.optimizer.lr=0.03"]  # so that texts become different ones
    return finished_run(
        tmp_path_factory.mktemp("letters"), "experiment=raml_copy", *test_raml.TINY["raml_copy"], *learns
    )


def test_lines_are_translated_the_same_whatever_stands_beside_them(letters, tmp_path, monkeypatch):
    folder = predicted(letters, written(tmp_path / "lines.txt", "\n".join(TEXTS)), "batch_size=2")
    rows = table(folder)
    module, _, data = load_run(letters)
    for text, row in zip(TEXTS, rows, strict=True):
        alone = TokenTable.of(data.encode([text]))[torch.tensor([0])]  # pyright: ignore
        with evaluating(module):
            ids, lengths = module.translate(alone["input_ids"], alone["lengths"])  # pyright: ignore
        assert row == {"text": text, "output": data.decode(ids[0, : lengths[0]].tolist())}  # pyright: ignore
    assert (folder / "translations.txt").read_text() == "".join(f"{row['output']}\n" for row in rows)
    assert json.loads((folder / "predictions.json").read_text())["unknown_tokens"] == 1
    typed(monkeypatch, "\n".join(TEXTS).encode())
    assert table(predicted(letters, "-")) == rows
    with pytest.raises(UserError, match=r"lines.txt, line 2 is empty"):
        predicted(letters, written(tmp_path / "lines.txt", "a b\n\nc"))
