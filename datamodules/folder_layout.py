"""What the folders and files of somebody's images mean: splits, classes, and what is left out."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.decoding import ENDINGS
from datamodules.image_files import some
from foundation.errors import UserError

SPLITS = ("train", "val", "test")
NAMES_OF_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
# What systems and programs put beside a person's files; besides it, all that begins with a dot.
SYSTEM = {"@eadir", "@recycle", "@tmp", "@__thumb", "#recycle", "#snapshot", "$recycle.bin", "recycler", "lost+found",
          "__macosx", "__pycache__", "system volume information", "thumbs", "thumbnails", "thumbs.db",
          "desktop.ini"}  # fmt: skip


def split_of(folder: str) -> str | None:
    """The split that a folder's name means (``Train``, ``test_images``, ``validation-set``, ``val2017``), if any."""
    name = re.sub(r"[\W_]", "", folder.lower())
    name = re.sub(r"((19|20)\d\d)?$", "", name)
    name = re.sub(r"(?<=.)(set|data|dataset|split|folder|files|images?|imgs?)$", "", name)
    return next((split for split, names in NAMES_OF_SPLITS.items() if name in names), None)


def is_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


@dataclass
class Listing:
    """What lies below a folder, in an order that no file system has a say in.

    Args:
        images: paths relative to the folder, with slashes.
        others: files that are no images, counted by their endings.
        system: names of folders that are no person's.
        empty: folders without an image at any depth; of nested ones the outermost.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    system: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def left_out(self) -> str:
        """What of it is no image, in words; empty where there is nothing."""
        files = [f"{count:,} {ending}" for ending, count in sorted(self.others.items())]
        kinds = {
            "files that are not read as images": files,
            "folders of the system": sorted(set(self.system)),
            "folders without images": self.empty,
        }
        return "; ".join(f"{kind} ({some(found, 10)})" for kind, found in kinds.items() if found)


def folders_below(root: Path, listing: Listing) -> Iterator[tuple[str, list[str]]]:
    """Each folder, ``""`` the first, with its files' names; links are followed, each folder is seen once.

    Notes in ``listing`` the system's folders, which are left out, and all others as if they were empty.
    """
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True, onerror=not_listed):
        if (real := os.path.realpath(here)) in seen:
            folders.clear()
            continue
        seen.add(real)
        relative = os.path.relpath(here, root).replace(os.sep, "/").removeprefix(".")
        listing.system += [name for name in folders if is_system(name)]
        folders[:] = sorted(name for name in folders if not is_system(name))
        listing.empty += [joined(relative, name) for name in folders]
        yield relative, files


def joined(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def not_listed(error: OSError) -> None:
    raise UserError(f"{error.filename} cannot be listed ({error.strerror}): give a folder that you may read.")


def listing_of(root: Path) -> Listing:
    listing, with_images = Listing(), set()
    for folder, files in folders_below(root, listing):
        for name in files:
            if not name.lower().endswith(ENDINGS):
                listing.others[ending_of(name)] += not is_system(name)
            elif is_system(name):
                listing.others["hidden"] += 1
            else:
                listing.images.append(joined(folder, name))
                with_images.add(folder)
    listing.images.sort()
    listing.others = +listing.others
    empty = set(listing.empty).difference(*map(around, with_images))
    listing.empty = sorted(it for it in empty if it.rpartition("/")[0] not in empty)
    return listing


def ending_of(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an ending"


def around(folder: str) -> list[str]:
    """A folder and all that it lies in."""
    parts = folder.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def images_below(root: Path) -> list[str]:
    """Paths of image files relative to ``root``, with slashes, sorted."""
    return listing_of(root).images


def folders_of_splits(root: Path, paths: Sequence[str]) -> dict[str, str]:
    """Of images that are sorted into splits at the top, the name of each split's folder; else empty.

    A UserError where names of splits leave open what is meant: nobody's split becomes a class.
    """
    refuse_splits_inside(root, paths)
    tops = {path.partition("/")[0] for path in paths if "/" in path}
    named = {top: split for top in sorted(tops) if (split := split_of(top))}
    beside = sorted(tops - named.keys()) + ["images of its own"] * any("/" not in path for path in paths)
    if not named:
        return {}
    words = " and ".join(sorted(named, key=lambda top: SPLITS.index(named[top])))
    folders = {split: top for top, split in named.items()}
    if len(folders) < len(named):
        raise UserError(f"{root} holds {words}, of which two mean the same split: rename or merge them.")
    if len(folders) > 1 and beside:
        raise UserError(f"{root} holds {words}, and beside them {some(beside)}: move that away.")
    if {"train", "test"} <= folders.keys():
        return folders
    if not beside:
        raise UserError(
            f"{root} holds {words} alone: splits are train, test and, where there is one, val. Rename what is to be "
            "the test, or, for a split made here, set datamodule.folder to a folder of all images or classes."
        )
    refuse_a_split_beside_classes(root, paths, next(iter(named)), beside)
    return {}


def refuse_a_split_beside_classes(root: Path, paths: Sequence[str], top: str, beside: Sequence[str]) -> None:
    """With classes beside it, ``train`` is a class; but not where it holds folders of classes itself."""
    inner = {path.split("/")[1] for path in paths if path.startswith(f"{top}/") and path.count("/") > 1}
    if len(inner) > 1:
        raise UserError(
            f"{root} holds {top}, which is sorted into {some(sorted(inner))} as a split is, and beside it "
            f"{some(beside)}: set datamodule.folder to a folder of classes, or to one of train and test."
        )


def refuse_splits_inside(root: Path, paths: Sequence[str]) -> None:
    """A folder whose own folders are splits is no class, and its splits are not to be mixed."""
    inside: dict[str, dict[str, str]] = {}
    with_images = {path.rpartition("/")[0] for path in paths}
    for folder in set().union(*map(around, with_images)):
        outer, _, name = folder.rpartition("/")
        if outer and (split := split_of(name)):
            inside.setdefault(outer, {})[split] = name
    several = {folder: splits for folder, splits in sorted(inside.items()) if len(splits) > 1}
    if several:
        folder, splits = next(iter(several.items()))
        raise UserError(
            f"{root / folder} holds {' and '.join(sorted(splits.values()))}, which are splits: set datamodule.folder "
            "to a folder with the splits at its top and the classes in them."
        )


def class_of(path: str) -> str | None:
    """The first folder of a path, whatever follows; its letters composed, as file systems differ in that."""
    return unicodedata.normalize("NFC", path.partition("/")[0]) if "/" in path else None


def counts_in_words(classes: Iterable[str | None], names: Sequence[str]) -> str:
    """How many there are of each class: ``cat 12, dog 0``."""
    counts = Counter(classes)
    return some([f"{name} {counts[name]:,}" for name in names], 10)


class Layout:
    """What the folders below ``root`` mean.

    Args:
        root, listing: a folder and what lies below it, images among them.

    Attributes:
        splits: of images that come sorted into splits, the positions of each split's; else empty.
        classes: each image's class; None throughout where there are none.
    """

    def __init__(self, root: Path, listing: Listing) -> None:
        self.root, self.listing, paths = root, listing, listing.images
        folders = folders_of_splits(root, paths)
        tops = [path.partition("/")[0] for path in paths]
        self.splits = {
            split: [position for position, top in enumerate(tops) if top == folders[split]]
            for split in SPLITS
            if split in folders
        }
        self.folders = [class_of(path.partition("/")[2] if folders else path) for path in paths]
        if None in self.folders and any(self.folders):
            raise UserError(
                f"{root} holds images both in folders of classes and outside of them, such as "
                f"{paths[self.folders.index(None)]}: give each image a class, or none."
            )
        known = {self.folders[position] for position in self.splits.get("train", range(len(paths)))}
        if new := sorted({it for it in self.folders if it and it not in known}):
            raise UserError(f"{root}: val or test holds classes that train does not: {', '.join(new)}.")
        self.classes = self.folders if len(known) > 1 else [None] * len(paths)

    @property
    def class_names(self) -> list[str]:
        return sorted({it for it in self.classes if it})

    @property
    def lack_of_labels(self) -> str | None:
        """Why there are no labels."""
        if self.class_names:
            return None
        folder = self.folders[0]
        return "none of the images lies in a folder" if folder is None else f"all images lie in one folder, {folder}"

    def lines(self) -> list[str]:
        """What was made of the layout and what was left out, for a person to check."""
        parts = self.splits or {"": range(len(self.classes))}
        counts = [self._counts(positions, split) for split, positions in parts.items()]
        many = f"{len(self.class_names):,} classes" if self.class_names else f"no labels, since {self.lack_of_labels}"
        left_out = self.listing.left_out()
        return [f"{many}; {'; '.join(counts)}.", *([f"left out: {left_out}."] if left_out else [])]

    def _counts(self, positions: Sequence[int], split: str) -> str:
        each = counts_in_words((self.classes[position] for position in positions), self.class_names)
        return f"{split} {len(positions):,} images".lstrip() + (f" ({each})" if each else "")
