"""Accuracy of a classifier: over all examples, for each class, and what is taken for what."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import Metric

from callbacks.instruments.measurement import Measurement
from callbacks.instruments.pictures import draw_counts, log_picture, log_table
from callbacks.instruments.tables import write_table
from foundation.errors import UserError, did_you_mean
from foundation.logged_iterations import is_logged
from foundation.metrics import Direction, Directions, in_stage
from foundation.protocols import Classifies

SCORES = {"f1", "matthews"}


class ClassificationMetric(Metric):
    """A count for each (class, prediction), the summed cross-entropy, and how often the class is among the first k.

    All are sums over examples, so the results depend on neither batches nor ranks (the cross-entropy, summed in
    double precision, up to its last digits). Of equal logits the lowest class is predicted.
    """

    full_state_update = False
    confusion: Tensor
    cross_entropy: Tensor
    among_first: Tensor

    def __init__(self, num_classes: int, k: int, **metric: Any) -> None:
        super().__init__(**metric)
        self.k = k
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("cross_entropy", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("among_first", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, label: Tensor) -> None:
        """logits: [B, K] float; label: [B] int64."""
        classes = len(self.confusion)
        cells = torch.bincount(label * classes + logits.argmax(dim=1), minlength=classes**2)
        self.confusion += cells.reshape(classes, classes)
        self.cross_entropy += cross_entropy(logits.double(), label, reduction="sum")
        self.among_first += (logits.topk(self.k, dim=1).indices == label.unsqueeze(1)).sum()

    def compute(self) -> dict[str, float]:
        total = max(int(self.confusion.sum()), 1)
        right = int(self.confusion.diagonal().sum())
        return {
            "accuracy": right / total,
            "error": (total - right) / total,
            "cross_entropy_nats": float(self.cross_entropy) / total,
            f"error_top{self.k}": (total - int(self.among_first)) / total,
            "matthews": self.matthews(),
            **({"f1": self.f1()} if len(self.confusion) == 2 else {}),
        }

    def f1(self) -> float:
        """Of class 1 of two, 2 TP / (2 TP + FP + FN), as GLUE has it; 0 where it neither is nor is told."""
        (_, false), (missed, right) = self.confusion.tolist()
        return 2 * right / max(2 * right + false + missed, 1)

    def matthews(self) -> float:
        """Matthews' correlation, of any number of classes (Gorodkin 2004); 0 where one alone is, or is told."""
        counts = [[int(it) for it in row] for row in self.confusion.tolist()]  # Python's own: squares of them are large
        are, told = [sum(row) for row in counts], [sum(column) for column in zip(*counts, strict=True)]
        total, right = sum(are), sum(counts[number][number] for number in range(len(counts)))
        covariance = right * total - sum(one * other for one, other in zip(are, told, strict=True))
        spread = [total**2 - sum(it**2 for it in them) for them in (are, told)]
        return covariance / math.sqrt(spread[0] * spread[1]) if all(spread) else 0.0

    def class_accuracy(self) -> list[float]:
        """The share of each class's examples that are predicted as it; not a number where it has none."""
        right, examples = self.confusion.diagonal().tolist(), self.confusion.sum(dim=1).tolist()
        return [one / of if of else math.nan for one, of in zip(right, examples, strict=True)]


class Classification(Measurement):
    """Logs ``<stage>/accuracy``, ``error`` and ``cross_entropy_nats``, and ``train/error``; writes ``classes.csv``.

    ``train/error`` is that of the training batches since the last logging, as they were augmented. The table has a row
    a class: its accuracy and how often each class was predicted; ``classes.png`` shows it.

    Args:
        folder: where the table and its picture go.
        top_k: also log ``<stage>/error_top<k>``, the share of examples whose class is not among the k likeliest.
        scores: also log these: ``f1`` of class 1 of two, ``matthews``.
    """

    metric: ClassificationMetric
    requires = Classifies
    needs_labels = True

    def __init__(self, folder: str, top_k: int | None = None, scores: Sequence[str] = ()) -> None:
        if top_k is not None and top_k < 2:
            raise UserError(f"callbacks.classification.top_k is {top_k}: give 2 or more, or null.")
        if unknown := set(scores) - SCORES:
            raise UserError(f"callbacks.classification.scores: {did_you_mean(min(unknown), SCORES)}")
        self.folder, self.top_k, self.scores = Path(folder), top_k, list(scores)
        self.since_logging = torch.zeros(2, dtype=torch.int64)  # wrong and all examples of this rank

    def metrics(self, module: Any, stage: str) -> Directions:
        if stage == "train":
            return {"train/error": "min"}
        names: dict[str, Direction] = {"accuracy": "max", "error": "min", "cross_entropy_nats": "min"}
        if self.top_k:
            names[f"error_top{self.top_k}"] = "min"
        names |= dict.fromkeys(self.scores, "max")
        return in_stage(stage, names)

    def pictures(self, module: Any) -> set[str]:
        return {"test/classes"}

    def tables(self, module: Any) -> set[str]:
        return {"test/classes_table"}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, Classifies)
        if self.top_k is not None and self.top_k >= pl_module.num_classes:
            raise UserError(
                f"callbacks.classification.top_k is {self.top_k}, and there are {pl_module.num_classes} classes: give "
                "fewer, or null."
            )
        if "f1" in self.scores and pl_module.num_classes != 2:
            raise UserError(
                f"callbacks.classification.scores has f1, which is of two classes, and there are "
                f"{pl_module.num_classes}: leave it out."
            )
        self.metric = ClassificationMetric(pl_module.num_classes, self.top_k or 1).to(trainer.strategy.root_device)

    # --- training --------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since_logging = self.since_logging.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        wrong = (outputs["logits"].argmax(dim=1) != outputs["label"]).sum()
        self.since_logging[0] += wrong
        self.since_logging[1] += len(outputs["label"])
        if is_logged(trainer, trainer.global_step):
            wrong, examples = trainer.strategy.reduce(self.since_logging.clone(), reduce_op="sum").tolist()  # pyright: ignore
            pl_module.log("train/error", wrong / examples, batch_size=1)
            self.since_logging.zero_()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Every rank saves together; what goes on has the sum on its first rank.
        counts = trainer.strategy.reduce(self.since_logging.clone(), reduce_op="sum")
        checkpoint["errors_since_logging"] = counts.tolist()  # pyright: ignore

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if trainer.is_global_zero and "errors_since_logging" in checkpoint:
            self.since_logging = torch.tensor(checkpoint["errors_since_logging"])

    # --- evaluation ------------------------------------------------------------------------------------------

    def update(self, trainer: Trainer, module: Any, outputs: Any, batch: Any) -> None:
        self.metric.update(outputs["logits"], outputs["label"])

    def write(self, trainer: Trainer, module: Any) -> None:
        with self.metric.sync_context():
            self._write(trainer, module)

    @rank_zero_only
    def _write(self, trainer: Trainer, module: Any) -> None:
        names = module.class_names or [str(it) for it in range(module.num_classes)]
        rows: list[list[Any]] = [["class", "accuracy", *(f"predicted_{name}" for name in names)]]
        of_classes = zip(names, self.metric.class_accuracy(), self.metric.confusion.tolist(), strict=True)
        for name, accuracy, counts in of_classes:
            rows.append([name, "" if math.isnan(accuracy) else accuracy, *counts])
        write_table(self.folder / "classes.csv", rows)
        picture = self.folder / "classes.png"
        draw_counts(
            self.metric.confusion.cpu(), picture, rows=accurate(names, self.metric.class_accuracy()), columns=names,
            title="What is taken for what", of_rows="class", of_columns="predicted",
        )  # fmt: skip
        log_picture(trainer, "test/classes", picture)
        log_table(trainer, "test/classes_table", self.folder / "classes.csv")


def accurate(names: list[str], accuracies: list[float]) -> list[str]:
    """Each class with its accuracy, where it has examples."""
    return [
        name if math.isnan(accuracy) else f"{name}  {accuracy:.1%}"
        for name, accuracy in zip(names, accuracies, strict=True)
    ]
