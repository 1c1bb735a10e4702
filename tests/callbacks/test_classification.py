"""Accuracy and cross-entropy by hand; tests/test_ranks.py has them on 1, 2 and 3 processes."""

import csv
import math

import pytest
import torch
from lightning import LightningModule, Trainer
from sklearn.metrics import f1_score, matthews_corrcoef
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics.functional.classification import multiclass_accuracy

from callbacks.classification import Classification, ClassificationMetric
from datamodules.digits import DigitsDataModule
from foundation.errors import UserError


def test_by_hand():
    metric = ClassificationMetric(3, k=2)
    logits = torch.tensor([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 2.0]])
    metric.update(logits, torch.tensor([0, 1, 2, 2]))
    found = metric.compute()
    assert (found["accuracy"], found["error"], found["error_top2"]) == (1 / 2, 1 / 2, 1 / 4)
    log_total = math.log(math.exp(2) + math.exp(1) + 1)
    assert found["cross_entropy_nats"] == pytest.approx(log_total - (2 + 1 + 0 + 2) / 4)
    assert metric.confusion.tolist() == [[1, 0, 0], [1, 0, 0], [1, 0, 1]]
    assert metric.class_accuracy() == [1.0, 0.0, 0.5]


def test_is_torchmetrics_on_random_logits_whatever_the_batches():
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(200, 7, generator=generator), torch.randint(6, (200,), generator=generator)
    metric = ClassificationMetric(7, k=3)
    for part in torch.randperm(200, generator=generator).split(33):
        metric.update(logits[part], label[part])
    found = metric.compute()
    assert found["accuracy"] == pytest.approx(float(multiclass_accuracy(logits, label, 7, average="micro")))
    top3 = multiclass_accuracy(logits, label, 7, average="micro", top_k=3)
    assert 1 - found["error_top3"] == pytest.approx(float(top3))
    assert found["cross_entropy_nats"] == pytest.approx(float(cross_entropy(logits.double(), label)), rel=1e-12)
    by_class = multiclass_accuracy(logits, label, 7, average="none")
    assert metric.class_accuracy()[:6] == pytest.approx(by_class[:6].tolist())
    assert math.isnan(metric.class_accuracy()[6])  # no example


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ([0, 1, 1, 0, 1, 0], [0, 1, 0, 0, 1, 1]),
        ([0, 1, 1, 0], [1, 0, 0, 1]),  # all wrong
        ([0, 0, 0, 0], [0, 1, 0, 1]),  # one class alone is
        ([1, 1, 1, 1], [1, 1, 1, 1]),
        ([0, 0, 0], [0, 0, 0]),
        ([0, 1, 0, 1], [1, 1, 1, 1]),  # one class alone is told
        ([0, 2, 1, 2, 2, 0], [0, 1, 1, 2, 2, 2]),  # three classes
    ],
)
def test_f1_and_matthews_are_scikit_learn_s(label, told):
    classes = max(2, *label, *told) + (max(*label, *told) > 1)
    metric = ClassificationMetric(classes, k=1)
    metric.update(one_hot(torch.tensor(told), classes).float(), torch.tensor(label))
    found = metric.compute()
    assert found["matthews"] == pytest.approx(matthews_corrcoef(label, told))
    if classes == 2:
        assert found["f1"] == pytest.approx(f1_score(label, told, zero_division=0.0))


def test_of_no_example_the_scores_are_0():
    metric = ClassificationMetric(2, k=1)
    metric.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
    assert {metric.compute()[name] for name in ("accuracy", "f1", "matthews")} == {0.0}


def test_matthews_is_exact_for_as_many_examples_as_one_likes():
    """float32, or even int64, would lose the squares of these."""
    metric = ClassificationMetric(2, k=1)
    metric.confusion = torch.tensor([[3 * 10**9, 10**9], [10**9, 3 * 10**9]])
    assert metric.matthews() == pytest.approx(0.5)


class Parrot(LightningModule):
    """Right but for every class 0, which it takes for class 1."""

    num_classes, class_names = 10, [f"digit {it}" for it in range(10)]

    def class_logits(self, images):
        raise AssertionError("the callback uses what the step returned")

    def test_step(self, batch, batch_idx):
        logits = one_hot(batch["label"].clamp(min=1), 10).float()
        return {"index": batch["index"], "label": batch["label"], "logits": logits}

    validation_step = test_step


def test_logs_what_it_declares_and_writes_the_table(tmp_path):
    callback, module = Classification(str(tmp_path), top_k=5), Parrot()
    datamodule = DigitsDataModule(batch_size=128, val_size=100, eval_batch_size=64)
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False)  # fmt: skip
    trainer.validate(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(None, "val").keys()
    trainer.test(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(None, "test").keys()
    labels = datamodule.tables["test"].labels
    assert labels is not None
    zeros = int((labels == 0).sum())
    assert float(trainer.callback_metrics["test/error"]) == pytest.approx(zeros / len(labels))
    with (tmp_path / "classes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == module.class_names
    assert (rows[0]["accuracy"], rows[0]["predicted_digit 1"]) == ("0.0", str(zeros))
    assert rows[3]["accuracy"] == "1.0"
    assert (tmp_path / "classes.png").stat().st_size > 1000


def test_wrong_ks_are_refused(tmp_path):
    with pytest.raises(UserError, match="top_k is 1: give 2 or more, or null"):
        Classification(str(tmp_path), top_k=1)
    with pytest.raises(UserError, match="top_k is 10, and there are 10 classes: give fewer"):
        Classification(str(tmp_path), top_k=10).setup(Trainer(accelerator="cpu", logger=False), Parrot(), "test")
