"""Points whose class depends on a few coordinates and leaks into the others (Wang, Gao & Qi 2016: necessary and
unnecessary features); made, not read."""

from typing import Any

import torch

from datamodules.splits import SplitDataModule, Table
from foundation.errors import UserError
from foundation.randomness import keyed_generator

MOST = 10_000_000  # points, or coordinates: they lie in memory


class FeaturesDataModule(SplitDataModule):
    """x = (k necessary, u unnecessary coordinates), standard normal; of class 1 where the first k sum to more than 0.

    Every unnecessary coordinate of a point of class 1 is larger by ``leak``, of class 0 smaller: a cue that nobody
    needs. A batch holds ``index`` [B] int64, ``point`` [B, k + u] float and ``label`` [B] int64.

    Args:
        necessary, unnecessary: k and u.
        margin: the sum of the first k is at least as large as this, or smaller than its negative.
        leak: by how much a class shifts the mean of each unnecessary coordinate.
        train_size, test_size: how many points there are; ``val_size`` of the former are set aside.
        data_seed: decides the points; its own key, so that runs that differ in ``seed`` see the same ones.
        splits: see ``SplitDataModule``.
    """

    name = "features"
    num_classes = 2
    class_names = ("below", "above")

    def __init__(
        self,
        necessary: int = 4,
        unnecessary: int = 60,
        margin: float = 0.2,
        leak: float = 0.3,
        train_size: int = 50000,
        test_size: int = 2000,
        data_seed: int = 0,
        **splits: Any,
    ) -> None:
        super().__init__(**splits)
        counts = {"necessary": necessary, "unnecessary": unnecessary, "train_size": train_size, "test_size": test_size}
        for key, count in counts.items():
            if not 1 <= count <= MOST:
                raise UserError(f"datamodule.{key} is {count}: give 1 or more, and {MOST:,} at most.")
        for key, value in {"margin": margin, "leak": leak}.items():
            if not 0 <= value <= 10:
                raise UserError(f"datamodule.{key} is {value}: give a number from 0 to 10.")
        self.necessary, self.unnecessary, self.margin, self.leak = necessary, unnecessary, margin, leak
        self.train_size, self.test_size, self.data_seed = train_size, test_size, data_seed
        self.point_size = necessary + unnecessary

    def load(self) -> dict[str, Table]:
        return {"train": self._points("train", self.train_size), "test": self._points("test", self.test_size)}

    def _points(self, split: str, size: int) -> Table:
        generator = keyed_generator(self.data_seed, f"features {split}")
        points = torch.randn(size, self.point_size, generator=generator)
        total = points[:, : self.necessary].sum(1)
        side = torch.where(total > 0, 1.0, -1.0)
        # Along the diagonal, so that a point too near to the boundary is moved to the margin and none is thrown away.
        lack = (self.margin - total.abs()).clamp_min(0) / self.necessary
        points[:, : self.necessary] += (side * lack).unsqueeze(1)
        points[:, self.necessary :] += self.leak * side.unsqueeze(1)
        return Table({"point": points, "label": (side > 0).long()})

    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32
        return batch | {"point": batch["point"].to(dtype)}
