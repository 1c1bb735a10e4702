"""Which file a listed name means, wherever it says that it lies."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.coco_images import Listed, listed_in
from foundation.errors import UserError

COMPOSED, APART = "gr\u00f6\u00dfe.jpg", "gro\u0308\u00dfe.jpg"


def listed(root: Path, names: list[str], files: list[str], **image: Any) -> Listed:
    """root/train2017 and what an annotation file lists of it: images 1, 2, ... with an object each."""
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30)).save(path, **({} if path.suffix else {"format": "JPEG"}))
    content = {
        "images": [{"id": number, "file_name": name, "height": 30, "width": 40} | image for number, name in enumerate(names, 1)],
        "annotations": [{"id": number, "image_id": number, "category_id": 1, "bbox": [1, 2, 20, 20]} for number in range(1, len(names) + 1)],
        "categories": [{"id": 1, "name": "cat"}],
    }  # fmt: skip
    (root / "a.json").write_text(json.dumps(content))
    return listed_in(root / "a.json", root / "train2017", with_masks=False)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("1.jpg", "1.jpg"),
        ("./1.jpg", "1.jpg"),
        ("../train2017/1.jpg", "1.jpg"),
        ("train2017/1.jpg", "1.jpg"),
        ("coco/train2017/1.jpg", "1.jpg"),
        ("batch_1/1.jpg", "1.jpg"),
        ("batch_1//1.jpg", "1.jpg"),
        ("images\\1.jpg", "1.jpg"),
        ("C:\\data\\1.jpg", "1.jpg"),
        ("/home/somebody/train2017/1.jpg", "1.jpg"),
        ("../../../elsewhere/1.jpg", "1.jpg"),
        ("inner/1.jpg", "inner/1.jpg"),
        ("inner\\1.jpg", "inner/1.jpg"),
        ("inner/../inner/./1.jpg", "inner/1.jpg"),
        ("a\\b.jpg", "a\\b.jpg"),
        ("1", "1"),
        (COMPOSED, COMPOSED),
        (COMPOSED, APART),
        (APART, COMPOSED),
        (f"batch_1/{APART}", COMPOSED),
    ],
)
def test_a_listed_name_is_joined_to_the_folder_or_its_last_part_is(tmp_path, name, file):
    found = listed(tmp_path, [name, "other.jpg"], [f"train2017/{file}", "train2017/other.jpg"])
    assert found.names == {1: file, 2: "other.jpg"}
    assert (found.folder / found.names[1]).is_file()
    assert found.unused == []


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "../val2017/secret.jpg", "{root}/secret.jpg", "..\\secret.jpg", "..", ".", "/"]
)
def test_a_listed_name_leads_nowhere_outside(tmp_path, name):
    files = ["train2017/1.jpg", "secret.jpg", "val2017/secret.jpg"]
    found = listed(tmp_path, ["1.jpg", name.format(root=tmp_path)], files)
    assert found.names == {1: "1.jpg"}
    assert [it["id"] for it in found.images] == [1]


def test_what_is_missing_is_shown_beside_what_is_there(tmp_path):
    found = listed(tmp_path, ["1.jpg", "000002.jpg"], ["train2017/1.jpg", "train2017/2.JPG", "train2017/x.jpg"])
    assert found.unused == ["2.JPG", "x.jpg"]
    assert found.missing() == f'{tmp_path}/a.json lists "000002.jpg", and {tmp_path}/train2017 holds "2.JPG"'


@pytest.mark.parametrize("names", [["1.jpg", "1.jpg"], ["a/1.jpg", "b/1.jpg"], ["1.jpg", "./1.jpg"]])
def test_two_images_of_one_file_are_refused(tmp_path, names):
    with pytest.raises(
        UserError, match=r"a.json: images 1 and 2 are both of the file 1.jpg: give each a file of its own"
    ):
        listed(tmp_path, names, ["train2017/1.jpg"])


def test_names_in_both_ways_may_be_two_files(tmp_path):
    assert unicodedata.normalize("NFC", APART) == COMPOSED
    found = listed(tmp_path, [COMPOSED, APART], [f"train2017/{COMPOSED}", f"train2017/{APART}"])
    assert found.names == {1: COMPOSED, 2: APART}


def test_sizes_that_are_not_given_are_the_files_own(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "train2017").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "train2017" / "2.jpg", exif=exif)
    found = listed(tmp_path, ["1.jpg", "2.jpg"], ["train2017/1.jpg"], height=None)
    assert [(it["height"], it["width"]) for it in found.images] == [(30, 40), (40, 30)]
    (tmp_path / "train2017" / "2.jpg").write_bytes(b"words")
    with pytest.raises(
        UserError, match=r"train2017/2.jpg cannot be read \(is no image that PIL reads\): repair or remove"
    ):
        listed(tmp_path, ["1.jpg", "2.jpg"], [], width=None)


def test_images_are_in_the_order_of_their_ids_and_the_truth_is_of_those_asked_for(tmp_path):
    found = listed(tmp_path, ["3.jpg", "1.jpg", "2.jpg"], ["train2017/1.jpg", "train2017/2.jpg"])
    assert [it["id"] for it in found.images] == [2, 3]
    truth = found.truth(found.images[:1])
    assert [it["image_id"] for it in truth["annotations"]] == [2]
    assert truth["images"] == found.images[:1]
