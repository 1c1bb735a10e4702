import csv
from types import SimpleNamespace

import pytest
import torch

from callbacks.entities import Entities, EntitiesMetric

TAGS = ["O", "B-LOC", "B-PER", "I-PER"]
LABELS = torch.tensor([[-100, 2, -100, 3, 0, 1], [-100, 1, 0, 2, -100, -100]])
TOLD = torch.tensor([[1, 2, 3, 3, 0, 0], [2, 1, 1, 2, 3, 3]])


def test_words_count_at_their_first_piece_and_figures_do_not_depend_on_batches():
    whole, cut = EntitiesMetric(TAGS), EntitiesMetric(TAGS)
    whole.update(TOLD, LABELS)
    cut.update(TOLD[:1], LABELS[:1])
    cut.update(TOLD[1:], LABELS[1:])
    found = whole.compute()
    # anna-ii is told rightly, the first LOC not at all; a LOC at word 2 of the second sentence is none
    assert found == {
        "precision": pytest.approx(3 / 4), "recall": pytest.approx(3 / 4), "f1": pytest.approx(3 / 4),
        "word_accuracy": pytest.approx(5 / 7),
    }  # fmt: skip
    assert cut.compute() == found
    assert whole.by_type() == [("LOC", 1 / 2, 1 / 2, 1 / 2, 2), ("PER", 1.0, 1.0, 1.0, 2)]
    assert set(EntitiesMetric(TAGS).compute().values()) == {0.0}


def test_the_table_has_a_row_a_type(tmp_path):
    callback, module = Entities(str(tmp_path)), SimpleNamespace(num_classes=4)
    device = SimpleNamespace(root_device=torch.device("cpu"))
    trainer = SimpleNamespace(datamodule=SimpleNamespace(class_names=TAGS), strategy=device, loggers=[])
    callback.setup(trainer, module, "test")  # type: ignore
    callback.update(trainer, module, {"tags": TOLD, "token_label": LABELS}, {})  # type: ignore
    callback.metric.compute()
    callback.write(trainer, module)  # type: ignore
    with open(tmp_path / "entities.csv", newline="") as file:
        assert [row["type"] for row in csv.DictReader(file)] == ["LOC", "PER"]
