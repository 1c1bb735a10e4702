import hashlib
import io
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from datamodules import cifar10, downloads
from datamodules.cifar10 import CIFAR10DataModule
from datamodules.downloads import Published
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.runs import instantiate

BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
SIZE = 12  # images a batch


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive with 5 + 1 batches of 12 random images, and its checksums."""
    write_archive(data_dir, tiny_batches(), monkeypatch)


def tiny_batches() -> dict[str, bytes]:
    names = BATCHES["train"] + BATCHES["test"]
    return {name: as_python2({"batch_label": name, "labels": labels(number), "data": pixels(number), "filenames": []})
            for number, name in enumerate(names)}  # fmt: skip


def write_archive(data_dir: Path, batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Members in the reverse order and beside others, as the official archive has them."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in reversed(list((batches | {"readme.html": b"<html>"}).items())):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    monkeypatch.setattr(cifar10, "ARCHIVE", Published(path.name, md5(path.read_bytes()), "", (CIFAR10.url,)))
    know(batches, monkeypatch)


def write_folder(data_dir: Path, batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = data_dir / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in batches.items():
        (folder / name).write_bytes(content)
    know(batches, monkeypatch)
    return folder


def know(batches: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    checksums = {split: [[name, md5(batches[name])] for name in names] for split, names in BATCHES.items()}
    monkeypatch.setattr(cifar10, "SPLITS", checksums)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(256, size=(SIZE, 3072), dtype=np.uint8)


def labels(number: int) -> list[int]:
    return [(number + image) % 10 for image in range(SIZE)]


def as_python2(value: Any) -> bytes:
    """A pickle as Python 2 and the numpy of its days wrote it: byte strings, and numpy.core by its old name."""
    stream = io.BytesIO()
    pickler: Any = type("Python2", (pickle._Pickler,), {"dispatch": dict(pickle._Pickler.dispatch)})(stream, 2)  # type: ignore
    pickler.dispatch[bytes] = lambda self, it: self.write(b"T" + struct.pack("<i", len(it)) + it)
    pickler.dump(value)
    return stream.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


class Evil:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def no_network(*arguments, **settings):
    raise OSError("no network")


def ready(data_dir: Path, **settings: Any) -> CIFAR10DataModule:
    datamodule = CIFAR10DataModule(str(data_dir), **{"batch_size": 8} | settings)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


@pytest.mark.parametrize("write", [write_archive, write_folder])
def test_reads_the_real_format(tmp_path, monkeypatch, write):
    write(tmp_path, tiny_batches(), monkeypatch)
    monkeypatch.setattr(downloads, "download_url", no_network)
    there = sorted(tmp_path.rglob("*"))
    datamodule = ready(tmp_path, val_size=10)
    assert {split: len(table) for split, table in datamodule.tables.items()} == {"train": 50, "val": 10, "test": 12}
    train, test = ready(tmp_path).tables["train"], datamodule.tables["test"]
    assert torch.equal(
        train.images, torch.from_numpy(np.concatenate([pixels(it) for it in range(5)])).view(-1, 3, 32, 32)
    )
    assert torch.equal(test.images, torch.from_numpy(pixels(5)).view(-1, 3, 32, 32))
    assert train.labels is not None
    assert test.labels is not None
    assert train.labels.tolist() == sum(map(labels, range(5)), [])
    assert test.labels.tolist() == labels(5)
    assert sorted(tmp_path.rglob("*")) == there, "something was unpacked beside the files"


def test_reads_what_torchvision_reads(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, tiny_batches(), monkeypatch)
    meta = as_python2({"label_names": list(CIFAR10DataModule.class_names)})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", cifar10.SPLITS["train"])
    monkeypatch.setattr(CIFAR10, "test_list", cifar10.SPLITS["test"])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5(meta)})
    datamodule = ready(tmp_path)
    for split in ("train", "test"):
        theirs, ours = CIFAR10(str(tmp_path), train=split == "train"), datamodule.tables[split]
        assert np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert ours.labels is not None
        assert ours.labels.tolist() == theirs.targets
        assert theirs.class_to_idx == {name: number for number, name in enumerate(datamodule.class_names)}


@pytest.mark.parametrize("write", [write_archive, write_folder])
def test_a_corrupt_batch_is_named_and_never_read(tmp_path, monkeypatch, write):
    """One that would run code, in the place of a batch with another checksum."""
    evil = tiny_batches() | {"data_batch_3": pickle.dumps(Evil(tmp_path / "ran"))}
    write(tmp_path, evil, monkeypatch)
    know(tiny_batches(), monkeypatch)
    with pytest.raises(
        UserError, match=r"data_batch_3 is corrupt .* and was not read: delete \S+, and it is downloaded"
    ):
        ready(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_nothing_but_numbers_is_made_of_a_batch_whatever_its_checksum(tmp_path, monkeypatch):
    write_archive(tmp_path, tiny_batches() | {"test_batch": pickle.dumps(Evil(tmp_path / "ran"))}, monkeypatch)
    with pytest.raises(pickle.UnpicklingError, match=r"posix.mkdir is no part of an array of numbers"):
        ready(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_folder_with_half_of_the_batches_is_left_for_the_archive(tmp_path, monkeypatch):
    folder = write_folder(tmp_path, tiny_batches(), monkeypatch)
    write_tiny(tmp_path, monkeypatch)
    (folder / "data_batch_1").write_bytes(b"unfinished")
    (folder / "test_batch").unlink()
    assert len(ready(tmp_path).tables["train"]) == 60


def test_a_missing_and_a_corrupt_archive_are_told_with_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "download_url", no_network)
    with pytest.raises(
        UserError,
        match=r"cifar-10-python.tar.gz is not in \S+ and could not be downloaded .* holds cifar-10-python.tar.gz",
    ):
        ready(tmp_path)
    write_tiny(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(
        UserError, match=r"cifar-10-python.tar.gz is corrupt .* fetch http\S+/cifar-10-python.tar.gz by hand"
    ):
        ready(tmp_path)


def test_the_download_is_whole_or_not_at_all(tmp_path, monkeypatch):
    write_tiny(tmp_path / "source", monkeypatch)
    content = (tmp_path / "source" / "cifar-10-python.tar.gz").read_bytes()

    def download(url: str, root: str, filename: str, md5: str) -> None:
        assert (url, md5) == (CIFAR10.url, cifar10.ARCHIVE.md5)
        (Path(root) / filename).write_bytes(content if whole else content[:100])
        if not whole:
            raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(downloads, "download_url", download)
    whole = False
    with pytest.raises(UserError, match="could not be downloaded"):
        ready(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    whole = True
    assert len(ready(tmp_path / "data").tables["test"]) == 12
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["cifar-10-python.tar.gz"]


def test_the_config_pads_and_flips_when_asked(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    words = ["datamodule=cifar10", "datamodule.augment={pad:4,flip:true}", f"paths.data_dir={tmp_path}"]
    config = compose_job("train", [*words, "datamodule.batch_size=20"])
    check_config(config, TrainConfig)
    datamodule = instantiate(config["datamodule"])
    datamodule.prepare_data()
    datamodule.setup()
    assert datamodule.augment.pad == 4
    assert [batch["image"].shape for batch in datamodule.train_dataloader()] == [(20, 3, 32, 32)] * 3
