"""COCO's annotation files as people have them: what is read, what is mended, and what is refused in which words."""

import copy
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from datamodules.coco_annotations import AnnotationFile, read_annotations
from foundation.errors import UserError

CONTENT: dict[str, Any] = {
    "images": [{"id": 7 + number, "file_name": f"{number}.jpg", "height": 48, "width": 64} for number in range(3)],
    "annotations": [
        {"id": 100 + number, "image_id": 7 + number // 2, "category_id": 1 + 4 * (number % 2), "bbox": [4, 5, 20, 10.5],
         "area": 150.5, "iscrowd": number % 2}
        for number in range(6)
    ],
    "categories": [{"id": 1, "name": "cat"}, {"id": 5, "name": "dog"}],
}  # fmt: skip


def read(folder: Path, content: Any) -> AnnotationFile:
    (folder / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations(folder / "a.json")


def changed(key: str, place: int | None = None, drop: str = "", **values: Any) -> dict[str, Any]:
    """A copy of the content in which a row, or each, has other values or lacks one."""
    content = copy.deepcopy(CONTENT)
    for row in content[key] if place is None else content[key][place : place + 1]:
        row.pop(drop, None)
        row.update({name: value(row) if callable(value) else value for name, value in values.items()})
    return content


def refused(folder: Path, content: Any) -> str:
    with pytest.raises(UserError) as mistake:
        read(folder, content)
    return str(mistake.value).replace(f"{folder}/", "")


def rows(file: AnnotationFile) -> dict[str, Any]:
    return {key: getattr(file, key) for key in ("images", "annotations", "categories")}


def test_a_file_without_mistakes_stays_as_it_is(tmp_path):
    file = read(tmp_path, CONTENT)
    assert rows(file) == CONTENT
    assert file.unlisted == 0
    assert rows(read(tmp_path, CONTENT | {"info": {}, "licenses": None, "made_by": "a tool"})) == CONTENT


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (changed("annotations", drop="iscrowd"), changed("annotations", iscrowd=0)),
        (changed("annotations", iscrowd=None), changed("annotations", iscrowd=0)),
        (changed("annotations", iscrowd=lambda it: bool(it["iscrowd"])), CONTENT),
        (changed("annotations", drop="area"), changed("annotations", area=210.0)),
        (changed("annotations", 2, area=None), changed("annotations", 2, area=210.0)),
        (changed("annotations", drop="id"), changed("annotations", drop="id")),
        (changed("annotations", image_id=lambda it: float(it["image_id"])), CONTENT),
        (changed("images", id=lambda it: float(it["id"])), CONTENT),
        (changed("images", drop="height", width=None), changed("images", drop="height", width=None)),
        (changed("annotations", note="x", score=0.5), changed("annotations", note="x", score=0.5)),
    ],
)
def test_what_may_be_left_out_is_put_in(tmp_path, content, expected):
    assert rows(read(tmp_path, content)) == expected


@pytest.mark.parametrize(("key", "foreign"), [("images", "image_id"), ("categories", "category_id")])
def test_ids_that_are_texts_everywhere_are_numbers(tmp_path, key, foreign):
    content = changed(key, id=lambda it: str(it["id"]))
    for it in content["annotations"]:
        it[foreign] = str(it[foreign])
    assert rows(read(tmp_path, content)) == CONTENT


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_marks_and_encodings_of_json_are_read(tmp_path, encoding):
    (tmp_path / "a.json").write_bytes(json.dumps(changed("images", 0, file_name="größe.jpg")).encode(encoding))
    assert read_annotations(tmp_path / "a.json").images[0]["file_name"] == "größe.jpg"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "a.json is no whole JSON file ("),
        ("not json", "a.json is no whole JSON file ("),
        ("[" * 100_000, "a.json is no whole JSON file ("),
        (json.dumps(CONTENT)[:-9], "a.json is no whole JSON file ("),
        ([{"image_id": 7, "bbox": [1, 2, 3, 4], "score": 0.9}], "a.json is a list, as files of detections are: COCO's annotations are an object with the lists"),
        ("5", "a.json is a number: COCO's"),
        ("null", "a.json is null: COCO's"),
        ({key: CONTENT[key] for key in ("images", "categories")}, "a.json has no annotations: COCO's annotations are"),
        (CONTENT | {"images": {"7": CONTENT["images"][0]}}, "a.json has an object for images: COCO's annotations are"),
        (CONTENT | {"annotations": None}, "a.json has null for annotations: COCO's annotations are"),
        (CONTENT | {"categories": ["cat", "dog"]}, 'a.json: categories[0] is "cat", no object.'),
        (CONTENT | {"annotations": [*CONTENT["annotations"], [1, 2]]}, "a.json: annotations[6] is [1, 2], no object."),
        (CONTENT | {"images": []}, "a.json: images is an empty list."),
        (CONTENT | {"categories": []}, "a.json: categories is an empty list."),
    ],
)  # fmt: skip
def test_what_is_no_annotation_file(tmp_path, content, sentence):
    assert refused(tmp_path, content).startswith(sentence)


def test_what_is_no_text(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"images": "gr\xf6\xdfe"}')
    with pytest.raises(UserError, match=r"a\.json is no whole JSON file \('utf-8' codec can't decode byte 0xf6"):
        read_annotations(tmp_path / "a.json")
    (tmp_path / "b.json").mkdir()
    with pytest.raises(UserError, match=r"b\.json cannot be read \(Is a directory\)"):
        read_annotations(tmp_path / "b.json")


BOX = "give [left, top, width, height] as numbers."


@pytest.mark.parametrize(
    ("content", "sentences"),
    [
        (changed("categories", 1, drop="name"), "category 5 has no name: give each a text."),
        (changed("categories", name=""), 'category 1 has name "": give each a text. 1 more is so.'),
        (changed("categories", 0, name=3), "category 1 has name 3: give each a text."),
        (changed("categories", 0, drop="id"), "categories[0] has no id: give each a whole number."),
        (changed("categories", 0, id=5), "category 5 is there twice: give each of categories an id of its own."),
        (changed("images", 0, id="7"), 'images[0] has id "7": give each a whole number.'),
        (changed("images", id=lambda it: f"img{it['id']}"), 'images[0] has id "img7": give each a whole number. 2 more are so.'),
        (changed("images", 0, id=True), "images[0] has id true: give each a whole number."),
        (changed("images", 0, id=2**63), f"images[0] has id {2**63}: give each a whole number."),
        (changed("images", 0, id=[7]), "images[0] has id [7]: give each a whole number."),
        (changed("images", 2, id=7), "image 7 is there twice: give each of images an id of its own."),
        (changed("images", 1, drop="file_name"), "image 8 has no file_name: give its file's name."),
        (changed("images", 1, file_name=None), "image 8 has file_name null: give its file's name."),
        (changed("images", 1, file_name="a\0b"), 'image 8 has file_name "a\\u0000b": give its file\'s name.'),
        (changed("images", height="48"), "image 7 has height \"48\": give a whole number of pixels, or leave it out for the image file's own. 2 more are so."),
        (changed("images", 0, width=0), "image 7 has width 0: give a whole number"),
        (changed("images", 0, width=6.5), "image 7 has width 6.5: give a whole number"),
        (changed("images", 0, width=math.nan), "image 7 has width NaN: give a whole number"),
        (changed("annotations", 3, id=100), "annotation 100 of image 8 is there twice: give each annotation an id of its own."),
        (changed("annotations", image_id=lambda it: str(it["image_id"])), 'annotation 100 has image_id "7", no number, and images have ids like 7. 5 more are so.'),
        (changed("annotations", 0, drop="image_id"), "annotation 100 has no image_id, no number, and images have ids like 7."),
        (changed("annotations", 0, image_id={}), "annotation 100 has image_id {}, no number, and images have ids like 7."),
        (changed("annotations", 5, category_id=3), "annotation 105 of image 9 has category_id 3, which is none of the categories, which have ids like 1."),
        (changed("annotations", 5, category_id="5"), 'annotation 105 of image 9 has category_id "5", which is none of the categories'),
        (changed("annotations", 5, category_id=[5]), "annotation 105 of image 9 has category_id [5], which is none"),
        (changed("annotations", 0, drop="bbox"), f"annotation 100 of image 7 has no bbox: {BOX}"),
        (changed("annotations", 0, drop="id", bbox=None), f"annotations[0] of image 7 has bbox null: {BOX}"),
        (changed("annotations", bbox=[]), f"annotation 100 of image 7 has bbox []: {BOX} 5 more are so."),
        (changed("annotations", 0, bbox=[1, 2, 3]), f"annotation 100 of image 7 has bbox [1, 2, 3]: {BOX}"),
        (changed("annotations", 0, bbox=["1", "2", "3", "4"]), f'annotation 100 of image 7 has bbox ["1", "2", "3", "4"]: {BOX}'),
        (changed("annotations", 0, bbox={"x": 1}), f'annotation 100 of image 7 has bbox {{"x": 1}}: {BOX}'),
        (changed("annotations", 0, bbox=[1, 2, math.nan, 4]), f"annotation 100 of image 7 has bbox [1, 2, NaN, 4]: {BOX}"),
        (changed("annotations", 0, bbox=[1, math.inf, 3, 4]), f"annotation 100 of image 7 has bbox [1, Infinity, 3, 4]: {BOX}"),
        (changed("annotations", 0, bbox=[1, True, 3, 4]), f"annotation 100 of image 7 has bbox [1, true, 3, 4]: {BOX}"),
        (changed("annotations", 0, bbox=[1, 2, 10**30, 4]), "annotation 100 of image 7 has bbox [1, 2, 1000"),
        (changed("annotations", 0, bbox=[9, 9, -3, 4]), "annotation 100 of image 7 has bbox [9, 9, -3, 4]: its width or height is negative."),
        (changed("annotations", 0, area="9"), 'annotation 100 of image 7 has area "9": give square pixels, or leave it out.'),
        (changed("annotations", 0, area=-1), "annotation 100 of image 7 has area -1: give square pixels"),
        (changed("annotations", 0, area=math.nan), "annotation 100 of image 7 has area NaN: give square pixels"),
        (changed("annotations", 0, iscrowd="0"), 'annotation 100 of image 7 has iscrowd "0": give 0 or 1, or leave it out.'),
        (changed("annotations", 0, iscrowd=2), "annotation 100 of image 7 has iscrowd 2: give 0 or 1"),
        (changed("annotations", bbox=[0.1, 0.2, 0.5, 0.5]), "every bbox lies within the first pixel: give [left, top, width, height] in pixels, no shares."),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_file_row_and_field(tmp_path, content, sentences):
    assert refused(tmp_path, content).startswith(f"a.json: {sentences}")


def test_each_kind_of_mistake_has_its_line(tmp_path):
    content = changed("annotations", bbox=None)
    content["annotations"][0]["category_id"] = 2
    found = refused(tmp_path, content).splitlines()
    assert len(found) == 2
    assert re.match(r"a.json: annotation 100 of image 7 has category_id 2", found[0])
    assert re.match(r"a.json: annotation 100 of image 7 has bbox null.* 5 more are so", found[1])


def test_what_comes_from_elsewhere_is_cut_and_written_plainly(tmp_path):
    sentence = refused(tmp_path, changed("annotations", 0, bbox="\x1b[2J\n" + "x" * 10_000))
    assert len(sentence) < 250
    assert sentence.isprintable()


def test_annotations_of_images_that_are_not_listed_are_left_out_and_counted(tmp_path):
    content = copy.deepcopy(CONTENT)
    del content["images"][2]
    file = read(tmp_path, content)
    assert [it["image_id"] for it in file.annotations] == [7, 7, 8, 8]
    assert file.unlisted == 2


@pytest.mark.parametrize("listed", [0, 1])
def test_annotations_that_belong_to_few_images_are_refused_with_an_example(tmp_path, listed):
    content = changed("images", id=lambda it: it["id"] + 1000 * (it["id"] > 6 + listed))
    first = 7 if listed else 1007
    assert refused(tmp_path, content) == (
        f"a.json: {2 * listed} of 6 annotations belong to one of the images, which have ids like {first}: annotation "
        f"{100 + 2 * listed} of image {7 + listed} does not."
    )


def test_categories_of_another_file_need_not_be_listed(tmp_path):
    content = copy.deepcopy(CONTENT)
    other = content["categories"].pop()
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert len(read_annotations(tmp_path / "a.json", [other]).annotations) == 6
    with pytest.raises(UserError, match="has category_id 5, which is none of the categories"):
        read_annotations(tmp_path / "a.json")


def test_a_file_without_annotations_is_read(tmp_path):
    assert read(tmp_path, CONTENT | {"annotations": []}).annotations == []
