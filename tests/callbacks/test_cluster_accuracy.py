"""Cluster accuracy by hand and against every matching; tests/test_ranks.py has it on 1, 2 and 3 processes."""

from itertools import permutations

import pytest
import torch
from lightning import LightningModule, Trainer

from callbacks.cluster_accuracy import ClusterAccuracy, ClusterAccuracyMetric, kmeans_accuracy
from datamodules.digits import DigitsDataModule
from foundation.protocols import AssignsClusters


def measure(clusters, labels, num_clusters=3, num_classes=3):
    metric = ClusterAccuracyMetric(num_clusters, num_classes)
    metric.update(torch.tensor(clusters), torch.tensor(labels))
    return metric.compute()


def test_by_hand():
    # Clusters 0 and 1 are classes 1 and 0; cluster 2 holds one example of each of two classes.
    assert measure([0, 0, 1, 1, 2, 2], [1, 1, 0, 0, 2, 1]) == {"accuracy": 5 / 6, "purity": 5 / 6}


def test_purity_is_many_to_one():
    # Two clusters of one class: one-to-one matching can use but one of them.
    assert measure([0, 0, 1, 2], [0, 0, 0, 1]) == {"accuracy": 3 / 4, "purity": 1.0}


@pytest.mark.parametrize(("num_clusters", "num_classes"), [(4, 4), (5, 3), (3, 5)])
def test_is_the_best_of_all_matchings(num_clusters, num_classes):
    generator = torch.Generator().manual_seed(0)
    clusters = torch.randint(num_clusters, (60,), generator=generator)
    labels = torch.randint(num_classes, (60,), generator=generator)
    size = max(num_clusters, num_classes)
    best = max(sum(choice[c] == label for c, label in zip(clusters.tolist(), labels.tolist(), strict=True))
               for choice in permutations(range(size)))  # fmt: skip
    assert measure(clusters.tolist(), labels.tolist(), num_clusters, num_classes)["accuracy"] == best / 60


def test_does_not_depend_on_batches_or_order():
    generator = torch.Generator().manual_seed(0)
    clusters, labels = torch.randint(3, (2, 50), generator=generator)
    metric = ClusterAccuracyMetric(3, 3)
    for part in torch.randperm(50, generator=generator).split(7):
        metric.update(clusters[part], labels[part])
    assert metric.compute() == measure(clusters.tolist(), labels.tolist())


def test_kmeans_finds_what_the_literature_finds():
    datamodule = DigitsDataModule(batch_size=128)
    datamodule.setup()
    assert 0.75 < kmeans_accuracy(datamodule, 10) < 0.85


class KnowsTheLabel(LightningModule):
    """A clustering that is right but for its names, and wrong for every class 0."""

    num_clusters = [10]

    def assign_clusters(self, images):
        raise AssertionError("the callback uses what the step returned")

    def test_step(self, batch, batch_idx):
        return {"index": batch["index"], "label": batch["label"], "cluster": (9 - batch["label"]).clamp(max=8)[:, None]}

    validation_step = test_step


def test_callback_logs_what_it_declares_and_writes_the_table(tmp_path):
    callback = ClusterAccuracy(str(tmp_path), kmeans=True)
    module = KnowsTheLabel()
    assert isinstance(module, AssignsClusters)
    datamodule = DigitsDataModule(batch_size=128, val_size=100, eval_batch_size=64)
    trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False)  # fmt: skip
    trainer.validate(module, datamodule, verbose=False)
    assert (
        set(trainer.callback_metrics)
        == callback.metrics(None, "val").keys()
        == {"val/cluster_accuracy", "val/cluster_purity"}
    )
    trainer.test(module, datamodule, verbose=False)
    assert set(trainer.callback_metrics) == callback.metrics(None, "test").keys()
    labels = datamodule.tables["test"].labels
    # Classes 0 and 1 share cluster 8; the smaller of the two is wrong.
    expected = 1 - torch.bincount(labels)[:2].min().item() / len(labels)
    assert float(trainer.callback_metrics["test/cluster_accuracy"]) == pytest.approx(expected)
    rows = (tmp_path / "clusters.csv").read_text().splitlines()
    assert rows[0].startswith("cluster,matched_class,class_0")
    assert rows[1].startswith("0,9,0,0")
    assert (tmp_path / "clusters.png").stat().st_size > 1000
