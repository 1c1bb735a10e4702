"""Unsupervised cluster accuracy: how well categories found without labels match the classes."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import draw_counts, log_picture, log_table
from callbacks.instruments.tables import write_table
from foundation.errors import UserError
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import AssignsClusters, HoldsImages
from foundation.published import key_for


class ClusterAccuracyMetric(Metric):
    """A count for each (cluster, class), from which accuracy and purity follow.

    Accuracy: the share of examples whose class is the one matched to their cluster, under the one-to-one
    matching of clusters to classes that makes it largest (Hungarian method). With more clusters than classes
    the unmatched clusters count as wrong, and the reverse. Purity: the same with each cluster matched to its
    most frequent class, many to one. The counts are summed over ranks, so the result does not depend on them.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, num_clusters: int, num_classes: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.add_state("confusion", torch.zeros(num_clusters, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, cluster: Tensor, label: Tensor) -> None:
        """cluster, label: [B] int64."""
        clusters, classes = self.confusion.shape
        cells = torch.bincount(cluster * classes + label, minlength=clusters * classes)
        self.confusion += cells.reshape(clusters, classes)

    def compute(self) -> dict[str, float]:
        total = max(int(self.confusion.sum()), 1)
        matched = self.confusion.cpu().numpy()[self.matching()].sum()
        return {"accuracy": int(matched) / total, "purity": int(self.confusion.amax(dim=1).sum()) / total}

    def matching(self) -> tuple[Any, Any]:
        """Matched clusters and their classes, as two arrays."""
        return linear_sum_assignment(self.confusion.cpu().numpy(), maximize=True)


class ClusterAccuracy(Measurement):
    """Logs ``<stage>/cluster_accuracy`` and ``<stage>/cluster_purity``; writes which code means which class.

    Args:
        code: which of the module's categorical codes, counted from 0.
        kmeans: also fit k-means to the training images and measure it on the test images
            (``test/kmeans_cluster_accuracy``), as many clusters as the code has, best of ten starts.
        folder: where the table ``clusters.csv`` and its picture ``clusters.png`` go.
    """

    metric: ClusterAccuracyMetric
    requires = AssignsClusters
    needs_labels = True

    def __init__(self, folder: str, code: int = 0, kmeans: bool = False) -> None:
        self.folder, self.code, self.kmeans = Path(folder), code, kmeans
        self.requires_data = HoldsImages if kmeans else None

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage == "train":
            return {}
        names: dict[str, Direction] = {"cluster_accuracy": "max", "cluster_purity": "max"}
        if stage == "test" and self.kmeans:
            names["kmeans_cluster_accuracy"] = None  # of the data, whatever the module is worth
        return in_stage(stage, names)

    def pictures(self, module: Any) -> set[str]:
        return {"test/clusters"}

    def tables(self, module: Any) -> set[str]:
        return {"test/clusters_table"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        clusters = clusters_of(pl_module, self.code, "cluster_accuracy")
        self.metric = ClusterAccuracyMetric(clusters, datamodule_of(trainer).num_classes)
        self.metric.to(trainer.strategy.root_device)

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["cluster"][:, self.code], outputs["label"])

    def figures(self) -> dict[str, float]:
        return {f"cluster_{name}": value for name, value in self.metric.compute().items()}

    def write(self, trainer: Trainer, module: Any) -> None:
        if self.kmeans:
            baseline = kmeans_accuracy(datamodule_of(trainer), self.metric.confusion.shape[0])
            module.log(key_for("test/kmeans_cluster_accuracy", datamodule_of(trainer)), baseline)
        with self.metric.sync_context():
            self._write_table(trainer)

    @rank_zero_only
    def _write_table(self, trainer: Trainer) -> None:
        confusion = self.metric.confusion.cpu()
        matched = dict(zip(*(column.tolist() for column in self.metric.matching()), strict=True))
        heading = ["cluster", "matched_class", *(f"class_{label}" for label in range(confusion.shape[1]))]
        rows = [[cluster, matched.get(cluster, ""), *row] for cluster, row in enumerate(confusion.tolist())]
        write_table(self.folder / "clusters.csv", [heading, *rows])
        picture = self.folder / "clusters.png"
        draw_clusters(confusion, matched, picture)
        log_picture(trainer, "test/clusters", picture)
        log_table(trainer, "test/clusters_table", self.folder / "clusters.csv")


def clusters_of(module: Any, code: int, callback: str) -> int:
    """How many clusters the module's categorical code number ``code`` has."""
    assert isinstance(module, AssignsClusters)
    if not 0 <= code < len(module.num_clusters):
        raise UserError(
            f"callbacks.{callback}.code is {code}, but the module has {len(module.num_clusters)} "
            "categorical code(s), counted from 0."
        )
    return module.num_clusters[code]


def datamodule_of(trainer: Trainer) -> Any:
    datamodule = getattr(trainer, "datamodule", None)
    assert isinstance(datamodule, LightningDataModule)
    return datamodule


def kmeans_accuracy(datamodule: Any, num_clusters: int) -> float:
    """Cluster accuracy on the test images of k-means fitted to the pixels of the training images."""
    from sklearn.cluster import KMeans  # here, since importing it takes a fifth of a second

    train, test = datamodule.tables["train"], datamodule.tables["test"]
    fitted = KMeans(
        num_clusters,
        n_init=10,  # pyright: ignore[reportArgumentType]
        random_state=0,
    ).fit(train.images.flatten(1).cpu().numpy() / 255)
    metric = ClusterAccuracyMetric(num_clusters, datamodule.num_classes, sync_on_compute=False)  # each rank has all
    clusters = fitted.predict(test.images.flatten(1).cpu().numpy() / 255)
    metric.update(torch.from_numpy(clusters).long(), test.labels.cpu())
    return metric.compute()["accuracy"]


def draw_clusters(confusion: Tensor, matched: dict[int, int], path: Path) -> None:
    """The counts, clusters in the order of their matched classes; matched cells are framed."""
    clusters, classes = confusion.shape
    order = sorted(range(clusters), key=lambda cluster: matched.get(cluster, classes))
    framed = [(row, matched[cluster]) for row, cluster in enumerate(order) if cluster in matched]
    draw_counts(
        confusion[order], path, rows=[str(it) for it in order], columns=[str(it) for it in range(classes)],
        title="Which category means which class", of_rows="category", of_columns="class", framed=framed,
    )  # fmt: skip
