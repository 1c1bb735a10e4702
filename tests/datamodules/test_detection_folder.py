"""Tiny exports in the formats that annotation tools write: what is found, what becomes of it, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.detection_folder import DetectionFolderDataModule
from foundation.errors import UserError

COLORS = {"bolt": (230, 40, 40), "nut": (40, 200, 40), "washer": (40, 40, 230)}
NAMES = list(COLORS)
COUNTS = {"train": 6, "valid": 3, "test": 2}
Scene = tuple[np.ndarray, list[tuple[str, tuple[int, int, int, int]]]]


def scene(number: int) -> Scene:
    """An image and its objects: names and left, top, right, bottom. Every fifth has none."""
    height, width = (64, 48) if number % 3 == 2 else (48, 64)
    pixels = np.full((height, width, 3), 120, dtype=np.uint8)
    objects = []
    for place in range(0 if number % 5 == 4 else 1 + number % 2):
        name = NAMES[(number + place) % 3]
        left, top = 4 + 22 * place, 5 + number
        box = (left, top, left + 16, top + 20)
        pixels[box[1] : box[3], box[0] : box[2]] = COLORS[name]
        objects.append((name, box))
    return pixels, objects


def save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95, subsampling=0)


def scenes_of(counts: dict[str, int]) -> dict[str, list[tuple[str, Scene]]]:
    """By split: the images' names without endings, and the scenes."""
    starts = dict(zip(counts, (sum([*counts.values()][:place]) for place in range(len(counts))), strict=True))
    return {
        split: [(f"{split}_{it}", scene(starts[split] + it)) for it in range(count)] for split, count in counts.items()
    }


def coco_of(
    scenes: list[tuple[str, Scene]], first_id: int = 1, folder: str = "", of_all: bool = True
) -> dict[str, Any]:
    """As Roboflow writes it: category 0 is the name of all, and no object's; images are numbered from 0."""
    content: dict[str, Any] = {"images": [], "annotations": []}
    content["categories"] = [{"id": 0, "name": "parts", "supercategory": "none"}] * of_all + [
        {"id": number, "name": name, "supercategory": "parts"} for number, name in enumerate(NAMES, first_id)
    ]
    for number, (name, (pixels, objects)) in enumerate(scenes):
        row = {"id": number, "file_name": f"{folder}{name}.jpg", "height": pixels.shape[0], "width": pixels.shape[1]}
        content["images"].append(row)
        for kind, (left, top, right, bottom) in objects:
            content["annotations"].append({
                "id": len(content["annotations"]), "image_id": number, "category_id": first_id + NAMES.index(kind), "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]]})  # fmt: skip
    return content


def write_roboflow(folder: Path, counts: dict[str, int] = COUNTS) -> None:
    for split, scenes in scenes_of(counts).items():
        for name, (pixels, _) in scenes:
            save(pixels, folder / split / f"{name}.jpg")
        (folder / split / "_annotations.coco.json").write_text(json.dumps(coco_of(scenes)))
    (folder / "README.roboflow.txt").write_text("exported")


def write_tiny(data_dir: Path, monkeypatch: pytest.MonkeyPatch | None = None) -> None:
    write_roboflow(data_dir / "detection_folder")


def write_yolo(folder: Path, counts: dict[str, int] = COUNTS, polygons: bool = False) -> None:
    """As Ultralytics has it, images/<split> and labels/<split>."""
    for split, scenes in scenes_of(counts).items():
        (folder / "labels" / split).mkdir(parents=True)
        for name, (pixels, objects) in scenes:
            save(pixels, folder / "images" / split / f"{name}.jpg")
            height, width = pixels.shape[:2]
            lines = []
            for kind, (left, top, right, bottom) in objects:
                x, y, w, h = (
                    (left + right) / 2 / width,
                    (top + bottom) / 2 / height,
                    (right - left) / width,
                    (bottom - top) / height,
                )
                corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
                shares = [it for a, b in corners for it in (a / width, b / height)] if polygons else [x, y, w, h]
                lines.append(" ".join([str(NAMES.index(kind)), *(f"{it:.6f}" for it in shares)]))
            if objects:  # an image without objects has no file
                (folder / "labels" / split / f"{name}.txt").write_text("\n".join(lines) + "\n")
    splits = "".join(f"{'val' if split == 'valid' else split}: images/{split}\n" for split in counts)
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(NAMES))
    (folder / "data.yaml").write_text(f"path: /home/me/datasets/parts\n{splits}names:\n{names}nc: 3\n")


def xml_of(name: str, shape: tuple[int, ...], objects: Any, difficult: bool = False) -> str:
    """Corners as VOC counts them: from 1, the last pixel inside."""
    parts = "".join(
        f"<object><name>{kind}</name><pose>Left</pose><truncated>0</truncated><difficult>{int(difficult)}</difficult><bndbox>"
        f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for kind, (left, top, right, bottom) in objects
    )
    size = f"<size><width>{shape[1]}</width><height>{shape[0]}</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC2007</folder><filename>{name}.jpg</filename>{size}<segmented>0</segmented>{parts}</annotation>"


def write_voc(folder: Path, year: str = "VOC2007", counts: dict[str, int] | None = None) -> None:
    counts = {"train": 4, "val": 3, "test": 3} if counts is None else counts
    root, sets = folder / "VOCdevkit" / year, {}
    (root / "Annotations").mkdir(parents=True)
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for split, scenes in scenes_of(counts).items():
        sets[split] = [f"{year}_{name}" for name, _ in scenes]
        for name, (pixels, objects) in scenes:
            save(pixels, root / "JPEGImages" / f"{year}_{name}.jpg")
            (root / "Annotations" / f"{year}_{name}.xml").write_text(xml_of(f"{year}_{name}", pixels.shape, objects))
    sets["trainval"] = sets["train"] + sets["val"]
    for split, names in sets.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{it}\n" for it in names))
    (root / "ImageSets" / "Main" / "nut_train.txt").write_text("".join(f"{it} -1\n" for it in sets["train"]))


def ready(folder: Path, **settings: Any) -> DetectionFolderDataModule:
    given = {"batch_size": 2, "eval_batch_size": 4, "cache_dir": str(folder.parent / "cache")} | settings
    datamodule = DetectionFolderDataModule(str(folder), **given)
    assert datamodule.num_classes == len(datamodule.class_names) > 0  # asked before anything is set up
    datamodule.setup()
    return datamodule


def sizes(datamodule: DetectionFolderDataModule) -> dict[str, int]:
    return {split: len(table) for split, table in datamodule.tables.items()}


def assert_boxes_lie_on_their_colours(datamodule: DetectionFolderDataModule, split: str) -> int:
    """Every box is that of a rectangle to the pixel: inside its colour, beside it none. Returns how many there are."""
    table, seen = datamodule.tables[split], 0
    for position in range(len(table)):
        it = table.example(position)
        for box, label in zip(it.boxes.tolist(), it.labels.tolist(), strict=True):
            left, top, right, bottom = (round(value) for value in box)
            assert box == pytest.approx([left, top, right, bottom], abs=1e-3)
            colour = torch.tensor(COLORS[datamodule.class_names[label - 1]])
            like = ((it.image.float() - colour[:, None, None]).abs().amax(0) < 50).int()
            assert int(like[top:bottom, left:right].sum()) == (bottom - top) * (right - left)
            assert int(like[max(top - 1, 0) : bottom + 1, max(left - 1, 0) : right + 1].sum()) == (bottom - top) * (
                right - left
            )
            seen += 1
    return seen


def boxes_in(split: str, counts: dict[str, int] = COUNTS) -> int:
    return sum(len(objects) for _, (_, objects) in scenes_of(counts)[split])


# --- COCO ----------------------------------------------------------------------------------------------------


def test_roboflow_s_coco_trains_with_no_other_word(tmp_path, capsys):
    write_roboflow(tmp_path / "export")
    datamodule = ready(tmp_path / "export")
    assert sizes(datamodule) == {"train": 6, "val": 3, "test": 2}
    assert (datamodule.class_names, datamodule.category_ids, datamodule.val_size) == (NAMES, [1, 2, 3], 3)
    assert assert_boxes_lie_on_their_colours(datamodule, "train") == boxes_in("train")
    assert assert_boxes_lie_on_their_colours(datamodule, "test") == boxes_in("test")
    assert len(datamodule.coco_ground_truth("val")["images"]) == 3
    line = capsys.readouterr().err.splitlines()[0]
    assert line == (
        "detection_folder: COCO's layout: train 6 images, val 3 images, test 2 images; 3 classes (bolt 3, nut 2, washer 3 in "
        "train); category 0, of which nothing is, is no class; trained on 6, tested on 2 (its own test), validated on 3 "
        "(its own val)."
    )


def test_a_category_0_that_has_objects_is_a_class(tmp_path):
    scenes = scenes_of({"train": 8})["train"]
    for name, (pixels, _) in scenes:
        save(pixels, tmp_path / "export" / f"{name}.jpg")
    (tmp_path / "export" / "result.json").write_text(json.dumps(coco_of(scenes, first_id=0, of_all=False)))
    datamodule = ready(tmp_path / "export")
    assert (datamodule.class_names, datamodule.category_ids) == (NAMES, [0, 1, 2])
    assert sizes(datamodule) == {"train": 6, "val": 1, "test": 1}
    other = ready(tmp_path / "export", split_seed=1, test_size=3, val_size=0)
    assert sizes(other) == {"train": 5, "val": 0, "test": 3}


@pytest.mark.parametrize(
    ("places", "images", "file_name"),
    [
        (
            {"train": "annotations/instances_train2017.json", "val": "annotations/instances_val2017.json"},
            "{split}2017",
            "",
        ),
        ({"train": "annotations/train.json", "val": "annotations/val.json"}, "images/{split}", ""),
        ({"train": "train.json", "val": "valid.json"}, "images", "images/"),
        ({"train": "a/labels_train.json", "val": "a/labels_val.json"}, "a/data/{split}", "/home/me/data/{split}/"),
        ({"train": "train/anns.json", "val": "val/anns.json"}, "{split}/images", "images\\"),
    ],
)
def test_coco_files_of_any_name_and_place(tmp_path, places, images, file_name):
    for split, scenes in scenes_of({"train": 5, "val": 3}).items():
        # The same names in both splits, as exports number them.
        scenes = [(f"{split if images == 'images' else ''}{number:03d}", it) for number, (_, it) in enumerate(scenes)]
        for name, (pixels, _) in scenes:
            save(pixels, tmp_path / "export" / images.format(split=split) / f"{name}.jpg")
        path = tmp_path / "export" / places[split]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(coco_of(scenes, folder=file_name.format(split=split))))
    datamodule = ready(tmp_path / "export", val_size=1)
    assert sizes(datamodule) == {"train": 4, "val": 1, "test": 3}
    found = sum(assert_boxes_lie_on_their_colours(datamodule, it) for it in ("train", "val"))
    assert found == boxes_in("train", {"train": 5, "val": 3})
    assert assert_boxes_lie_on_their_colours(datamodule, "test") == boxes_in("val", {"train": 5, "val": 3})


def test_of_coco_s_own_files_the_instances_are_taken(tmp_path, capsys):
    write_roboflow(tmp_path / "export")
    shutil.move(tmp_path / "export/train/_annotations.coco.json", tmp_path / "export/train/instances.json")
    shutil.copy(tmp_path / "export/train/instances.json", tmp_path / "export/train/person_keypoints.json")
    ready(tmp_path / "export")
    assert "train/person_keypoints.json beside train/instances.json left out" in capsys.readouterr().err


def test_an_image_that_is_missing_in_its_split_is_not_taken_from_another(tmp_path, capsys):
    write_roboflow(tmp_path / "export")
    content = json.loads((tmp_path / "export/train/_annotations.coco.json").read_text())
    content["images"][0]["file_name"] = "valid_0.jpg"
    (tmp_path / "export/train/_annotations.coco.json").write_text(json.dumps(content))
    assert sizes(ready(tmp_path / "export"))["train"] == 5
    said = capsys.readouterr().err
    assert "of train 1 images are listed and not there: valid_0.jpg." in said
    assert "1 images are there and in no split: train/train_0.jpg." in said


# --- YOLO ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polygons", [False, True])
def test_yolo(tmp_path, polygons, capsys):
    write_yolo(tmp_path / "export", polygons=polygons)
    datamodule = ready(tmp_path / "export", masks=polygons)
    assert sizes(datamodule) == {"train": 6, "val": 3, "test": 2}
    assert datamodule.class_names == NAMES
    assert assert_boxes_lie_on_their_colours(datamodule, "train") == boxes_in("train")
    assert capsys.readouterr().err.startswith(
        "detection_folder: YOLO's layout: train 6 images, val 3 images, test 2 images"
    )
    if polygons:
        it = datamodule.tables["train"].example(0)
        left, top, right, bottom = (round(value) for value in it.boxes[0].tolist())
        assert it.masks is not None
        assert (
            int(it.masks[0].sum()) == int(it.masks[0, top:bottom, left:right].sum()) == (bottom - top) * (right - left)
        )


def test_yolo_by_a_list_of_classes_and_folders_alone(tmp_path):
    write_yolo(tmp_path / "export", {"train": 5, "valid": 2})
    (tmp_path / "export" / "data.yaml").unlink()
    (tmp_path / "export" / "classes.txt").write_text("\n".join(NAMES) + "\n")
    assert sizes(ready(tmp_path / "export")) == {"train": 4, "val": 1, "test": 2}


def test_roboflow_s_yolo_whose_paths_lead_upwards_and_whose_test_was_not_exported(tmp_path, capsys):
    write_yolo(tmp_path / "other", {"train": 5, "valid": 2})
    for split in ("train", "valid"):
        for kind in ("images", "labels"):
            (tmp_path / "export" / split).mkdir(parents=True, exist_ok=True)
            shutil.move(tmp_path / "other" / kind / split, tmp_path / "export" / split / kind)
    text = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 3\nnames: ['bolt', 'nut', 'washer']\n"
    (tmp_path / "export" / "data.yaml").write_text(text)
    datamodule = ready(tmp_path / "export")
    assert sizes(datamodule) == {"train": 4, "val": 1, "test": 2}
    assert "data.yaml names test, which is not here." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.5 0.5 0.2", "line 2 has 4 numbers: give a class and centre x"),
        ("7 0.5 0.5 0.2 0.2", "line 2 is of class 7, and the classes of data.yaml are 0, 1, 2"),
        ("0 24 20 10 12", r"line 2 is \"0 24 20 10 12\": give shares of the image's width and height, from 0 to 1"),
        ("0 0.5 half 0.2 0.2", "line 2 is .*: give numbers alone"),
        ("0 0.5 nan 0.2 0.2", "line 2 is .*: give numbers alone"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path, line, sentence):
    write_yolo(tmp_path / "export")
    path = tmp_path / "export/labels/train/train_0.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=sentence):
        ready(tmp_path / "export")


# --- PASCAL VOC ----------------------------------------------------------------------------------------------


def test_voc_s_own_layout_by_the_papers_splits(tmp_path, capsys):
    """trainval is trained on and test is the test; of a year without a test beside it trainval, too."""
    write_voc(tmp_path / "export")
    write_voc(tmp_path / "export", "VOC2012", {"train": 3, "val": 2})
    datamodule = ready(tmp_path / "export", val_size=0)
    assert sizes(datamodule) == {"train": 12, "val": 0, "test": 3}
    assert datamodule.class_names == sorted(NAMES)
    assert assert_boxes_lie_on_their_colours(datamodule, "train") > 10
    assert (
        "image sets trainval of VOCdevkit/VOC2007, test of VOCdevkit/VOC2007, trainval of VOCdevkit/VOC2012."
        in capsys.readouterr().err
    )
    chosen = ready(tmp_path / "export/VOCdevkit/VOC2007", splits={"train": "train", "val": "val", "test": "test"})
    assert sizes(chosen) == {"train": 4, "val": 3, "test": 3}
    assert sizes(ready(tmp_path / "export/VOCdevkit/VOC2012", val_size=0)) == {"train": 3, "val": 0, "test": 2}


def test_corners_are_counted_from_1_and_the_last_pixel_is_inside(tmp_path):
    objects = [("nut", (0, 0, 48, 64))]
    save(np.full((64, 48, 3), 90, np.uint8), tmp_path / "export" / "one.jpg")
    save(np.full((64, 48, 3), 90, np.uint8), tmp_path / "export" / "two.jpg")
    for name in ("one", "two"):
        text = xml_of(name, (64, 48), objects)
        assert "<xmin>1</xmin><ymin>1</ymin><xmax>48</xmax><ymax>64</ymax>" in text
        (tmp_path / "export" / f"{name}.xml").write_text(text)
    datamodule = ready(tmp_path / "export", val_size=0)
    assert datamodule.tables["train"].example(0).boxes.tolist() == [[0, 0, 48, 64]]
    assert datamodule.coco_ground_truth("test")["annotations"][0]["bbox"] == [0, 0, 48, 64]


def test_what_is_difficult_is_neither_trained_on_nor_counted(tmp_path):
    write_voc(tmp_path / "export")
    path = tmp_path / "export/VOCdevkit/VOC2007/Annotations/VOC2007_train_1.xml"
    pixels, objects = scene(1)
    path.write_text(xml_of("VOC2007_train_1", pixels.shape, objects, difficult=True))
    other = tmp_path / "export/VOCdevkit/VOC2007/Annotations/VOC2007_test_1.xml"
    (_, (shape, those)) = scenes_of({"train": 4, "val": 3, "test": 3})["test"][1]
    other.write_text(xml_of("VOC2007_test_1", shape.shape, those, difficult=True))
    datamodule = ready(tmp_path / "export", val_size=0)
    table = datamodule.tables["train"]
    assert len(objects) == 2
    assert [len(table.example(position).labels) for position in range(2)] == [1, 0]
    measured = datamodule.coco_ground_truth("test")["annotations"]
    assert [it["iscrowd"] for it in measured].count(1) == len(those) > 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda it: '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x "y">]>' + it,
            "has a DOCTYPE or an ENTITY, which no annotation needs: remove it",
        ),
        (lambda it: it[:-30], "is no whole XML file"),
        (
            lambda it: it.replace("<xmin>5</xmin>", "<xmin>left</xmin>"),
            'object 1, "bolt", has the bndbox .*: give xmin',
        ),
        (lambda it: it.replace("<xmax>20</xmax>", "<xmax>2</xmax>"), "xmax or ymax is below its xmin or ymin"),
        (lambda it: it.replace("<name>bolt</name>", ""), "object 1 has no name"),
        (lambda it: '<?xml version="1.0" encoding="nothing"?>' + it, "is no whole XML file .*unknown encoding"),
        (lambda it: '<?xml version="1.0" encoding="utf-7"?>' + it, "is no whole XML file .*multi-byte encodings"),
    ],
)
def test_an_xml_file_that_is_no_annotation_is_named(tmp_path, change, sentence):
    write_voc(tmp_path / "export")
    path = tmp_path / "export/VOCdevkit/VOC2007/Annotations/VOC2007_train_0.xml"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=rf"VOC2007_train_0.xml.*{sentence}"):
        ready(tmp_path / "export")


# --- what is refused -----------------------------------------------------------------------------------------


def test_two_layouts_are_told_apart_by_a_key(tmp_path):
    write_roboflow(tmp_path / "export")
    write_yolo(tmp_path / "export", {"train": 3, "valid": 2, "test": 2})
    with pytest.raises(UserError, match="layouts of coco and yolo: set datamodule.layout to the one that is meant"):
        ready(tmp_path / "export")
    assert sizes(ready(tmp_path / "export", layout="coco"))["train"] == 6
    assert sizes(ready(tmp_path / "export", layout="yolo"))["train"] == 3


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"layout": "cocoa"}, "datamodule.layout is cocoa"),
        ({"splits": {"dev": "valid"}}, "datamodule.splits names dev: its keys are train, val, test"),
        ({"splits": {"val": "valid"}}, "datamodule.splits has no train"),
        ({"splits": {"train": "trian"}}, "datamodule.splits.train names trian, which .* has not below it"),
        ({"test_size": 2}, "has its own test images: leave datamodule.test_size=null"),
        ({"val_size": 4}, "val_size=4 cannot be chosen from the 3 images of val"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, settings, sentence):
    write_roboflow(tmp_path / "export")
    with pytest.raises(UserError, match=sentence):
        ready(tmp_path / "export", **settings)


def test_a_folder_without_annotations_says_what_was_looked_for(tmp_path):
    save(scene(0)[0], tmp_path / "export" / "a.jpg")
    with pytest.raises(
        UserError, match="holds 1 images and no annotations in the layout of coco, yolo, voc: looked for"
    ):
        ready(tmp_path / "export")
    with pytest.raises(UserError, match="is no folder and no archive: set datamodule.folder"):
        ready(tmp_path / "nowhere")


def test_an_archive_is_unpacked(tmp_path):
    write_roboflow(tmp_path / "export")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "export")
    assert sizes(ready(tmp_path / "packed.zip")) == {"train": 6, "val": 3, "test": 2}


# --- images that cannot be read ------------------------------------------------------------------------------


@pytest.mark.parametrize("write_export", [write_roboflow, write_yolo, write_voc])
def test_images_that_cannot_be_read_are_all_listed_before_training(tmp_path, write_export):
    write_export(tmp_path / "export")
    images = sorted((tmp_path / "export").rglob("*.jpg"))
    whole = images[-1].read_bytes()
    images[0].write_bytes(b"")
    images[-1].write_bytes(whole[: len(whole) // 2])
    Image.fromarray(np.full((48, 64), 3000, dtype=np.uint16)).save(tmp_path / "deep.png")
    images[1].write_bytes((tmp_path / "deep.png").read_bytes())
    listed = tmp_path / "cache" / "detection_folder-unreadable.txt"
    with pytest.raises(UserError, match=rf"3 of {len(images)} images in .* All are listed in {listed}\.$"):
        prepared(tmp_path / "export")
    lines = listed.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(images[it]) for it in (0, 1, -1)]
    assert "is nearly black: its brightest pixel is 3000 of 65535; say with datamodule.bits" in lines[1]


def test_a_set_is_looked_through_once_and_again_where_a_file_changed(tmp_path, monkeypatch):
    write_roboflow(tmp_path / "export")
    prepared(tmp_path / "export")
    (mark,) = (tmp_path / "cache").iterdir()
    assert mark.read_text() == "all 11 images can be read\n"
    monkeypatch.setattr("datamodules.image_files.read_all", None)
    prepared(tmp_path / "export").setup()
    monkeypatch.undo()
    image = min((tmp_path / "export" / "test").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:-400])
    with pytest.raises(UserError, match=r"1 of 11 images .*: test/test_0.jpg \(.*[Tt]runcated"):
        prepared(tmp_path / "export")


def prepared(folder: Path) -> DetectionFolderDataModule:
    datamodule = DetectionFolderDataModule(
        str(folder), batch_size=2, eval_batch_size=4, cache_dir=str(folder.parent / "cache")
    )
    assert datamodule.num_classes
    datamodule.prepare_data()
    return datamodule
