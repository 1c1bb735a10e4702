"""PASCAL VOC 2007 and 2012: photographs with 20 kinds of objects (Everingham et al. 2010, 2015)."""

import os
import posixpath
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torchvision.datasets.voc import DATASET_YEAR_DICT

from datamodules.annotated_files import AnnotatedFiles, Parts, no_garbage_collection, set_aside
from datamodules.archives import place_of, unpacked
from datamodules.coco_annotations import Rows, checked, worded
from datamodules.coco_files import CocoTable
from datamodules.coco_images import Listed, listed
from datamodules.downloads import Published
from datamodules.image_files import some
from datamodules.voc_exports import MAIN, element_of, object_rows, objects_in, size_in
from foundation.errors import UserError, did_you_mean

SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC"
DEVKIT = "VOCdevkit"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
NUMBERS = {name: number for number, name in enumerate(CLASSES, start=1)}
WHOLE = {
    "2007_train": 2_501, "2007_val": 2_510, "2007_trainval": 5_011, "2007_test": 4_952,
    "2012_train": 5_717, "2012_val": 5_823, "2012_trainval": 11_540,
}  # fmt: skip
ASKED = re.compile(r"(20\d\d)_(train|val|trainval|test)")
IMAGE_NAME = re.compile(r"\w[\w.-]*")


def published(year: str) -> Published:
    """An archive of the challenge's by what torchvision calls it; they lie beside the folder that they unpack to."""
    file = DATASET_YEAR_DICT[year]
    place = f"{SOURCE}/voc{year[:4]}/{file['filename']}"
    return Published(file["filename"], file["md5"], "", (file["url"], place))


ARCHIVES = {"2007": published("2007"), "2007_test": published("2007-test"), "2012": published("2012")}


class VocDataModule(AnnotatedFiles):
    """``VOCdevkit/VOC<year>/`` with ``Annotations/``, ``ImageSets/Main/`` and ``JPEGImages/``, as it is published.

    An image set is asked for as ``<year>_<set>``, such as 2007_trainval. It is looked for in ``<data_dir>/VOCdevkit``,
    then in the challenge's archive in ``data_dir``, which is downloaded where neither is there (0.9 GB for 2007, 2.0 GB
    for 2012) and unpacked once. The test of 2012 has no public annotations. An image set is there whole or refused.

    Corners are counted from 1 with the last pixel inside, so that a box begins at xmin - 1 and ends at xmax. What is
    ``difficult`` counts in no evaluation, and is not trained on unless ``train_on_difficult`` asks for it; the released
    code of Fast and Faster R-CNN leaves it out.

    Args:
        data_dir: the folder of all data sets.
        cache_dir: where archives are unpacked.
        folder: another ``VOCdevkit``; then nothing is downloaded.
        train, test: image sets.
        annotated: see ``AnnotatedFiles``; ``val_size`` images are set aside from those of ``train``.
    """

    test_name = "2007_test"

    def __init__(
        self,
        data_dir: str,
        cache_dir: str,
        folder: str | None = None,
        name: str = "voc",
        train: Sequence[str] = ("2007_trainval",),
        test: Sequence[str] = ("2007_test",),
        train_on_difficult: bool = False,
        masks: bool = False,
        **annotated: Any,
    ) -> None:
        if masks:
            raise UserError("datamodule.masks is true, and VOC's boxes have no masks here: set it to false.")
        super().__init__(name, cache_dir=cache_dir, **annotated)
        self.sets = {"train": as_sets("train", train), "test": as_sets("test", test)}
        self.data_dir, self.unpacked_in = Path(data_dir), Path(cache_dir)
        self.devkit, self.is_given = Path(folder) if folder else self.data_dir / DEVKIT, folder is not None
        self.train_on_difficult = train_on_difficult
        self.test_name = "+".join(self.sets["test"])
        self.whole_test = whole_of(self.sets["test"])

    @cached_property
    def categories(self) -> Rows:
        return [{"id": number, "name": name} for name, number in NUMBERS.items()]

    def training_part(self) -> Listed:
        return self._listed["train"]

    def listed(self) -> dict[str, Listed]:
        return self._listed

    # --- where the files are -------------------------------------------------------------------------------------

    @cached_property
    def folder(self) -> Path:
        """What all image sets lie below: ``VOCdevkit``, or the cache of archives."""
        roots = [self.root_of(it) for sets in self.sets.values() for it in sets]
        return Path(os.path.commonpath([os.path.abspath(it.parent) for it in roots]))

    def prepare_data(self) -> None:
        for it in {it: None for sets in self.sets.values() for it in sets}:
            if not self.tables and not is_set(self._in_folder(it), it) and (archive := self._archive(it)):
                archive.fetch(self.data_dir)
                self._unpacked(archive)
        super().prepare_data()

    def _in_folder(self, asked: str) -> Path:
        return self.devkit / f"VOC{asked[:4]}"

    def _archive(self, asked: str) -> Published | None:
        year, of_year = asked.split("_")
        found = ARCHIVES.get(asked if of_year == "test" else year)
        return None if self.is_given else found

    def _unpacked(self, archive: Published) -> Path:
        path = archive.path_in(self.data_dir)
        if not path.exists() or not place_of(path, self.unpacked_in).is_dir():
            path = archive.checked(self.data_dir)
        return unpacked(path, self.unpacked_in)

    def root_of(self, asked: str) -> Path:
        """The folder of the year that has an image set; a UserError where none has."""
        root = self._in_folder(asked)
        if is_set(root, asked):
            return root
        if archive := self._archive(asked):
            return self._unpacked(archive) / DEVKIT / root.name
        year, of_year = asked.split("_")
        listing = root / MAIN / f"{of_year}.txt"
        if of_year == "test" and year != "2007":
            raise UserError(
                f"{listing} is missing, and the annotations of that test are not public: measure on "
                f"datamodule.test=[{year}_val] or [2007_test]."
            )
        raise UserError(f"{listing} is missing: {self._how_to_get_it()}")

    def _how_to_get_it(self) -> str:
        return (
            f"lay {self.devkit} out as VOC2007/ and VOC2012/, each with Annotations/, {MAIN}/ and JPEGImages/, as the "
            f"archives of {SOURCE} unpack, or set datamodule.folder to a {DEVKIT} that is."
        )

    # --- what is in them -----------------------------------------------------------------------------------------

    def parts(self) -> Parts:
        train, test = self._listed["train"], self._listed["test"]
        if self.val_size >= len(train.images):
            raise UserError(
                f"datamodule.val_size={self.val_size} leaves nothing to train on: {self.name} has {len(train.images)} "
                "training images here. Choose 0 (no validation) or a smaller number."
            )
        for split, found in (("train", train), ("test", test)):
            whole, here = whole_of(self.sets[split]), len(found.images)
            if self.name == "voc" and whole is not None and here != whole:
                told = f"{' and '.join(self.sets[split])} of {split} list {here:,} images"
                self._say(f"{self.name} is partial: {told}, and the whole has {whole:,}.")
        kept, aside = set_aside(train.images, self.val_size, self.split_seed, "split")
        trained = with_difficult(train) if self.train_on_difficult else train
        del self._listed
        return {"train": (trained, kept), "val": (train, aside), "test": (test, test.images)}

    @cached_property
    def _listed(self) -> dict[str, Listed]:
        """All that is asked for, read and held against VOC's format once there are files, and kept until it is cut."""
        with no_garbage_collection():
            return {split: self._read(split) for split in self.sets}

    def _read(self, split: str) -> Listed:
        """The image sets of a split one after the other, held against VOC's format and the image files."""
        roots = {it: self.root_of(it) for it in self.sets[split]}
        images: Rows = []
        annotations: Rows = []
        names: dict[int, str] = {}
        for asked, root in roots.items():
            below = Path(os.path.abspath(root)).relative_to(self.folder).as_posix()
            for name in names_in(root, asked, self._how_to_get_it()):
                number, path = len(images) + 1, root / "Annotations" / f"{name}.xml"
                element = element_of(path)
                objects = objects_in(path, element)
                refuse_unknown(path, objects)
                images.append({"id": number, "file_name": f"{root.name}/JPEGImages/{name}.jpg"} | size_in(element))
                names[number] = posixpath.join(below, "JPEGImages", f"{name}.jpg")
                annotations += object_rows(number, objects, NUMBERS, len(annotations) + 1)
        first = next(iter(roots))
        content = {"images": images, "annotations": annotations, "categories": self.categories}
        file = checked(listing_of(roots[first], first), content)
        with self.with_all_unreadable(lambda: list(names.values())):
            return listed(file, self.folder, names, [], False)

    def names_to_tell(self, table: CocoTable) -> bytes:
        """VOC2007/JPEGImages/000001.jpg, in a folder as in the archives."""
        return b"\n".join(b"/".join(bytes(it).split(b"/")[-3:]) for it in table.names)

    def describe(self) -> dict[str, Any]:
        return super().describe() | {f"{split}_sets": list(them) for split, them in self.sets.items()}


def as_sets(key: str, asked: Sequence[str] | str) -> tuple[str, ...]:
    """A UserError where one is no image set of VOC's, or none is asked for."""
    sets = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked] if asked else []
    wrong = next((it for it in sets if not isinstance(it, str) or not ASKED.fullmatch(it)), None)
    if not sets or wrong is not None:
        hint = f"; {did_you_mean(str(wrong), WHOLE)}" if sets else "."
        raise UserError(
            f"datamodule.{key} is {worded(asked if not sets else wrong)}: give image sets as [2007_trainval,"
            f"2012_trainval]{hint}"
        )
    if again := next((it for place, it in enumerate(sets) if it in sets[:place]), None):
        raise UserError(f"datamodule.{key} names {again} twice: name it once.")
    return tuple(sets)


def whole_of(sets: Sequence[str]) -> int | None:
    """How many images they have where they are whole; None where that is not known here."""
    sizes = [WHOLE.get(it) for it in sets]
    return None if None in sizes else sum(it or 0 for it in sizes)


def listing_of(root: Path, asked: str) -> Path:
    return root / MAIN / f"{asked.split('_')[1]}.txt"


def is_set(root: Path, asked: str) -> bool:
    return listing_of(root, asked).is_file()


def names_in(root: Path, asked: str, cure: str) -> list[str]:
    """The images that an image set lists, all of which are there, with annotations."""
    path = listing_of(root, asked)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): {cure}") from None
    names = [line.split()[0] for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path} lists no image: {cure}")
    if wrong := next((it for it in names if not IMAGE_NAME.fullmatch(it)), None):
        raise UserError(f"{path} lists {worded(wrong)}, which is no image's name: {cure}")
    for folder, ending in (("Annotations", ".xml"), ("JPEGImages", ".jpg")):
        there = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        if lost := [it for it in names if f"{it}{ending}" not in there]:
            is_later_test = asked.endswith("_test") and not asked.startswith("2007") and folder == "Annotations"
            public = " (those of this test are not public)" if is_later_test else ""
            raise UserError(
                f"{root / folder} has not {len(lost):,} of the {len(names):,} files that {path} lists, such as "
                f"{some([f'{it}{ending}' for it in lost], 3)}{public}: {cure}"
            )
    return names


def refuse_unknown(path: Path, objects: Rows) -> None:
    for number, it in enumerate(objects, start=1):
        if it["name"] not in NUMBERS:
            raise UserError(
                f"{path}: object {number} is {worded(it['name'])}, none of VOC's {len(CLASSES)} classes; "
                f"{did_you_mean(it['name'], CLASSES)} Classes of your own: datamodule=detection_folder."
            )


def with_difficult(found: Listed) -> Listed:
    """What is difficult is like any other object."""
    annotations = [it | {"iscrowd": 0, "difficult": 0} for it in found.file.annotations]
    return replace(found, file=replace(found.file, annotations=annotations))
