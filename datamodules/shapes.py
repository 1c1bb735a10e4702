"""Scenes for detectors that need no file: handwritten digits on textured ground."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as rle

from datamodules.detection import DetectionDataModule, Example, ObjectTable
from datamodules.digit_scenes import Scenes, objects
from datamodules.digits import DigitsDataModule
from foundation.errors import UserError

VAL_DIGITS = 180  # of the 1,437 that are not the test's


class SceneTable(ObjectTable):
    """Scenes that are made when they are wanted; the first one's id is 1."""

    def __init__(self, scenes: Scenes, count: int, masks: bool) -> None:
        super().__init__(torch.arange(count) + 1, np.full((count, 2), scenes.size))
        self.scenes, self.masks = scenes, masks

    def example(self, position: int) -> Example:
        scene = self.scenes.make(position)
        numbers, boxes, masks = objects(scene)
        labels = torch.from_numpy(scene.digits[numbers]) + 1
        asked = torch.from_numpy(masks) if self.masks else None
        return Example(torch.from_numpy(scene.image), torch.from_numpy(boxes), labels, asked)


class ShapesDataModule(DetectionDataModule):
    """1 to ``most_digits`` of scikit-learn's handwritten digits a scene, ten classes, made on the fly.

    They lie at random places, one over another at most at the edges. Each split has writings of its own: 1,257 digits
    are in the training scenes, 180 in those of validation, 360 in those of the test. Scene i of a split is a function
    of (``split_seed``, split, i): runs with other seeds see the same ones. A box is that of the ink that is seen, and
    an object's area is the area of the ink.

    Args:
        size: height and width of a scene.
        most_digits: in a scene.
        digit_sizes: least and greatest height of a digit in pixels; small ones are as frequent as large ones.
        train_size, test_size: scenes. Those of validation, ``val_size``, are not taken from training.
    """

    name = "shapes"
    category_ids = tuple(range(1, 11))
    class_names = tuple("0123456789")
    test_decided_by = ("split_seed",)

    def __init__(
        self,
        size: int = 128,
        most_digits: int = 6,
        digit_sizes: Sequence[int] = (16, 64),
        train_size: int = 20_000,
        test_size: int = 1_000,
        **loading: Any,
    ) -> None:
        super().__init__(**loading)
        for key, number in {"most_digits": most_digits, "train_size": train_size, "test_size": test_size}.items():
            if number < 1:
                raise UserError(f"datamodule.{key} is {number}: give 1 or more.")
        if len(digit_sizes) != 2 or not 8 <= digit_sizes[0] <= digit_sizes[1] <= size * 0.9:
            raise UserError(
                f"datamodule.digit_sizes is {list(digit_sizes)}: give two numbers of pixels, the least and the "
                f"greatest, of 8 or more and of at most nine tenths of datamodule.size={size}."
            )
        if self.flip:
            raise UserError("datamodule.flip would mirror digits: leave it false.")
        if self.group_by_aspect:
            raise UserError("datamodule.group_by_aspect has no effect on scenes, which are square: leave it false.")
        self.size, self.most_digits, self.digit_sizes = size, most_digits, (digit_sizes[0], digit_sizes[1])
        self.scene_counts = {"train": train_size, "val": self.val_size, "test": test_size}
        self.truths: dict[str, dict[str, Any]] = {}

    def load(self) -> dict[str, SceneTable]:  # pyright: ignore[reportIncompatibleMethodOverride]
        digits = DigitsDataModule(batch_size=1, val_size=VAL_DIGITS, split_seed=self.split_seed)
        digits.setup()
        self.fingerprint = digits.describe()["sha256"]
        tables = {}
        for split, count in self.scene_counts.items():
            table = digits.tables[split]
            assert table.labels is not None
            glyphs = table.images[:, 0].float().div(255).numpy()
            kind = Scenes(glyphs, table.labels.numpy(), self.size, self.most_digits, self.digit_sizes,
                          self.split_seed, f"scenes {split}")  # fmt: skip
            tables[split] = SceneTable(kind, count, self.masks)
        return tables

    def coco_ground_truth(self, stage: str) -> dict[str, Any]:
        if stage not in self.truths:
            table = self.tables[stage]
            assert isinstance(table, SceneTable)
            self.truths[stage] = truth_of(table, self.category_ids, self.class_names)
        return self.truths[stage]

    def describe(self) -> dict[str, Any]:
        """Also how the scenes were made; the fingerprint is that of the digits."""
        made = {"size": self.size, "most_digits": self.most_digits, "digit_sizes": list(self.digit_sizes)}
        return super().describe() | made | {"scenes_seed": self.split_seed, "sha256": self.fingerprint}


def truth_of(table: SceneTable, category_ids: Sequence[int], class_names: Sequence[str]) -> dict[str, Any]:
    """All scenes of a split in COCO's format, with masks where they are asked for."""
    images, annotations = [], []
    for position, image in enumerate(table.image_ids.tolist()):
        scene = table.scenes.make(position)
        images.append({"id": image, "height": table.scenes.size, "width": table.scenes.size})
        numbers, boxes, masks = objects(scene)
        for digit, (left, top, right, bottom), mask in zip(scene.digits[numbers], boxes.tolist(), masks, strict=True):
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": category_ids[digit], "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": int(mask.sum()),
            } | ({"segmentation": rle.encode(np.asfortranarray(mask))} if table.masks else {}))  # fmt: skip
    categories = [{"id": number, "name": name} for number, name in zip(category_ids, class_names, strict=True)]
    return {"images": images, "annotations": annotations, "categories": categories}
