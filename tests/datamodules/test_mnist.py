import gzip
import hashlib
import os
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torchvision.datasets import MNIST

from datamodules import downloads, mnist
from datamodules.mnist import MNISTDataModule
from foundation.errors import UserError

SIZES = {"train": 40, "t10k": 12}


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 + 12 random images in the real format, with their checksums."""
    folder = data_dir / "MNIST" / "raw"
    folder.mkdir(parents=True)
    checksums = {}
    for seed, (prefix, size) in enumerate(SIZES.items()):
        generator = torch.Generator().manual_seed(seed)
        pixels = torch.randint(256, (size, 28, 28), generator=generator, dtype=torch.uint8).numpy().tobytes()
        files = {
            f"{prefix}-images-idx3-ubyte.gz": struct.pack(">4i", 0x803, size, 28, 28) + pixels,
            f"{prefix}-labels-idx1-ubyte.gz": struct.pack(">2i", 0x801, size) + bytes(i % 10 for i in range(size)),
        }
        for name, content in files.items():
            (folder / name).write_bytes(gzip.compress(content))
            checksums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(mnist, "CHECKSUMS", checksums)


@pytest.fixture
def served(tmp_path):
    """The address of a web server on this machine that serves tmp_path."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def no_network(*arguments, **settings):
    raise OSError("no network")


def test_reads_the_real_format(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    datamodule = MNISTDataModule(str(tmp_path), batch_size=8, val_size=10)
    datamodule.prepare_data()
    datamodule.setup()
    assert {split: len(table) for split, table in datamodule.tables.items()} == {"train": 30, "val": 10, "test": 12}
    expected = torch.randint(256, (12, 28, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    assert torch.equal(datamodule.tables["test"].images.squeeze(1), expected)
    assert datamodule.tables["test"].labels.tolist() == [i % 10 for i in range(12)]


def test_reads_what_torchvision_reads(tmp_path):
    """On the real archives, where there are any."""
    data_dir = os.environ.get("DATA_DIR", "data")
    if not (Path(data_dir) / "MNIST" / "raw" / "train-images-idx3-ubyte.gz").exists():
        pytest.skip("DATA_DIR holds no MNIST")
    datamodule = MNISTDataModule(data_dir, batch_size=8, val_size=0)
    datamodule.setup()
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "raw").mkdir()
    for archive in (Path(data_dir) / "MNIST" / "raw").glob("*.gz"):
        (tmp_path / "MNIST" / "raw" / archive.stem).write_bytes(gzip.decompress(archive.read_bytes()))
    for split, train in (("train", True), ("test", False)):
        theirs = MNIST(str(tmp_path), train=train)
        assert torch.equal(datamodule.tables[split].images.squeeze(1), theirs.data)
        assert torch.equal(datamodule.tables[split].labels, theirs.targets)


def test_downloads_whole_or_not_at_all(tmp_path, monkeypatch, served):
    write_tiny(tmp_path / "mirror", monkeypatch)
    mirror = tmp_path / "mirror" / "MNIST" / "raw"
    monkeypatch.setattr(MNIST, "mirrors", [f"{served}/nowhere/", f"{served}/mirror/MNIST/raw/"])
    folder = tmp_path / "data" / "MNIST" / "raw"
    MNISTDataModule(str(tmp_path / "data"), batch_size=8).prepare_data()
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in mirror.iterdir())

    victim = "train-labels-idx1-ubyte.gz"
    (folder / victim).unlink()
    (mirror / victim).write_bytes(b"half a file")
    with pytest.raises(UserError, match=rf"{victim} is not in .* and could not be downloaded"):
        MNISTDataModule(str(tmp_path / "data"), batch_size=8).prepare_data()
    assert not (folder / victim).exists()


def test_nothing_is_downloaded_where_all_is_there(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    monkeypatch.setattr(downloads, "download_url", no_network)
    MNISTDataModule(str(tmp_path), batch_size=8).prepare_data()


def test_a_missing_archive_is_named_with_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "download_url", no_network)
    with pytest.raises(UserError, match="Fetch it by hand .* set DATA_DIR"):
        MNISTDataModule(str(tmp_path), batch_size=8).prepare_data()


def test_a_corrupt_archive_is_named(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    path = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.gz is corrupt .* delete it"):
        MNISTDataModule(str(tmp_path), batch_size=8).setup()


@pytest.mark.parametrize(
    ("name", "folder", "first"), [("fashion_mnist", "FashionMNIST", "T-shirt/top"), ("kmnist", "KMNIST", "o")]
)
def test_sets_in_its_format_have_folders_sums_and_classes_of_their_own(name, folder, first, tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    sums = [*mnist.CHECKSUMS.items()]
    (tmp_path / "MNIST").rename(tmp_path / folder)
    monkeypatch.setattr(mnist.SETS[name], "resources", sums)
    datamodule = MNISTDataModule(str(tmp_path), name=name, batch_size=8)
    datamodule.prepare_data()
    datamodule.setup()
    assert datamodule.tested_on()["name"] == name
    assert datamodule.class_names is not None
    assert datamodule.class_names[0] == first
    assert len(datamodule.tables["train"]) == 40
    with pytest.raises(UserError, match="did you mean 'kmnist'"):
        MNISTDataModule(str(tmp_path), name="kmnists", batch_size=8)
