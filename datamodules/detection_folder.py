"""Anybody's own annotated images: a folder as annotation tools export it, or an archive of one."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from datamodules.annotated_files import AnnotatedFiles, Parts, check_same_categories, no_garbage_collection, set_aside
from datamodules.archives import ENDINGS as ARCHIVES
from datamodules.archives import is_archive, unpacked
from datamodules.coco_annotations import Rows, checked, ids_of
from datamodules.coco_exports import find_coco
from datamodules.coco_images import Listed, listed
from datamodules.exports import Asked, Export, Part, Tree, check_asked
from datamodules.folder_layout import SPLITS
from datamodules.image_files import some
from datamodules.voc_exports import find_voc
from datamodules.yolo_exports import find_yolo
from foundation.errors import UserError, did_you_mean

LAYOUTS: dict[str, Callable[[Tree, Asked], Export | None]] = {"coco": find_coco, "yolo": find_yolo, "voc": find_voc}
SHARE = 10  # one in so many images is set aside where there is no part to measure on


class DetectionFolderDataModule(AnnotatedFiles):
    """Images with boxes in COCO's, YOLO's or PASCAL VOC's layout, which is found by itself.

    The splits are those that files and folders are named after. The test is the part called so; without one that called
    val, as nothing is chosen by it; without either a tenth of the images. Validation is the part called val where there
    is a test beside it, else a tenth of the training images. What is set aside is chosen by ``split_seed``, an image
    with objects among it. A line says what was found.

    A category that is numbered 0 and has no object is no class where there are others: exports have the name of all
    classes together there.

    Args:
        folder: the export; or an archive of it (tar, tar.gz, tar.xz, zip), which is unpacked once into ``cache_dir``.
        layout: ``coco``, ``yolo`` or ``voc``; None: whichever it is.
        splits: for ``train`` and, where there are such, ``val`` and ``test`` what they are read from, one path or
            several below the folder: annotation files of COCO's, folders of images or lists of them of YOLO's, folders
            of annotations or image sets, by their names or files, of VOC's. None: as their names tell.
        test_size, val_size: how many images are set aside; None: as above. A ``val_size`` where the export has a val
            beside its test chooses that many of it.
        annotated: see ``AnnotatedFiles``.
    """

    def __init__(
        self,
        folder: str,
        cache_dir: str,
        name: str = "detection_folder",
        layout: Literal["coco", "yolo", "voc"] | None = None,
        splits: Mapping[str, str | Sequence[str]] | None = None,
        test_size: int | None = None,
        val_size: int | None = None,
        **annotated: Any,
    ) -> None:
        super().__init__(name, cache_dir=cache_dir, val_size=val_size or 0, **annotated)
        if layout is not None and layout not in LAYOUTS:
            raise UserError(f"datamodule.layout is {layout}: {did_you_mean(layout, LAYOUTS)}")
        if test_size is not None and test_size < 1:
            raise UserError(f"datamodule.test_size is {test_size}: give a number of images, or null for a tenth.")
        self.source, self.unpacked_in, self.layout = Path(folder), Path(cache_dir), layout
        self.asked, self.test_size, self.asked_val_size = check_asked(splits), test_size, val_size
        self.without_nought, self.unused = False, []

    @property
    def val_size(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As it is asked, or as many as the export decides."""
        return self._val_size if self.asked_val_size is not None else self._chosen_sizes["val"]

    @val_size.setter
    def val_size(self, size: int) -> None:
        self._val_size, self.asked_val_size = size, size

    @cached_property
    def folder(self) -> Path:
        if self.source.is_dir():
            return self.source
        if not (self.source.is_file() and is_archive(self.source)):
            raise UserError(
                f"{self.source} is no folder and no archive: set datamodule.folder to a folder in COCO's, YOLO's or "
                f"PASCAL VOC's layout, or to a file that ends in {', '.join(ARCHIVES)}."
            )
        return unpacked(self.source, self.unpacked_in)

    # --- what is there -------------------------------------------------------------------------------------------

    def training_part(self) -> Listed:
        return self._listed["train"]

    def listed(self) -> dict[str, Listed]:
        return self._listed

    @cached_property
    def _tree(self) -> Tree:
        return Tree(self.folder)

    @cached_property
    def _export(self) -> Export:
        readers = LAYOUTS if self.layout is None else {self.layout: LAYOUTS[self.layout]}
        exports = {name: found for name, read in readers.items() if (found := read(self._tree, self.asked)) is not None}
        if not exports:
            wanted = self.layout or ", ".join(LAYOUTS)
            raise UserError(
                f"{self.folder} holds {len(self._tree.images):,} images and no annotations in the layout of {wanted}: "
                "looked for files of COCO's (.json with images, annotations and categories), for data.yaml or "
                "classes.txt with files of labels (.txt), and for VOC's .xml."
            )
        if len(exports) > 1:
            raise UserError(
                f"{self.folder} holds annotations in the layouts of {' and '.join(exports)}: set datamodule.layout to "
                "the one that is meant."
            )
        return next(iter(exports.values()))

    @cached_property
    def _listed(self) -> dict[str, Listed]:
        """All parts, read and held against COCO's format before the data is prepared, and kept until then."""
        with no_garbage_collection(), self.with_all_unreadable(lambda: self._tree.images):
            parts = self._export.parts
            self._drop_the_name_of_all(parts)
            first = self._held(parts["train"], None) if "train" in parts else None
            if first is None:
                raise UserError(
                    f"{self.folder} holds {' and '.join(parts)} alone: name what is trained on by "
                    "datamodule.splits={train: ...}."
                )
            found = {split: first if split == "train" else self._held(it, first) for split, it in parts.items()}
        used = {name for it in found.values() for name in it.names.values()}
        self.unused = [it for it in self._tree.images if it not in used]
        for split, it in found.items():
            if not it.images:
                raise UserError(f"{it.file.path} lists {len(it.file.images):,} images for {split}, and none is here.")
            self.counts |= {f"{split}_listed": len(it.file.images), f"{split}_present": len(it.images)}
        return found

    def _held(self, part: Part, first: Listed | None) -> Listed:
        file = checked(part.path, part.content, None if first is None else first.file.categories)
        if first is not None:
            check_same_categories(first.file, file)
        names = {number: it for number, it in zip(ids_of(file.images), part.files, strict=True) if it is not None}
        return listed(file, self.folder, names, [], self.masks)

    def _drop_the_name_of_all(self, parts: Mapping[str, Part]) -> None:
        """The unused category 0, of COCO's layout alone: other exports number their classes themselves."""
        contents = [it.content for it in parts.values()]
        used = any(is_nought(it, "category_id") for content in contents for it in content["annotations"])
        for content in contents if self._export.numbers_are_coco_s and not used else ():
            others = [it for it in content["categories"] if not is_nought(it, "id")]
            if others and len(others) < len(content["categories"]):
                content["categories"] = others
                self.without_nought = True

    @property
    def test_decided_by(self) -> tuple[str, ...]:
        return () if {"test", "val"} & self._listed.keys() else ("split_seed", "test_size")

    # --- what of it is what --------------------------------------------------------------------------------------

    @cached_property
    def _chosen(self) -> Parts:
        """What each split is chosen from, and its images."""
        found, seed = self._listed, self.split_seed
        train = found["train"]
        kept, sizes = train.images, {"test": self.test_size, "val": self.asked_val_size}
        parts: dict[str, tuple[Listed, Rows]] = {}
        if official := found.get("test", found.get("val")):
            if self.test_size is not None:
                raise UserError(f"{self.folder} has its own test images: leave datamodule.test_size=null.")
            parts["test"] = official, official.images
        else:
            kept, aside = self._aside(kept, "test", sizes["test"], seed)
            parts["test"] = train, aside
        if "test" in found and "val" in found:
            val, asked = found["val"], self.asked_val_size
            if asked is not None and asked > len(val.images):
                raise UserError(
                    f"datamodule.val_size={asked} cannot be chosen from the {len(val.images)} images of val: choose 0 "
                    f"(no validation) to {len(val.images)}, or null for all."
                )
            aside = val.images if asked is None else set_aside(val.images, asked, seed, "split")[1]
            parts["val"] = val, aside
        else:
            kept, aside = self._aside(kept, "val", sizes["val"], seed)
            parts["val"] = train, aside
        return {"train": (train, kept), **parts}

    def _aside(self, images: Rows, split: str, size: int | None, seed: int) -> tuple[Rows, Rows]:
        count = max(len(images) // SHARE, 1) if size is None else size
        if count >= len(images):
            raise UserError(
                f"datamodule.{split}_size: {self.folder} has {len(images)} images to train on and {count} of them for "
                f"{split} leave nothing: set a smaller number{', or 0 for none' if split == 'val' else ''}."
            )
        stream, shown = "split" if split == "val" else "test split", self._with_objects
        drawn = set_aside(images, count, seed, stream)[1]
        if drawn and not any(it["id"] in shown for it in drawn):  # nothing could be measured on these
            drawn = [*drawn[1:], *set_aside([it for it in images if it["id"] in shown], 1, seed, stream)[1]]
        aside = {it["id"] for it in drawn}
        return [it for it in images if it["id"] not in aside], [it for it in images if it["id"] in aside]

    @cached_property
    def _with_objects(self) -> set[int]:
        """Training images with an object that counts."""
        return {it["image_id"] for it in self._listed["train"].file.annotations if not it["iscrowd"]}

    @cached_property
    def _chosen_sizes(self) -> dict[str, int]:
        return {split: len(images) for split, (_, images) in self._chosen.items()}

    def parts(self) -> Parts:
        parts, found = self._chosen, self._listed
        self._chosen_sizes  # noqa: B018  # what is asked for later
        self._say(f"{self.name}: {self._told(parts)}.")
        for line in self._export.lines:
            self._say(f"{self.name}: {line}.")
        if self.unused:
            self._say(f"{self.name}: {len(self.unused):,} images are there and in no split: {some(self.unused)}.")
        for split, it in found.items():
            if lost := [row["file_name"] for row in it.file.images if row["id"] not in it.names]:
                self._say(f"{self.name}: of {split} {len(lost):,} images are listed and not there: {some(lost)}.")
            if it.file.unlisted:
                self._say(f"{self.name}: {it.file.unlisted:,} annotations of {it.file.path} are of images that it does "
                          "not list, and are left out.")  # fmt: skip
        self.test_name = "test" if "test" in found else "val" if "val" in found else "test"
        for it in ("_listed", "_chosen", "_export", "_tree", "_with_objects"):  # millions of rows
            self.__dict__.pop(it, None)
        return parts

    def _told(self, parts: Parts) -> str:
        """What was found and what is made of it."""
        found, sizes = self._listed, self._chosen_sizes
        objects = Counter(it["category_id"] for it in found["train"].file.annotations if not it["iscrowd"])
        classes = some([f"{it['name']} {objects[it['id']]:,}" for it in self.categories], 10)
        there = ", ".join(f"{split} {len(found[split].images):,} images" for split in SPLITS if split in found)
        test = "its own test" if "test" in found else "its val, by which nothing is chosen" if "val" in found else None
        val = "its own val" if "test" in found and "val" in found else None
        made = [f"trained on {sizes['train']:,}", f"tested on {sizes['test']:,} ({test or self._set_aside()})"]
        made += [f"validated on {sizes['val']:,} ({val or self._set_aside()})" if sizes["val"] else "no validation"]
        nought = "; category 0, of which nothing is, is no class" if self.without_nought else ""
        return (
            f"{self._export.layout}: {there}; {len(self.categories)} classes ({classes} in train){nought}; "
            f"{', '.join(made)}"
        )

    def _set_aside(self) -> str:
        return f"set aside from train by datamodule.split_seed={self.split_seed}"

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"class_names": self.class_names}


def is_nought(row: Mapping[str, Any], key: str) -> bool:
    return row.get(key) == 0 or row.get(key) == "0"
