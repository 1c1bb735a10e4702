"""Features of regions: RoIAlign from a feature pyramid in a form that is fast on a CPU, Fast R-CNN's RoIPool, and
R-CNN's crops."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag
from torchvision.ops import MultiScaleRoIAlign, roi_align, roi_pool
from torchvision.ops._utils import convert_boxes_to_roi_format

from foundation.errors import UserError
from lightning_modules.networks.precision import at_least_single

SAMPLES = 2  # along each side of a bin
BEYOND = -1e5  # a coordinate left of and above every map


class RegionAlign(MultiScaleRoIAlign):
    """torchvision's RoIAlign of a pyramid; on a CPU the same sums as one product with a sparse matrix.

    A bin's feature is the mean of 2 x 2 points, each between 4 cells: 16 cells with weights, all channels alike. As a
    weighted sum of rows, forwards and backwards, this takes an eighth of the CPU time of torchvision's kernel.
    """

    def __init__(self, side: int, canonical_size: int) -> None:
        if canonical_size < 1:
            raise UserError(f"canonical_size is {canonical_size}: give pixels, 1 or more.")
        super().__init__(["0", "1", "2", "3"], side, SAMPLES, canonical_scale=canonical_size)

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x: maps [B, C, H, W] by name, fine to coarse; boxes: of each image [N, 4] -> [all N, C, side, side]."""
        maps = [x[name] for name in self.featmap_names if name in x]
        if torch.onnx.is_in_onnx_export():  # an exported file has torchvision's
            return super().forward(dict(x), boxes, image_shapes)
        height = max(shape[0] for shape in image_shapes)
        scales = [2.0 ** round(torch.tensor(it.shape[2] / height).log2().item()) for it in maps]
        read = self.by_products if maps[0].device.type == "cpu" else self.by_kernels
        return read(maps, boxes, scales)

    def by_products(self, maps: Sequence[Tensor], boxes: list[Tensor], scales: Sequence[float]) -> Tensor:
        channels, side = maps[0].shape[1], self.output_size[0]
        rows = torch.cat([it.permute(0, 2, 3, 1).reshape(-1, channels) for it in maps])
        rows = at_least_single(rows)
        cells, weights = sampled_cells(boxes, maps, scales, self.canonical_scale, side)
        bins = embedding_bag(cells, rows, per_sample_weights=weights.to(rows.dtype), mode="sum")
        return bins.to(maps[0].dtype).view(-1, side * side, channels).transpose(1, 2).unflatten(2, (side, side))

    def by_kernels(self, maps: Sequence[Tensor], boxes: list[Tensor], scales: Sequence[float]) -> Tensor:
        """torchvision's kernel for each map. torchvision asks which regions are a map's, and the host waits for their
        number; here each map is asked for all, those of other maps far beyond it, where they are 0 and give no
        gradient."""
        regions = convert_boxes_to_roi_format(boxes)
        level = pyramid_level(regions[:, 1:], scales, self.canonical_scale)
        found = None
        for number, (one, scale) in enumerate(zip(maps, scales, strict=True)):
            own, whole = regions.clone(), at_least_single(one)
            own[:, 1:].masked_fill_((level != number).unsqueeze(1), BEYOND)
            read = roi_align(whole, own.to(whole.dtype), self.output_size, scale, self.sampling_ratio)
            found = read if found is None else found + read
        assert found is not None
        return found.to(maps[0].dtype)


def sampled_cells(
    boxes: list[Tensor], maps: Sequence[Tensor], scales: Sequence[float], canonical_size: float, side: int
) -> tuple[Tensor, Tensor]:
    """For each bin of each box the 16 cells that it is a weighted sum of, and their weights: [all N * side^2, 16].

    A cell's number is its place among those of all maps, one map after the other, each image by image and row by row.
    """
    sizes = [len(it) for it in boxes]
    image = torch.arange(len(boxes)).repeat_interleave(torch.tensor(sizes))
    whole = torch.cat(boxes)
    level = pyramid_level(whole, scales, canonical_size)
    heights, widths = (torch.tensor([it.shape[axis] for it in maps])[level] for axis in (2, 3))
    counts = torch.tensor([0, *(it.shape[0] * it.shape[2] * it.shape[3] for it in maps)])
    first = counts.cumsum(0)[level] + image * heights * widths
    left, top, right, bottom = (whole * whole.new_tensor(scales)[level, None]).unbind(1)
    rows, row_weights = sampled_places(top, bottom, heights, side)
    columns, column_weights = sampled_places(left, right, widths, side)
    in_row = (first[:, None, None] + rows * widths[:, None, None])[:, :, None, :, None]
    cells = in_row + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    return cells.reshape(-1, 4 * SAMPLES**2), weights.reshape(-1, 4 * SAMPLES**2)


def pyramid_level(boxes: Tensor, scales: Sequence[float], canonical_size: float) -> Tensor:
    """Which map a box is read from (Lin et al. 2017, eq. 1): one of the canonical size from that at a sixteenth."""
    finest, coarsest = (-round(math.log2(it)) for it in (scales[0], scales[-1]))
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    return (4 + (side / canonical_size).log2() + 1e-6).floor().clamp(finest, coarsest).long() - finest


def sampled_places(start: Tensor, end: Tensor, size: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the two cells on either side of each sampled point of each bin, and their weights: [N, bins, 4].

    start, end: [N], in cells; size: [N], of the axis. Points beyond the map by more than a cell weigh nothing.
    """
    step = (end - start).clamp(min=1) / (bins * SAMPLES)
    points = start[:, None] + (torch.arange(bins * SAMPLES) + 0.5) * step[:, None]
    inside = (points >= -1) & (points <= size[:, None])
    last = (size[:, None] - 1).to(points.dtype)
    points = torch.minimum(points.clamp(min=0), last)
    low = points.floor()
    share = points - low
    cells = torch.stack([low, torch.minimum(low + 1, last)], dim=-1).long()
    weights = torch.stack([1 - share, share], dim=-1) * inside[..., None] / SAMPLES
    return cells.unflatten(1, (bins, SAMPLES)).flatten(2), weights.unflatten(1, (bins, SAMPLES)).flatten(2)


class RegionPool(nn.Module):
    """Fast R-CNN's max-pooling, to whole cells of the one map at a sixteenth of the image."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        """As of ``RegionAlign``."""
        (features,) = x.values()
        whole = at_least_single(features)
        return roi_pool(whole, boxes, self.side, 1 / 16).to(features.dtype)


class RegionWarp(nn.Module):
    """R-CNN's crops: what is in a box and a little around it, out of the image and stretched to one size (Girshick et
    al. 2014, appendix A). A pixel of a crop is the mean of what it covers; beyond the image lies the mean colour, 0.

    Args:
        side: of a crop, in pixels.
        context: of these, how many on each side lie around the box. The paper has 16 of 227.
    """

    def __init__(self, side: int, context: int) -> None:
        super().__init__()
        if side < 1 or not 0 <= 2 * context < side:
            raise UserError(
                f"network.heads.crop is {side} and context {context}: give pixels, and of them on either side of the "
                "box fewer than half."
            )
        self.side, self.context = side, context

    def forward(self, x: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: Any) -> Tensor:
        """As of ``RegionAlign``, of normalised images."""
        (images,) = x.values()
        whole, share = at_least_single(images), self.context / (self.side - 2 * self.context)
        around = [torch.cat([it[:, :2] - share * size, it[:, 2:] + share * size], dim=1)
                  for it in boxes for size in [it[:, 2:] - it[:, :2]]]  # fmt: skip
        return roi_align(whole, [it.to(whole.dtype) for it in around], self.side, aligned=True).to(images.dtype)
