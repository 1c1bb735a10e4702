"""What annotation tools export: a folder of images and annotations, in parts that its names tell."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path

from datamodules.coco_annotations import Rows, worded
from datamodules.coco_images import composed
from datamodules.folder_layout import SPLITS, split_of
from datamodules.image_files import some
from datamodules.listing import Listing, folders_below, is_image, is_system, joined
from foundation.errors import UserError

Asked = Mapping[str, Sequence[str]]
"""``datamodule.splits``: for each part that is named the files or folders that it is read from."""


@dataclass
class Part:
    """What an export says of some of its images, in COCO's rows, nothing of which has been checked.

    Args:
        path: what a sentence about its rows names.
        files: of each row of ``images`` the file below the export's folder, None where it is not there.
    """

    path: Path
    content: dict[str, Rows]
    files: list[str | None]


@dataclass
class Export:
    """What was found below a folder.

    Args:
        layout: in words.
        numbers_are_coco_s: classes have the numbers that the export gives them, which COCO's tools count from 1.
        parts: by split; ``train`` alone where nothing tells splits apart.
        lines: what else a person should know.
    """

    layout: str
    parts: dict[str, Part]
    lines: list[str] = field(default_factory=list)
    numbers_are_coco_s: bool = False


class Tree:
    """All files below a folder, as paths relative to it, with slashes and in an order of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        below = [joined(folder, name) for folder, names in folders_below(root, Listing()) for name in names]
        self.files = sorted(it for it in below if not is_system(posixpath.basename(it)))
        self.images = [it for it in self.files if is_image(it)]

    @cached_property
    def known(self) -> dict[str, str]:
        """Files by their composed names."""
        return {composed(it): it for it in self.files}

    @cached_property
    def folders(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for it in self.files:
            while it := posixpath.dirname(it):
                found.setdefault(composed(it), it)
        return found

    @cached_property
    def by_last_part(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for it in self.images:
            found[composed(posixpath.basename(it))].append(it)
        return found

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for it in self.images:
            found[composed(stem(it))].append(it)
        return found

    def ending_in(self, *endings: str) -> list[str]:
        return [it for it in self.files if it.lower().endswith(endings)]

    def image_of(self, listed: str, beside: str, split: str | None) -> str | None:
        """The image that a listed name means: in the folder of what lists it, else from the top, else the one whose
        path ends most like the name and that lies in no other split. It leads nowhere else, whatever ``..`` it holds.

        Raises a UserError where two are as likely.
        """
        path = composed(listed).replace("\\", "/")
        for start in dict.fromkeys((beside, "")):
            found = self.known.get(posixpath.normpath(posixpath.join(start, path)))
            if found and is_image(found):
                return found
        return self.likeliest(path, self.by_last_part.get(posixpath.basename(path), []), beside, split, listed)

    def image_called(self, name: str, beside: str, split: str | None) -> str | None:
        """The same of a name without its ending, such as that of the annotations."""
        path = composed(name)
        return self.likeliest(path, self.by_stem.get(posixpath.basename(path), []), beside, split, name)

    def likeliest(self, path: str, found: Sequence[str], beside: str, split: str | None, listed: str) -> str | None:
        if split:
            found = [it for it in found if split_of_folders(it) in (None, split)]
        tests = (
            lambda it: -common_end(path, it),
            lambda it: posixpath.dirname(it) != beside,
            lambda it: split is None or split_of_folders(it) != split,
            lambda it: -common_start(beside, it),
        )
        for test in tests:
            if len(found) > 1:
                best = min(map(test, found))
                found = [it for it in found if test(it) == best]
        if len(found) > 1:
            raise UserError(
                f"{self.root}: {worded(listed)} of {self.root / beside} may be {found[0]} or {found[1]}: give the one "
                "that is meant in the annotations, or move the other away."
            )
        return found[0] if found else None

    def asked(self, split: str, value: str) -> str:
        """The file or folder that ``datamodule.splits`` names, ``""`` being all."""
        path = posixpath.normpath(composed(value).replace("\\", "/")).removesuffix("/.")
        if path == ".":
            return ""
        found = self.known.get(path) or self.folders.get(path)
        if found is None:
            raise UserError(f"datamodule.splits.{split} names {value}, which {self.root} has not below it.")
        return found

    def inside(self, folder: str, among: Iterable[str]) -> list[str]:
        return [it for it in among if not folder or it.startswith(f"{folder}/")]


def stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def common_end(one: str, other: str) -> int:
    """How many of the last parts of two paths are the same, endings of files aside."""
    return same_parts(without_ending(one).split("/")[::-1], without_ending(composed(other)).split("/")[::-1])


def common_start(one: str, other: str) -> int:
    return same_parts(one.split("/"), other.split("/"))


def same_parts(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of the first parts are the same."""
    return next((place for place, pair in enumerate(zip_longest(one, other)) if pair[0] != pair[1]), len(one))


def without_ending(path: str) -> str:
    return posixpath.splitext(path)[0]


# --- splits --------------------------------------------------------------------------------------------------


def split_of_folders(path: str) -> str | None:
    """What the folders of a path mean, the innermost first."""
    return next((it for it in map(split_of, reversed(path.split("/")[:-1])) if it), None)


def split_of_file(path: str) -> str | None:
    """What a file's own name means (``instances_train2017.json``, ``val.txt``), or else its folders."""
    words = re.split(r"[^A-Za-z0-9]+", posixpath.splitext(posixpath.basename(path))[0])
    found = {"train" if it.lower() == "trainval" else split_of(it) for it in words if it} - {None}
    return found.pop() if len(found) == 1 else split_of_folders(path)


def sorted_by_split(
    root: Path, paths: Sequence[str], what: str, told: Callable[[str], str | None] = split_of_folders
) -> dict[str, list[str]]:
    """Annotations or images by the split that is told by their paths; all are ``train`` where none tells one."""
    found: dict[str | None, list[str]] = defaultdict(list)
    for it in paths:
        found[told(it)].append(it)
    if found.keys() == {None}:
        return {"train": found[None]}
    if None in found:
        named = " and ".join(it for it in SPLITS if it in found)
        raise UserError(
            f"{root} holds {what} of {named} and, beside them, {some(found[None], 3)}: move that away, or name what is "
            "meant by datamodule.splits={train: ..., val: ..., test: ...}."
        )
    return {it: found[it] for it in SPLITS if it in found}


def check_asked(splits: Mapping[str, str | Sequence[str]] | None) -> Asked:
    """``datamodule.splits`` with lists throughout; empty where nothing is named."""
    if splits is None:
        return {}
    for key, value in splits.items():
        values = [value] if isinstance(value, str) else value
        if key not in SPLITS:
            raise UserError(f"datamodule.splits names {key}: its keys are {', '.join(SPLITS)}.")
        if not isinstance(values, list | tuple) or not values or not all(isinstance(it, str) and it for it in values):
            raise UserError(
                f"datamodule.splits.{key} is {value}: give a file or folder below datamodule.folder, or some."
            )
    if "train" not in splits:
        raise UserError("datamodule.splits has no train: name what is trained on, too.")
    return {it: as_list(splits[it]) for it in SPLITS if it in splits}


def as_list(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def numbered(names: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Ids of images in layouts that have none: 1, 2, ..."""
    yield from enumerate(names, start=1)
