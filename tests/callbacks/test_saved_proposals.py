"""What is proposed is what is saved, of every split, on one rank and on two."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy
from safetensors.torch import load_file
from torch import Tensor

from callbacks.saved_proposals import SavedProposals, joined
from datamodules.proposals import Proposals
from foundation.errors import UserError
from tests.callbacks.detections_on_ranks import trainer_with
from tests.datamodules.test_detection import WIDE, Numbered, NumberedData
from tests.forks import run_in_fork


class Proposes(LightningModule):
    """In an image whose pixels are i: i % 4 boxes, i + 1 pixels wide at most."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def propose_regions(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        assert not torch.is_grad_enabled()
        return [boxes_in(round(float(it[0, 0, -1]) * 255), it.shape[2]) for it in images]


def boxes_in(number: int, width: int) -> dict[str, Tensor]:
    count = number % 4
    boxes = torch.tensor([[0.0, it, min(number + 1, width), it + 2] for it in range(count)]).reshape(-1, 4)
    return {"boxes": boxes, "scores": torch.linspace(1, 0.5, count)}


def saved_on(world_size: int, folder: Path, most: int = 100, **settings: Any) -> Path:
    arguments = {"devices": world_size}
    if world_size > 1:
        arguments["strategy"] = DDPStrategy(process_group_backend="gloo", start_method="fork")
    trainer = trainer_with(SavedProposals(str(folder / str(world_size)), most), **arguments)
    data = NumberedData(batch_size=2, eval_batch_size=3, flip=True, **settings)
    trainer.test(Proposes(), data, verbose=False)
    return folder / str(world_size) / "proposals.safetensors"


def test_every_image_of_every_split_that_has_one_and_none_is_flipped(tmp_path):
    path = saved_on(1, tmp_path, val_size=1)
    for split in ("train", "val", "test"):
        table = Numbered()
        packed = Proposals(path).of(split, table.image_ids, table.sizes).at(torch.arange(len(WIDE)))
        expected = [boxes_in(it, table.sizes[it, 1]) for it in range(len(WIDE))]
        assert packed["counts"] == [len(it["scores"]) for it in expected]
        assert torch.equal(packed["boxes"], torch.cat([it["boxes"] for it in expected]))
        assert torch.equal(packed["scores"], torch.cat([it["scores"] for it in expected]))


def test_the_best_alone_where_fewer_are_asked_for(tmp_path):
    found = load_file(saved_on(1, tmp_path, most=2))
    assert found["train.counts"].tolist() == [min(it % 4, 2) for it in range(len(WIDE))]
    assert set(found["train.scores"].tolist()) == {1.0, 0.75, 0.5}


def test_an_image_on_two_ranks_stands_there_once():
    one = {0: (torch.zeros(1, 4), torch.ones(1)), 1: (torch.ones(2, 4), torch.ones(2))}
    found = joined([one, {1: one[1]}], torch.tensor([5, 6]), torch.tensor([[3, 4], [3, 4]]))
    assert found.counts.tolist() == [1, 2]
    assert len(found.boxes) == 3


def test_a_number_that_is_none_is_refused():
    with pytest.raises(UserError, match="callbacks.saved_proposals.most is 0: give a number of proposals, 1 or more"):
        SavedProposals("folder", 0)


def test_two_ranks_save_the_same_file(tmp_path):
    done = run_in_fork("-m", "tests.callbacks.test_saved_proposals", tmp_path)
    assert done.returncode == 0, done.stderr
    assert saved_on(1, tmp_path).read_bytes() == (tmp_path / "2" / "proposals.safetensors").read_bytes()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    saved_on(2, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
