"""SVHN's whole house numbers: 33,402, 202,353 and 13,068 photographs with a box for each digit (Netzer et al. 2011)."""

import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.decoded_images import ImageFiles
from datamodules.decoding import Pixels, as_stored, read
from datamodules.image_files import say
from datamodules.images import ImageDataModule, ImageTable
from foundation.errors import UserError
from foundation.randomness import keyed_generator
from foundation.whole_files import whole

SOURCE = "http://ufldl.stanford.edu/housenumbers"
GROWN = 1.3  # the box round all digits, in either direction, as Goodfellow et al. 2014 (arXiv:1312.6082) grow it
SPLITS = {"train": ("train", "extra"), "test": ("test",)}


@dataclass(frozen=True)
class NumberPixels(Pixels):
    """The box round a number's digits, grown about its centre and cut at the image's edge, resized to a square."""

    boxes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Left, top, right and bottom of all digits together, in pixels from 0, by the file's folder and name."""

    def decode(self, path: Path, remarks: list[str] | None = None) -> np.ndarray:
        """uint8 [3, size, size]."""
        image = read(path, bits=self.bits, turn=as_stored, remarks=remarks)
        box = grown(self.boxes[f"{path.parent.name}/{path.name}"], *image.size)
        pixels = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box=box)
        return np.asarray(pixels).transpose(2, 0, 1)


def grown(box: tuple[float, ...], width: int, height: int) -> tuple[float, float, float, float]:
    """Grown by ``GROWN``, as much of it as lies inside the image."""
    ends = []
    for low, high, size in ((box[0], box[2], width), (box[1], box[3], height)):
        centre, half = (low + high) / 2, GROWN * (high - low) / 2
        low, high = max(centre - half, 0.0), min(centre + half, float(size))
        if high - low < 1:
            raise ValueError("has its digits' boxes outside of it")
        ends.append((low, high))
    return ends[0][0], ends[1][0], ends[0][1], ends[1][1]


class SVHNNumbersDataModule(ImageDataModule):
    """Format 1 of the original as Goodfellow et al. and DRAW take it: the numbers made 64x64, of which 54x54 are seen.

    ``<data_dir>/SVHN`` holds the unpacked ``train``, ``extra`` and ``test``: each has images and ``digitStruct.mat``, a
    file of MATLAB 7.3, which h5py reads. In training a patch lies at random, another one in every epoch; in evaluation
    at the centre. Training is ``train`` and ``extra`` together, 235,755 numbers; there are no labels.

    Args:
        data_dir: the folder of all data sets.
        cache_dir: where the decoded images and the boxes are kept (3.1 GB).
        size: height and width that a number is resized to.
        patch: height and width of what is seen of it.
        extra: the 202,353 easier numbers join training.
    """

    name = "svhn_numbers"
    num_classes = None

    def __init__(
        self, data_dir: str, cache_dir: str, size: int = 64, patch: int = 54, extra: bool = True, **splits: Any
    ) -> None:
        super().__init__(**splits)
        self.pixels = Pixels(size, channels=3)
        if not 1 <= patch <= size:
            raise UserError(f"datamodule.patch is {patch}: give 1 to datamodule.size={size} pixels.")
        self.folder, self.cache_dir, self.extra = Path(data_dir) / "SVHN", Path(cache_dir), extra
        self.size, self.patch, self.image_shape = size, patch, (3, patch, patch)
        self.decoded: tuple[Tensor, int] | None = None
        self.corners: tuple[tuple[int, int], Tensor] | None = None  # an epoch, its size, and where patches lie in it

    def prepare_data(self) -> None:
        if not self.tables and self.decoded is None:
            self.decoded = self._decoded()

    def load(self) -> dict[str, ImageTable]:
        if self.decoded is None:  # this process was not the one to prepare, or nobody was
            self.decoded = self._decoded(quiet=self.trainer is not None and self.trainer.local_rank > 0)
        (images, trained), self.decoded = self.decoded, None
        return {"train": ImageTable(images[:trained]), "test": ImageTable(images[trained:])}

    def _decoded(self, quiet: bool = False) -> tuple[Tensor, int]:
        """All numbers, those of training first, and how many these are."""
        names: dict[str, list[str]] = {"train": [], "test": []}
        boxes: dict[str, tuple[float, ...]] = {}
        for split, folders in SPLITS.items():
            for folder in folders if self.extra else folders[:1]:
                found, of_numbers = self._boxes(folder, quiet)
                names[split] += [f"{folder}/{name}" for name in found]
                boxes |= zip(names[split][-len(found) :], map(tuple, of_numbers.tolist()), strict=True)
        pixels = NumberPixels(self.size, channels=3, boxes=boxes)
        files = ImageFiles(self.name, self.folder, names["train"] + names["test"], pixels, self.cache_dir)
        return files.load(quiet), len(names["train"])

    def _boxes(self, folder: str, quiet: bool) -> tuple[list[str], np.ndarray]:
        """What ``numbers_of`` finds, which takes minutes, from the cache where it is there."""
        path = self.folder / folder / "digitStruct.mat"
        if not path.exists():
            raise UserError(
                f"{path} is missing: fetch {SOURCE}/{folder}.tar.gz and unpack it in {self.folder}, or set DATA_DIR or "
                "paths.data_dir to the folder that holds SVHN."
            )
        stat = path.stat()
        kept = self.cache_dir / f"{self.name}-{folder}-{stat.st_size}-{stat.st_mtime_ns}.npz"
        try:
            with np.load(kept, allow_pickle=False) as file:
                return file["names"].tolist(), file["boxes"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or damaged
            say(f"{self.name}: reading the boxes of {path}, once.", quiet)
        names, boxes = numbers_of(path)
        # A cache that may not be written to has every start read them; the images' says so.
        with suppress(OSError, UserError), whole(kept) as unfinished, unfinished.open("wb") as file:
            np.savez(file, names=np.array(names), boxes=boxes)
        return names, boxes

    # --- what is seen ----------------------------------------------------------------------------------------------

    def scaled(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        training = self.trainer is not None and bool(self.trainer.training)
        corners = self._corners(batch["index"]) if training else None
        return super().scaled(batch | {"image": patches(batch["image"], self.patch, corners)})

    def some_images(self, count: int) -> Tensor:
        return patches(super().some_images(count), self.patch)

    def _corners(self, index: Tensor) -> Tensor:
        """Top and left of this epoch's patches of these training examples: a function of (seed, epoch, example)."""
        assert self.trainer is not None
        images = self.tables["train"].images
        epoch, size, spare = self.trainer.current_epoch, len(images), images.shape[2] - self.patch
        if self.corners is None or self.corners[0] != (epoch, size):
            generator = keyed_generator(self.seed, "patches", epoch)
            drawn = torch.randint(spare + 1, (size, 2), generator=generator)
            self.corners = (epoch, size), drawn.to(index.device)
        return self.corners[1][index]


def patches(images: Tensor, patch: int, corners: Tensor | None = None) -> Tensor:
    """[B, C, size, size] -> [B, C, patch, patch]. corners: top and left of each, [B, 2]; None: at the centre."""
    spare = images.shape[2] - patch
    if corners is None:
        first = spare // 2
        return images[:, :, first : first + patch, first : first + patch]
    along = torch.arange(patch, device=images.device)
    rows, columns = ((corners[:, [axis]] + along) for axis in (0, 1))
    examples = torch.arange(len(images), device=images.device)[:, None, None]
    return images[examples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def numbers_of(path: Path) -> tuple[list[str], np.ndarray]:
    """Of a ``digitStruct.mat`` the images' names, and the box round all digits of each, [N, 4]: left, top, right and
    bottom in pixels from 0."""
    try:
        import h5py  # an extra: nothing else needs it
    except ImportError:
        raise UserError(f"{path} is read by h5py, which is not installed: pip install '.[svhn]'.") from None
    names, boxes = [], []
    try:
        with h5py.File(path, "r") as opened:
            file: Any = opened
            struct = file["digitStruct"]
            for name, box in zip(struct["name"][:, 0], struct["bbox"][:, 0], strict=True):
                names.append("".join(map(chr, file[name][:, 0])))
                left, top, width, height = (values(file, file[box][key]) for key in ("left", "top", "width", "height"))
                # MATLAB counts pixels from 1.
                boxes.append((min(left) - 1, min(top) - 1, (left + width).max() - 1, (top + height).max() - 1))
    except (OSError, KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"{path} is no digitStruct.mat of SVHN ({error}): unpack {SOURCE}/{path.parent.name}.tar.gz again."
        ) from None
    return names, np.array(boxes, dtype=np.float64).reshape(-1, 4)


def values(file: Any, numbers: Any) -> np.ndarray:
    """Of all digits: MATLAB writes one of them as it is, and several as references."""
    found = numbers[:, 0]
    return found if len(found) == 1 else np.array([file[it][0, 0] for it in found])
