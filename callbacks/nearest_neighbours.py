"""Generated images beside the training images that they are nearest to: does the model copy?"""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from callbacks.instruments.pictures import as_8_bit, log_picture, save_grid
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.protocols import HoldsImages, SamplesImages

AT_ONCE = 1024  # training images


class NearestNeighbours(Callback):
    """Writes ``nearest_neighbours.png`` in the test: a row a sample, after it its nearest training images.

    Nearest is by the Euclidean distance of pixels, all training images having been compared. A copy that is moved by a
    pixel is not found so.

    Args:
        folder: where the picture goes.
        samples: rows.
        neighbours: training images in a row.
    """

    requires = SamplesImages
    requires_data = HoldsImages

    def __init__(self, folder: str, samples: int = 10, neighbours: int = 9) -> None:
        for name, value in {"samples": samples, "neighbours": neighbours}.items():
            if value < 1:
                raise UserError(f"callbacks.nearest_neighbours.{name} is {value}: give 1 or more.")
        self.folder, self.samples, self.neighbours = Path(folder), samples, neighbours

    def pictures(self, module: Any) -> set[str]:
        return {"images/nearest_neighbours"}

    @rank_zero_only
    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, SamplesImages)
        table = trainer.datamodule.tables["train"]  # pyright: ignore[reportAttributeAccessIssue]
        with evaluating(pl_module):
            samples = as_8_bit(pl_module.sample(torch.arange(self.samples)))
        _, nearest = nearest_images(samples, table, self.neighbours)
        neighbours = table[nearest.flatten().cpu()]["image"].to(samples).unflatten(0, nearest.shape)
        rows = torch.cat([samples.unsqueeze(1), neighbours], dim=1)
        path = self.folder / "nearest_neighbours.png"
        save_grid(rows.flatten(0, 1) / 255, path, columns=rows.shape[1])
        log_picture(trainer, "images/nearest_neighbours", path)


def nearest_images(images: Tensor, table: Any, count: int) -> tuple[Tensor, Tensor]:
    """Squared distances in grey levels and numbers of the nearest images, each [B, count]; of equals the lower number.

    Whole numbers below 2^53 are exact in double precision, and so are the distances. images: uint8 [B, C, H, W].
    """
    wanted = images.flatten(1).double()
    distances = torch.empty(len(images), 0, dtype=torch.float64, device=images.device)
    numbers = torch.empty(len(images), 0, dtype=torch.int64, device=images.device)
    for index in torch.arange(len(table)).split(AT_ONCE):
        others = table[index]["image"].to(images.device).flatten(1).double()
        squares = wanted.square().sum(1, keepdim=True) - 2 * wanted @ others.T + others.square().sum(1)
        distances = torch.cat([distances, squares], dim=1)
        numbers = torch.cat([numbers, index.to(numbers).expand(len(images), -1)], dim=1)
        nearest = distances.sort(dim=1, stable=True).indices[:, :count]  # the former ones come first
        distances, numbers = distances.gather(1, nearest), numbers.gather(1, nearest)
    return distances, numbers
