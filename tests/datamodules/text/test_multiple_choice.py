import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from datamodules.text.multiple_choice import MultipleChoiceDataModule
from datamodules.text.tales import tale, words
from datamodules.text.wordpiece import SPECIAL
from foundation.errors import UserError
from foundation.randomness import keyed_generator
from launch.command_line import CONF

SWAG = [
    "",
    "video-id",
    "fold-ind",
    "startphrase",
    "sent1",
    "sent2",
    "gold-source",
    "ending0",
    "ending1",
    "ending2",
    "ending3",
    "label",
]


def example(number: int) -> dict[str, Any]:
    context, right = tale(keyed_generator(0, "tiny choices", number))[:2]
    endings = [tale(keyed_generator(0, "tiny endings", 3 * number + it))[1] for it in range(3)]
    endings.insert(number % 4, right)
    return {
        "ind": number,
        "activity_label": f"activity {number // 3}",
        "ctx": context,
        "endings": endings,
        "label": number % 4,
    }


def write_tiny(data_dir: Path, monkeypatch: Any = None) -> None:
    """HellaSwag's validation file and SWAG's two, in their formats, and a vocabulary, where the shipped configs look."""
    for folder in ("vocab", "hellaswag", "swag"):
        (data_dir / "text" / folder).mkdir(parents=True)
    pieces = "".join(f"{piece}\n" for piece in [*SPECIAL, *words()])
    (data_dir / "text" / "vocab" / "bert-base-uncased-vocab.txt").write_text(pieces)
    with gzip.open(data_dir / "text" / "hellaswag" / "hellaswag_val.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(example(number)) + "\n" for number in range(60))
    for name, first, size in (("train", 0, 60), ("val", 60, 20)):
        with open(data_dir / "text" / "swag" / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(SWAG)
            for number in range(first, first + size):
                it = example(number)
                writer.writerow([number, "v", 1, "", it["ctx"], "then she", "gold", *it["endings"], it["label"]])


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choices")
    write_tiny(folder)
    return folder


def configured(option: str, data_dir: Path, **settings) -> MultipleChoiceDataModule:
    nodes = [OmegaConf.load(CONF / "datamodule" / f"{name}.yaml") for name in ("multiple_choice", option)]
    whole: Any = OmegaConf.create({"paths": {"data_dir": str(data_dir)}, "seed": 0, "it": OmegaConf.merge(*nodes)})
    node = OmegaConf.to_container(whole, resolve=True)["it"]  # type: ignore
    return MultipleChoiceDataModule(
        **{key: it for key, it in node.items() if key not in ("_target_", "defaults")} | settings
    )


def test_hellaswag_is_split_by_activity(data_dir):
    datamodule = configured("hellaswag", data_dir, val_size=5)
    assert datamodule.num_classes == 4  # before it is set up
    datamodule.setup()
    assert datamodule.sizes() == {"train": 48, "val": 6, "test": 6}
    labels = [it % 4 for it in range(60)]
    assert sorted(sum((it.columns["label"].tolist() for it in datamodule.tables.values()), [])) == sorted(labels)
    assert datamodule.describe()["group"] == "activity_label"
    assert datamodule.tested_on() == {"name": "hellaswag_val", "split": "a tenth, by activity_label"}


def test_a_batch_has_every_ending_behind_its_context(data_dir):
    datamodule = configured("swag", data_dir)
    datamodule.setup()
    assert datamodule.sizes() == {"train": 60, "val": 0, "test": 20}
    batch = datamodule.tables["test"][torch.tensor([3, 0])]
    assert batch["input_ids"].shape[:2] == batch["lengths"].shape == (2, 4)
    assert batch["segment_ids"].shape == batch["input_ids"].shape
    assert batch["label"].tolist() == [63 % 4, 60 % 4]
    tokenizer = datamodule.tokenizer
    for row, number in enumerate((63, 60)):
        it = example(number)
        for choice, ending in enumerate(it["endings"]):
            (a, b) = tokenizer.ids_of([it["ctx"], f"then she {ending}"])
            length = int(batch["lengths"][row, choice])
            assert batch["input_ids"][row, choice, :length].tolist() == [2, *a, 3, *b, 3]
            assert batch["segment_ids"][row, choice].sum() == len(b) + 1
    assert batch["letters"][0].tolist() == [len(it) for it in example(63)["endings"]]  # without what all begin with
    assert datamodule.tested_on() == {"name": "swag", "split": "val"}
    moved = datamodule.tables["test"].take(torch.tensor([3])).to(torch.device("cpu"))
    assert torch.equal(moved[torch.tensor([0])]["letters"], batch["letters"][:1])
    assert torch.equal(moved[torch.tensor([0])]["label"], batch["label"][:1])


def test_rows_without_groups_are_split_one_by_one(data_dir):
    datamodule = configured("hellaswag", data_dir, group=None, test_size=7, val_size=8)
    datamodule.setup()
    assert datamodule.sizes() == {"train": 45, "val": 8, "test": 7}


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"endings": ["a"]}, {}, r"mine.jsonl, line 2: endings is \['a'\], which is no list of two texts or more"),
    ({"endings": ["a", "b"]}, {}, r"mine.jsonl, line 2: it has 2 endings, and the first row 4"),
    ({"label": 4}, {}, r"mine.jsonl, line 2: label is '4': give a number from 0 to 3"),
    ({"label": -1}, {}, r"mine.jsonl, line 2: label is '-1', as of files whose right endings are hidden: these are"),
    ({"label": ""}, {}, r"mine.jsonl, line 2: label is '', as of files whose right endings are hidden"),
    ({"label": None}, {}, r"mine.jsonl, line 2: label is 'None', as of files whose right endings are hidden"),
    ({}, {"label": "gold"}, r"has no column 'gold' in line 1: set datamodule.label to one of"),
    ({}, {"context": "context"}, r"has no column 'context' in line 1: set datamodule.context"),
    ({}, {"test_size": 9}, r"datamodule.test_size=9 leaves no activity_label of mine to train on"),
]


@pytest.mark.parametrize(("change", "settings", "told"), BAD)
def test_what_cannot_be_is_told(data_dir, tmp_path, change, settings, told):
    rows = [example(0), example(1) | change, example(2)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(it) + "\n" for it in rows))
    with pytest.raises(UserError, match=told):
        configured("hellaswag", data_dir, file=str(tmp_path / "mine.jsonl"), **settings).setup()
