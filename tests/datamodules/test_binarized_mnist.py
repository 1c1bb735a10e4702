from pathlib import Path

import pytest
import torch

from datamodules.binarization import Binarize
from datamodules.binarized_mnist import FILES, BinarizedMNISTDataModule
from foundation.errors import UserError

SIZES = {"train": 30, "val": 10, "test": 12}


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """30 + 10 + 12 random images in the real format."""
    (data_dir / "BinarizedMNIST").mkdir(parents=True)
    for split, name in FILES.items():
        lines = [" ".join(map(str, row)) + " \n" for row in pixels(split).tolist()]
        (data_dir / "BinarizedMNIST" / name).write_text("".join(lines))


def pixels(split: str) -> torch.Tensor:
    return torch.randint(2, (SIZES[split], 784), generator=torch.Generator().manual_seed(SIZES[split]))


def test_reads_the_real_format(tmp_path):
    write_tiny(tmp_path)
    datamodule = BinarizedMNISTDataModule(
        str(tmp_path), batch_size=8, val_size=10, binarize=Binarize(0)
    )  # draw_mnist's
    datamodule.prepare_data()
    datamodule.setup()
    for split, table in datamodule.tables.items():
        assert table.labels is None
        assert torch.equal(table.images.flatten(1).long(), pixels(split) * 255)
    assert datamodule.describe()["train"] == 30
    assert datamodule.describe()["binarized"] == "the fixed set"


def test_what_is_missing_or_something_else_is_named(tmp_path):
    datamodule = BinarizedMNISTDataModule(str(tmp_path), batch_size=8)
    with pytest.raises(UserError, match="binarized_mnist_train.amat is missing: fetch http.* or take datamodule=mnist"):
        datamodule.prepare_data()
    write_tiny(tmp_path)
    for content in ("0 1 0\n", "", "2 " * 784, "a" * 784):
        (tmp_path / "BinarizedMNIST" / FILES["test"]).write_text(content)
        with pytest.raises(UserError, match="test.amat is no binarised MNIST"):
            datamodule.setup()
