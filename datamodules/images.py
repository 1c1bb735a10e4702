"""The base of the image sets, and the table of those that fit in memory."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datamodules.augmentation import Augment, shift_and_flip
from datamodules.batches import GlobalBatches
from datamodules.binarization import Binarize
from datamodules.semi_supervised import StreamBatches, labelled_subset, streams_of
from datamodules.splits import SplitDataModule, Table, sent
from datamodules.views import Views, views_of_table
from foundation.errors import UserError
from foundation.randomness import keyed_generator


class ImageTable(Table):
    """A split in memory.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N]; None where the data has none.
    """

    def __init__(self, images: Tensor, labels: Tensor | None = None) -> None:
        assert images.dtype == torch.uint8
        assert images.ndim == 4
        super().__init__({"image": images} | ({} if labels is None else {"label": labels}))

    @property
    def images(self) -> Tensor:
        return self.columns["image"]

    @property
    def labels(self) -> Tensor | None:
        return self.columns.get("label")

    def with_columns(self, columns: Mapping[str, Tensor]) -> "ImageTable":
        return ImageTable(columns["image"], columns.get("label"))


class ImageDataModule(SplitDataModule):
    """Splits of uint8 images, given to the module as floats in [0, 1].

    A batch holds ``index`` [B] int64 (the example's number in its split), ``image`` [B, C, H, W] float and, where
    the data has labels, ``label`` [B] int64; with ``num_labels`` a training batch is a dict of three such (see
    ``semi_supervised.py``). A subclass names its shape and classes (None: no labels) and implements ``load``.

    Args:
        augment: shifts and flips of training images; None leaves them as they are.
        binarize: makes all images black and white; None leaves them grey.
        num_labels: how many training examples keep their labels, as many of each class; 0: no stream of them; None: all
            do, and there is one stream.
        label_seed: decides which; its own key, so that runs that differ in ``seed`` know the same labels.
        splits: see ``SplitDataModule``.
    """

    image_shape: tuple[int, int, int]

    class_names: Sequence[str] | None = None
    """In the order of their labels; None where they have no names but the numbers."""

    def __init__(
        self,
        *,
        augment: Augment | Mapping[str, Any] | None = None,
        binarize: Binarize | Mapping[str, Any] | None = None,
        num_labels: int | None = None,
        label_seed: int = 0,
        **splits: Any,
    ) -> None:
        super().__init__(**splits)
        if num_labels is not None and num_labels < 0:
            raise UserError(f"datamodule.num_labels is {num_labels}: give 0 or more, or null for all.")
        self.augment = Augment(**augment) if isinstance(augment, Mapping) else augment
        self.binarize = Binarize(**binarize) if isinstance(binarize, Mapping) else binarize
        self.num_labels, self.label_seed = num_labels, label_seed
        self.drawn: tuple[tuple[int, int], Tensor] | None = None  # an epoch, its size, and their draws

    def cut(self, loaded: dict[str, Any]) -> dict[str, Any]:
        if self.binarize is not None:
            loaded = {
                split: ImageTable(self.binarize.apply(it.images, split), it.labels) for split, it in loaded.items()
            }
        if self.augment is not None and self.augment.pad >= min(self.image_shape[1:]):
            height, width = self.image_shape[1:]
            raise UserError(
                f"datamodule.augment.pad is {self.augment.pad}, and the images of {self.name} are {height} x {width}: "
                f"whole crops would be padding. Give less than {min(height, width)}."
            )
        return super().cut(loaded)

    def describe(self) -> dict[str, Any]:
        """Also how the images were binarised, and which labels are kept."""
        how = {} if self.binarize is None else {"binarized": f"sampled once, seed {self.binarize.seed}"}
        return super().describe() | how | self.labelling()

    def labelling(self) -> dict[str, Any]:
        """How many labels are kept, and which."""
        return {} if self.num_labels is None else {"labels": self.num_labels, "label_seed": self.label_seed}

    def some_images(self, count: int) -> Tensor:
        """Training images that the seed chooses, [count, C, H, W] float32 in [0, 1]; the same on every rank."""
        table = self.tables["train"]
        order = torch.randperm(len(table), generator=keyed_generator(self.seed, "some images"))
        return table[order[torch.arange(count) % len(order)]]["image"].float() / 255

    def on_after_batch_transfer(self, batch: dict[str, Tensor], dataloader_idx: int) -> dict[str, Any]:
        batch = self.scaled(batch)
        if self.num_labels is not None and self.trainer is not None and self.trainer.training:
            return streams_of(batch, labelled=self.num_labels > 0)
        return batch

    def scaled(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on its device, augmented in training, its images in [0, 1]."""
        images = batch["image"]
        if self.augment is not None and self.trainer is not None and self.trainer.training:
            images = shift_and_flip(images, self._draws(batch["index"]), self.augment.pad)
        dtype = self.trainer.lightning_module.dtype if self.trainer else torch.float32
        assert isinstance(dtype, torch.dtype)
        scaled = images.to(torch.promote_types(dtype, torch.float32)).div_(255)
        return batch | {"image": scaled.to(dtype)}

    def viewed(self, split: str, views: Views, batches: Sequence[Tensor]) -> Iterable[dict[str, Any]]:
        """Each batch of these examples with ``index``, ``label`` and the ``groups`` of their views, on the host."""
        return views_of_table(self.tables[split], views, batches)

    def unfit_views(self, views: Views) -> str | None:
        """Why there are no such views of its images; None where there are."""
        if views.kind != "ten_crops":
            return None
        return f"{self.name} holds its images in the size of a crop: choose mirrored or scales"

    def _draws(self, index: Tensor) -> Tensor:
        """This epoch's draws for these training examples; those of all are made at once and stay on the device."""
        assert self.augment is not None
        assert self.trainer is not None
        epoch, size = self.trainer.current_epoch, len(self.tables["train"])
        if self.drawn is None or self.drawn[0] != (epoch, size):
            self.drawn = (epoch, size), sent(self.augment.draw(size, self.seed, epoch), index.device)
        return self.drawn[1][index]

    def _batches(self, split: str, batch_size: int, seed: int | None) -> GlobalBatches:
        """In training those of the streams, where there are several."""
        if split != "train" or self.num_labels is None:
            return super()._batches(split, batch_size, seed)
        table = self.tables[split]
        labelled = labelled_subset(table.labels, self.num_labels, self.num_classes, self.label_seed, self.name)
        return StreamBatches(labelled, len(table), batch_size, seed=seed, **self._shares(seed))
