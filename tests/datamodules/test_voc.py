"""Tiny devkits in the real format: which image sets are read, what becomes of their objects, what is refused."""

import dataclasses
import hashlib
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCDetection

from datamodules import downloads, voc
from datamodules.downloads import Published
from datamodules.proposals import ProposedSplit, write_proposals
from datamodules.voc import CLASSES, VocDataModule
from foundation.errors import UserError
from foundation.protocols import AnnotatesObjects
from tests.datamodules.test_shapes import proposed

COLORS = {"aeroplane": (230, 40, 40), "person": (40, 200, 40), "tvmonitor": (40, 40, 230)}
SETS = {"2007": {"train": 4, "val": 2, "test": 4}, "2012": {"train": 2, "val": 2}}
Object = tuple[str, tuple[int, int, int, int], int]  # name, left, top, right, bottom as outlines, difficult


def scene(number: int) -> tuple[np.ndarray, list[Object]]:
    """Every second image has a second object, which is difficult in every fourth."""
    height, width = (64, 48) if number % 3 == 2 else (48, 64)
    pixels = np.full((height, width, 3), 120, dtype=np.uint8)
    objects = []
    for place in range(1 + number % 2):
        name = list(COLORS)[(number + place) % 3]
        left, top = 4 + 22 * place, 5 + number % 10
        objects.append((name, (left, top, left + 16, top + 20), int(place == 1 and number % 4 == 1)))
        pixels[top : top + 20, left : left + 16] = COLORS[name]
    return pixels, objects


def xml_of(year: str, name: str, shape: tuple[int, ...], objects: list[Object]) -> str:
    """As the challenge's files are; those of 2012 have corners in another order, and parts of persons."""
    lines = [
        "<annotation>", f"\t<folder>VOC{year}</folder>", f"\t<filename>{name}.jpg</filename>",
        "\t<source>", f"\t\t<database>The VOC{year} Database</database>", f"\t\t<annotation>PASCAL VOC{year}</annotation>",
        "\t\t<image>flickr</image>", "\t</source>",
        f"\t<size>\n\t\t<width>{shape[1]}</width>\n\t\t<height>{shape[0]}</height>\n\t\t<depth>3</depth>\n\t</size>",
        "\t<segmented>0</segmented>",
    ]  # fmt: skip
    for kind, (left, top, right, bottom), difficult in objects:
        corners = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        keys = list(corners) if year == "2007" else ["xmax", "xmin", "ymax", "ymin"]
        box = "".join(f"\t\t\t<{key}>{corners[key]}</{key}>\n" for key in keys)
        part = "\t\t<part>\n\t\t\t<name>head</name>\n\t\t\t<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>" \
               "</bndbox>\n\t\t</part>\n"  # fmt: skip
        lines.append(
            f"\t<object>\n\t\t<name>{kind}</name>\n\t\t<pose>Left</pose>\n\t\t<truncated>1</truncated>\n"
            f"\t\t<difficult>{difficult}</difficult>\n{part if year != '2007' else ''}\t\t<bndbox>\n{box}\t\t</bndbox>\n"
            "\t</object>"
        )
    return "\n".join([*lines, "</annotation>\n"])


def write_devkit(folder: Path, year: str, counts: dict[str, int], first: int = 1) -> None:
    root, number, sets = folder / "VOCdevkit" / f"VOC{year}", first - 1, {}
    for it in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / it).mkdir(parents=True)
    for split, count in counts.items():
        sets[split] = []
        for _ in range(count):
            number += 1
            name = f"{number:06d}" if year == "2007" else f"2008_{number:06d}"
            pixels, objects = scene(number)
            Image.fromarray(pixels).save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
            (root / "Annotations" / f"{name}.xml").write_text(xml_of(year, name, pixels.shape, objects))
            sets[split].append(name)
    if "train" in sets:
        sets["trainval"] = sorted(sets["train"] + sets["val"])
    for split, names in sets.items():
        (root / "ImageSets/Main" / f"{split}.txt").write_text("".join(f"{it}\n" for it in names))
        (root / "ImageSets/Main" / f"person_{split}.txt").write_text("".join(f"{it} -1\n" for it in names))


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    for year, counts in SETS.items():
        write_devkit(data_dir, year, counts)
    splits = {"train": range(1, 7), "test": range(7, 11)}  # of 2007
    write_proposals(data_dir / "proposals.safetensors", {split: proposed_in(it) for split, it in splits.items()})


def proposed_in(numbers: range) -> ProposedSplit:
    """In the upper left of each image."""
    sizes = torch.tensor([scene(it)[0].shape[:2] for it in numbers])
    return dataclasses.replace(proposed(len(numbers)), sizes=sizes)


def ready(data_dir: Path, **settings: Any) -> VocDataModule:
    given = {"batch_size": 2, "eval_batch_size": 2, "cache_dir": str(data_dir / "cache")} | settings
    datamodule = VocDataModule(str(data_dir), **given)
    assert (datamodule.num_classes, datamodule.class_names) == (20, list(CLASSES))  # asked before anything is there
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def sizes(datamodule: VocDataModule) -> dict[str, int]:
    return {split: len(table) for split, table in datamodule.tables.items()}


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_tiny(tmp_path)
    monkeypatch.setattr(downloads, "download_url", no_network)
    return tmp_path


def no_network(*_: Any, **__: Any) -> None:
    raise AssertionError("reaches for the network")


def xml_at(data_dir: Path, name: str = "000001", year: str = "2007") -> Path:
    return data_dir / "VOCdevkit" / f"VOC{year}" / "Annotations" / f"{name}.xml"


# --- what is read ----------------------------------------------------------------------------------------------------


def test_the_classes_are_voc_s_in_its_order():
    assert len(CLASSES) == 20
    assert (CLASSES[0], CLASSES[14], CLASSES[19], sorted(CLASSES)) == (
        "aeroplane",
        "person",
        "tvmonitor",
        list(CLASSES),
    )


def test_image_sets_are_those_that_are_asked_for(data_dir, capsys):
    datamodule = ready(data_dir)
    assert isinstance(datamodule, AnnotatesObjects)
    assert sizes(datamodule) == {"train": 6, "val": 0, "test": 4}
    told = capsys.readouterr().err
    assert "voc is partial: 2007_trainval of train list 6 images, and the whole has 5,011." in told
    assert "voc is partial: 2007_test of test list 4 images, and the whole has 4,952." in told
    assert "of 6 training images, not trained on as objects: 2 difficult objects (image 1, 5)" in told
    both = ready(data_dir, train=["2007_trainval", "2012_trainval"], val_size=3)
    assert sizes(both) == {"train": 7, "val": 3, "test": 4}
    assert sizes(ready(data_dir, train="2007_train", test=["2007_val", "2012_val"])) == {
        "train": 4,
        "val": 0,
        "test": 4,
    }
    described = both.describe()
    assert described["split"] == "2007_test, 4 examples"
    assert (described["train_sets"], described["test_sets"]) == (["2007_trainval", "2012_trainval"], ["2007_test"])


@pytest.mark.parametrize("year", ["2007", "2012"])
def test_boxes_lie_on_their_pixels_and_labels_are_voc_s(data_dir, year):
    datamodule = ready(data_dir, train=[f"{year}_trainval"], train_on_difficult=True)
    table, seen = datamodule.tables["train"], 0
    for position in range(len(table)):
        it = table.example(position)
        for box, label in zip(it.boxes.tolist(), it.labels.tolist(), strict=True):
            left, top, right, bottom = map(round, box)
            assert [left, top, right, bottom] == box
            colour = torch.tensor(COLORS[CLASSES[label - 1]])
            like = ((it.image.float() - colour[:, None, None]).abs().amax(0) < 50).int()
            around = like[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1]
            assert int(like[top:bottom, left:right].sum()) == int(around.sum()) == (bottom - top) * (right - left)
            seen += 1
    assert seen == sum(len(scene(number)[1]) for number in range(1, len(table) + 1))


def test_reads_what_torchvision_reads(data_dir):
    theirs = VOCDetection(str(data_dir), year="2007", image_set="test")
    datamodule = ready(data_dir)
    truth = datamodule.coco_ground_truth("test")
    assert len(theirs) == len(truth["images"])
    for place, (image, annotation) in enumerate(theirs):
        assert np.array_equal(np.array(image), datamodule.tables["test"].example(place).image.permute(1, 2, 0))
        ours = [it for it in truth["annotations"] if it["image_id"] == truth["images"][place]["id"]]
        objects = annotation["annotation"]["object"]
        assert [CLASSES[it["category_id"] - 1] for it in ours] == [it["name"] for it in objects]
        assert [str(it["difficult"]) for it in ours] == [it["difficult"] for it in objects]
        for one, other in zip(ours, objects, strict=True):
            left, top, width, height = one["bbox"]
            inclusive = {"xmin": left + 1, "ymin": top + 1, "xmax": left + width, "ymax": top + height}
            assert inclusive == {key: float(value) for key, value in other["bndbox"].items()}


def test_what_is_difficult_is_trained_on_where_that_is_asked_for_and_counts_nowhere(data_dir):
    without, within = (ready(data_dir, train_on_difficult=it, val_size=2, split_seed=3) for it in (False, True))
    boxes = [sum(len(it.tables["train"].example(place).labels) for place in range(4)) for it in (without, within)]
    hard = {it["image_id"] for it in json.loads(json.dumps(without._read("train").file.annotations)) if it["difficult"]}
    assert hard == {1, 5}
    assert boxes[1] - boxes[0] == len(hard & set(without.tables["train"].image_ids.tolist()))
    for it in (without, within):
        for stage in ("val", "test"):
            truth = it.coco_ground_truth(stage)["annotations"]
            assert [row["iscrowd"] for row in truth] == [row["difficult"] for row in truth]
    assert sum(row["difficult"] for row in within.coco_ground_truth("test")["annotations"]) == 1  # image 9


def test_a_given_devkit_needs_no_data_folder(data_dir, tmp_path):
    datamodule = ready(tmp_path / "nothing", folder=str(data_dir / "VOCdevkit"))
    assert sizes(datamodule) == {"train": 6, "val": 0, "test": 4}


# --- archives --------------------------------------------------------------------------------------------------------


def pack(data_dir: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Path | None = None) -> dict[str, Published]:
    """As the challenge packs it: the test of 2007 in an archive of its own, which unpacks into the same folder."""
    shares = {
        "2007": ("2007", {"train": 4, "val": 2}),
        "2007_test": ("2007", {"test": 3}),
        "2012": ("2012", SETS["2012"]),
    }
    found = {}
    for key, (year, counts) in shares.items():
        path = (elsewhere or data_dir) / voc.ARCHIVES[key].name
        write_devkit(data_dir / "made" / key, year, counts, first=101 if key == "2007_test" else 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as archive:
            archive.add(data_dir / "made" / key / "VOCdevkit", "VOCdevkit")
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        found[key] = Published(path.name, md5, "", (path.as_uri(),))
    monkeypatch.setattr(voc, "ARCHIVES", found)
    return found


def copied(url: str, folder: str, filename: str, md5: str) -> None:
    shutil.copy(url.removeprefix("file://"), Path(folder) / filename)


def test_archives_are_read_where_no_folder_is(tmp_path, monkeypatch):
    """Also where a part of the folder is there; what a record says is the same as of a folder."""
    pack(tmp_path, monkeypatch)
    monkeypatch.setattr(downloads, "download_url", no_network)
    both = {"train": ["2007_trainval", "2012_val"]}
    datamodule = ready(tmp_path, **both)
    assert sizes(datamodule) == {"train": 8, "val": 0, "test": 3}
    assert datamodule.tables["train"].example(7).image.shape == (3, 48, 64)
    assert len(list((tmp_path / "cache").glob("*.tar-*"))) == 3
    for it in tmp_path.glob("*.tar"):
        with tarfile.open(it) as archive:
            archive.extractall(tmp_path / "by hand", filter="data")
    again = ready(tmp_path / "by hand", **both)
    assert again.describe() == datamodule.describe()
    (tmp_path / "VOCdevkit").mkdir()
    (tmp_path / "by hand/VOCdevkit/VOC2012").rename(tmp_path / "VOCdevkit/VOC2012")
    assert ready(tmp_path, **both).describe() == datamodule.describe()


def test_archives_are_downloaded_whole_and_those_that_are_needed_alone(tmp_path, monkeypatch):
    pack(tmp_path, monkeypatch, tmp_path / "published")
    monkeypatch.setattr(downloads, "download_url", copied)
    datamodule = ready(tmp_path / "data")
    assert sizes(datamodule) == {"train": 6, "val": 0, "test": 3}
    assert sorted(it.name for it in (tmp_path / "data").glob("*.tar")) == [
        "VOCtest_06-Nov-2007.tar", "VOCtrainval_06-Nov-2007.tar",
    ]  # fmt: skip
    path = tmp_path / "data" / "VOCtrainval_06-Nov-2007.tar"
    path.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(UserError, match=r"VOCtrainval_06-Nov-2007.tar is corrupt .its md5 is not \w+.: delete it"):
        ready(tmp_path / "data")


def test_the_published_archives_are_torchvision_s():
    assert {it.name for it in voc.ARCHIVES.values()} == {
        "VOCtrainval_06-Nov-2007.tar", "VOCtest_06-Nov-2007.tar", "VOCtrainval_11-May-2012.tar",
    }  # fmt: skip
    for it in voc.ARCHIVES.values():
        assert len(it.md5) == 32
        assert all(url.endswith(it.name) for url in it.urls)
    assert voc.ARCHIVES["2012"].urls[1].startswith("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train": ["2007trainval"]}, r'datamodule.train is "2007trainval": give image sets .*did you mean .2007_trainval'),
        ({"test": []}, r"datamodule.test is \[\]: give image sets as \[2007_trainval,2012_trainval\]"),
        ({"test": None}, r"datamodule.test is null: give image sets"),
        ({"train": 2007}, r"datamodule.train is 2007: give image sets"),
        ({"train": ["2007_train", "2007_train"]}, "datamodule.train names 2007_train twice: name it once"),
        ({"train": ["2007_train", "2007_trainval"]}, r"are both of the file VOC2007/JPEGImages/000001.jpg"),
        ({"train": ["2007_trainval"], "test": ["2007_val"]}, r"2 of the 2 test examples of voc are training examples"),
        ({"test": ["2012_test"]}, r"VOC2012/ImageSets/Main/test.txt is missing, and the annotations of that test are not "
                                  r"public: measure on datamodule.test=\[2012_val\] or \[2007_test\]"),
        ({"train": ["2010_trainval"]}, r"VOC2010/ImageSets/Main/trainval.txt is missing: lay .* out as VOC2007/ and VOC2012"),
        ({"folder": "/nowhere/VOCdevkit"}, r"/nowhere/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt is missing: lay"),
        ({"val_size": 6}, "val_size=6 leaves nothing to train on: voc has 6 training images here"),
        ({"masks": True}, "datamodule.masks is true, and VOC's boxes have no masks here"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named(data_dir, settings, sentence):
    with pytest.raises(UserError, match=sentence):
        ready(data_dir, **settings)


BOMB = '<!DOCTYPE a [<!ENTITY x0 "ha">' + "".join(f'<!ENTITY x{it + 1} "{f"&x{it};" * 10}">' for it in range(20)) + "]>"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda it: it[:-30], "is no whole XML file"),
        (lambda it: "", "is no whole XML file"),
        (lambda it: '<?xml version="1.0"?>' + BOMB + it.replace("aeroplane", "&x20;").replace("person", "&x20;"),
         r"has a DOCTYPE or an ENTITY, which no annotation needs: remove it\.$"),
        (lambda it: '<!DOCTYPE a SYSTEM "file:///etc/passwd">' + it, "has a DOCTYPE or an ENTITY"),
        (lambda it: it.replace("person", "&passwd;"), "is no whole XML file .undefined entity"),
        (lambda it: '<?xml version="1.0" encoding="martian"?>' + it, "is no whole XML file .unknown encoding"),
        (lambda it: it.replace("annotation>", "image>"), "begins with <image>, and an annotation in VOC's layout with"),
        (lambda it: it.replace("<name>person</name>", "<name>aeroplan</name>"),
         "object 1 is \"aeroplan\", none of VOC's 20 classes; did you mean 'aeroplane'. Classes of your own: datamodule="),
        (lambda it: it.replace("<name>person</name>", "<name>Person</name>"), "did you mean 'person'"),
        (lambda it: it.replace("<name>person</name>", ""), "object 1 has no name: give it one"),
        (lambda it: it.replace("<xmin>5</xmin>", "<xmin>five</xmin>"), 'object 1, "person", has the bndbox .*: give xmin'),
        (lambda it: it.replace("<difficult>0</difficult>", "<difficult>yes</difficult>"), 'has "yes" as difficult: give 0'),
        (lambda it: it.replace("<xmax>20</xmax>", "<xmax>2</xmax>"), "has a bndbox whose xmax or ymax is below its xmin"),
        (lambda it: it.replace("<width>64</width>", "<width>65</width>"),
         r"jpg has 48 x 64 pixels .height x width., and the annotations of image 1 are for 48 x 65"),
    ],
)  # fmt: skip
def test_an_annotation_that_is_none_is_named(data_dir, change, sentence):
    path = xml_at(data_dir)
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=rf"000001.*{sentence}"):
        ready(data_dir)


@pytest.mark.parametrize(
    ("folder", "name", "sentence"),
    [
        (
            "JPEGImages",
            "000002.jpg",
            r"JPEGImages has not 1 of the 6 files that \S+trainval.txt lists, such as 000002.jpg: lay",
        ),
        (
            "Annotations",
            "000007.xml",
            r"Annotations has not 1 of the 4 files that \S+test.txt lists, such as 000007.xml: lay",
        ),
    ],
)
def test_a_missing_file_is_named(data_dir, folder, name, sentence):
    (data_dir / "VOCdevkit/VOC2007" / folder / name).unlink()
    with pytest.raises(UserError, match=sentence):
        ready(data_dir)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "trainval.txt lists no image"),
        ("000001\n../../000002\n", r'trainval.txt lists "../../000002", which is no image.s name'),
        ("000001\n000001\n", "images 1 and 2 are both of the file"),
    ],
)
def test_an_image_set_that_is_none_is_named(data_dir, text, sentence):
    (data_dir / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt").write_text(text)
    with pytest.raises(UserError, match=sentence):
        ready(data_dir)


def test_bytes_that_are_no_text_are_named(data_dir):
    (data_dir / "VOCdevkit/VOC2007/ImageSets/Main/trainval.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"trainval.txt cannot be read .*: lay"):
        ready(data_dir)


def test_an_image_that_cannot_be_decoded_is_named(data_dir):
    for name in ("000001", "000003"):
        path = data_dir / f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg"
        path.write_bytes(path.read_bytes()[: 30 if name == "000001" else -300])
    with pytest.raises(UserError, match=r"2 of 6 images in .*000001.jpg.*000003.jpg"):
        ready(data_dir)
