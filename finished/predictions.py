"""What ``predict.py`` is told by whatever predicts, and what classifiers of all kinds have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from foundation.errors import UserError

ALL_UP_TO = 20  # classes; beyond, a row holds the likeliest
LIKELIEST = 5
STANDARD_INPUT = "-"


@dataclass
class Predictions:
    """What a run says of what it is asked about, whatever kind of module it is.

    rows: of the table, the heading first. captions: what is said of each in a few words. record: how these predictions
    were made. write: puts pictures and other files into a folder. table: the table's file.
    """

    rows: list[list[str]]
    captions: list[str]
    record: dict[str, Any]
    write: Callable[[Path], None] = lambda folder: None
    table: str = "predictions.csv"


class Likeliest:
    """The likeliest classes of all that a classifier is asked about, batch by batch: with few classes all of them."""

    def __init__(self, module: Any) -> None:
        self.labels: list[str] = module.class_names or [str(number) for number in range(module.num_classes)]
        self.kept = module.num_classes if module.num_classes <= ALL_UP_TO else LIKELIEST
        self.classes: list[Tensor] = []
        self.probabilities: list[Tensor] = []

    def add(self, logits: Tensor) -> None:
        """logits: [B, num_classes]."""
        probabilities = logits.softmax(dim=1).cpu()
        if not probabilities.isfinite().all():
            raise UserError("The run's weights give probabilities that are not finite: name another with checkpoint=.")
        ordered = probabilities.sort(dim=1, descending=True, stable=True)
        self.classes.append(ordered.indices[:, : self.kept])
        self.probabilities.append(ordered.values[:, : self.kept])

    def rows(self) -> list[list[str]]:
        """The heading, and a row for each that was asked about."""
        return class_table(torch.cat(self.classes).tolist(), torch.cat(self.probabilities).tolist(), self.labels)

    def captions(self) -> list[str]:
        best = zip(torch.cat(self.classes)[:, 0].tolist(), torch.cat(self.probabilities)[:, 0].tolist(), strict=True)
        return [f"{self.labels[number]}  {value:.1%}" for number, value in best]

    def counts(self) -> dict[str, int]:
        """How often each class is the likeliest, of those that are."""
        counts = torch.cat(self.classes)[:, 0].bincount(minlength=len(self.labels)).tolist()
        return {label: count for label, count in zip(self.labels, counts, strict=True) if count}


def class_table(classes: list[list[int]], probabilities: list[list[float]], labels: list[str]) -> list[list[str]]:
    """A heading and rows. classes, probabilities: of each row the likeliest, in falling order.

    Where they are all classes, a row goes on with the probability of each in the classes' own order, else with the
    next likeliest labels and their probabilities.
    """
    heading, rows = ["label", "probability"], []
    if whole := len(classes[0]) == len(labels):
        heading += [f"probability_{label}" for label in labels]
    else:
        heading += [f"{what}_{place}" for place in range(2, len(classes[0]) + 1) for what in ("label", "probability")]
    for numbers, values in zip(classes, probabilities, strict=True):
        told = [f"{value:.6g}" for value in values]
        row = [labels[numbers[0]], told[0]]
        if whole:
            row += [value for _, value in sorted(zip(numbers, told, strict=True))]
        else:
            row += [it for number, value in zip(numbers[1:], told[1:], strict=True) for it in (labels[number], value)]
        rows.append(row)
    return [heading, *rows]
