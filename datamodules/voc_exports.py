"""Exports in PASCAL VOC's layout: an XML file an image, its splits in ImageSets/Main or told by folders.

Read as its papers read it (Everingham et al. 2010): corners are counted from 1 and the last pixel is inside; an object
that is ``difficult`` is neither trained on nor counted.
"""

import math
import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from datamodules.coco_annotations import Rows, worded
from datamodules.exports import Asked, Export, Part, Tree, composed, numbered, sorted_by_split, stem
from datamodules.image_files import some
from foundation.errors import UserError

MAIN = "ImageSets/Main"
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find_voc(tree: Tree, asked: Asked) -> Export | None:
    files = [it for it in tree.ending_in(".xml") if b"<annotation" in (tree.root / it).read_bytes()]
    if not files:
        return None
    lines: list[str] = []
    if asked:
        chosen = {split: [it for value in values for it in files_at(tree, split, value, files)]
                  for split, values in asked.items()}  # fmt: skip
    else:
        chosen = in_image_sets(tree, files, lines) or sorted_by_split(tree.root, files, "xml files")
    read = {it: element_of(tree.root / it) for them in chosen.values() for it in them}
    objects = {it: objects_in(tree.root / it, root) for it, root in read.items()}
    named = {split: sorted({it["name"] for file in them for it in objects[file]}) for split, them in chosen.items()}
    first = named["train"]
    # The classes are those of training, in the order of their names as VOC's are; new ones are told by the base.
    new = sorted({name for names in named.values() for name in names}.difference(first))
    numbers = {name: number for number, name in enumerate([*first, *new], start=1)}
    parts = {split: part_of(tree, split, them, read, objects, numbers, named[split]) for split, them in chosen.items()}
    return Export("PASCAL VOC's layout", parts, lines)


# --- splits ----------------------------------------------------------------------------------------------------------


def image_sets(tree: Tree) -> dict[str, dict[str, str]]:
    """Of each folder that has them the files of its image sets by their names; those of single classes are left out."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for it in tree.ending_in(".txt"):
        around, _, name = it.rpartition("/")
        if around == MAIN or around.endswith(f"/{MAIN}"):
            found[around.removesuffix(MAIN).rstrip("/")][stem(name)] = it
    return dict(found)


def in_image_sets(tree: Tree, files: Sequence[str], lines: list[str]) -> dict[str, list[str]]:
    """The papers' choice: where a test is annotated it is the test, and trainval (else train) is trained on; of a year
    without one beside it trainval, and of such years alone train, with val for val."""
    found: dict[str, dict[str, list[str]]] = {}
    for year, sets in sorted(image_sets(tree).items()):
        there = {
            name: in_set(tree, sets[name], files, lines)
            for name in ("train", "val", "trainval", "test")
            if name in sets
        }
        found[year] = {name: them for name, them in there.items() if them}
    chosen: dict[str, list[str]] = defaultdict(list)
    tested = any("test" in it for it in found.values())
    used = []
    for year, sets in found.items():
        names = {"train": "trainval"} if tested and "trainval" in sets else {"train": "train", "val": "val"}
        for split, name in (names | {"test": "test"}).items():
            if name in sets:
                chosen[split] += sets[name]
                used.append(f"{name} of {year or '.'}")
    if used:
        lines.append(f"image sets {', '.join(used)}")
    if chosen and "train" not in chosen:
        raise UserError(f"{tree.root} has image sets and none of train or trainval: name it by datamodule.splits.")
    return dict(chosen)


def in_set(tree: Tree, path: str, files: Sequence[str], lines: list[str]) -> list[str]:
    """The annotations of the images that an image set lists, as far as they are there."""
    around = path.rpartition(MAIN)[0]
    known = {composed(stem(it)): it for it in files if it.startswith(around)}
    text = (tree.root / path).read_text(encoding="utf-8-sig", errors="replace")
    listed = [composed(line.split()[0]) for line in text.split("\n") if line.strip()]
    lost = [it for it in listed if it not in known]
    if lost:
        lines.append(
            f"{path} lists {len(listed):,} images, of which {len(lost):,} have no annotations here ({some(lost, 3)})"
        )
    return [known[it] for it in listed if it in known]


def files_at(tree: Tree, split: str, value: str, files: Sequence[str]) -> list[str]:
    """Annotations that ``datamodule.splits`` names: below a folder, in an image set by its name or file."""
    sets = [path for them in image_sets(tree).values() for name, path in them.items() if name == value]
    place = tree.asked(split, value) if not sets else ""
    if not sets and place not in tree.known.values():
        found = tree.inside(place, files)
    else:
        found = [it for path in sets or [place] for it in in_set(tree, path, files, [])]
    if not found:
        raise UserError(f"datamodule.splits.{split} names {value}, which has no annotations below {tree.root}.")
    return found


# --- annotations -----------------------------------------------------------------------------------------------------


def element_of(path: Path) -> Element:
    """The root of an XML file. Nothing in it is defined or fetched: a DOCTYPE or an ENTITY is refused."""

    def refused(*_: Any) -> None:
        raise UserError(f"{path} has a DOCTYPE or an ENTITY, which no annotation needs: remove it.")

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refused
    try:
        parser.Parse(path.read_bytes(), True)
    except UserError:
        raise
    except (OSError, expat.ExpatError, LookupError, ValueError) as error:  # the last two of encodings that it names
        raise UserError(f"{path} is no whole XML file ({error}): repair or remove it.") from None
    root = builder.close()
    if root.tag != "annotation":
        raise UserError(f"{path} begins with <{root.tag[:60]}>, and an annotation in VOC's layout with <annotation>.")
    return root


def objects_in(path: Path, root: Element) -> Rows:
    """Names, boxes and difficulties of an image's objects."""
    found = []
    for number, it in enumerate(root.findall("object"), start=1):
        where = f"{path}: object {number}"
        name = (it.findtext("name") or "").strip()
        if not name:
            raise UserError(f"{where} has no name: give it one.")
        corners = [as_number(it.findtext(f"bndbox/{key}")) for key in CORNERS]
        if not all(map(math.isfinite, corners)):
            told = {key: it.findtext(f"bndbox/{key}") for key in CORNERS}
            raise UserError(
                f"{where}, {worded(name)}, has the bndbox {worded(told)}: give {', '.join(CORNERS)} as numbers."
            )
        left, top, right, bottom = corners
        if right < left or bottom < top:
            raise UserError(
                f"{where}, {worded(name)}, has a bndbox whose xmax or ymax is below its xmin or ymin: mend it."
            )
        box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
        difficult = (it.findtext("difficult") or "").strip() or "0"
        if difficult not in ("0", "1"):
            raise UserError(f"{where}, {worded(name)}, has {worded(difficult)} as difficult: give 0 or 1.")
        found.append({"name": name, "bbox": box, "difficult": int(difficult)})
    return found


def as_number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan


def part_of(
    tree: Tree, split: str, files: Sequence[str], roots: Mapping[str, Element], objects: Mapping[str, Rows],
    numbers: Mapping[str, int], named: Sequence[str],
) -> Part:  # fmt: skip
    images: Rows = []
    annotations: Rows = []
    for number, file in numbered(files):
        name = (roots[file].findtext("filename") or "").strip() or f"{stem(file)}.jpg"
        images.append({"id": number, "file_name": name} | size_in(roots[file]))
        annotations += object_rows(number, objects[file], numbers, len(annotations) + 1)
    found = [image_of(tree, file, it["file_name"], split) for file, it in zip(files, images, strict=True)]
    if not any(found):
        name = worded(images[0]["file_name"])
        lost = f"{tree.root} holds none of the {len(files):,} images of {split}: move them below it"
        raise UserError(f"{tree.root / files[0]} is of {name}, and {lost}.")
    categories = [{"id": numbers[name], "name": name} for name in named]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return Part(tree.root / f"{posixpath.dirname(files[0])} ({split})", content, found)


def object_rows(image: int, objects: Rows, numbers: Mapping[str, int], first: int) -> Rows:
    """An image's objects as COCO's annotations, numbered from ``first``; what is difficult counts like a crowd."""
    return [
        {
            "id": number, "image_id": image, "category_id": numbers[it["name"]], "bbox": it["bbox"],
            "area": it["bbox"][2] * it["bbox"][3], "iscrowd": it["difficult"], "difficult": it["difficult"],
        }
        for number, it in enumerate(objects, start=first)
    ]  # fmt: skip


def image_of(tree: Tree, file: str, listed: str, split: str) -> str | None:
    """By the name of the annotations, as in VOC itself: a renamed file keeps what is written in it. Else by that."""
    beside = posixpath.dirname(file)
    return tree.image_called(stem(file), beside, split) or tree.image_of(listed, beside, split)


def size_in(root: Element) -> dict[str, int]:
    """Empty where it is not told: then the image file tells it."""
    numbers = [as_number(root.findtext(f"size/{key}")) for key in ("height", "width")]
    return dict(zip(("height", "width"), map(int, numbers), strict=True)) if min(numbers) >= 1 else {}
