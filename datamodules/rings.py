"""Points of the plane inside and outside a ring without points (Sinha et al. 2018, section 4.1); made, not read."""

import math
from typing import Any

import torch

from datamodules.splits import SplitDataModule, Table
from foundation.errors import UserError
from foundation.randomness import keyed_generator

RADIUS, MARGIN = math.sqrt(2), 1.3


class RingsDataModule(SplitDataModule):
    """x ~ N(0, I), of class 1 where ||x|| > sqrt(2); points between sqrt(2) / 1.3 and 1.3 sqrt(2) are left out.

    A batch holds ``index`` [B] int64, ``point`` [B, 2] float and ``label`` [B] int64. Of what is drawn 63 % stays, 71 %
    of that inside.

    Args:
        train_size, test_size: how many points there are; ``val_size`` of the former are set aside.
        data_seed: decides the points; its own key, so that runs that differ in ``seed`` see the same ones.
        splits: see ``SplitDataModule``.
    """

    name = "rings"
    num_classes = 2
    class_names = ("inside", "outside")
    point_size = 2

    def __init__(self, train_size: int = 10000, test_size: int = 4000, data_seed: int = 0, **splits: Any) -> None:
        super().__init__(**splits)
        for key, size in {"train_size": train_size, "test_size": test_size}.items():
            if size < 1:
                raise UserError(f"datamodule.{key} is {size}: give a number of points, 1 or more.")
        self.train_size, self.test_size, self.data_seed = train_size, test_size, data_seed

    def load(self) -> dict[str, Table]:
        return {"train": self._points("train", self.train_size), "test": self._points("test", self.test_size)}

    def _points(self, split: str, size: int) -> Table:
        drawn = torch.randn(3 * size + 100, 2, generator=keyed_generator(self.data_seed, f"rings {split}"))
        distance = drawn.norm(dim=1)
        kept = drawn[(distance <= RADIUS / MARGIN) | (distance >= RADIUS * MARGIN)][:size]
        assert len(kept) == size
        return Table({"point": kept, "label": (kept.norm(dim=1) > RADIUS).long()})

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32
        return batch | {"point": batch["point"].to(dtype)}
