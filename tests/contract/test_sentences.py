"""A classifier of texts (``sentences.py``) lives in the house as one of images does, from training to an ONNX file."""

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

import predict
from finished.onnx import export
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import build, load_run
from sample import sample
from tests.contract.life import (
    Killed,
    ask_to_stop,
    assert_the_same,
    composed,
    figures,
    gone_on_with,
    happening,
    kill,
    measured,
    own_parts_allowed,
    record_of,
)
from tests.contract.sentences import SentenceClassifier
from train import train

NODES: dict[str, Any] = {
    "lightning_module": {
        "_target_": "tests.contract.sentences.SentenceClassifier",
        "network": {
            "_target_": "tests.contract.sentences.BagOfWords",
            "vocabulary_size": 18,
            "num_classes": 3,
        },
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.05},
    },
    "datamodule": {
        "_target_": "tests.contract.sentences.Sentences",
        "batch_size": 32,
        "val_size": 40,
        "max_length": 10,
        "seed": 0,
    },
}  # fmt: skip
LINES = ["The sun and the heat of summer", "snow", "we bring no news", "Ice ICE fire"]


def job(folder: Path, *overrides: str) -> dict[str, Any]:
    return composed(folder, NODES, "trainer.max_steps=40", "callbacks.checkpoint.every_n_train_steps=5", *overrides)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sentences") / "whole"
    train(job(folder))
    return folder


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    (tmp_path / "lines.txt").write_text("\n".join(LINES) + "\n")
    return tmp_path / "lines.txt"


def test_it_learns_and_its_record_says_on_what(whole):
    assert figures(whole)["test/accuracy"] > 0.8
    data = record_of(whole)["data"]
    assert (data["name"], data["train"], data["val"], data["test"]) == ("sentences", 260, 40, 60)
    assert (data["vocabulary_size"], data["max_length"]) == (18, 10)


@pytest.mark.parametrize(("what", "raised"), [(kill, Killed), (ask_to_stop, SystemExit)])
def test_interrupted_and_gone_on_with_is_uninterrupted(whole, tmp_path, what, raised):
    folder = tmp_path / "run"
    with happening(SentenceClassifier, "training_step", 23, what), pytest.raises(raised):
        train(job(folder))
    gone_on_with(folder)
    assert_the_same(folder, whole)


def test_it_is_measured_again(whole):
    found, record = measured(whole)
    assert found == pytest.approx({key: value for key, value in figures(whole).items() if key.startswith("test/")})
    assert record["data"] == record_of(whole)["data"]


def predicted(run: Path, source: Path, *words: str) -> Path:
    with own_parts_allowed():
        config = compose_job("predict", [f"run={run}", f"input={source}", "accelerator=cpu", *words])
        return predict.predict(config)


def test_it_says_what_lines_of_a_file_are(whole, lines, capsys):
    folder = predicted(whole, lines, "batch_size=3")
    with open(folder / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["text"] for row in rows] == LINES
    assert [row["label"] for row in rows] == ["warm", "cold", "neither", "cold"]
    assert list(rows[0]) == [
        "text",
        "label",
        "probability",
        *(f"probability_{it}" for it in ("cold", "neither", "warm")),
    ]
    told = json.loads((folder / "predictions.json").read_text())
    assert (told["texts"], told["predicted"]) == (4, {"cold": 2, "neither": 1, "warm": 1})
    assert "snow" in capsys.readouterr().out
    (alone := lines.with_name("alone.txt")).write_text(LINES[3])
    with open(predicted(whole, alone) / "predictions.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["probability_cold"]) == pytest.approx(float(rows[3]["probability_cold"]), rel=1e-4)


BAD = {
    b"": "is empty: give one text a line",
    b"sun\n\nsnow\n": "line 2 is empty: give one text a line",
    b"sun\nsn\xffow\n": "line 2 is no UTF-8 (invalid start byte at byte 2): give a file of texts",
}


@pytest.mark.parametrize("content", BAD)
def test_a_file_that_is_no_texts_is_named_with_its_line(whole, tmp_path, content):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UserError) as told:
        predicted(whole, tmp_path / "bad.txt")
    assert f"input={tmp_path}/bad.txt" in str(told.value)
    assert BAD[content] in str(told.value)


def test_what_images_alone_have_is_refused(whole, lines, tmp_path):
    with pytest.raises(UserError, match="invert=true is for images, and this run reads texts: leave it out"):
        predicted(whole, lines, "invert=true")
    with pytest.raises(UserError, match="this run reads texts. Give a file of them, one a line"):
        predicted(whole, tmp_path)
    with own_parts_allowed(), pytest.raises(UserError, match="is a run of SentenceClassifier, which makes no images"):
        sample(compose_job("sample", [f"run={whole}", "accelerator=cpu"]))


def test_its_file_gives_the_module_s_logits_for_any_batch_size_and_length(whole, tmp_path):
    with own_parts_allowed(), warnings.catch_warnings():
        warnings.simplefilter("error")
        path, difference = export(whole, out=tmp_path / "it.onnx")
        module, _, _ = load_run(whole)
    assert difference < 1e-5
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {it.name: it.shape for it in session.get_inputs()} == {
        "input_ids": ["batch", "length"],
        "lengths": ["batch"],
    }
    ids, lengths = torch.randint(18, (3, 7)), torch.tensor([7, 1, 4])
    (logits,) = session.run(None, {"input_ids": ids.numpy(), "lengths": lengths.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), module.class_logits(ids, lengths))  # type: ignore
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["classes"]) == ["cold", "neither", "warm"]
    assert told["input"] == "token ids below 18, input_ids [batch, length] and lengths [batch], both int64"


def test_ids_above_the_embedding_s_size_are_refused_at_the_start(tmp_path):
    config = job(tmp_path / "run")
    config["lightning_module"]["network"]["vocabulary_size"] = 17
    with pytest.raises(UserError, match="SentenceClassifier reads token ids below 17, and datamodule sentences's"):
        build(config)
