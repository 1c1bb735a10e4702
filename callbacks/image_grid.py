"""Pictures of what a generator makes: samples as training goes on, traversals of its codes at the end."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.instruments.pictures import log_picture, save_grid
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.protocols import ChoosesCodes, SamplesImages, TraversesLatents


class ImageGrid(Callback):
    """Writes ``samples-<iteration>.png`` and ``traversal-<code>.png``, and shows both in the logger.

    The samples have the same noise every time, so two grids differ by training alone. In a traversal a row
    keeps its noise and all codes but one.

    Args:
        folder: where the pictures go.
        every_n_steps: iterations between two grids of samples.
        samples: images in a grid, at most 100 in rows of ten.
        rows: rows of a traversal.
    """

    requires = SamplesImages

    def __init__(self, folder: str, every_n_steps: int = 1000, samples: int = 100, rows: int = 10) -> None:
        for name, value in {"every_n_steps": every_n_steps, "samples": samples, "rows": rows}.items():
            if value < 1:
                raise UserError(f"callbacks.image_grid.{name} is {value}: give 1 or more.")
        self.folder, self.every_n_steps, self.samples, self.rows = Path(folder), every_n_steps, samples, rows

    def pictures(self, module: Any) -> set[str]:
        names = module.code_ranges() if isinstance(module, ChoosesCodes) else ()
        return {"images/samples"} | {f"images/traversal_{name}" for name in names}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._draw_samples(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step % self.every_n_steps:
            self._draw_samples(trainer, pl_module)
        if isinstance(pl_module, TraversesLatents):
            self._draw_traversals(trainer, pl_module)

    @rank_zero_only
    def _draw_samples(self, trainer: Trainer, module: Any) -> None:
        with evaluating(module):
            images = module.sample(torch.arange(self.samples))
        path = self.folder / f"samples-{trainer.global_step:06d}.png"
        save_grid(images, path, columns=10)
        log_picture(trainer, "images/samples", path)

    @rank_zero_only
    def _draw_traversals(self, trainer: Trainer, module: Any) -> None:
        with evaluating(module):
            traversals = module.traversals(self.rows)
        for name, images in traversals.items():
            path = self.folder / f"traversal-{name}.png"
            save_grid(images.flatten(0, 1), path, columns=images.shape[1])
            log_picture(trainer, f"images/traversal_{name}", path)
