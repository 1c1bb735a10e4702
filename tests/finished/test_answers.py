"""predict.py on runs that answer questions and that tag words, on files in SQuAD's and in CoNLL's format."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.text.tales import NAMES
from foundation.errors import UserError
from launch.runs import load_run
from tests.datamodules.text import test_questions, test_token_labels
from tests.finished.test_words import predicted, table, trained, typed, written
from tests.finished_runs import finished_run
from tests.lightning_modules.test_bert_fine_tuning import TINY


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squad")
    test_questions.write_tiny(folder / "data")
    return trained(folder / "run", "bert_squad", f"paths.data_dir={folder}/data")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its files are gone when it is asked."""
    folder = tmp_path_factory.mktemp("names")
    test_token_labels.write_tiny(folder / "data")
    run = finished_run(
        folder / "run", "experiment=bert_conll2003", *TINY["bert_conll2003"], f"paths.data_dir={folder}/data",
        "trainer.max_steps=60", "lightning_module.optimizer.lr=0.03",
    )  # fmt: skip
    for path in (folder / "data" / "text" / "conll2003").iterdir():
        path.unlink()
    return run


def test_questions_are_answered_by_parts_of_their_texts(squad, tmp_path):
    told = {"version": "1.1", "data": [test_questions.article(number, False) for number in range(3)]}
    for article in told["data"]:
        for paragraph in article["paragraphs"]:
            del paragraph["qas"][0]["answers"]
    folder = predicted(squad, written(tmp_path / "questions.json", json.dumps(told)), "batch_size=4")
    answers = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    contexts = {it["qas"][0]["id"]: it["context"] for article in told["data"] for it in article["paragraphs"]}
    assert answers.keys() == contexts.keys()
    assert all(answer and answer in contexts[name] for name, answer in answers.items())
    assert [row["answer"] for row in table(folder)] == list(answers.values())
    with pytest.raises(UserError, match="this run answers questions. Give a file of them in SQuAD's format"):
        predicted(squad, "-")


def test_of_a_question_that_may_lack_an_answer_none_is_told_where_none_is_likelier(squad, tmp_path):
    told = {"version": "v2.0", "data": [test_questions.article(number, True) for number in range(4)]}
    rows = table(predicted(squad, written(tmp_path / "questions.json", json.dumps(told))))
    assert all((row["answer"] == "") == (float(row["score_above_none"]) < 0) for row in rows)


def test_words_are_tagged_without_the_files_that_it_was_trained_on(names, tmp_path, monkeypatch):
    sentence = "on monday anna the farmer goes to the barn ."
    content = "\n".join(f"{word} NN" for word in sentence.split()) + "\n\n-DOCSTART- -X- O\n\nclara\n"
    folder = predicted(names, written(tmp_path / "words.txt", content))
    module, _, data = load_run(names)
    rows: Any = data.encode([sentence])  # type: ignore
    with torch.no_grad():
        logits = module.tag_logits(torch.tensor(rows), torch.tensor([len(rows[0])]))[0]  # type: ignore
    pieces = data.tokenizer.decode(rows[0])  # type: ignore
    begins = [place for place, it in enumerate(pieces) if not it.startswith("##")][1:-1]
    expected = [["O", "B-LOC", "B-PER"][it] for it in logits[begins].argmax(1).tolist()]
    found = table(folder)
    assert [row["tag"] for row in found if row["sentence"] == "1"] == expected
    assert found[2]["tag"] == "B-PER"  # it has learnt who has a name
    assert [row["word"] for row in found] == [*sentence.split(), "clara"]
    lines = (folder / "tagged.txt").read_text().split("\n\n")
    assert [line.split()[1] for line in lines[0].splitlines()] == expected
    typed(monkeypatch, content.encode())
    assert table(predicted(names, "-")) == found
    assert "anna" in sum(NAMES.values(), [])


def test_a_sentence_that_is_longer_than_is_read_is_told_by_its_line(names, tmp_path):
    with pytest.raises(
        UserError, match="the sentence that begins in line 3 has 42 tokens, and this run reads 32: part"
    ):
        predicted(names, written(tmp_path / "words.txt", "on\n\n" + "on\n" * 40))
    with pytest.raises(UserError, match="has no words: give one a line, with a blank line between sentences"):
        predicted(names, written(tmp_path / "words.txt", "\n-DOCSTART-\n\n"))
