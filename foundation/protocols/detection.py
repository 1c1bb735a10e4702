"""What is asked of modules that find objects in images."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class DetectsObjects(Protocol):
    """Its evaluation steps return ``image_id``, [B] int64 of the data set, and ``detections``, for each image a dict of

    - boxes: [N, 4] float, left, top, right, bottom in pixels of the image as it is on disk,
    - scores: [N] float32 or finer, since scores that are rounded to ties have no order,
    - labels: [N] int64, category ids of the data set, which may have gaps (COCO's 80 lie in 1..90),
    - masks, where the module makes them: [N, H, W] bool, or N run-length encodings as COCO's tools make them.
    """

    num_classes: int
    category_ids: list[int]
    """The data set's numbers of the classes."""
    class_names: list[str] | None
    """In the same order, where they are known."""


@runtime_checkable
class DetectsObjectsInImages(DetectsObjects, Protocol):
    def detect_objects(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Images, each [C, H, W] in [0, 1] -> the detections in each."""
        ...


@runtime_checkable
class ProposesRegions(Protocol):
    """Its evaluation steps return ``image_id``, [B] int64 of the data set, and ``proposals``, for each image a dict of

    - boxes: [N, 4] float, where objects may be, the likeliest first: left, top, right, bottom in pixels of the image as
      it is on disk,
    - scores: [N] float32 or finer.
    """


@runtime_checkable
class ProposesRegionsInImages(ProposesRegions, Protocol):
    def propose_regions(self, images: Sequence[Tensor]) -> list[dict[str, Any]]:
        """Images, each [C, H, W] in [0, 1] -> the proposals in each."""
        ...
