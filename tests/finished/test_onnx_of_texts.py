"""Files of BERT's runs compute what the run says of the same tokens, of any batch size, length and number of masks."""

import json
import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from finished.onnx import export, exportable_of
from foundation.errors import UserError
from launch.runs import load_run
from tests.contract.sentences import SentenceClassifier
from tests.datamodules.text import test_labelled, test_questions, test_token_labels
from tests.finished.test_words import trained

AXES = {"input_ids": ["batch", "length"], "lengths": ["batch"], "segment_ids": ["batch", "length"]}
WIDTH = 23


def tokens(module: Any, count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(2, WIDTH + 1, (count,), generator=generator)
    lengths[0] = WIDTH
    ids = torch.randint(module.vocabulary_size, (count, WIDTH), generator=generator)
    return {
        "input_ids": ids,
        "lengths": lengths,
        "segment_ids": (torch.arange(WIDTH) >= lengths.unsqueeze(1) // 2).long(),
    }


def opened(run: Path, out: Path, output: str = "predictions") -> tuple[onnxruntime.InferenceSession, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path, difference = export(run, out=out, output=output)
    assert difference < 1e-5
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]), load_run(run)[0]


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("tales"), "bert_tiny_text")


def test_masks_are_filled_and_next_sentences_told(tales, tmp_path):
    session, module = opened(tales, tmp_path / "it.onnx")
    assert {it.name: it.shape for it in session.get_inputs()} == AXES | {"positions": ["batch", "masks"]}
    for count, masks in ((1, 1), (4, 3)):
        given = tokens(module, count)
        positions = torch.arange(count * masks).view(count, masks) % given["lengths"].unsqueeze(1)
        named = {name: it.numpy() for name, it in (given | {"positions": positions}).items()}
        token_logits, next_sentence = map(
            torch.from_numpy, session.run(["token_logits", "next_sentence_logits"], named)
        )
        with torch.no_grad():
            torch.testing.assert_close(token_logits, module.token_logits(positions=positions, **given))
            torch.testing.assert_close(next_sentence, module.next_sentence_logits(**given))
    told = session.get_modelmeta().custom_metadata_map
    assert told["input"].endswith("positions [batch, masks] int64, of the tokens that are asked for, such as [MASK]")


def test_vectors_are_the_run_s(tales, tmp_path):
    session, module = opened(tales, tmp_path / "it.onnx", "embeddings")
    given = tokens(module, 5)
    (vectors,) = session.run(["embeddings"], {name: it.numpy() for name, it in given.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(vectors), module.embed(**given))


def test_a_classifier_of_pairs_takes_their_segments(tmp_path):
    test_labelled.write_tiny(tmp_path / "data")
    run = trained(tmp_path / "run", "bert_rte", f"paths.data_dir={tmp_path}/data")
    session, module = opened(run, tmp_path / "it.onnx")
    assert {it.name: it.shape for it in session.get_inputs()} == AXES
    given = tokens(module, 3)
    (logits,) = session.run(["logits"], {name: it.numpy() for name, it in given.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), module.class_logits(**given))
        other = module.class_logits(given["input_ids"], given["lengths"])
    assert (torch.from_numpy(logits) - other).abs().max() > 1e-3  # segments matter
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["entailment", "not_entailment"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert_stsb", "bert_squad", "bert_conll2003", "left_to_right"])
def test_all_other_kinds_are_exported_too(kind, tmp_path):
    files = {"bert_squad": test_questions, "bert_conll2003": test_token_labels}.get(kind, test_labelled)
    files.write_tiny(tmp_path / "data")
    words = ["bert_tiny_text", "+lightning_module/objective=left_to_right"] if kind == "left_to_right" else [kind]
    run = trained(tmp_path / "run", *words, f"paths.data_dir={tmp_path}/data")
    session, _ = opened(run, tmp_path / "it.onnx", "embeddings" if kind == "left_to_right" else "predictions")
    outputs = {"bert_stsb": ["estimate"], "bert_squad": ["span_logits"], "bert_conll2003": ["logits"]}
    assert [it.name for it in session.get_outputs()] == outputs.get(kind, ["embeddings"])


def test_what_has_no_vectors_of_texts_is_told(tmp_path):
    with pytest.raises(UserError, match="is a run of SentenceClassifier, which makes no vectors of texts"):
        exportable_of(SentenceClassifier.__new__(SentenceClassifier), tmp_path, "embeddings")
