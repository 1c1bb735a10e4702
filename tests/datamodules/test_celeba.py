from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.celeba import ATTRIBUTES, CelebADataModule
from datamodules.decoding import Pixels
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import build

SPLITS = [0] * 24 + [1] * 6 + [2] * 8


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    """24 + 6 + 8 plain images of the real size and their lists in the real format; every third one smiles."""
    folder = data_dir / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, len(SPLITS) + 1)]
    for number, name in enumerate(names):
        Image.new("RGB", (178, 218), (6 * number, 0, 0)).save(folder / "img_align_celeba" / name)
    lines = [f"{name} {split}\n" for name, split in zip(names, SPLITS, strict=True)]
    (folder / "list_eval_partition.txt").write_text("".join(lines))
    rows = [
        " ".join([name, *(" 1" if it == "Smiling" and number % 3 == 0 else "-1" for it in ATTRIBUTES)])
        for number, name in enumerate(names)
    ]
    header = f"{len(names)}\n{' '.join(ATTRIBUTES)} \n"
    (folder / "list_attr_celeba.txt").write_text(header + "\n".join(rows) + "\n")


@pytest.fixture
def data_dir(tmp_path):
    write_tiny(tmp_path / "data")
    return tmp_path / "data"


def ready(data_dir: Path, **settings) -> CelebADataModule:
    datamodule = CelebADataModule(str(data_dir), str(data_dir.parent / "cache"), batch_size=4, **settings)
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def reds(images: torch.Tensor) -> list[int]:
    """The number of each image, from its colour."""
    return ((images[:, 0].float().mean((1, 2)) + 1) / 6).round().int().tolist()


def test_the_official_splits_in_order(data_dir):
    datamodule = ready(data_dir, val_size=6)
    assert reds(datamodule.tables["train"].images) == list(range(24))
    assert reds(datamodule.tables["val"].images) == list(range(24, 30))
    assert reds(datamodule.tables["test"].images) == list(range(30, 38))
    assert datamodule.tables["train"].images.shape[1:] == datamodule.image_shape == (3, 32, 32)


def test_validation_is_chosen_from_its_own_split(data_dir):
    none, some = ready(data_dir), ready(data_dir, val_size=3)
    assert (len(none.tables["val"]), len(none.tables["train"])) == (0, 24)
    assert none.val_dataloader() == []
    assert (len(some.tables["val"]), len(some.tables["train"])) == (3, 24)
    assert set(reds(some.tables["val"].images)) < set(range(24, 30))
    assert torch.equal(some.tables["val"].images, ready(data_dir, val_size=3, seed=5).tables["val"].images)
    with pytest.raises(
        UserError,
        match="val_size=7 cannot be chosen from the official validation split of celeba, of which 6 are here: choose 0",
    ):
        ready(data_dir, val_size=7)


def test_without_an_attribute_there_are_no_labels(data_dir):
    datamodule = ready(data_dir)
    assert datamodule.num_classes is None
    assert next(iter(datamodule.train_dataloader())).keys() == {"index", "image"}
    (data_dir / "celeba" / "list_attr_celeba.txt").unlink()
    ready(data_dir)


def test_an_attribute_becomes_the_label(data_dir):
    datamodule = ready(data_dir, attribute="Smiling")
    assert datamodule.num_classes == 2
    assert datamodule.tables["test"].labels is not None
    assert datamodule.tables["test"].labels.tolist() == [1, 0, 0, 1, 0, 0, 1, 0]  # from the 31st on
    assert not ready(data_dir, attribute="Male").tables["train"].labels.any()  # type: ignore
    with pytest.raises(
        UserError, match="datamodule.attribute is smiling, which CelebA does not have; did you mean 'Smiling'"
    ):
        CelebADataModule("nowhere", "nowhere", batch_size=4, attribute="smiling")


def test_a_partial_copy_is_used_as_far_as_it_goes(data_dir, capsys):
    for number in (2, 3, 26, 38):
        (data_dir / "celeba" / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    Image.new("RGB", (178, 218)).save(data_dir / "celeba" / "img_align_celeba" / "999999.jpg")  # not listed
    datamodule = ready(data_dir, val_size=5)
    assert capsys.readouterr().err == "celeba is partial: 34 of 38 listed images are here, and the whole has 202,599.\n"
    assert reds(datamodule.tables["train"].images) == [0, *range(3, 24)]
    sizes = {key: datamodule.describe()[key] for key in ("train", "val", "test", "listed", "present")}
    assert sizes == {"train": 22, "val": 5, "test": 7, "listed": 38, "present": 34}
    datamodule.prepare_data()  # as Lightning does before the test
    assert capsys.readouterr().err == ""


def test_the_centre_is_cut_out(data_dir):
    pixels = np.zeros((218, 178, 3), dtype=np.uint8)
    pixels[55:163, 35:143] = 255
    Image.fromarray(pixels).save(data_dir / "celeba" / "img_align_celeba" / "000001.jpg", quality=100, subsampling=0)
    assert ready(data_dir).tables["train"].images[0].min() > 250
    assert ready(data_dir, crop=178).tables["train"].images[0].min() < 5
    assert ready(data_dir, size=64).tables["train"].images.shape == (24, 3, 64, 64)


def test_a_process_that_did_not_prepare_reads_the_cache(data_dir, monkeypatch):
    first = ready(data_dir)
    monkeypatch.setattr(Pixels, "decode", None)
    other = CelebADataModule(str(data_dir), str(data_dir.parent / "cache"), batch_size=4)
    other.setup()
    assert other.describe() == first.describe()


def test_without_a_cache_every_process_decodes_for_itself(data_dir, capsys):
    (data_dir.parent / "cache").write_text("a file")
    first = ready(data_dir)
    other = CelebADataModule(str(data_dir), str(data_dir.parent / "cache"), batch_size=4)
    other.setup()
    assert other.describe() == first.describe()
    assert capsys.readouterr().err.count("cannot be kept") == 2


def test_what_is_missing_is_told_with_where_to_get_it(data_dir):
    how = r"fetch CelebA by hand from https://mmlab\S+ .* img_align_celeba/\*.jpg, list_eval_partition.txt"
    (data_dir / "celeba" / "list_attr_celeba.txt").unlink()
    with pytest.raises(UserError, match=r"list_attr_celeba.txt is missing: " + how):
        ready(data_dir, attribute="Smiling")
    for path in (data_dir / "celeba" / "img_align_celeba").iterdir():
        path.unlink()
    with pytest.raises(
        UserError,
        match=r"img_align_celeba has no training image that .* names \(it names 000001.jpg, and the folder holds nothing\): "
        + how,
    ):
        ready(data_dir)
    with pytest.raises(UserError, match=r"nowhere/celeba/list_eval_partition.txt is missing: " + how):
        ready(data_dir.parent / "nowhere")


def test_lists_that_are_not_celeba_s_are_told(data_dir):
    (data_dir / "celeba" / "list_attr_celeba.txt").write_text(f"1\n{' '.join(ATTRIBUTES)}\n000001.jpg{' -1' * 40}\n")
    with pytest.raises(
        UserError, match=r"does not say -1 or 1 of 40 attributes of 37 of the images, such as 000002.jpg: fetch"
    ):
        ready(data_dir, attribute="Smiling")
    (data_dir / "celeba" / "list_attr_celeba.txt").write_text("1\nHat Nose\n")
    with pytest.raises(
        UserError, match=r"list_attr_celeba.txt does not name the 40 attributes in its second line: fetch"
    ):
        ready(data_dir, attribute="Smiling")
    (data_dir / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\nimage_id,partition\n")
    with pytest.raises(UserError, match=r"list_eval_partition.txt says 'image_id,partition', not"):
        ready(data_dir)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: text + "\n\n",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace(" 0", "   0").replace(" 1\n", "\t1\n"),
    ],
)
def test_marks_blank_lines_and_blanks_of_editors_change_nothing(data_dir, change):
    expected = ready(data_dir, attribute="Smiling").describe()
    for name in ("list_eval_partition.txt", "list_attr_celeba.txt"):
        path = data_dir / "celeba" / name
        path.write_bytes(change(path.read_text()).encode())
    found = ready(data_dir, attribute="Smiling").describe()
    assert found == expected
    assert (found["listed"], found["present"], found["train"]) == (38, 38, 24)


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("list_eval_partition.txt", b"000001.jpg 2\n", "list_eval_partition.txt names 000001.jpg twice: fetch"),
        ("list_attr_celeba.txt", b"000002.jpg" + 40 * b" 1", "list_attr_celeba.txt names 000002.jpg twice: fetch"),
        ("list_eval_partition.txt", b"\xe4.jpg 2\n", r"list_eval_partition.txt is no text in UTF-8 \(.*\): fetch"),
        ("list_eval_partition.txt", b"x.jpg\n", "list_eval_partition.txt says 'x.jpg', not an image's name and 0, 1"),
    ],
)
def test_rows_that_would_be_lost_or_multiplied_are_refused(data_dir, name, more, sentence):
    path = data_dir / "celeba" / name
    path.write_bytes(path.read_bytes() + more)
    with pytest.raises(UserError, match=sentence):
        ready(data_dir, attribute="Smiling")


@pytest.mark.parametrize("value", ["2", "yes"])
def test_an_attribute_is_minus_one_or_one(data_dir, value):
    path = data_dir / "celeba" / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    lines[5] = " ".join([lines[5].split()[0], *40 * [value]])
    path.write_text("\n".join(lines))
    with pytest.raises(
        UserError, match=r"does not say -1 or 1 of 40 attributes of 1 of the images, such as 000004.jpg"
    ):
        ready(data_dir, attribute="Smiling")


def test_a_link_to_what_is_not_there_is_named(data_dir):
    path = data_dir / "celeba" / "img_align_celeba" / "000003.jpg"
    path.unlink()
    path.symlink_to("nowhere.jpg")
    with pytest.raises(UserError, match=r"1 of 38 images in \S+ cannot be read: 000003.jpg \(is a link to what is not"):
        ready(data_dir)


def test_clusters_of_unlabelled_data_are_not_measured(data_dir, tmp_path):
    config = ["datamodule=celeba", "logger=none", "trainer=cpu", f"paths.data_dir={data_dir}"]
    with pytest.raises(
        UserError,
        match="callbacks.cluster_accuracy needs labels, and datamodule celeba has none as configured: remove it with ~callbacks.cluster_accuracy",
    ):
        build(compose_job("train", config, str(tmp_path)))
    with pytest.raises(UserError) as error:
        build(compose_job("train", [*config, "datamodule.attribute=Smiling"], str(tmp_path)))
    assert "labels" not in str(error.value)  # only the images' size is wrong
