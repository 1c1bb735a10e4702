import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.text.questions import QuestionsDataModule, best_windows, read_squad
from datamodules.text.tales import NAMES, tale, words
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from foundation.randomness import keyed_generator


def article(number: int, unanswerable: bool) -> dict[str, Any]:
    """Two paragraphs; asks who does it, in capitals and with accents that are no pieces of their own."""
    paragraphs = []
    for part in range(2):
        context = " ".join(tale(keyed_generator(0, "tiny articles", 2 * number + part))).replace("on ", "Ön ")
        name = next(it for it in context.split() if it in sum(NAMES.values(), []))
        answer = {"text": name, "answer_start": context.index(name)}
        it: dict[str, Any] = {
            "id": f"{number}-{part}",
            "question": "to the barn ?",
            "answers": [answer, {"text": f"{name} the", "answer_start": context.index(name)}],
        }
        if unanswerable:
            it |= {"is_impossible": part == 1} | ({"answers": [], "plausible_answers": [answer]} if part == 1 else {})
        paragraphs.append({"context": context, "qas": [it]})
    return {"title": f"article {number}", "paragraphs": paragraphs}


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    """SQuAD's four files in their format, and a vocabulary, where the shipped configs look."""
    (data_dir / "text" / "vocab").mkdir(parents=True)
    (data_dir / "text" / "squad").mkdir()
    pieces = "".join(f"{piece}\n" for piece in [*SPECIAL, *words(), "?"])
    (data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt").write_text(pieces)
    for version in ("1.1", "2.0"):
        for split, first, size in (("train", 0, 12), ("dev", 12, 4)):
            told = {"version": version, "data": [article(first + it, version == "2.0") for it in range(size)]}
            with gzip.open(data_dir / "text" / "squad" / f"{split}-v{version}.json.gz", "wt") as file:
                json.dump(told, file)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("questions")
    write_tiny(folder)
    return folder


def made(data_dir: Path, version: str = "1.1", **settings) -> QuestionsDataModule:
    files = {
        key: str(data_dir / "text" / "squad" / f"{split}-v{version}.json")
        for key, split in (("file", "train"), ("test_file", "dev"))
    }
    vocabulary = str(data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt")
    return QuestionsDataModule(
        **{"batch_size": 4, "max_length": 48, "stride": 12, "max_question_length": 8, "vocabulary": vocabulary}
        | files
        | settings
    )


def ready(*settings, **more) -> QuestionsDataModule:
    datamodule = made(*settings, **more)
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize("version", ["1.1", "2.0"])
def test_windows_cover_every_text_and_answers_lead_back_to_its_characters(data_dir, version):
    datamodule = ready(data_dir, version)
    table = datamodule.tables["train"]
    batch = table[torch.arange(len(table))]
    assert len(table) > 24
    assert int(batch["lengths"].max()) == 48
    answered = set()
    for row in range(len(table)):
        question = table.questions[int(batch["question"][row])]
        start, end, first, length = (
            int(it)
            for it in (batch["start"][row], batch["end"][row], table.columns["first"][row], batch["lengths"][row])
        )
        ids = batch["input_ids"][row, :length].tolist()
        assert ids[0] == 2
        assert ids[first - 1] == ids[-1] == 3
        assert batch["segment_ids"][row].tolist() == [0] * first + [1] * (length - first) + [0] * (48 - length)
        # Of a word that is cut at the window's edge the rest is no word.
        begin = first + int(datamodule.tokenizer.continues_word[ids[first]])
        assert datamodule.tokenizer.ids_of([table.span(row, begin, length - 2)])[0] == ids[begin:-1]
        if start:
            answered.add(question.id)
            assert table.span(row, start, end) == question.answers[0]
    assert answered == {it.id for it in table.questions if it.answers}
    assert {it.id for it in table.questions if not it.answers} == (
        {f"{it}-1" for it in range(12)} if version == "2.0" else set()
    )


def test_of_each_token_one_window_may_begin_an_answer(data_dir):
    table = ready(data_dir).tables["train"]
    batch = table[torch.arange(len(table))]
    assert not (batch["may_start"] & (1 - batch["segment_ids"])).any()
    for number, question in enumerate(table.questions):
        rows = (batch["question"] == number).nonzero().flatten().tolist()
        begins = [
            int(table.characters[int(table.columns["starts"][row]) + place, 0])
            for row in rows
            for place in batch["may_start"][row].nonzero().flatten().tolist()
        ]
        assert begins == sorted(set(begins))
        pieces = len(ready(data_dir).tokenizer.tokenizer.encode(question.context, add_special_tokens=False).ids)
        assert len(begins) == pieces
        break


def test_the_best_window_is_the_one_with_most_on_the_narrower_side():
    begins, room, length = [0, 4, 8], 8, 14
    expected = []
    for place in range(length):
        scores = []
        for begin in begins:
            size = min(room, length - begin)
            inside = begin <= place < begin + size
            scores.append(min(place - begin, begin + size - 1 - place) + 0.01 * size if inside else -1)
        expected.append(int(np.argmax(scores)))
    assert best_windows(begins, room, length).tolist() == expected
    assert sorted(set(expected)) == [0, 1, 2]


def test_what_is_no_span_of_the_text_is_empty(data_dir):
    table = ready(data_dir).tables["test"]
    first = int(table.columns["first"][0])
    assert table.span(0, 0, 0) == ""
    assert table.span(0, first + 1, first) == ""
    assert table.span(0, first, 47) == ""
    assert table.span(0, first, first) == "Ön"


def test_articles_are_whole_in_validation(data_dir):
    datamodule = ready(data_dir, val_size=3)
    articles = [
        {it.questions[number].article for number in it.columns["question"].tolist()}
        for it in (datamodule.tables["train"], datamodule.tables["val"])
    ]
    assert not articles[0] & articles[1]
    assert datamodule.describe()["questions"]["train"] + datamodule.describe()["questions"]["val"] == 24
    taken = datamodule.tables["val"]
    assert (
        taken.span(0, int(taken.columns["first"][0]), int(taken.columns["first"][0]))
        in taken.questions[int(taken.columns["question"][0])].context
    )


def test_an_answer_that_does_not_stand_there_is_told(data_dir, tmp_path, capsys):
    told = {"data": [article(it, False) for it in range(3)]}
    told["data"][1]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 1
    (tmp_path / "train.json").write_text(json.dumps(told))
    table = ready(data_dir, file=str(tmp_path / "train.json")).tables["train"]
    assert "1 questions of" in (said := capsys.readouterr().err)
    assert "whose answer does not stand where it says, and are learnt as without one: 1-0." in said
    assert not table.columns["start"][table.columns["question"] == 2].any()


BAD = {
    "{": "cannot be read as JSON",
    "[]": "is not laid out as SQuAD, question 1",
    '{"data": []}': "has no questions",
    '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": 1}]}]}]}': r"is not laid out as SQuAD, question 1: KeyError\('answers'\)",
}


@pytest.mark.parametrize("content", BAD)
def test_a_file_that_is_no_squad_is_told(tmp_path, content):
    (tmp_path / "bad.json").write_text(content)
    with pytest.raises(UserError, match=f"bad.json {BAD[content]}"):
        read_squad(tmp_path / "bad.json")


def test_settings_that_leave_no_room_are_told(data_dir):
    with pytest.raises(UserError, match="datamodule.max_length=26 leaves a text fewer than 16 tokens"):
        made(data_dir, max_length=26)
    with pytest.raises(UserError, match="datamodule.stride is 0"):
        made(data_dir, stride=0)
    with pytest.raises(UserError, match="datamodule.file=none.json is no file"):
        ready(data_dir, file="none.json")
