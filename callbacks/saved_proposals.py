"""A detector's proposals as a file, from which other runs are trained."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.instruments.coco_evaluation import gather_on_first
from datamodules.proposals import PROPOSALS, ProposedSplit, write_proposals
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.protocols import GoesThroughImages, ProposesRegionsInImages


class SavedProposals(Callback):
    """Writes ``proposals.safetensors`` at the end of a test: where the tested weights propose objects in the images of
    every split, as ``datamodules/proposals.py`` says. Training images are looked at as a test would, not flipped.

    Proposals of all splits are in the first rank's memory until they are written, 20 bytes each and as many again.

    Args:
        folder: where the file goes.
        most: proposals of an image, the best ones.
    """

    requires = ProposesRegionsInImages
    requires_data = GoesThroughImages

    def __init__(self, folder: str, most: int = 2000) -> None:
        if most < 1:
            raise UserError(f"callbacks.saved_proposals.most is {most}: give a number of proposals, 1 or more.")
        self.folder, self.most = Path(folder), most

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the test's end, so that a run that has finished has its file."""
        datamodule: Any = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        splits = {}
        for split, table in datamodule.tables.items():
            if not len(table):
                continue
            shares = gather_on_first(self._share(trainer, pl_module, datamodule, split))
            if shares is not None:
                splits[split] = joined(shares, table.image_ids, torch.as_tensor(table.sizes))
        if trainer.is_global_zero:
            write_proposals(self.folder / PROPOSALS, splits)

    def _share(self, trainer: Trainer, module: Any, datamodule: Any, split: str) -> dict[int, tuple[Tensor, Tensor]]:
        """Of this rank: by an image's place in the split its boxes and scores."""
        found = {}
        for batch in datamodule.in_order(split):
            with evaluating(module), trainer.precision_plugin.forward_context():
                proposed = module.propose_regions(batch["image"])
            for place, it in zip(batch["index"].tolist(), proposed, strict=True):
                found[place] = tuple(it[key][: self.most].float().cpu() for key in ("boxes", "scores"))
        return found


def joined(shares: Sequence[Mapping[int, tuple[Tensor, Tensor]]], image_ids: Tensor, sizes: Tensor) -> ProposedSplit:
    """The shares of all ranks in the order of the split."""
    of_all: dict[int, tuple[Tensor, Tensor]] = {}
    for share in shares:
        of_all |= share
    boxes, scores = zip(*(of_all[place] for place in range(len(image_ids))), strict=True)
    counts = torch.tensor([len(it) for it in scores])
    return ProposedSplit(image_ids, sizes.long(), counts, torch.cat(boxes), torch.cat(scores))
