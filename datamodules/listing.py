"""The files below a folder: which are images, and what is left out of them."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from datamodules.decoding import ENDINGS
from datamodules.image_files import some
from foundation.errors import UserError

# What systems and programs put beside a person's files; besides it, all that begins with a dot.
SYSTEM = {"@eadir", "@recycle", "@tmp", "@__thumb", "#recycle", "#snapshot", "$recycle.bin", "recycler", "lost+found",
          "__macosx", "__pycache__", "system volume information", "thumbs", "thumbnails", "thumbs.db",
          "desktop.ini"}  # fmt: skip


def is_system(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def is_image(path: str) -> bool:
    return path.lower().endswith(ENDINGS) and not is_system(path.rpartition("/")[2])


@dataclass
class Listing:
    """What lies below a folder, in an order that no file system has a say in.

    Args:
        images: paths relative to the folder, with slashes.
        others: files that are no images, counted by their endings.
        system: names of folders that are no person's.
        empty: folders without an image at any depth; of nested ones the outermost.
        again: links to folders that are listed elsewhere.
    """

    images: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    system: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    again: list[str] = field(default_factory=list)

    def left_out(self) -> str:
        """What of it is no image, in words; empty where there is nothing."""
        files = [f"{count:,} {ending}" for ending, count in sorted(self.others.items())]
        kinds = {
            "files that are not read as images": files,
            "folders of the system": sorted(set(self.system)),
            "folders without images": self.empty,
            "links to folders that are there already": self.again,
        }
        return "; ".join(f"{kind} ({some(found, 10)})" for kind, found in kinds.items() if found)


def folders_below(root: Path, listing: Listing) -> Iterator[tuple[str, list[str]]]:
    """Each folder, ``""`` the first, with its files' names; links are followed, each folder is seen once.

    Notes in ``listing`` the system's folders, which are left out, and all others as if they were empty.
    """
    seen = set()
    for here, folders, files in os.walk(root, followlinks=True, onerror=not_listed):
        relative = os.path.relpath(here, root).replace(os.sep, "/").removeprefix(".")
        if (real := os.path.realpath(here)) in seen:
            listing.again.append(relative)
            folders.clear()
            continue
        seen.add(real)
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
    empty = set(listing.empty).difference(listing.again, *map(around, with_images))
    listing.empty = sorted(it for it in empty if it.rpartition("/")[0] not in empty)
    return listing


def ending_of(name: str) -> str:
    return os.path.splitext(name)[1].lower() or "without an ending"


def around(folder: str) -> list[str]:
    """A folder and all that it lies in."""
    parts = folder.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
