import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision.datasets import SVHN

from datamodules import downloads, svhn
from datamodules.svhn import SVHNDataModule
from foundation.errors import UserError

SIZES = {"train": 40, "test": 12, "extra": 20}


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 + 12 + 20 random images in the real format, with their checksums."""
    folder = data_dir / "SVHN"
    folder.mkdir(parents=True)
    checksums = {}
    for seed, (split, size) in enumerate(SIZES.items()):
        images, labels = pixels(seed, size), np.arange(size, dtype=np.uint8)[:, None] % 10 + 1
        path = folder / f"{split}_32x32.mat"
        savemat(path, {"X": images, "y": labels}, do_compression=True)
        checksums[split] = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(svhn, "CHECKSUMS", checksums)


def pixels(seed: int, size: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(32, 32, 3, size), dtype=np.uint8)


def no_network(*arguments, **settings):
    raise OSError("no network")


def test_reads_the_real_format(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    monkeypatch.setattr(downloads, "download_url", no_network)
    datamodule = SVHNDataModule(str(tmp_path), batch_size=8, val_size=10)
    datamodule.prepare_data()
    datamodule.setup()
    assert {split: len(table) for split, table in datamodule.tables.items()} == {"train": 30, "val": 10, "test": 12}
    test = datamodule.tables["test"]
    assert torch.equal(test.images[5], torch.from_numpy(pixels(1, 12)[..., 5]).permute(2, 0, 1))
    assert test.labels is not None
    assert test.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]  # 10 in the file is digit 0


def test_reads_what_torchvision_reads(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    for split, (_, _, _) in list(SVHN.split_list.items()):
        url, name, _ = SVHN.split_list[split]
        monkeypatch.setitem(SVHN.split_list, split, [url, name, svhn.CHECKSUMS[split]])
    datamodule = SVHNDataModule(str(tmp_path), batch_size=8)
    datamodule.setup()
    for split in ("train", "test"):
        theirs, ours = SVHN(str(tmp_path / "SVHN"), split=split), datamodule.tables[split]
        assert np.array_equal(ours.images.numpy(), theirs.data)
        assert ours.labels is not None
        assert ours.labels.tolist() == theirs.labels.tolist()


def test_extra_digits_join_training_when_asked(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    datamodule = SVHNDataModule(str(tmp_path), extra=True, batch_size=8)
    datamodule.setup()
    train = datamodule.tables["train"]
    assert len(train) == 60
    assert torch.equal(train.images[40:].permute(2, 3, 1, 0), torch.from_numpy(pixels(2, 20)))
    assert len(datamodule.tables["test"]) == 12


def test_extra_digits_are_not_wanted_otherwise(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    monkeypatch.setattr(downloads, "download_url", no_network)
    (tmp_path / "SVHN" / "extra_32x32.mat").unlink()
    SVHNDataModule(str(tmp_path), batch_size=8).prepare_data()
    with pytest.raises(UserError, match=r"extra_32x32.mat is not in .* Fetch it by hand .* holds SVHN"):
        SVHNDataModule(str(tmp_path), extra=True, batch_size=8).prepare_data()


def test_a_missing_and_a_corrupt_file_are_named_with_where_to_get_them(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    path = tmp_path / "SVHN" / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"test_32x32.mat is corrupt .* fetch http\S+/test_32x32.mat by hand"):
        SVHNDataModule(str(tmp_path), batch_size=8).setup()
    path.unlink()
    with pytest.raises(UserError, match=r"test_32x32.mat is missing: .* fetch http\S+/test_32x32.mat by hand"):
        SVHNDataModule(str(tmp_path), batch_size=8).setup()
