"""Shifts and flips against torchvision's, image by image; the same on any number of ranks and after a resume."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor
from torchvision.transforms import functional

from callbacks.checkpoint import Checkpoint
from datamodules.augmentation import Augment, shift_and_flip
from datamodules.digits import DigitsDataModule
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError

AUGMENT = {"pad": 2, "flip": True}


class Photographs(ImageDataModule):
    """24 random images to train, 5 to test, 4x5 pixels."""

    name = "photographs"
    image_shape = (3, 4, 5)
    num_classes = None

    def load(self) -> dict[str, ImageTable]:
        images = torch.randint(256, (29, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return {"train": ImageTable(images[:24]), "test": ImageTable(images[24:])}


class Recorder(LightningModule):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: dict[str, list[dict[str, Tensor]]] = {"train": [], "val": [], "test": []}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.seen["train"].append(batch)
        return self.weight.sum()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.seen["val"].append(batch)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.seen["test"].append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(folder, max_steps: int, checkpoint=None) -> tuple[Recorder, Photographs]:
    """24 images less 4 for validation, 5 batches an epoch."""
    module, datamodule = Recorder(), Photographs(batch_size=4, val_size=4, augment=AUGMENT)
    trainer = Trainer(max_steps=max_steps, callbacks=[Checkpoint(str(folder))], accelerator="cpu", logger=False,
                      use_distributed_sampler=False, enable_progress_bar=False, enable_model_summary=False, inference_mode=False)  # fmt: skip
    trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
    trainer.test(module, datamodule=datamodule, verbose=False)
    return module, datamodule


@pytest.mark.filterwarnings("ignore")
def test_training_images_alone_are_changed_anew_in_each_epoch(tmp_path):
    module, datamodule = trained(tmp_path, max_steps=10)
    for stage in ("val", "test"):
        for batch in module.seen[stage]:
            assert torch.equal(batch["image"], datamodule.tables[stage].images[batch["index"]] / 255)
    epochs = [torch.zeros(20, 3, 4, 5), torch.zeros(20, 3, 4, 5)]
    for step, batch in enumerate(module.seen["train"]):
        assert "label" not in batch
        epochs[step // 5][batch["index"]] = batch["image"]
    unchanged = datamodule.tables["train"].images / 255
    first, second = ((epoch - unchanged).flatten(1).any(1) for epoch in epochs)
    assert first.float().mean() > 0.8  # one in 50 draws is the identity
    assert second.float().mean() > 0.8
    assert (epochs[0] - epochs[1]).flatten(1).any(1).float().mean() > 0.8


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path):
    whole, _ = trained(tmp_path / "whole", 12)
    first, _ = trained(tmp_path / "first", 7)  # inside the second epoch
    second, _ = trained(tmp_path / "second", 12, tmp_path / "first" / "last.ckpt")
    seen = first.seen["train"] + second.seen["train"]
    assert len(seen) == len(whole.seen["train"]) == 12
    for found, expected in zip(seen, whole.seen["train"], strict=True):
        assert torch.equal(found["index"], expected["index"])
        assert torch.equal(found["image"], expected["image"])


@pytest.mark.parametrize("shape", [(3, 7, 9), (1, 8, 8)])
@pytest.mark.parametrize("pad", [0, 1, 4])
def test_each_offset_and_flip_is_torchvision_s(shape, pad):
    """Every top, left and flip that can be drawn, on an image of its own."""
    _, height, width = shape
    choices = torch.cartesian_prod(torch.arange(2 * pad + 1), torch.arange(2 * pad + 1), torch.arange(2))
    images = torch.randint(256, (len(choices), *shape), dtype=torch.uint8)
    found = shift_and_flip(images, choices, pad)
    assert found.dtype == torch.uint8
    for image, (top, left, flip), ours in zip(images, choices.tolist(), found, strict=True):
        padded = functional.pad(image, [pad] * 4)
        theirs = functional.crop(padded, top, left, height, width)
        assert torch.equal(ours, functional.hflip(theirs) if flip else theirs)


def test_draws_cover_all_offsets_evenly_and_flip_half():
    drawn = Augment(pad=1, flip=True).draw(90_000, seed=0, epoch=0)
    for column, choices in enumerate((3, 3, 2)):
        shares = torch.bincount(drawn[:, column], minlength=choices) / len(drawn)
        assert torch.allclose(shares, torch.full((choices,), 1 / choices), atol=0.01)
    assert not Augment(pad=1).draw(100, seed=0, epoch=0)[:, 2].any()
    assert not torch.equal(drawn, Augment(pad=1, flip=True).draw(90_000, seed=1, epoch=0))


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_see_the_same_images(world_size):
    def epoch_on(rank: int, world_size: int) -> list[dict[str, Tensor]]:
        progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
        datamodule = DigitsDataModule(batch_size=300, augment=Augment(pad=1, flip=True))
        datamodule.trainer = SimpleNamespace(  # type: ignore
            global_rank=rank, world_size=world_size, training=True, current_epoch=3,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
            lightning_module=SimpleNamespace(dtype=torch.float32), fit_loop=SimpleNamespace(epoch_loop=progress),
        )  # fmt: skip
        datamodule.setup()
        return [datamodule.on_after_batch_transfer(batch, 0) for batch in datamodule.train_dataloader()]

    shares = [epoch_on(rank, world_size) for rank in range(world_size)]
    for step, whole in enumerate(epoch_on(0, 1)):
        for key in ("index", "image", "label"):
            assert torch.equal(torch.cat([share[step][key] for share in shares]), whole[key])


def test_a_negative_pad_is_refused():
    with pytest.raises(UserError, match=r"datamodule.augment.pad is -1: give a number of pixels, 0 or more"):
        DigitsDataModule(batch_size=8, augment={"pad": -1})


def test_a_pad_as_large_as_the_images_is_refused():
    data = DigitsDataModule(batch_size=8, augment={"pad": 8})
    with pytest.raises(UserError, match=r"pad is 8, and the images of digits are 8 x 8.*Give less than 8"):
        data.setup()


def test_alternating_flips_show_every_image_both_ways_in_two_epochs():
    augment = Augment(flip="alternating")
    flips = [augment.draw(1000, seed=3, epoch=epoch)[:, 2] for epoch in range(4)]
    assert torch.equal(flips[0] + flips[1], torch.ones(1000, dtype=torch.int64))
    assert torch.equal(flips[2], flips[0])
    assert 400 < int(flips[0].sum()) < 600
    assert not torch.equal(flips[0], augment.draw(1000, seed=4, epoch=0)[:, 2])


def test_an_unknown_flip_is_refused():
    with pytest.raises(UserError, match=r"augment.flip is 'sometimes': give true, false or alternating"):
        DigitsDataModule(batch_size=8, augment={"flip": "sometimes"})
