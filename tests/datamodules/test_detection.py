"""What every detection set does: batches, flips, groups, ranks, resumes. Shown on images whose pixels are numbers."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from callbacks.checkpoint import Checkpoint
from datamodules.batches import AspectBatches
from datamodules.detection import DetectionDataModule, Example, ObjectTable, draw_flips
from foundation.errors import UserError

WIDE = [True, True, False, True, True, False, True, True, False, False, True, True, True, True]


def size_of(position: int) -> tuple[int, int]:
    return (8, 10 + position) if WIDE[position] else (10 + position, 8)


class Numbered(ObjectTable):
    """Example i has i % 3 objects of label 1 + i % 5, and pixels i."""

    def __init__(self, masks: bool = False) -> None:
        super().__init__(torch.arange(len(WIDE)) * 10 + 7, np.array([size_of(it) for it in range(len(WIDE))]))
        self.masks = masks

    def example(self, position: int) -> Example:
        height, width = size_of(position)
        image = torch.full((3, height, width), position, dtype=torch.uint8)
        image[:, :, 0] = 200  # the left edge
        count = position % 3
        boxes = torch.tensor([[1.0, 2.0, 3.0, 7.0]]).repeat(count, 1)
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        masks[:, 2:7, 1:3] = 1
        return Example(image, boxes, torch.full((count,), 1 + position % 5), masks if self.masks else None)


class NumberedData(DetectionDataModule):
    name = "numbered"
    category_ids = tuple(range(2, 12, 2))
    class_names = tuple("abcde")

    def load(self) -> dict[str, ObjectTable]:
        return {split: Numbered(self.masks) for split in ("train", "val", "test")}

    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        raise NotImplementedError


def ready(**settings: Any) -> NumberedData:
    datamodule = NumberedData(**{"batch_size": 2, "eval_batch_size": 4, "flip": True, "masks": True} | settings)
    datamodule.setup()
    return datamodule


def on_rank(datamodule: Any, rank: int, world_size: int, consumed: int = 0) -> Any:
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=consumed)))
    datamodule.trainer = SimpleNamespace(
        global_rank=rank, local_rank=rank, world_size=world_size, fit_loop=SimpleNamespace(epoch_loop=progress),
        strategy=SimpleNamespace(root_device=torch.device("cpu")), lightning_module=SimpleNamespace(dtype=torch.float32),
    )  # fmt: skip
    return datamodule


def batches(datamodule: DetectionDataModule, epoch: int = 0) -> list[dict[str, Any]]:
    """As the module gets them."""
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore
    return [datamodule.on_after_batch_transfer(batch, 0) for batch in loader]


def joined(shares: Any) -> dict[str, Any]:
    """The shares of the ranks as one global batch."""
    tensors = {key: torch.cat([share[key] for share in shares]) for key in ("index", "image_id")}
    return tensors | {key: [it for share in shares for it in share[key]] for key in ("image", "target")}


def assert_equal(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys() == {"index", "image_id", "image", "target"}
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_batch_is_what_the_examples_are():
    (batch, *_) = ready(flip=False).test_dataloader()
    batch = ready().on_after_batch_transfer(batch, 0)
    assert batch["index"].tolist() == [0, 1, 2, 3]
    assert batch["image_id"].tolist() == [7, 17, 27, 37]
    assert [tuple(it.shape) for it in batch["image"]] == [(3, 8, 10), (3, 8, 11), (3, 12, 8), (3, 8, 13)]
    for position, (image, target) in enumerate(zip(batch["image"], batch["target"], strict=True)):
        example = Numbered(masks=True).example(position)
        assert torch.equal(image, example.image / 255)
        assert torch.equal(target["boxes"], example.boxes)
        assert torch.equal(target["labels"], example.labels)
        assert torch.equal(target["masks"], example.masks)  # type: ignore
    assert batch["target"][0]["boxes"].shape == (0, 4)
    assert batch["target"][0]["masks"].shape == (0, 8, 10)
    assert (batch["target"][0]["labels"].dtype, batch["target"][0]["boxes"].dtype) == (torch.int64, torch.float32)
    (plain, *_) = ready(masks=False).test_dataloader()
    assert all(it.keys() == {"boxes", "labels"} for it in ready().on_after_batch_transfer(plain, 0)["target"])


def test_a_double_precision_module_gets_doubles_of_full_precision():
    datamodule = on_rank(ready(), 0, 1)
    datamodule.trainer.lightning_module.dtype = torch.float64
    image = batches(datamodule)[0]["image"][0]
    assert image.max() == torch.tensor(200, dtype=torch.float64) / 255
    datamodule.trainer.lightning_module.dtype = torch.bfloat16
    assert batches(datamodule)[0]["image"][0].dtype == torch.float32


def test_images_boxes_and_masks_are_flipped_together_as_drawn():
    found, flips = {}, draw_flips(len(WIDE), seed=0, epoch=0)
    for batch in batches(ready()):
        for row in zip(batch["index"].tolist(), batch["image"], batch["target"], strict=True):
            found[row[0]] = row[1:]
    assert 0 < sum(bool(flips[it]) for it in found) < len(found) == len(WIDE)
    for position, (image, target) in found.items():
        example, width = Numbered(masks=True).example(position), image.shape[2]
        assert (image[0, 0, -1] == 200 / 255) == bool(flips[position])
        expected = [width - 3.0, 2.0, width - 1.0, 7.0] if flips[position] else [1.0, 2.0, 3.0, 7.0]
        assert target["boxes"].tolist() == [expected] * (position % 3)
        for mask in target["masks"]:
            rows, columns = mask.nonzero().unbind(1)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == expected
        assert torch.equal(image.flip(-1) if flips[position] else image, example.image / 255)


def test_flips_are_a_function_of_seed_and_epoch_and_half_of_all():
    flips = draw_flips(20_000, seed=3, epoch=2)
    assert torch.equal(flips, draw_flips(20_000, seed=3, epoch=2))
    assert abs(float(flips.float().mean()) - 0.5) < 0.01
    for other in (draw_flips(20_000, seed=3, epoch=3), draw_flips(20_000, seed=4, epoch=2)):
        assert abs(float((flips == other).float().mean()) - 0.5) < 0.01
    tested = [ready().on_after_batch_transfer(batch, 0) for batch in ready().test_dataloader()]
    for unflipped in (batches(ready(flip=False)), tested):
        assert all(bool(image[0, 0, 0] > 0.5) for batch in unflipped for image in batch["image"])


def test_a_group_that_would_never_be_seen_is_refused():
    with pytest.raises(
        UserError,
        match=r"^4 training images are not wider than high, fewer than one batch of 5, and would never be seen: set datamodule.group_by_aspect=false, or datamodule.batch_size to 4 or less",
    ):
        ready(group_by_aspect=True, batch_size=5).train_dataloader()
    assert len(AspectBatches(torch.ones(12, dtype=torch.bool), 5, seed=0)) == 2  # of the other kind there is none
    assert len(ready(batch_size=5).train_dataloader()) == 2


@pytest.mark.parametrize("group_by_aspect", [False, True])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_change_nothing(world_size, group_by_aspect):
    settings = {"batch_size": world_size, "group_by_aspect": group_by_aspect}
    whole = batches(ready(**settings), epoch=1)
    ranks = [batches(on_rank(ready(**settings), rank, world_size), epoch=1) for rank in range(world_size)]
    assert_equal([joined(shares) for shares in zip(*ranks, strict=True)], whole)
    assert whole[0]["index"].tolist() != batches(ready(**settings), epoch=0)[0]["index"].tolist()


def test_evaluation_gives_each_image_once_and_a_rank_without_one_an_empty_batch():
    seen, sizes = [], []
    for rank in range(20):
        datamodule = on_rank(ready(eval_batch_size=20), rank, 20)
        for batch in datamodule.test_dataloader():
            batch = datamodule.on_after_batch_transfer(batch, 0)
            seen += batch["index"].tolist()
            sizes.append(len(batch["image"]))
            assert len(batch["image"]) == len(batch["target"]) == len(batch["image_id"]) == len(batch["index"])
    assert seen == list(range(len(WIDE)))
    assert 0 in sizes


@pytest.mark.parametrize("group_by_aspect", [False, True])
def test_workers_change_nothing(group_by_aspect):
    settings = {"group_by_aspect": group_by_aspect}
    assert_equal(batches(ready(num_workers=2, **settings), epoch=3), batches(ready(**settings), epoch=3))


@pytest.mark.parametrize("group_by_aspect", [False, True])
def test_goes_on_after_consumed_batches_and_an_epoch_told_late(group_by_aspect):
    """Lightning calls iter() before it restores its counters and sets the epoch."""
    whole = batches(ready(group_by_aspect=group_by_aspect), epoch=2)
    datamodule = on_rank(ready(group_by_aspect=group_by_aspect, num_workers=1), 0, 1)
    loader = datamodule.train_dataloader()
    iterator = iter(loader)
    loader.sampler.set_epoch(2)
    datamodule.trainer.fit_loop.epoch_loop.batch_progress.current.ready = 4
    assert_equal([datamodule.on_after_batch_transfer(batch, 0) for batch in iterator], whole[4:])


class Recorder(LightningModule):
    """Keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, Any]] = []
        self.evaluated: list[int] = []

    def training_step(self, batch):
        self.seen.append(batch)
        return self.weight * batch["image"][0].mean()

    def validation_step(self, batch):
        self.evaluated += batch["image_id"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_an_interrupted_run_sees_what_an_uninterrupted_one_does(tmp_path):
    """Seven batches an epoch, grouped into two and five; stopped inside the second epoch. Two validation batches."""

    def trained(max_steps: int, checkpoint: Path | None = None, num_workers: int = 0) -> Recorder:
        module = Recorder()
        saving = Checkpoint(str(tmp_path / f"{max_steps}{checkpoint is None}"), every_n_train_steps=1)
        trainer = Trainer(max_steps=max_steps, accelerator="cpu", logger=False, callbacks=[saving], use_distributed_sampler=False,
                          enable_progress_bar=False, enable_model_summary=False, val_check_interval=2, limit_val_batches=2,
                          num_sanity_val_steps=0)  # fmt: skip
        datamodule = ready(num_workers=num_workers, val_size=3, group_by_aspect=True)
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        return module

    whole, first = trained(12), trained(9)
    second = trained(12, tmp_path / "9True" / "last.ckpt", num_workers=1)
    assert [len(it.seen) for it in (whole, first, second)] == [12, 9, 3]
    assert_equal(first.seen + second.seen, whole.seen)
    assert whole.evaluated[:8] == [7, 17, 27, 37, 47, 57, 67, 77]
    assert whole.evaluated[8:16] == whole.evaluated[:8]


class Few(Numbered):
    """The last ten of them."""

    def __init__(self) -> None:
        super().__init__(masks=True)
        self.image_ids, self.sizes = self.image_ids[-10:], self.sizes[-10:]

    def example(self, position: int) -> Example:
        return super().example(position + len(WIDE) - 10)


class Fewer(NumberedData):
    """From the second epoch on."""

    def state_dict(self) -> dict[str, Any]:
        return {"few": isinstance(self.tables["train"], Few)}


class Shortens(Recorder):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.trainer.datamodule.replace("train", Few())  # type: ignore


@pytest.mark.parametrize(("group_by_aspect", "count"), [(False, 5), (True, 4)])  # of the ten seven are wide
def test_workers_make_batches_of_a_table_that_takes_the_place_of_another(group_by_aspect, count):
    module = Shortens()
    trainer = Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False)  # fmt: skip
    datamodule = Fewer(batch_size=2, eval_batch_size=4, flip=True, masks=True, num_workers=1,
                       group_by_aspect=group_by_aspect)  # fmt: skip
    trainer.fit(module, datamodule=datamodule)
    assert trainer.num_training_batches == count
    before, after = (
        torch.cat([it["image_id"] for it in some]).tolist() for some in (module.seen[:-count], module.seen[-count:])
    )
    assert set(after) <= set(Few().image_ids.tolist())
    assert len(set(after)) == 2 * count
    assert set(before) - set(Few().image_ids.tolist())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": 0}, "datamodule.batch_size is 0: give"),
        ({"eval_batch_size": 0}, "datamodule.eval_batch_size is 0: give"),
        ({"num_workers": -1}, "datamodule.num_workers is -1: give"),
        ({"val_size": -1}, "datamodule.val_size is -1: give"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, sentence):
    with pytest.raises(UserError, match=sentence):
        ready(**settings)
