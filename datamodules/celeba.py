"""CelebA: 202,599 photographs of celebrities, aligned, with 40 attributes each (Liu et al. 2015)."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.decoded_images import ImageFiles
from datamodules.decoding import Pixels
from datamodules.image_files import say
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError, did_you_mean

SOURCE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
WHOLE = 202_599
SPLITS = ("train", "val", "test")
ATTRIBUTES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin",
    "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open",
    "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline",
    "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat",
    "Wearing_Lipstick", "Wearing_Necklace", "Wearing_Necktie", "Young",
)  # fmt: skip


class CelebADataModule(ImageDataModule):
    """The aligned images (178x218), cut at the centre and made smaller, in the official splits.

    ``<data_dir>/celeba`` holds ``img_align_celeba/*.jpg``, ``list_eval_partition.txt`` and, for an attribute,
    ``list_attr_celeba.txt``. It is fetched by hand: the official files lie on Google Drive, where a program is often
    turned away. A partial copy is used as far as it goes: images that are listed and there. Whole, the splits are
    162,770, 19,867 and 19,962.

    Args:
        data_dir: the folder of all data sets.
        cache_dir: where the decoded images are kept.
        size: height and width of the images.
        crop: side of the square that is cut out, in pixels. 108 is that of carpedm20/DCGAN-tensorflow, which most
            GANs on CelebA took over; the InfoGAN paper gives the size alone.
        attribute: one of the 40 attributes that becomes the label, 0 or 1; None: no labels.
    """

    name = "celeba"
    whole_test = 19_962

    def __init__(
        self,
        data_dir: str,
        cache_dir: str,
        size: int = 32,
        crop: int = 108,
        attribute: str | None = None,
        **splits: Any,
    ) -> None:
        super().__init__(**splits)
        if attribute is not None and attribute not in ATTRIBUTES:
            raise UserError(
                f"datamodule.attribute is {attribute}, which CelebA does not have; "
                f"{did_you_mean(attribute, ATTRIBUTES)}"
            )
        self.folder, self.cache_dir, self.attribute = Path(data_dir) / "celeba", Path(cache_dir), attribute
        self.pixels = Pixels(size, channels=3, crop=crop)
        self.image_shape, self.num_classes = self.pixels.shape, None if attribute is None else 2
        self.decoded: Tensor | None = None

    def prepare_data(self) -> None:
        if self.tables or self.decoded is not None:
            return
        members = self._members()
        self.decoded = self._image_files(members).load()
        if (here := sum(map(len, members.values()))) < WHOLE:
            say(f"celeba is partial: {here:,} of {self.listed:,} listed images are here, and the whole has {WHOLE:,}.")

    def load(self) -> dict[str, ImageTable]:
        members = self._members()
        if self.decoded is None:  # this process was not the one to prepare, or nobody was
            quiet = self.trainer is not None and self.trainer.local_rank > 0
            self.decoded = self._image_files(members).load(quiet)
        images, self.decoded = self.decoded, None
        labels = self._labels([name for split in SPLITS for name in members[split]])
        tables, start = {}, 0
        for split in SPLITS:
            end = start + len(members[split])
            tables[split] = ImageTable(images[start:end], None if labels is None else labels[start:end])
            start = end
        return tables

    def describe(self) -> dict[str, Any]:
        """Also how many images the list names, and how many of them are there."""
        return super().describe() | {"listed": self.listed, "present": self.present}

    def _image_files(self, members: dict[str, list[str]]) -> ImageFiles:
        names = [name for split in SPLITS for name in members[split]]
        return ImageFiles(self.name, self.folder / "img_align_celeba", names, self.pixels, self.cache_dir)

    def _members(self) -> dict[str, list[str]]:
        """For each split the names of its images that are there, in order."""
        folder = self.folder / "img_align_celeba"
        there = set(os.listdir(folder)) if folder.is_dir() else set()
        members: dict[str, list[str]] = {split: [] for split in SPLITS}
        rows = self._rows("list_eval_partition.txt")
        for name, split in rows.items():
            if split not in (["0"], ["1"], ["2"]):
                raise UserError(
                    f"{self.folder}/list_eval_partition.txt says {' '.join([name, *split])!r}, not an image's name and "
                    f"0, 1 or 2: fetch the file again from {SOURCE}."
                )
            if name in there:
                members[SPLITS[int(split[0])]].append(name)
        self.listed, self.present = len(rows), sum(map(len, members.values()))
        if not members["train"]:
            beside = f"it names {next(iter(rows), 'none')}, and the folder holds {min(there, default='nothing')}"
            raise UserError(
                f"{folder} has no training image that list_eval_partition.txt names ({beside}): {self._how_to_get_it()}"
            )
        return {split: sorted(names) for split, names in members.items()}

    def _labels(self, names: list[str]) -> Tensor | None:
        """The attribute of each image, 0 or 1."""
        if self.attribute is None:
            return None
        rows = self._rows("list_attr_celeba.txt", skipped=1)
        first = next(iter(rows), "")
        header = [first, *rows.pop(first, [])]
        if self.attribute not in header:
            raise UserError(
                f"{self.folder}/list_attr_celeba.txt does not name the 40 attributes in its second line: "
                f"fetch the file again from {SOURCE}."
            )
        column = header.index(self.attribute)
        values = {name: row[column] for name, row in rows.items() if len(row) == len(header)}
        if missing := [name for name in names if values.get(name) not in ("-1", "0", "1")]:
            raise UserError(
                f"{self.folder}/list_attr_celeba.txt does not say -1 or 1 of {len(header)} attributes of "
                f"{len(missing)} of the images, such as {missing[0]}: fetch the file again from {SOURCE}."
            )
        return torch.tensor([int(values[name] == "1") for name in names])

    def _rows(self, name: str, skipped: int = 0) -> dict[str, list[str]]:
        """The words of each line by the first of them; lines without any are none."""
        path = self.folder / name
        if not path.exists():
            raise UserError(f"{path} is missing: {self._how_to_get_it()}")
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()[skipped:]
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is no text in UTF-8 ({error}): fetch it again from {SOURCE}.") from None
        rows: dict[str, list[str]] = {}
        for first, *others in filter(None, map(str.split, lines)):
            if first in rows:
                raise UserError(f"{path} names {first} twice: fetch it again from {SOURCE}.")
            rows[first] = others
        return rows

    def _how_to_get_it(self) -> str:
        return (
            f"fetch CelebA by hand from {SOURCE} (Align&Cropped Images, Anno, Eval) and lay {self.folder} out as "
            "img_align_celeba/*.jpg, list_eval_partition.txt and list_attr_celeba.txt, or set DATA_DIR or "
            "paths.data_dir to a folder that holds celeba."
        )
