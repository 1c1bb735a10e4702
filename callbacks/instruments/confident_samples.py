"""Which generated images a judge is surest of."""

from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torchmetrics import Metric

from callbacks.instruments.pictures import log_picture, save_grid

PICTURES = 100
A_ROW_EACH_UP_TO = 20  # classes; beyond, the surest of all stand together


class ConfidentSamples(Metric):
    """The numbers of the images with the highest log odds of their likeliest class against all others.

    (Probabilities would not do: hundreds of images have one that rounds to 1.) With few classes, of each class as many.
    Ranks, batches and order change nothing; of equal odds the lower number comes first.
    """

    full_state_update = False
    odds: Tensor
    index: Tensor

    def __init__(self, classes: int, pictures: int = PICTURES, **metric: Any) -> None:
        super().__init__(**metric)
        rows = classes if classes <= A_ROW_EACH_UP_TO else 1
        self.by_class, self.columns = rows > 1, pictures // rows
        self.add_state("odds", torch.full((rows, self.columns), -torch.inf, dtype=torch.float64), dist_reduce_fx=None)
        self.add_state("index", torch.full((rows, self.columns), -1), dist_reduce_fx=None)

    def update(self, logits: Tensor, index: Tensor) -> None:
        """logits: [B, K]; index: [B] int64, the images' numbers."""
        logits = logits.double()
        highest, predicted = logits.max(dim=1)
        others = logits.scatter(1, predicted.unsqueeze(1), -torch.inf).logsumexp(dim=1)
        row = predicted if self.by_class else torch.zeros_like(predicted)
        rows = torch.arange(len(self.odds), device=row.device).unsqueeze(1)
        odds = (highest - others).where(row == rows, -torch.inf)  # [rows, B]
        numbers = index.to(row.device).where(row == rows, -1)
        self.odds, self.index = surest(
            torch.cat([self.odds, odds], dim=1), torch.cat([self.index, numbers], dim=1), self.columns
        )

    def compute(self) -> Tensor:
        """[rows, columns] int64, the surest first; -1 where a class has no more images."""
        if self.odds.ndim == 2:
            return self.index
        odds, index = (it.transpose(0, 1).flatten(1) for it in (self.odds, self.index))  # gathered: [ranks, rows, ...]
        return surest(odds, index, self.columns)[1]


def surest(odds: Tensor, index: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The first columns of both, [rows, N], by falling odds and then by rising number; what has no number is last."""
    by_number = index.sort(dim=1, stable=True).indices
    odds, index = odds.gather(1, by_number), index.gather(1, by_number)
    by_odds = odds.where(index >= 0, -torch.inf).sort(dim=1, descending=True, stable=True).indices[:, :columns]
    return odds.gather(1, by_odds), index.gather(1, by_odds)


def draw_confident(trainer: Trainer, module: Any, index: Tensor, path: Path) -> None:
    """A row for each of index's rows, or rows of ten; grey where there is no image. index: [rows, columns]."""
    flat = index.flatten().cpu()
    images = module.sample(flat.clamp(min=0)).cpu()
    images[flat < 0] = 0.5
    save_grid(images, path, columns=index.shape[1] if len(index) > 1 else 10)
    log_picture(trainer, f"images/{path.stem}", path)
