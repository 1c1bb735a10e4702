"""Which files COCO's annotations are of: those that are listed and there."""

import posixpath
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.coco_annotations import AnnotationFile, Mistakes, Rows, ids_of, read_annotations, refuse, worded
from datamodules.coco_masks import unfit_masks
from datamodules.decoding import attempt, opened, read
from datamodules.listing import Listing, folders_below, is_image, joined
from datamodules.photographs import unreadable_photograph
from foundation.errors import UserError

LOOKED_AT = 1000  # images of a file whose sizes are looked at before training


@dataclass
class Listed:
    """The images of an annotation file that are there.

    Args:
        images: in the order of their ids; their sizes are known.
        names: of each image's file below ``folder``, by its id.
        unused: images there that are not listed.
    """

    file: AnnotationFile
    folder: Path
    images: Rows
    names: dict[int, str]
    unused: list[str]

    def missing(self) -> str:
        """A listed name that is not there beside one that is there and not listed, as far as there are such."""
        lost = [it["file_name"] for it in self.file.images if it["id"] not in self.names]
        listed = f"{self.file.path} lists {worded(lost[0])}, and " if lost else ""
        return f"{listed}{self.folder} holds {worded(self.unused[0]) if self.unused else 'no other image'}"

    def truth(self, images: Rows) -> dict[str, Any]:
        """The part of the file that is about these images."""
        ids = {it["id"] for it in images}
        annotations = [it for it in self.file.annotations if it["image_id"] in ids]
        return {"images": images, "annotations": annotations, "categories": self.file.categories}


def listed_in(path: Path, folder: Path, with_masks: bool, others: Rows | None = None) -> Listed:
    """What an annotation file lists of a folder. A UserError names every kind of mistake in it.

    Args:
        others: categories of another file, which this one need not list.
    """
    file = read_annotations(path, others)
    there = [joined(inner, name) for inner, names in folders_below(folder, Listing()) for name in names]
    found = dict(zip(ids_of(file.images), located(file.images, there, folder.name), strict=True))
    names = {number: name for number, name in found.items() if name is not None}
    unused = {name for name in there if is_image(name)}.difference(names.values())
    return listed(file, folder, names, sorted(unused), with_masks)


def listed(file: AnnotationFile, folder: Path, names: dict[int, str], unused: list[str], with_masks: bool) -> Listed:
    """What is held against the image files: ``names``, of those that are there, by the images' ids."""
    path = file.path
    refuse(path, shared_files(names))
    images = by_id([it for it in file.images if it["id"] in names])
    for it in images:
        if it.get("height") is None or it.get("width") is None:
            it["width"], it["height"] = size_of(folder / names[it["id"]])
    check_sizes(folder, images[:: 1 + len(images) // LOOKED_AT], names)
    if with_masks:
        sizes = sizes_of(images)
        refuse(path, unfit_masks([it for it in file.annotations if it["image_id"] in sizes], sizes))
    return Listed(file, folder, images, names, unused)


def located(images: Rows, there: Sequence[str], folder: str) -> Iterator[str | None]:
    """Of each image the file among those that are there: by its listed name, else by the last part of that.

    A listed name leads nowhere else, whatever ``..`` it holds: it may come from anybody.
    """
    known = {composed(name): name for name in there}
    exactly = set(there)
    for it in images:
        listed = it["file_name"]
        if listed in exactly:
            yield listed
            continue
        path = posixpath.normpath(posixpath.join(folder, composed(listed).replace("\\", "/")))
        yield known.get(path.removeprefix(f"{folder}/")) or known.get(posixpath.basename(path))


def composed(name: str) -> str:
    """With its letters written in one of the two ways, as file systems differ in that."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def shared_files(names: Mapping[int, str]) -> Mistakes:
    first: dict[str, int] = {}
    for number, name in names.items():
        if (other := first.setdefault(name, number)) != number:
            yield "shared", f"images {other} and {number} are both of the file {name}: give each a file of its own."


def size_of(path: Path) -> tuple[int, int]:
    """Width and height, turned as EXIF data say."""
    found = attempt(lambda it: read(it, bits=16).size, path)
    if isinstance(found, str):
        raise unreadable_photograph(path, found)
    return found


def check_sizes(folder: Path, images: Rows, names: Mapping[int, str]) -> None:
    """Whether the files are of the sizes that their annotations are for; of each file only its head is read."""
    for it in images:
        path, (height, width) = folder / names[it["id"]], sizes_of([it])[it["id"]]
        found = attempt(stored_size, path)
        if isinstance(found, str):
            raise unreadable_photograph(path, found)
        if (width, height) != found and (width, height) != size_of(path):
            raise of_another_size(path, found[::-1], it["id"], (height, width))


def stored_size(path: Path) -> tuple[int, int]:
    """Width and height."""
    with opened(path) as file:
        return file.size


def of_another_size(path: Path, found: Sequence[int], image: int, annotated: Sequence[int]) -> UserError:
    """Both: height and width."""
    return UserError(
        f"{path} has {found[0]} x {found[1]} pixels (height x width), and the annotations of image {image} are for "
        f"{annotated[0]} x {annotated[1]}: they belong to another file or size."
    )


def sizes_of(images: Rows) -> dict[int, tuple[int, int]]:
    """Heights and widths by id."""
    return {it["id"]: (int(it["height"]), int(it["width"])) for it in images}


def by_id(rows: Rows) -> Rows:
    """Categories in the order of the labels 1, 2, ..., and images in that of their split."""
    return sorted(rows, key=lambda it: it["id"])
