"""COCO's annotation files, read and held against their format before anything is made of them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foundation.errors import UserError

Rows = list[dict[str, Any]]
Mistakes = Iterator[tuple[str, str]]  # of which kind, and the sentence

ONE_OF = {"images": "image", "annotations": "annotation", "categories": "category"}
KINDS = {dict: "an object", list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false",
         type(None): "null"}  # fmt: skip
NUMBERS = (int, float)
FAR = 1e9  # pixels; also tells what is no number at all
LARGEST_ID = 2**63


@dataclass
class AnnotationFile:
    """What a file says.

    Args:
        images, annotations, categories: ids are whole numbers, boxes four finite ones; ``area`` and ``iscrowd`` are
            there. Annotations of images that are not listed are left out.
        unlisted: how many they are.
    """

    path: Path
    images: Rows
    annotations: Rows
    categories: Rows
    unlisted: int = 0


def read_annotations(path: Path, others: Rows | None = None) -> AnnotationFile:
    """A UserError has a sentence for each kind of mistake: the first row that makes it, and how many more do.

    Args:
        others: categories of another file, which this one need not list.
    """
    return checked(path, parsed(path), others)


def checked(path: Path, content: dict[str, Rows], others: Rows | None = None) -> AnnotationFile:
    """The same of what has been read. path: what sentences name."""
    file = AnnotationFile(path, content["images"], content["annotations"], content["categories"])
    ids_as_numbers(file)
    refuse(path, unfit_categories(file.categories))
    refuse(path, unfit_images(file.images))
    images, categories = ids_of(file.images), ids_of([*file.categories, *(others or [])])
    refuse(path, unfit_annotations(file.annotations, images, categories))
    listed = [it for it in file.annotations if it["image_id"] in images]
    refuse(path, unfit_join(file, listed))
    file.annotations, file.unlisted = listed, len(file.annotations) - len(listed)
    return file


def parsed(path: Path) -> dict[str, Rows]:
    """The three lists of objects that are read."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no whole JSON file ({error}).") from None
    wanted = "COCO's annotations are an object with the lists images, annotations and categories"
    if type(content) is not dict:
        also = ", as files of detections are" * (type(content) is list)
        raise UserError(f"{path} is {KINDS[type(content)]}{also}: {wanted}.")
    for key in ONE_OF:
        if type(content.get(key)) is not list:
            found = f"has {KINDS[type(content[key])]} for {key}" if key in content else f"has no {key}"
            raise UserError(f"{path} {found}: {wanted}.")
        for place, it in enumerate(content[key]):
            if type(it) is not dict:
                raise UserError(f"{path}: {key}[{place}] is {worded(it)}, no object.")
    return {key: content[key] for key in ONE_OF}


def refuse(path: Path, mistakes: Mistakes) -> None:
    first, counts = {}, {}
    for kind, sentence in mistakes:
        first.setdefault(kind, sentence)
        counts[kind] = counts.get(kind, 0) + 1
    if first:
        more = {kind: f" {count - 1:,} more {'is' if count == 2 else 'are'} so." for kind, count in counts.items()}
        raise UserError("\n".join(f"{path}: {it}{more[kind] * (counts[kind] > 1)}" for kind, it in first.items()))


def ids_as_numbers(file: AnnotationFile) -> None:
    """Ids that are texts of whole numbers wherever they stand become numbers."""
    for rows, key in ((file.images, "image_id"), (file.categories, "category_id")):
        if all(is_text_id(it.get("id")) for it in rows) and all(is_text_id(it.get(key)) for it in file.annotations):
            for it in rows:
                it["id"] = int(it["id"])
            for it in file.annotations:
                it[key] = int(it[key])


def is_text_id(value: Any) -> bool:
    return type(value) is str and re.fullmatch(r"-?[0-9]{1,18}", value) is not None


def ids_of(rows: Rows) -> dict[int, None]:
    return dict.fromkeys(it["id"] for it in rows)


def unfit_categories(rows: Rows) -> Mistakes:
    yield from unfit_ids("categories", rows)
    for place, it in enumerate(rows):
        if type(it.get("name")) is not str or not it["name"].strip():
            yield "name", f"{named('categories', place, it)} has {given(it, 'name')}: give each a text."


def unfit_images(rows: Rows) -> Mistakes:
    yield from unfit_ids("images", rows)
    for place, row in enumerate(rows):
        name = row.get("file_name")
        if type(name) is not str or not name or "\0" in name:
            yield "file", f"{named('images', place, row)} has {given(row, 'file_name')}: give its file's name."
        if key := next((it for it in ("height", "width") if not is_size(row.get(it))), None):
            cure = "give a whole number of pixels, or leave it out for the image file's own"
            yield "size", f"{named('images', place, row)} has {given(row, key)}: {cure}."


def unfit_ids(key: str, rows: Rows) -> Mistakes:
    if not rows:
        yield "none", f"{key} is an empty list."
    seen = set()
    for place, it in enumerate(rows):
        number = whole(it, "id")
        if number is None:
            yield "id", f"{key}[{place}] has {given(it, 'id')}: give each a whole number."
        elif number in seen:
            yield "twice", f"{named(key, place, it)} is there twice: give each of {key} an id of its own."
        seen.add(number)


def unfit_annotations(rows: Rows, images: Mapping[int, Any], categories: Mapping[int, Any]) -> Mistakes:
    """Also puts in what may be left out: ``iscrowd``, and as ``area`` that of the box."""
    seen = set()
    for place, it in enumerate(rows):
        if (number := it.get("id")) is not None and str(number) in seen:
            yield "twice", f"{this(place, it)} is there twice: give each annotation an id of its own."
        seen.add(str(number))
        if whole(it, "image_id") is None:
            known = f"no number, and images have ids like {one(images)}"
            yield "image_id", f"{named('annotations', place, it)} has {given(it, 'image_id')}, {known}."
        if whole(it, "category_id") not in categories:
            known = f"is none of the categories, which have ids like {one(categories)}"
            yield "category", f"{this(place, it)} has {given(it, 'category_id')}, which {known}."
        box = it.get("bbox")
        if type(box) is not list or len(box) != 4 or not all(map(is_number, box)):
            yield "bbox", f"{this(place, it)} has {given(it, 'bbox')}: give [left, top, width, height] as numbers."
            continue
        if box[2] < 0 or box[3] < 0:
            yield "negative", f"{this(place, it)} has {given(it, 'bbox')}: its width or height is negative."
            continue
        if it.get("area") is None:
            it["area"] = box[2] * box[3]
        if not is_number(it["area"]) or it["area"] < 0:
            yield "area", f"{this(place, it)} has {given(it, 'area')}: give square pixels, or leave it out."
        if it.get("iscrowd") not in (None, 0, 1):
            yield "iscrowd", f"{this(place, it)} has {given(it, 'iscrowd')}: give 0 or 1, or leave it out."
        it["iscrowd"] = int(it.get("iscrowd") == 1)


def unfit_join(file: AnnotationFile, listed: Rows) -> Mistakes:
    if 2 * len(listed) < len(file.annotations):
        images = ids_of(file.images)
        other = next(it for it in file.annotations if it["image_id"] not in images)
        few = f"{len(listed):,} of {len(file.annotations):,} annotations belong to one of the images"
        yield "join", f"{few}, which have ids like {one(images)}: {this(0, other)} does not."
    if listed and all(max(it["bbox"][0] + it["bbox"][2], it["bbox"][1] + it["bbox"][3]) <= 1 for it in listed):
        yield "shares", "every bbox lies within the first pixel: give [left, top, width, height] in pixels, no shares."


def whole(row: dict[str, Any], key: str) -> int | None:
    """The row's whole number, 2.0 becoming one; None where it is none."""
    value = row.get(key)
    if type(value) is float and value.is_integer():
        value = row[key] = int(value)
    return value if type(value) is int and abs(value) < LARGEST_ID else None


def is_size(value: Any) -> bool:
    return value is None or (is_number(value) and value >= 1 and value == int(value))


def is_number(value: Any) -> bool:
    return type(value) in NUMBERS and -FAR < value < FAR


def this(place: int, annotation: Mapping[str, Any]) -> str:
    return f"{named('annotations', place, annotation)} of image {worded(annotation.get('image_id'))}"


def named(key: str, place: int, row: Mapping[str, Any]) -> str:
    return f"{ONE_OF[key]} {worded(row['id'])}" if row.get("id") is not None else f"{key}[{place}]"


def given(row: Mapping[str, Any], key: str) -> str:
    return f"{key} {worded(row[key])}" if key in row else f"no {key}"


def worded(value: Any, most: int = 60) -> str:
    """As JSON has it, cut; what comes from elsewhere may be long and hold anything."""
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."


def one(ids: Mapping[int, Any]) -> str:
    return worded(next(iter(ids)))
