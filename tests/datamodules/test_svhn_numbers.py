"""House numbers in the real format: images, and boxes in a file of MATLAB 7.3."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.svhn_numbers import SVHNNumbersDataModule, grown, numbers_of, patches
from foundation.errors import UserError

h5py = pytest.importorskip("h5py")

SIZES = {"train": 20, "extra": 30, "test": 12}
BOX = (20, 30, 10, 20)  # left and top from 1, width, height: of a first digit; others stand 12 to the right


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 + 30 + 12 noisy images of one to three digits."""
    for seed, (split, size) in enumerate(SIZES.items()):
        folder = data_dir / "SVHN" / split
        folder.mkdir(parents=True)
        random = np.random.default_rng(seed)
        digits = [1 + number % 3 for number in range(size)]
        for number in range(size):
            pixels = random.integers(256, size=(70, 90, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number + 1}.png")
        write_boxes(folder / "digitStruct.mat", [f"{it + 1}.png" for it in range(size)], digits)


def write_boxes(path: Path, names: list[str], digits: list[int]) -> None:
    """As MATLAB does: behind 512 bytes of its own, texts as columns of uint16, several numbers as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        kept, struct = file.create_group("#refs#"), file.create_group("digitStruct")

        def reference(values) -> "h5py.Reference":
            return kept.create_dataset(str(len(kept)), data=values).ref

        columns = {"name": [], "bbox": []}
        for name, count in zip(names, digits, strict=True):
            columns["name"].append(reference(np.array([[ord(it)] for it in name], dtype=np.uint16)))
            box = kept.create_group(str(len(kept)))
            columns["bbox"].append(box.ref)
            left, top, width, height = BOX
            for key, first, step in (("left", left, 12), ("top", top, 0), ("width", width, 0), ("height", height, 0),
                                     ("label", 1, 1)):  # fmt: skip
                numbers = [[float(first + step * digit)] for digit in range(count)]
                several = [[reference([it])] for it in numbers]
                stored = numbers if count == 1 else np.array(several, dtype=h5py.ref_dtype)
                box.create_dataset(key, data=stored)
        for key, references in columns.items():
            struct.create_dataset(key, data=np.array(references, dtype=h5py.ref_dtype)[:, None])


def datamodule_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings) -> SVHNNumbersDataModule:
    if not (folder / "SVHN").exists():
        write_tiny(folder, monkeypatch)
    datamodule = SVHNNumbersDataModule(str(folder), str(folder / "cache"), batch_size=8, **settings)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def test_boxes_are_those_round_all_digits(tmp_path):
    path = tmp_path / "digitStruct.mat"
    write_boxes(path, ["1.png", "22.png"], [1, 3])
    names, boxes = numbers_of(path)
    assert names == ["1.png", "22.png"]
    assert boxes.tolist() == [[19, 29, 29, 49], [19, 29, 53, 49]]


def test_a_box_is_grown_about_its_centre_and_stays_in_the_image():
    assert grown((10, 20, 20, 40), 100, 100) == pytest.approx((8.5, 17, 21.5, 43))
    assert grown((0, 0, 10, 10), 11, 100) == pytest.approx((0, 0, 11, 11.5))
    with pytest.raises(ValueError, match="outside of it"):
        grown((30, 0, 40, 10), 20, 20)


def test_reads_the_real_format(tmp_path, monkeypatch, capsys):
    datamodule = datamodule_in(tmp_path, monkeypatch, val_size=5)
    assert {split: len(it) for split, it in datamodule.tables.items()} == {"train": 45, "val": 5, "test": 12}
    image = Image.open(tmp_path / "SVHN" / "test" / "2.png")  # two digits
    expected = image.resize((64, 64), Image.Resampling.BILINEAR, box=grown((19, 29, 41, 49), 90, 70))
    assert torch.equal(datamodule.tables["test"].images[1], torch.from_numpy(np.array(expected)).permute(2, 0, 1))
    assert capsys.readouterr().err.count("reading the boxes") == 3
    datamodule_in(tmp_path, monkeypatch, extra=False)  # from the caches
    assert "reading the boxes" not in capsys.readouterr().err
    assert len(datamodule_in(tmp_path, monkeypatch, extra=False).tables["train"]) == 20


def test_patches_lie_at_random_in_training_and_at_the_centre_elsewhere(tmp_path, monkeypatch):
    datamodule = datamodule_in(tmp_path, monkeypatch, seed=3)
    module = SimpleNamespace(dtype=torch.float32)
    table = datamodule.tables["train"]

    def seen(index: list[int], epoch: int, training: bool) -> torch.Tensor:
        datamodule.trainer = SimpleNamespace(training=training, current_epoch=epoch, lightning_module=module)  # type: ignore
        return datamodule.scaled(table[torch.tensor(index)])["image"]

    first, again, later = seen([7, 2], 0, True), seen([2], 0, True), seen([7, 2], 1, True)
    assert first.shape == (2, 3, 54, 54)
    assert torch.equal(first[1:], again)
    assert not torch.equal(first, later)
    whole = table[torch.tensor([7, 2])]["image"].float() / 255
    for patch, image in zip(first, whole, strict=True):
        places = [(top, left) for top in range(11) for left in range(11)
                  if torch.equal(patch, image[:, top : top + 54, left : left + 54])]  # fmt: skip
        assert len(places) == 1
    assert torch.equal(seen([7, 2], 0, False), whole[:, :, 5:59, 5:59])
    assert datamodule.some_images(4).shape == (4, 3, 54, 54)
    corners = torch.tensor([[0, 10], [10, 0]])
    assert torch.equal(patches(whole, 54, corners)[1], whole[1, :, 10:64, 0:54])


def test_what_is_missing_or_wrong_is_named(tmp_path, monkeypatch):
    write_tiny(tmp_path, monkeypatch)
    path = tmp_path / "SVHN" / "extra" / "digitStruct.mat"
    path.write_bytes(b"something else")
    with pytest.raises(
        UserError, match=r"extra/digitStruct.mat is no digitStruct.mat of SVHN .* unpack \S*extra.tar.gz"
    ):
        datamodule_in(tmp_path, monkeypatch)
    path.unlink()
    with pytest.raises(UserError, match=r"extra/digitStruct.mat is missing: fetch \S*/extra.tar.gz and unpack it in"):
        datamodule_in(tmp_path, monkeypatch)
    with pytest.raises(UserError, match="datamodule.patch is 65: give 1 to datamodule.size=64 pixels"):
        SVHNNumbersDataModule("", "", batch_size=8, patch=65)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"is read by h5py, which is not installed: pip install '.\[svhn\]'"):
        numbers_of(path)
