"""What the folders of somebody's images mean: splits and classes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from datamodules.image_files import some
from datamodules.listing import Listing, around
from foundation.errors import UserError

SPLITS = ("train", "val", "test")
NAMES_OF_SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}


def split_of(folder: str) -> str | None:
    """The split that a folder's name means (``Train``, ``test_images``, ``validation-set``, ``val2017``), if any."""
    name = re.sub(r"[\W_]", "", folder.lower())
    name = re.sub(r"((19|20)\d\d)?$", "", name)
    name = re.sub(r"(?<=.)(set|data|dataset|split|folder|files|images?|imgs?)$", "", name)
    return next((split for split, names in NAMES_OF_SPLITS.items() if name in names), None)


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
        where = "none of the images lies in a folder" if folder is None else f"all images lie in one folder, {folder}"
        return where + (f" (folders without images: {some(self.listing.empty)})" if self.listing.empty else "")

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
