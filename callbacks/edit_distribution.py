"""By how many edits targets are changed, drawn before training begins, so that a wrong temperature is seen at once."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from callbacks.instruments.pictures import log_picture, save_panels
from foundation.protocols import EditsTargets, serves

QUANTILES = {"short": 0.1, "typical": 0.5, "long": 0.9}
LEFT_OUT = 0.001  # bars are drawn until what lies behind them adds up to less


class EditDistribution(Callback):
    """Writes ``edits.png`` before the first step: P(e), the probability of e edits, for a target of typical length and
    for a short and a long one (the median and the tenths at both ends of training's). A line says which share of
    targets stay as they are, over all of training. A module that edits no targets has neither.

    Args:
        folder: where the picture goes.
    """

    for_training_only = True

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def pictures(self, module: Any) -> set[str]:
        return {"images/edits"} if serves(module, EditsTargets) else set()

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not serves(pl_module, EditsTargets):
            return
        assert isinstance(pl_module, EditsTargets)
        lengths = trainer.datamodule.tables["train"].target.known_lengths.numpy()  # pyright: ignore
        probabilities = np.asarray(pl_module.edit_probabilities(int(lengths.max())))
        untouched = float(probabilities[lengths, 0].mean())
        print(
            f"tau {pl_module.tau:g}: {untouched:.1%} of the targets of training stay as they are in an epoch "
            f"({self.folder / 'edits.png'})",
            flush=True,
        )
        self._draw(pl_module.tau, lengths, probabilities, untouched)
        log_picture(trainer, "images/edits", self.folder / "edits.png")

    def _draw(self, tau: float, lengths: np.ndarray, probabilities: np.ndarray, untouched: float) -> None:
        chosen = {name: int(np.quantile(lengths, share, method="nearest")) for name, share in QUANTILES.items()}
        titles = [
            f"{name}: {length} tokens\n{probabilities[length, 0]:.1%} untouched" for name, length in chosen.items()
        ]
        with save_panels(self.folder / "edits.png", titles) as panels:
            for axes, length in zip(panels, chosen.values(), strict=True):
                shares = probabilities[length]
                shown = max(int((shares[::-1].cumsum()[::-1] >= LEFT_OUT).sum()), 1)
                colors = ["tab:blue", *["tab:orange"] * (shown - 1)]
                axes.bar(range(shown), shares[:shown], color=colors)
                axes.set_xlabel("edits of a target")
                axes.xaxis.get_major_locator().set_params(integer=True)
            panels[0].set_ylabel("probability")
            panels[0].figure.suptitle(f"tau {tau:g}: {untouched:.1%} of all training targets stay as they are")
