import os
import tarfile
from pathlib import Path
from shutil import rmtree
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from datamodules.cifar10 import CIFAR10DataModule
from datamodules.decoding import Pixels
from datamodules.image_folder import ImageFolderDataModule
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import build, instantiate

JPEGS = Path(os.environ.get("DATA_DIR", "data")) / "cifar10_jpeg_q75.tar.xz"


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 faces in one folder; 3 chairs with 10 views each, laid out as the original; an archive of CIFAR-10's classes."""
    for number in range(30):
        write(data_dir / "faces3d" / f"{number:03d}.png", 8 * number, (40, 40))
    for chair in (
        "1a6f615e8b1b5ae4dbbc9440457e303e",
        "1a8bbf2994788e2743e99e0cae970928",
        "1aa07508b731af79814e2be0234da26e",
    ):
        for view in range(10):
            name = f"image_{view:03d}_p020_t{view * 11:03d}_r096.png"
            write(data_dir / "rendered_chairs" / chair / "renders" / name, 20 * view, (600, 600))
    for split, size in (("train", 2), ("test", 1)):
        for label, name in enumerate(CIFAR10DataModule.class_names):
            for number in range(size):
                write(data_dir / "unpacked" / split / name / f"{number:04d}.jpg", 20 * label, (32, 32))
    pack(data_dir / "unpacked", data_dir / "cifar10_jpeg_q75.tar.xz")


def write(path: Path, grey: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path, format="PNG" if path.suffix == ".heic" else None)


def pack(folder: Path, archive: Path) -> None:
    """The folder's files become an archive's."""
    with tarfile.open(archive, "w:xz") as file:
        file.add(folder, ".")
    rmtree(folder)


def module(folder: Path, **settings) -> ImageFolderDataModule:
    settings = {"batch_size": 2, "size": 8, "channels": 1} | settings
    return ImageFolderDataModule(str(folder), str(folder.parent / "cache"), **settings)


def ready(folder: Path, **settings) -> ImageFolderDataModule:
    datamodule = module(folder, **settings)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def greys(datamodule: ImageFolderDataModule, split: str) -> list[int]:
    return datamodule.tables[split].images[:, 0, 0, 0].tolist()


@pytest.fixture
def flat(tmp_path):
    for number in range(20):
        write(tmp_path / "flat" / f"{number:02d}.png", number)
    return tmp_path / "flat"


@pytest.fixture
def classes(tmp_path):
    """Two classes, images at several depths, endings in both cases."""
    for number, name in enumerate(
        ["dog/a.PNG", "dog/deep/er/b.bmp", "cat/c.webp", "cat/d.Jpeg", "cat/.hidden.png", ".git/e.png", "cat/f.gif"]
    ):
        write(tmp_path / "pets" / name, 10 * number)
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no image")
    return tmp_path / "pets"


def test_flat_images_have_no_labels(flat):
    datamodule = ready(flat, test_size=5)
    assert datamodule.num_classes is None
    assert next(iter(datamodule.train_dataloader())).keys() == {"index", "image"}
    assert sorted(greys(datamodule, "train") + greys(datamodule, "test")) == list(range(20))


def test_classes_are_the_first_folders_in_the_order_of_their_names(classes):
    datamodule = ready(classes, test_size=1)
    assert datamodule.paths == ["cat/c.webp", "cat/d.Jpeg", "cat/f.gif", "dog/a.PNG", "dog/deep/er/b.bmp"]
    assert datamodule.num_classes == 2
    found = {}
    for table in datamodule.tables.values():
        assert table.labels is not None
        found |= dict(zip(table.images[:, 0, 0, 0].tolist(), table.labels.tolist(), strict=True))
    assert found == {20: 0, 30: 0, 60: 0, 0: 1, 10: 1}


def test_a_single_class_is_none(tmp_path):
    write(tmp_path / "all" / "images" / "a.png", 0)
    write(tmp_path / "all" / "images" / "b.png", 1)
    assert module(tmp_path / "all").num_classes is None


def test_the_split_is_a_function_of_split_seed_alone(flat):
    one, two = ready(flat, val_size=3), ready(flat, val_size=3, seed=1, batch_size=4)
    assert {split: len(table) for split, table in one.tables.items()} == {"train": 15, "val": 3, "test": 2}
    assert one.describe() == two.describe()
    assert greys(one, "test") != greys(ready(flat, split_seed=1), "test")
    assert greys(one, "test") == greys(ready(flat), "test")  # whatever validation takes
    assert one.test_decided_by == ("split_seed", "test_size")


@pytest.mark.parametrize("named", ["flat", "classes"])
def test_a_folder_s_own_splits_are_kept(tmp_path, named):
    inner = ["", ""] if named == "flat" else ["b/", "a/"]
    for top, grey in (("train", 10), ("val", 50), ("test", 90)):
        for number in range(4):
            write(tmp_path / "own" / top / f"{inner[number % 2]}{number}.png", grey + number)
    datamodule = ready(tmp_path / "own", val_size=2)
    assert sorted(greys(datamodule, "train")) == [10, 11, 12, 13]
    assert sorted(greys(datamodule, "test")) == [90, 91, 92, 93]
    assert set(greys(datamodule, "val")) < {50, 51, 52, 53}
    assert datamodule.test_decided_by == ()
    assert datamodule.num_classes == (None if named == "flat" else 2)
    if named == "classes":
        assert datamodule.tables["test"].labels.tolist() == [0, 0, 1, 1]  # type: ignore
        assert greys(datamodule, "test") == [91, 93, 90, 92]
    with pytest.raises(UserError, match="has its own test images: leave datamodule.test_size=null"):
        ready(tmp_path / "own", test_size=2)


def test_what_was_made_of_the_layout_is_said_once(classes, capsys):
    (classes / "cat" / "photo.heic").write_bytes(b"heic")
    datamodule = ready(classes, test_size=1)
    datamodule.prepare_data()  # as Lightning does before the test
    assert capsys.readouterr().err.splitlines() == [
        "image_folder: 2 classes; 5 images (cat 3, dog 2).",
        "image_folder: left out: files that are not read as images (1 .heic, 1 .txt, 1 hidden); folders of the system (.git).",
    ]
    ready(classes, test_size=1)
    assert "2 classes" in capsys.readouterr().err  # also where all comes from the cache


def test_a_classifier_is_told_which_classes_there_are(tmp_path):
    config = ["experiment=resnet_cifar10", "datamodule=image_folder", "datamodule.batch_size=4", "logger=none",
              "trainer=cpu", f"paths.cache_dir={tmp_path}/cache", "paper=null"]  # fmt: skip
    write(tmp_path / "one" / "cat" / "1.png", 0)
    with pytest.raises(
        UserError, match=r"image_folder has none as configured, since all images lie in one folder, cat"
    ):
        build(compose_job("train", [*config, f"datamodule.folder={tmp_path}/one"], str(tmp_path)))
    write(tmp_path / "one" / "dog" / "1.png", 0)
    with pytest.raises(UserError, match=r"tells 10 classes apart, and datamodule image_folder has 2 \(cat, dog\): set"):
        build(compose_job("train", [*config, f"datamodule.folder={tmp_path}/one"], str(tmp_path)))


def test_a_class_may_be_called_train(tmp_path):
    for name in ("car/a.png", "train/b.png", "train/c.png"):
        write(tmp_path / "vehicles" / name, 0)
    assert module(tmp_path / "vehicles").num_classes == 2
    assert not module(tmp_path / "vehicles").layout.splits


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], r"folder holds no image: looked for \.jpg, \.jpeg, .* at every depth"),
        (["train/a/1.png", "val/a/2.png"], r"holds train and val alone: splits are train, test and"),
        (["1.heic", "2.heic"], r"It holds files that are not read as images \(2 \.heic\)\."),
        (["train/a/1.png", "test/a/2.png", "other/3.png", "4.png"], r"holds train and test, and beside them other, images of its own: move"),
        (["cat/1.png", "2.png"], r"both in folders of classes and outside of them, such as 2.png: give each image a class, or none"),
        (["train/cat/1.png", "train/dog/1.png", "test/fox/2.png"], r"test holds classes that train does not: fox"),
        (["1.png"], r"holds 1 images, of which 1 for the test leave nothing to train on: set datamodule.test_size"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used_are_told(tmp_path, files, sentence):
    (tmp_path / "folder").mkdir()
    for name in files:
        write(tmp_path / "folder" / name, 0)
    with pytest.raises(UserError, match=sentence):
        ready(tmp_path / "folder")


def test_a_missing_folder_and_a_test_of_nothing_are_told(tmp_path, flat):
    with pytest.raises(UserError, match=r"nowhere is no folder and no archive: set datamodule.folder"):
        ready(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"datamodule.test_size is 0: give a number of images, or null"):
        module(flat, test_size=0)
    with pytest.raises(UserError, match=r"holds 20 images, of which 20 for the test"):
        ready(flat, test_size=20)


def test_a_file_that_cannot_be_decoded_is_named(classes):
    (classes / "dog" / "a.PNG").write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"1 of 5 images in .*pets cannot be read: dog/a.PNG \(is no image that PIL reads\)"
    ):
        ready(classes)


def test_links_are_followed_once(tmp_path, flat):
    os.symlink(flat, tmp_path / "pets", target_is_directory=True)
    os.symlink(flat, flat / "round", target_is_directory=True)
    assert len(module(tmp_path / "pets").paths) == 20


def test_the_second_start_reads_the_cache_whatever_the_split(flat, monkeypatch):
    ready(flat)
    monkeypatch.setattr(Pixels, "decode", None)
    ready(flat, split_seed=3, test_size=7, val_size=2)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_the_ranks_together_see_each_image_once(flat, world_size):
    """7 test images, 2 a batch; 13 to train, of which an epoch uses 12."""
    seen: dict[str, list[int]] = {"train": [], "test": []}
    for rank in range(world_size):
        datamodule = ready(flat, test_size=7, batch_size=6, eval_batch_size=2)
        progress = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
        datamodule.trainer = SimpleNamespace(  # type: ignore
            global_rank=rank, local_rank=rank, world_size=world_size, fit_loop=SimpleNamespace(epoch_loop=progress),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )  # fmt: skip
        for split, loader in (("train", datamodule.train_dataloader()), ("test", datamodule.test_dataloader())):
            for batch in loader:
                assert torch.equal(batch["image"], datamodule.tables[split].images[batch["index"]])
                seen[split] += batch["index"].tolist()
    assert len(set(seen["train"])) == len(seen["train"]) == 12
    assert sorted(seen["test"]) == list(range(7))


def from_config(name: str, data_dir: Path, cache_dir: Path) -> ImageFolderDataModule:
    places = [f"paths.data_dir={data_dir}", f"paths.cache_dir={cache_dir}"]
    config = compose_job("train", [f"datamodule={name}", "datamodule.batch_size=4", *places])
    check_config(config, TrainConfig)
    datamodule = instantiate(config["datamodule"])
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize("lies_in", ["", "pets"])
def test_an_archive_is_a_folder_whatever_folder_lies_around_it(classes, tmp_path, lies_in):
    expected = ready(classes, test_size=1)
    rename = tmp_path / "renamed" / lies_in
    rename.parent.mkdir(exist_ok=True)
    os.rename(classes, rename)
    pack(tmp_path / "renamed", tmp_path / "pets.tar.xz")
    found = ready(tmp_path / "pets.tar.xz", test_size=1)
    assert found.describe() == expected.describe()
    assert found.class_names == expected.class_names == ["cat", "dog"]
    assert found.paths == expected.paths


def test_cifar10_as_jpeg_files_has_the_official_labels(tmp_path, monkeypatch):
    write_tiny(tmp_path / "data", monkeypatch)
    datamodule = from_config("cifar10_jpeg", tmp_path / "data", tmp_path / "cache")
    assert datamodule.class_names == list(CIFAR10DataModule.class_names)
    for table in (datamodule.tables["train"], datamodule.tables["test"]):
        assert table.labels is not None
        assert torch.equal(table.images[:, 0, 16, 16].div(20, rounding_mode="floor"), table.labels)


@pytest.mark.slow
@pytest.mark.skipif(not JPEGS.exists(), reason=f"{JPEGS} is not here")
def test_the_real_cifar10_as_jpeg_files(tmp_path):
    datamodule = from_config("cifar10_jpeg", JPEGS.parent, tmp_path)
    assert datamodule.class_names == list(CIFAR10DataModule.class_names)
    for split, size in (("train", 5000), ("test", 1000)):
        labels = datamodule.tables[split].labels
        assert labels is not None
        assert labels.bincount().tolist() == [size] * 10
    means = datamodule.tables["train"].images.float().mean(dim=(0, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.4914, 0.4822, 0.4465]), atol=5e-4, rtol=0)  # CIFAR-10's own


@pytest.mark.parametrize(
    ("data", "shape", "num_classes", "sizes"),
    [
        ("faces3d", (1, 32, 32), None, (27, 3)),
        ("chairs3d", (1, 64, 64), 3, (27, 3)),
        ("cifar10_jpeg", (3, 32, 32), 10, (20, 10)),
    ],
)
def test_the_configs_made_on_it(tmp_path, monkeypatch, data, shape, num_classes, sizes):
    write_tiny(tmp_path / "data", monkeypatch)
    datamodule = from_config(data, tmp_path / "data", tmp_path / "cache")
    assert datamodule.image_shape == tuple(datamodule.tables["train"].images.shape[1:]) == shape
    assert datamodule.num_classes == num_classes
    train, test = sizes
    expected = {"name": data, "train": train, "val": 0, "test": test, "split": "test", "sha256": ""}
    assert datamodule.describe() | {"sha256": ""} == expected


def test_unlabelled_images_train_and_test_without_clusters(flat, tmp_path):
    """InfoGAN needs no label; what does is refused."""
    words = ["datamodule=image_folder", f"datamodule.folder={flat}", "datamodule.size=8", "datamodule.channels=1", "datamodule.batch_size=4",
             "datamodule.augment={pad:1,flip:true}", "logger=none", "trainer=cpu", "trainer.max_steps=2", "optimized_metric=null",
             f"paths.cache_dir={tmp_path}/cache", "paper=null", "lightning_module.discriminator.hidden=[16]"]  # fmt: skip
    with pytest.raises(
        UserError, match="callbacks.cluster_accuracy needs labels, and datamodule image_folder has none"
    ):
        build(compose_job("train", words, str(tmp_path / "run")))
    run = build(
        compose_job("train", [*words, "~callbacks.cluster_accuracy", "~callbacks.image_grid"], str(tmp_path / "run"))
    )
    run.trainer.fit(run.module, datamodule=run.datamodule)
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    assert run.trainer.global_step == 2


def test_the_folder_has_to_be_given():
    with pytest.raises(
        UserError, match=r"datamodule.folder has no value yet: add datamodule.folder=\.\.\. to the command"
    ):
        check_config(compose_job("train", ["datamodule=image_folder"]), TrainConfig)
