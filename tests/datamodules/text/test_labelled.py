import csv
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.text.labelled import LabelledTextDataModule
from datamodules.text.tales import tale, words
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from foundation.randomness import keyed_generator
from launch.command_line import CONF

SHARED = Path(os.environ.get("DATA_DIR", "data")) / "text"
GLUE: dict[str, tuple[str, str, list[str] | None, list[Any]]] = {
    # key: folder, name of the test's file, header, the columns of a row of texts a and b with label number n
    "sst2": ("SST-2", "dev", ["sentence", "label"], ["a", ["0", "1"]]),
    "cola": ("CoLA", "dev", None, ["source", ["0", "1"], "*", "a"]),
    "rte": ("RTE", "dev", ["index", "sentence1", "sentence2", "label"], ["0", "a", "b", ["entailment", "not_entailment"]]),
    "mnli": ("MNLI", "dev_matched", ["index", "genre", "sentence1", "sentence2", "label1", "gold_label"],
             ["0", "fiction", "a", "b", "neutral", ["entailment", "neutral", "contradiction"]]),
    "qqp": ("QQP", "dev", ["id", "question1", "question2", "is_duplicate"], ["0", "a", "b", ["0", "1"]]),
    "qnli": ("QNLI", "dev", ["index", "question", "sentence", "label"], ["0", "a", "b", ["entailment", "not_entailment"]]),
    "stsb": ("STS-B", "dev", ["index", "sentence1", "sentence2", "score"], ["0", "a", "b", ["0.5", "2.750", "5.000"]]),
    "mrpc": ("MRPC", "dev", ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"], [["0", "1"], "1", "2", "a", "b"]),
}  # fmt: skip


def sentences(number: int) -> dict[str, str]:
    first, second = tale(keyed_generator(0, "tiny sentences", number))[:2]
    return {"a": first, "b": second}


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    """All tasks of GLUE in their files' format, 60 rows and 20, and a vocabulary, where the shipped configs look."""
    (data_dir / "text" / "vocab").mkdir(parents=True)
    pieces = "".join(f"{piece}\n" for piece in [*SPECIAL, *words()])
    (data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt").write_text(pieces)
    for folder, test, header, columns in GLUE.values():
        (data_dir / "text" / "glue" / folder).mkdir(parents=True)
        for name, first, size in (("train", 0, 60), (test, 60, 20)):
            rows = [[it[number % len(it)] if isinstance(it, list) else sentences(number).get(it, it) for it in columns]
                    for number in range(first, first + size)]  # fmt: skip
            content = "".join("\t".join(row) + "\n" for row in ([header] if header else []) + rows)
            with gzip.open(data_dir / "text" / "glue" / folder / f"{name}.tsv.gz", "wt") as file:
                file.write(content)


def configured(option: str, data_dir: Path, **settings) -> LabelledTextDataModule:
    nodes = [OmegaConf.load(CONF / "datamodule" / f"{name}.yaml") for name in ("labelled_text", option)]
    whole: Any = OmegaConf.create({"paths": {"data_dir": str(data_dir)}, "seed": 0, "it": OmegaConf.merge(*nodes)})
    node = OmegaConf.to_container(whole, resolve=True)["it"]  # type: ignore
    made = LabelledTextDataModule(
        **{key: it for key, it in node.items() if key not in ("_target_", "defaults")} | settings
    )
    made.setup()
    return made


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("glue")
    write_tiny(folder)
    return folder


@pytest.mark.parametrize("task", GLUE)
def test_a_task_of_glue_is_read_from_its_own_files(data_dir, task):
    datamodule = configured(task, data_dir, val_size=10, batch_size=12)
    assert datamodule.sizes() == {"train": 50, "val": 10, "test": 20}
    assert (datamodule.name, datamodule.test_name) == (task, GLUE[task][1])
    (labels,) = (it for it in GLUE[task][3] if isinstance(it, list))
    batch = datamodule.tables["test"][torch.arange(20)]
    expected = [labels[number % len(labels)] for number in range(60, 80)]
    if task == "stsb":
        assert batch["label"].tolist() == [float(it) for it in expected]
        assert batch["label"].dtype == torch.float32
        assert (datamodule.num_classes, datamodule.class_names) == (0, None)
    else:
        assert [datamodule.labels[it] for it in batch["label"]] == expected
        assert datamodule.num_classes == len(labels) == len(datamodule.class_names or [])
    texts = sentences(60)
    wanted = [texts["a"], texts["b"]] if "text_b" in datamodule.columns else [texts["a"]]
    ids = [2, *sum(([*it, 3] for it in datamodule.tokenizer.ids_of(wanted)), [])]
    length = int(batch["lengths"][0])
    assert batch["input_ids"][0, :length].tolist() == ids
    assert ("segment_ids" in batch) == (len(wanted) == 2)
    if len(wanted) == 2:
        first = ids.index(3) + 1
        assert batch["segment_ids"][0].tolist() == [0] * first + [1] * (length - first) + [0] * (
            len(batch["input_ids"][0]) - length
        )


def test_names_of_classes_stand_for_labels(data_dir):
    assert configured("cola", data_dir).class_names == ["unacceptable", "acceptable"]
    assert configured("mnli", data_dir).class_names == ["entailment", "neutral", "contradiction"]


ROWS = [{"text": f"on {day} anna feeds {number} cows", "label": "yes" if number % 2 else "no"}
        for day in ("monday", "friday") for number in range(10)]  # fmt: skip


def mine(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    with open(folder / name, "w", newline="") as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return str(folder / name)


def made(
    folder: Path, data_dir: Path, rows: list[dict[str, Any]] = ROWS, name: str = "mine.csv", **settings
) -> LabelledTextDataModule:
    vocabulary = str(data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt")
    return LabelledTextDataModule(
        **{"file": mine(folder, name, rows), "vocabulary": vocabulary, "batch_size": 4} | settings
    )


@pytest.mark.parametrize("name", ["mine.csv", "mine.jsonl"])
def test_a_person_s_own_file_needs_one_key(tmp_path, data_dir, name):
    datamodule = made(tmp_path, data_dir, name=name)
    assert (datamodule.num_classes, datamodule.class_names) == (2, ["no", "yes"])  # before it is set up
    datamodule.setup()
    assert datamodule.sizes() == {"train": 18, "val": 0, "test": 2}
    assert datamodule.describe()["columns"] == {"text": "text", "label": "label"}
    again = made(tmp_path, data_dir, name=name, test_size=5)
    again.setup()
    assert again.sizes()["test"] == 5


def test_fewer_rows_are_trained_on_where_it_is_asked(data_dir):
    datamodule = configured("sst2", data_dir, val_size=10, train_size=15)
    assert datamodule.sizes() == {"train": 15, "val": 10, "test": 20}
    whole = configured("sst2", data_dir, val_size=10)
    texts = {tuple(row) for row in whole.tables["train"][torch.arange(50)]["input_ids"].tolist()}
    width = max(map(len, texts))
    some = datamodule.tables["train"][torch.arange(15)]["input_ids"].tolist()
    assert all(tuple(row + [0] * (width - len(row))) in texts for row in some)
    with pytest.raises(UserError, match="datamodule.train_size=51: sst2 has 50 training rows"):
        configured("sst2", data_dir, val_size=10, train_size=51)


def test_labels_that_are_numbers_are_in_their_order(tmp_path, data_dir):
    rows = [{"text": "a", "label": label} for label in (10, 9, 2, 10)]
    assert made(tmp_path, data_dir, rows).labels == ["2", "9", "10"]
    assert made(tmp_path, data_dir, rows, classes=[10, 9, 2]).labels == ["10", "9", "2"]


def test_what_is_cut_is_told(tmp_path, data_dir, capsys):
    datamodule = made(tmp_path, data_dir, max_length=6)
    datamodule.setup()
    assert "20 of 20 rows of" in (said := capsys.readouterr().err)
    assert "fill datamodule.max_length=6 or are cut to it" in said
    assert set(datamodule.tables["train"].known_lengths.tolist()) == {6}


def test_bad_rows_are_left_out_aloud_where_they_may_be(data_dir, tmp_path, capsys):
    (tmp_path / "q.tsv").write_text("text\tlabel\na\t0\nb\nc\t1\nd\t0\n")
    vocabulary = str(data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt")
    settings = {"file": str(tmp_path / "q.tsv"), "vocabulary": vocabulary, "batch_size": 1, "classes": ["0", "1"]}
    datamodule = LabelledTextDataModule(**settings, skip_bad_rows=True)
    datamodule.setup()
    assert datamodule.sizes() == {"train": 2, "val": 0, "test": 1}
    assert "1 rows of" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"q.tsv, line 3: it has 1 cells, and there are 2 columns"):
        LabelledTextDataModule(**settings).setup()


BAD: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    (ROWS, {"label": "labels"}, r"mine.csv has no column 'labels' in line 2: set datamodule.label to one of 'text', 'label'; did you mean 'label'"),
    (ROWS, {"text": "sentence"}, r"mine.csv has no column 'sentence' in line 2: set datamodule.text to one of"),
    (ROWS, {"text_b": "other"}, r"set datamodule.text_b to one of"),
    (ROWS, {"classes": ["no"]}, r"mine.csv, line 3: label is 'yes', which is no class; "),
    ([*ROWS, {"text": "a", "label": ""}], {}, r"mine.csv, line 22: label is empty; every row has a label"),
    (ROWS[:1], {}, r"has the label 'no' alone: two classes or more are needed"),
    (ROWS, {"regression": True}, r"mine.csv, line 2: label is 'no', which is no number"),
    (ROWS, {"regression": True, "classes": ["a"]}, r"datamodule.regression=true has numbers as labels, and no classes"),
    (ROWS, {"test_size": 20}, r"has 20 rows, of which 20 for the test leave nothing to train on"),
    (ROWS, {"test_size": 0}, r"datamodule.test_size is 0"),
    (ROWS, {"test_size": 1, "test_file": "x.csv"}, r"leave datamodule.test_size=null"),
    (ROWS, {"test_file": "none.csv"}, r"datamodule.test_file=none.csv is no file"),
    (ROWS, {"classes": "no"}, r"datamodule.classes is 'no': give a list"),
    ([{"text": str(it), "label": it} for it in range(1001)], {}, r"over 1,000 different labels in 'label'"),
    (ROWS, {"max_length": 3}, r"datamodule.max_length is 3"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "settings", "told"), BAD)
def test_what_cannot_be_is_told(tmp_path, data_dir, rows, settings, told):
    with pytest.raises(UserError, match=told):
        made(tmp_path, data_dir, rows, **settings).setup()


def test_a_label_of_the_test_that_training_has_not_is_named(tmp_path, data_dir):
    test = mine(tmp_path, "test.csv", [{"text": "a", "label": "maybe"}])
    with pytest.raises(
        UserError,
        match=r"test.csv, line 2: label is 'maybe', which is no class; did you mean|which is no class; known: no, yes",
    ):
        made(tmp_path, data_dir, test_file=test).setup()


@pytest.mark.skipif(not (SHARED / "glue").exists(), reason="needs DATA_DIR with text/glue")
@pytest.mark.parametrize(("task", "sizes"), [("cola", (8551, 1043)), ("rte", (2490, 277))])
def test_the_real_files_have_the_published_sizes(task, sizes):
    found = configured(task, SHARED.parent).sizes()
    assert (found["train"], found["test"]) == sizes
