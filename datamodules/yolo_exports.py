"""Exports in YOLO's layout: a text file an image, a line an object, in shares of the image's sides."""

import math
import posixpath
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.coco_annotations import Rows, worded
from datamodules.coco_images import size_of, stored_size
from datamodules.decoding import ORIENTATION, attempt, opened
from datamodules.exports import Asked, Export, Part, Tree, composed, numbered, sorted_by_split, without_ending
from datamodules.folder_layout import SPLITS, split_of
from datamodules.image_files import some
from datamodules.photographs import unreadable_photograph
from foundation.errors import UserError
from foundation.yaml_files import read_yaml

LISTS_OF_CLASSES = ("classes.txt", "obj.names", "_darknet.labels")
SLACK = 0.01  # beyond the image; rounding does not lead further


@dataclass(frozen=True)
class Described:
    """What ``data.yaml`` or a list of classes says. splits: files and folders as they are written there."""

    file: str
    names: dict[int, str]
    splits: dict[str, list[str]]
    keypoints: bool = False


def find_yolo(tree: Tree, asked: Asked) -> Export | None:
    if not any(label_file(tree, it) for it in tree.images) or (described := description(tree)) is None:
        return None
    lines: list[str] = []
    if asked:
        chosen = {split: [it for value in values for it in images_at(tree, tree.asked(split, value), split)]
                  for split, values in asked.items()}  # fmt: skip
    else:
        chosen = images_described(tree, described, lines)
    if not chosen:
        chosen = sorted_by_split(tree.root, tree.images, "images")
    chosen = {split: sorted(dict.fromkeys(images)) for split, images in chosen.items()}
    if not any(label_file(tree, it) for it in chosen["train"]):
        first = chosen["train"][0]
        raise UserError(
            f"{tree.root}: none of the {len(chosen['train']):,} training images has a file of labels, as {first} would "
            f"in {' or '.join(label_files(first))}."
        )
    used = {label_file(tree, it) for images in chosen.values() for it in images}
    if lost := [it for it in tree.ending_in(".txt") if is_label_file(it) and it not in used]:
        lines.append(f"{len(lost):,} label files without an image in a split left out ({some(lost, 3)})")
    parts = {split: part_of(tree, described, images) for split, images in chosen.items()}
    return Export("YOLO's layout", parts, [f"classes by {described.file}", *lines])


# --- what the classes and splits are ---------------------------------------------------------------------------------


def description(tree: Tree) -> Described | None:
    files = [it for it in tree.ending_in(".yaml", ".yml") if b"names" in (tree.root / it).read_bytes()[: 2**20]]
    found = [it for it in (from_yaml(tree, it) for it in files) if it is not None]
    if len(found) > 1:
        found = [it for it in found if posixpath.basename(it.file).startswith("data")] or found
    if len(found) > 1:
        raise UserError(
            f"{tree.root} holds {found[0].file} and {found[1].file}, which both name classes: move one away."
        )
    if found:
        return found[0]
    lists = [it for it in tree.files if posixpath.basename(it) in LISTS_OF_CLASSES]
    contents = {it: (tree.root / it).read_text(encoding="utf-8-sig", errors="replace").split("\n") for it in lists}
    named = {it: [line.strip() for line in lines if line.strip()] for it, lines in contents.items()}
    if len({*map(tuple, named.values())}) > 1:
        raise UserError(f"{tree.root / lists[0]} and {tree.root / lists[1]} name other classes: move one away.")
    return Described(lists[0], dict(enumerate(named[lists[0]])), {}) if lists and named[lists[0]] else None


def from_yaml(tree: Tree, file: str) -> Described | None:
    content = read_yaml(tree.root / file)
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping) or not names:
        return None
    path = tree.root / file
    for number, name in names.items():
        if type(number) is not int or number < 0:
            raise UserError(f"{path}: names has the key {worded(number)}: number the classes 0, 1, 2, ...")
        if type(name) not in (str, int, float) or not str(name).strip():
            raise UserError(f"{path}: class {number} is called {worded(name)}: give it a text, in quotes.")
    count = content.get("nc")
    if count is not None and count != len(names):
        raise UserError(f"{path}: nc is {worded(count)}, and names has {len(names)}: let them agree.")
    around = content.get("path")
    splits = {}
    for split in SPLITS:
        value = content.get(split, content.get("valid") if split == "val" else None)
        values = value if isinstance(value, list) else [value]
        written = [it for it in values if isinstance(it, str) and it]
        if written:
            start = around if isinstance(around, str) else ""
            splits[split] = [posixpath.join(start.replace("\\", "/"), it.replace("\\", "/")) for it in written]
    keypoints = content.get("kpt_shape") is not None
    return Described(file, {number: str(name) for number, name in sorted(names.items())}, splits, keypoints)


def images_described(tree: Tree, described: Described, lines: list[str]) -> dict[str, list[str]]:
    """By split; a part that the file names and nobody exported is told and left out."""
    found: dict[str, list[str]] = {}
    for split, values in described.splits.items():
        places = [place_of(tree, it, posixpath.dirname(described.file)) for it in values]
        if split == "train" and None in places:
            raise UserError(
                f"{tree.root / described.file} has {values[places.index(None)]} for train, which {tree.root} has not "
                "below it: mend it, or name the folders by datamodule.splits={train: ..., val: ..., test: ...}."
            )
        images = [image for it in places if it is not None for image in images_at(tree, it, split)]
        if not images:
            lines.append(f"{described.file} names {split}, which is not here")
        elif split != "train" and set(images) == set(found.get("train", [])):
            lines.append(f"{described.file} names the same images for {split} as for train, which is no {split}")
        else:
            found[split] = images
    if found and "train" not in found:
        raise UserError(f"{tree.root / described.file} names no images to train on: name them by datamodule.splits.")
    return found


def place_of(tree: Tree, written: str, beside: str) -> str | None:
    """A file or folder of the tree: as it is written, beside the file that says so or from the top; else by the longest
    end of it that is there, as it was written on another machine."""
    known = {**tree.folders, **tree.known}
    parts = [it for it in posixpath.normpath(composed(written)).split("/") if it not in ("", ".", "..")]
    for start in dict.fromkeys((beside, "")):
        for depth in range(len(parts)):
            path = posixpath.join(start, *parts[depth:])
            cut = any(map(split_of, parts[:depth])) and not any(map(split_of, parts[depth:]))
            if path in known and not cut:
                return known[path]
    return "" if not parts else None


def images_at(tree: Tree, place: str, split: str) -> list[str]:
    """Those below a folder, or those that a file lists."""
    if place not in tree.known.values() or place in tree.images:
        return [place] if place in tree.images else tree.inside(place, tree.images)
    listed = [it.strip() for it in (tree.root / place).read_text(encoding="utf-8-sig").split("\n") if it.strip()]
    found = {it: tree.image_of(it, posixpath.dirname(place), None) for it in listed}
    if lost := [it for it, image in found.items() if image is None]:
        raise UserError(f"{tree.root / place} lists {worded(lost[0])} for {split}, which is not below {tree.root}.")
    return [it for it in found.values() if it is not None]


# --- labels ----------------------------------------------------------------------------------------------------------


def label_files(image: str) -> list[str]:
    """Where an image's labels may stand: in ``labels`` beside the last ``images`` of its path, or beside it."""
    parts = without_ending(image).split("/")
    places = [f"{without_ending(image)}.txt"]
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, "/".join([*parts[:last], "labels", *parts[last + 1 :]]) + ".txt")
    elif len(parts) == 1:
        places.append(f"labels/{parts[0]}.txt")
    return places


def label_file(tree: Tree, image: str) -> str | None:
    return next((tree.known[it] for it in map(composed, label_files(image)) if it in tree.known), None)


def is_label_file(path: str) -> bool:
    return "labels" in path.split("/")[:-1] and posixpath.basename(path) not in LISTS_OF_CLASSES


def part_of(tree: Tree, described: Described, images: Sequence[str]) -> Part:
    rows: Rows = []
    annotations: Rows = []
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda it: quick_size(tree.root / it), images))
    for (number, image), (width, height) in zip(numbered(images), sizes, strict=True):
        rows.append({"id": number, "file_name": image, "height": height, "width": width})
        if (file := label_file(tree, image)) is not None:
            for it in objects_in(tree.root / file, described, width, height):
                annotations.append({"id": len(annotations) + 1, "image_id": number, "iscrowd": 0, **it})
    categories = [{"id": number, "name": name} for number, name in described.names.items()]
    content = {"images": rows, "annotations": annotations, "categories": categories}
    return Part(tree.root / described.file, content, list(images))


def objects_in(path: Path, described: Described, width: int, height: int) -> Rows:
    """COCO's rows of a file of labels, without ids."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path} cannot be read as a text of labels: repair or remove it.") from None
    return [object_of(f"{path}, line {number}", line.split(), described, width, height)
            for number, line in enumerate(lines, start=1) if line.strip()]  # fmt: skip


def object_of(where: str, words: list[str], described: Described, width: int, height: int) -> dict[str, Any]:
    """where: file and line. words: a class's number, then centre and size of a box or the corners of an outline."""
    numbers = [as_number(it) for it in words]
    if not all(map(math.isfinite, numbers)):
        raise UserError(f"{where} is {worded(' '.join(words))}: give numbers alone.")
    category, shares = numbers[0], numbers[1:]
    if category not in described.names:
        known = ", ".join(map(str, list(described.names)[:5]))
        raise UserError(f"{where} is of class {words[0]}, and the classes of {described.file} are {known}"
                        f"{', ...' if len(described.names) > 5 else ''}.")  # fmt: skip
    if described.keypoints:
        shares = shares[:4]
    if len(shares) != 4 and (len(shares) < 6 or len(shares) % 2):
        raise UserError(
            f"{where} has {len(words)} numbers: give a class and centre x, centre y, width and height, or a class and "
            "x and y of three points or more."
        )
    if min(shares) < -SLACK or max(shares) > 1 + SLACK:
        shown = worded(" ".join(words))
        raise UserError(f"{where} is {shown}: give shares of the image's width and height, from 0 to 1.")
    if len(shares) == 4:
        x, y, across, down = shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height
        return {
            "category_id": int(category),
            "bbox": [x - across / 2, y - down / 2, across, down],
            "area": across * down,
        }
    xs, ys = [it * width for it in shares[::2]], [it * height for it in shares[1::2]]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    outline = [it for point in zip(xs, ys, strict=True) for it in point]
    return {"category_id": int(category), "bbox": box, "area": area_of(xs, ys), "segmentation": [outline]}


def as_number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def area_of(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of a polygon."""
    following = zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True)
    return abs(sum(x * below - right * y for x, y, right, below in following)) / 2


def quick_size(path: Path) -> tuple[int, int]:
    """Width and height of an image, turned as its EXIF data say; of most files only the head is read."""
    found = attempt(lambda it: stored_size(it) if has_no_turn(it) else size_of(it), path)
    if isinstance(found, str):
        raise unreadable_photograph(path, found)
    return found


def has_no_turn(path: Path) -> bool:
    """Whether its head says that a file is seen as it is stored; other formats may say otherwise further behind."""
    with opened(path) as file:
        return file.format in ("JPEG", "MPO", "BMP", "PPM", "GIF") and file.getexif().get(ORIENTATION, 1) == 1
