"""TensorBoard beside metrics.csv: Lightning's own logger, to which pictures and tables are given too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from foundation.errors import UserError
from foundation.published import TESTED

FOLDER = "tensorboard"
MOST_ROWS = 200  # of a table; TensorBoard shows text


class TensorBoard(TensorBoardLogger):
    """Event files in ``<run folder>/tensorboard``: ``tensorboard --logdir outputs`` shows all runs side by side.

    Figures stand at iterations done, as in wandb. A resumed run adds a file of its own, from its checkpoint on.

    Args:
        save_dir: the run folder.
    """

    def __init__(self, save_dir: str) -> None:
        try:
            super().__init__(save_dir, name=FOLDER, version="", default_hp_metric=False)
        except ModuleNotFoundError:
            raise UserError(
                "logger=tensorboard needs tensorboard, which is not installed: pip install '.[tensorboard]'"
            ) from None

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...  # config.yaml has them

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # Lightning counts steps from 0, but a test's from 1: it is logged when the last iteration is counted.
        tested = any(key.startswith(TESTED) for key in metrics)
        super().log_metrics(dict(metrics), step if tested or step is None else step + 1)

    @rank_zero_only
    def log_image(self, key: str, images: list[str], step: int | None = None) -> None:
        """Image files, shown under one key after ``step`` iterations."""
        for number, path in enumerate(images):
            name = key if len(images) == 1 else f"{key}/{number}"
            self.experiment.add_image(name, pixels_of(Path(path)), step, dataformats="HWC")

    def log_video(self, key: str, videos: list[str], step: int | None = None) -> None:
        """GIF files, each by its last picture: TensorBoard makes videos by a program that is not asked for here."""
        self.log_image(key, videos, step)

    @rank_zero_only
    def log_table(self, key: str, columns: list[str], data: list[list[Any]], step: int | None = None) -> None:
        """A table with a row for each list of ``data``, as text."""
        lines = [columns, ["---"] * len(columns), *data[:MOST_ROWS]]
        text = "\n".join(f"| {' | '.join(cell(it) for it in line)} |" for line in lines)
        more = f"\n\n{len(data) - MOST_ROWS:,} more rows" if len(data) > MOST_ROWS else ""
        self.experiment.add_text(key, text + more, step)


def pixels_of(path: Path) -> np.ndarray:
    """uint8 [H, W, 3], of a GIF the last picture."""
    with Image.open(path) as image:
        image.seek(getattr(image, "n_frames", 1) - 1)
        return np.asarray(image.convert("RGB"))


def cell(value: Any) -> str:
    """Of a table in Markdown."""
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
