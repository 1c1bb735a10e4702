import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from torchvision import transforms

from callbacks.checkpoint import Checkpoint
from datamodules.decoding import ENDINGS
from datamodules.imagenet import ImageNetDataModule
from datamodules.photographs import EIGENVECTORS, Views, draw, shift_colours
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import instantiate

CLASSES = ("n01440764", "n01443537", "n02084071")
SMALL = {"size": 16, "short_sides": [20, 30], "test_short_side": 20, "batch_size": 4, "eval_batch_size": 4}


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three classes, 24 + 9 photographs of different sizes."""
    for split, size in (("train", 8), ("val", 3)):
        for label, name in enumerate(CLASSES):
            for number in range(size):
                path = data_dir / "imagenet" / split / name / f"{name}_{number}.JPEG"
                write(path, seed=100 * label + number, size=(40 + 7 * number, 60 - 5 * number))


def write(path: Path, seed: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(256, size=(5, 7, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    return tmp_path / "imagenet"


def ready(folder: Path, **settings: Any) -> ImageNetDataModule:
    datamodule = ImageNetDataModule(str(folder), **SMALL | {"num_workers": 0} | settings)
    datamodule.setup()
    return datamodule


def on_rank(datamodule: ImageNetDataModule, rank: int, world_size: int, consumed: int = 0) -> ImageNetDataModule:
    progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=consumed)))
    datamodule.trainer = SimpleNamespace(  # type: ignore
        global_rank=rank, local_rank=rank, world_size=world_size, fit_loop=SimpleNamespace(epoch_loop=progress),
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    return datamodule


def batches(datamodule: ImageNetDataModule, epoch: int = 0) -> list[dict[str, torch.Tensor]]:
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore
    return list(loader)


def assert_equal(found: list[dict[str, torch.Tensor]], expected: list[dict[str, torch.Tensor]]) -> None:
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_splits_classes_and_labels(folder):
    datamodule = ready(folder, val_size=5)
    assert datamodule.class_names == CLASSES
    assert datamodule.num_classes == 3
    assert datamodule.image_shape == (3, 16, 16)
    described = datamodule.describe()
    assert described | {"sha256_of_names": ""} == {
        "name": "imagenet", "train": 19, "val": 5, "test": 9, "split": "val, 9 examples", "classes": 3, "sha256_of_names": "",
    }  # fmt: skip
    assert described != ready(folder, val_size=5, split_seed=1).describe()
    seen = [
        it
        for table in datamodule.tables.values()
        for it in zip(table.names.tolist(), table.labels.tolist(), strict=True)
    ]
    assert len({name for name, _ in seen}) == 24 + 9
    assert all(CLASSES[label] == name.split(b"/")[1].decode() for name, label in seen)
    assert {name.split(b"/")[0] for name in datamodule.tables["val"].names.tolist()} == {b"train"}
    assert datamodule.val_dataloader() != []
    assert ready(folder).val_dataloader() == []


def test_the_test_sees_what_torchvision_shows(folder):
    datamodule = ready(folder, size=224, test_short_side=256, short_sides=[256, 480])
    (batch,) = list(
        ready(folder, size=224, test_short_side=256, short_sides=[256, 480], eval_batch_size=9).test_dataloader()
    )
    reference = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()])
    for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
        name = datamodule.tables["test"].names[index].decode()
        assert torch.equal(image, reference(Image.open(folder / name)))
    scaled = datamodule.on_after_batch_transfer(batch, 0)
    assert scaled.keys() == {"index", "image", "label"}
    assert torch.equal(scaled["image"], batch["image"] / 255)


def test_a_training_view_is_resized_cut_and_flipped_as_drawn():
    """A photograph of 40x30 whose red counts columns and whose green counts rows, not resized."""
    rows, columns = np.mgrid[:30, :40].astype(np.uint8)
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=2))
    views = Views(size=16, short_sides=(30, 30), test_short_side=30)

    def corner(*drawn: float) -> list[list[int]]:
        view = np.asarray(views.training(image, [0.0, *drawn]))
        assert view.shape == (16, 16, 3)
        return [view[0, 0, :2].tolist(), view[-1, -1, :2].tolist()]

    assert corner(0.0, 0.0, 0.9) == [[0, 0], [15, 15]]
    assert corner(0.9999, 0.9999, 0.9) == [[24, 14], [39, 29]]
    assert corner(0.9999, 0.0, 0.1) == [[15, 14], [0, 29]]


def test_short_sides_are_drawn_from_the_whole_range(monkeypatch):
    views = Views(size=16, short_sides=(20, 23), test_short_side=20)
    image = Image.fromarray(np.zeros((50, 40, 3), dtype=np.uint8))
    found: list[int] = []
    resize = transforms.functional.resize
    monkeypatch.setattr(
        transforms.functional, "resize", lambda image, size: found.append(size[0]) or resize(image, size)
    )
    for share in (0.0, 0.24, 0.26, 0.51, 0.76, 0.9999999):
        views.training(image, [share, 0.0, 0.0, 0.0])
    assert found == [20, 20, 21, 22, 23, 23]


def test_draws_are_a_function_of_seed_epoch_and_example():
    drawn = draw(20_000, seed=3, epoch=2)
    assert torch.equal(drawn, draw(20_000, seed=3, epoch=2))
    assert not torch.equal(drawn, draw(20_000, seed=3, epoch=3))
    assert not torch.equal(drawn, draw(20_000, seed=4, epoch=2))
    uniform, weights = drawn[:, :4], drawn[:, 4:]
    assert uniform.min() >= 0
    assert uniform.max() < 1
    torch.testing.assert_close(uniform.mean(0), torch.full((4,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(weights.std(0), torch.full((3,), 0.1), atol=0.002, rtol=0)


def test_colours_are_shifted_along_the_principal_components():
    torch.testing.assert_close(EIGENVECTORS.T @ EIGENVECTORS, torch.eye(3), atol=2e-4, rtol=0)
    images = torch.full((3, 3, 2, 2), 0.5)
    images[2] = 0.99
    shifted = shift_colours(images, torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.3, 0.0, 0.0]]))
    assert torch.equal(shifted[0], images[0])
    expected = 0.5 + 0.1 * 0.2175 * torch.tensor([-0.5675, -0.5808, -0.5836])  # all channels darker together
    torch.testing.assert_close(shifted[1, :, 0, 1], expected)
    assert shifted[2].max() == 1


@pytest.mark.parametrize("pca_colour", [True, False])
def test_colour_has_a_switch(folder, pca_colour):
    datamodule = ready(folder, pca_colour=pca_colour)
    batch = batches(datamodule)[0]
    scaled = datamodule.on_after_batch_transfer(batch, 0)
    assert scaled.keys() == {"index", "image", "label"}
    plain = batch["image"] / 255
    weights = draw(24, seed=0, epoch=0)[batch["index"], 4:]
    assert torch.equal(scaled["image"], shift_colours(plain, weights) if pca_colour else plain)
    assert not torch.equal(shift_colours(plain, weights), plain)


def test_epochs_and_seeds_differ(folder):
    first = batches(ready(folder))
    assert_equal(batches(ready(folder)), first)
    for other in (batches(ready(folder), epoch=1), batches(ready(folder, seed=1))):
        images = {
            int(index): image for batch in other for index, image in zip(batch["index"], batch["image"], strict=True)
        }
        for batch in first:
            for index, image in zip(batch["index"], batch["image"], strict=True):
                assert not torch.equal(image, images[int(index)])


def test_workers_change_nothing(folder):
    for epoch in (0, 3):
        assert_equal(batches(ready(folder, num_workers=2), epoch), batches(ready(folder), epoch))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_change_nothing(folder, world_size):
    whole = batches(ready(folder), epoch=1)
    ranks = [batches(on_rank(ready(folder), rank, world_size), epoch=1) for rank in range(world_size)]
    joined = [
        {key: torch.cat([share[key] for share in shares]) for key in shares[0]} for shares in zip(*ranks, strict=True)
    ]
    assert_equal(joined, whole)
    seen = [
        index
        for rank in range(10)  # one has no example of the 9
        for batch in on_rank(ready(folder, eval_batch_size=10), rank, 10).test_dataloader()
        for index in batch["index"].tolist()
    ]
    assert seen == list(range(9))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_goes_on_after_consumed_batches_and_an_epoch_told_late(folder, num_workers):
    """Lightning calls iter() before it restores its counters and sets the epoch."""
    whole = batches(ready(folder), epoch=2)
    datamodule = on_rank(ready(folder, num_workers=num_workers), 0, 1)
    loader = datamodule.train_dataloader()
    iterator = iter(loader)
    loader.sampler.set_epoch(2)  # type: ignore
    datamodule.trainer.fit_loop.epoch_loop.batch_progress.current.ready = 4  # type: ignore
    assert_equal(list(iterator), whole[4:])


class Recorder(LightningModule):
    """Keeps what it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch):
        self.seen.append(batch)
        return self.weight * batch["image"].mean()

    def validation_step(self, batch):
        assert batch.keys() == {"index", "image", "label"}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_an_interrupted_run_sees_what_an_uninterrupted_one_does(folder, tmp_path):
    """Four batches an epoch, validation after each two; stopped inside the second epoch."""

    def trained(max_steps: int, checkpoint: Path | None = None, num_workers: int = 0) -> Recorder:
        module = Recorder()
        saving = Checkpoint(str(tmp_path / f"{max_steps}{checkpoint is None}"), every_n_train_steps=1)
        trainer = Trainer(max_steps=max_steps, accelerator="cpu", logger=False, callbacks=[saving], use_distributed_sampler=False,
                          enable_progress_bar=False, enable_model_summary=False, val_check_interval=2)  # fmt: skip
        datamodule = ready(folder, num_workers=num_workers, val_size=8)
        trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        return module

    whole, first = trained(10), trained(5, num_workers=2)
    second = trained(10, tmp_path / "5True" / "last.ckpt", num_workers=2)
    assert [len(it.seen) for it in (whole, first, second)] == [10, 5, 5]
    assert_equal(first.seen + second.seen, whole.seen)
    assert len({tuple(batch["index"].tolist()) for batch in whole.seen}) == 10


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    ("content", "reason"), [(b"damaged", "is no image that PIL reads"), (None, "image file is truncated .*")]
)
def test_a_file_that_cannot_be_read_is_named_without_a_traceback(folder, num_workers, content, reason):
    path = folder / "val" / CLASSES[1] / f"{CLASSES[1]}_1.JPEG"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(UserError, match=rf"^\S+{path.name} cannot be read \({reason}\): repair or remove it; none is"):
        list(ready(folder, num_workers=num_workers).test_dataloader())


def test_files_that_cannot_be_read_are_all_listed_before_training(folder):
    cache = folder.parent / "cache"
    ready(folder, cache_dir=str(cache))
    (mark,) = cache.iterdir()
    assert mark.suffix == ".readable"
    paths = [folder / split / CLASSES[1] / f"{CLASSES[1]}_1.JPEG" for split in ("train", "val")]
    for path in paths:
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        UserError, match=rf"^2 of \d+ images in .* All are listed in {cache}/imagenet-unreadable.txt\.$"
    ):
        ready(folder, cache_dir=str(cache))
    listed = (cache / "imagenet-unreadable.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == [str(it) for it in paths]


def test_endings_in_any_case_at_any_depth_and_modes_other_than_colour(folder):
    added = folder / "train" / CLASSES[0] / "more"
    added.mkdir()
    for number, ending in enumerate(ENDINGS):
        mode = ("L", "P", "1")[number % 3] if ending in (".png", ".gif", ".tiff") else "RGB"
        Image.new(mode, (30, 30)).save(added / f"{number}{ending.upper() if number % 2 else ending}")
    (added / "notes.txt").write_text("no image")
    (added / ".hidden.png").write_text("no image")
    table = ready(folder).tables["train"]
    assert len(table) == 24 + len(ENDINGS)
    assert all(table[torch.tensor([position]), None]["label"] == 0 for position in range(8 + len(ENDINGS)))  # type: ignore


def test_what_was_found_is_said_and_system_folders_are_no_classes(folder, capsys):
    for name in ("@eaDir", "lost+found", ".git"):
        write(folder / "train" / name / "a.JPEG", 0, (30, 30))
    (folder / "train" / "n00000000").mkdir()
    (folder / "val" / CLASSES[0] / "photo.heic").write_bytes(b"heic")
    datamodule = ready(folder)
    assert datamodule.class_names == ("n00000000", *CLASSES)
    assert capsys.readouterr().err.splitlines() == [
        "imagenet: train 24 images (n00000000 0, n01440764 8, n01443537 8, n02084071 8).",
        "imagenet: train: left out: folders of the system (.git, @eaDir, lost+found); folders without images (n00000000).",
        "imagenet: val 9 images (n00000000 0, n01440764 3, n01443537 3, n02084071 3).",
        "imagenet: val: left out: files that are not read as images (1 .heic).",
    ]
    ready_on_another = on_rank(ImageNetDataModule(str(folder), **SMALL, num_workers=0), 1, 2)
    ready_on_another.setup()
    assert capsys.readouterr().err == ""


def test_splits_inside_train_are_no_classes(folder):
    os.rename(folder, folder.parent / "inner")
    os.rename(folder.parent / "inner", folder.parent / "train")
    with pytest.raises(UserError, match=r"train holds train, val, which are splits and no classes: move them up"):
        _ = ImageNetDataModule(str(folder.parent), **SMALL).num_classes


def test_what_is_missing_is_told_with_where_to_get_it(folder, tmp_path):
    how = r"lay \S+ out as train/<class>/\*\.JPEG .* ILSVRC 2012 itself is fetched by hand from https://image-net\.org"
    with pytest.raises(UserError, match=rf"nowhere/train is missing: {how}"):
        ready(tmp_path / "nowhere")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"empty/train holds no image: looked for \.jpg, .* at every depth"):
        ready(tmp_path / "empty")
    with pytest.raises(UserError, match=rf"empty/train holds no folder of a class: {how}"):
        _ = ImageNetDataModule(str(tmp_path / "empty"), **SMALL).num_classes
    (tmp_path / "near" / "training").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"near/train is missing \(\S+near holds training\): {how}"):
        ready(tmp_path / "near")
    os.rename(folder / "val" / CLASSES[0], folder / "val" / "n09999999")
    with pytest.raises(UserError, match=r"val holds n09999999/\S+, which lies in no folder of a class of train: sort"):
        ready(folder)
    os.rename(folder / "val" / "n09999999" / f"{CLASSES[0]}_0.JPEG", folder / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match=r"val holds ILSVRC2012_val_00000001.JPEG, which lies in no folder of a class"):
        ready(folder)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 0}, r"datamodule.size is 0: give"),
        ({"short_sides": [10, 30]}, r"datamodule.short_sides is \[10, 30\]: give two numbers of pixels"),
        ({"short_sides": [30, 20]}, r"datamodule.short_sides is \[30, 20\]"),
        ({"short_sides": [30]}, r"datamodule.short_sides is \[30\]"),
        ({"test_short_side": 10}, r"datamodule.test_short_side is 10: give datamodule.size=16 or more"),
        ({"num_workers": -1}, r"datamodule.num_workers is -1"),
        ({"augment": {"pad": 4}}, r"datamodule.augment is for images in memory: set datamodule.short_sides"),
        ({"val_size": 24}, r"datamodule.val_size=24 leaves nothing to train on: imagenet has 24"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        ready(folder, **settings)


def test_the_config_is_the_paper_s_recipe(folder, tmp_path):
    config = compose_job("train", ["datamodule=imagenet", f"paths.data_dir={tmp_path}", "datamodule.num_workers=0"])
    check_config(config, TrainConfig)
    datamodule = instantiate(config["datamodule"])
    datamodule.prepare_data()
    datamodule.setup()
    assert datamodule.views == Views(224, (256, 480), 256)
    assert datamodule.pca_colour
    assert len(datamodule.tables["train"]) == 24
