"""Exports in COCO's format, whatever their files are called and wherever their images lie."""

import posixpath
from pathlib import Path
from typing import Any

from datamodules.coco_annotations import ONE_OF, parsed, worded
from datamodules.exports import Asked, Export, Part, Tree, sorted_by_split, split_of_file
from foundation.errors import UserError

FIRST = "instances"  # of COCO's own files those with boxes of all kinds; others are of persons' joints


def is_coco(path: Path) -> bool:
    """Whether a file speaks of images, annotations and categories; without reading it as JSON."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    if b"\0" in content[:4]:  # UTF-16 or UTF-32
        content = content.replace(b"\0", b"")
    return all(f'"{key}"'.encode() in content for key in ONE_OF)


def find_coco(tree: Tree, asked: Asked) -> Export | None:
    files = [it for it in tree.ending_in(".json") if is_coco(tree.root / it)]
    if not files:
        return None
    if asked:
        chosen = {split: [asked_file(tree, split, files, it) for it in values] for split, values in asked.items()}
    else:
        chosen = sorted_by_split(tree.root, files, "annotation files", split_of_file)
    lines, parts = [], {}
    for split, several in chosen.items():
        it, others = the_one(tree, split, several)
        if others:
            lines.append(f"{', '.join(others)} beside {it} left out")
        parts[split] = part_of(tree, split, it)
    return Export("COCO's layout", parts, lines, numbers_are_coco_s=True)


def the_one(tree: Tree, split: str, files: list[str]) -> tuple[str, list[str]]:
    """A split's file, and those that are left out beside it."""
    first = [it for it in files if posixpath.basename(it).startswith(FIRST)]
    if len(files) > 1 and len(first) != 1:
        raise UserError(
            f"{tree.root} holds several annotation files of {split}, {files[0]} and {files[1]}: name the one that is "
            f"meant by datamodule.splits={{train: {files[0]}, ...}}, or merge them."
        )
    it = first[0] if len(files) > 1 else files[0]
    return it, [other for other in files if other != it]


def asked_file(tree: Tree, split: str, files: list[str], value: str) -> str:
    found = tree.asked(split, value)
    if found in tree.known.values():
        return found
    inside = tree.inside(found, files)
    if len(inside) != 1:
        raise UserError(
            f"datamodule.splits.{split} names {value}, a folder with {len(inside)} files in COCO's format: name one."
        )
    return inside[0]


def part_of(tree: Tree, split: str, path: str) -> Part:
    content: dict[str, Any] = parsed(tree.root / path)
    beside, told = posixpath.dirname(path), split_of_file(path)
    names = [it.get("file_name") for it in content["images"]]
    files = [tree.image_of(it, beside, told and split) if is_name(it) else None for it in names]
    if any(map(is_name, names)) and not any(files):
        raise UserError(
            f"{tree.root / path} lists {worded(next(filter(is_name, names)))}, and {tree.root} holds none of its "
            f"{len(names):,} images at any depth: move them below it, or set datamodule.folder to a folder around both."
        )
    return Part(tree.root / path, content, files)


def is_name(value: Any) -> bool:
    return type(value) is str and value != "" and "\0" not in value
