"""What a detector's training step does on a device that the host should not wait for: fixed numbers of anchors and
regions, and weights of 0 for those that an image does not have.

How many objects or background boxes there are is known on the device alone. Whoever draws from them by their number
asks for it, and the host stands still until all earlier work is done, for each image and each kind. Here every box has
a random key, and the greatest keys of a kind are taken; nobody has to know how many there were.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import nms

from foundation.randomness import keyed_uniforms_on_device


@dataclass(frozen=True)
class Keys:
    """What the anchors and regions of a batch are drawn by: functions of (seed, iteration, index), the same on every
    device and on any number of ranks."""

    seed: int
    iteration: int
    index: Tensor  # int64 [B], the images' numbers

    def of(self, stream: str, count: int) -> Tensor:
        """float64 in [0, 1), [B, count], where ``index`` lies."""
        return keyed_uniforms_on_device(self.seed, stream, self.iteration, rows=self.index, columns=count)


@dataclass(frozen=True)
class Drawn:
    """Of each image the places of ``count`` boxes: those drawn around objects, those of background, then others, which
    stand for what the image has too few of."""

    places: Tensor  # int64 [B, count], no place twice in an image
    counts: Tensor  # bool [B, count], whether a place was drawn
    around_objects: Tensor  # bool [B, most], the same places' beginning

    def of(self, values: Tensor) -> Tensor:
        """[B, N] or [B, N, C] at the places, [B, count] or [B, count, C]."""
        return at(values, self.places)

    def of_objects(self, values: Tensor) -> Tensor:
        """The same of the first ``most`` places, where all those around objects are."""
        return at(values, self.places[:, : self.around_objects.shape[1]])


def at(values: Tensor, places: Tensor) -> Tensor:
    if values.ndim == 2:
        return values.gather(1, places)
    return values.gather(1, places.unsqueeze(2).expand(-1, -1, values.shape[2]))


def draw(keys: Tensor, labels: Tensor, count: int, share: float) -> Drawn:
    """Up to ``share`` of ``count`` boxes around objects and, for the rest, background: those with the greatest keys.

    keys: [B, N] in [0, 1); labels: [B, N], 0 background, above an object, -1 neither. Fewer than ``count`` places where
    there are but N.
    """
    most, count = (min(it, labels.shape[1]) for it in (int(count * share), count))
    found, places = torch.where(labels >= 1, keys, -1).topk(most, dim=1)
    objects = torch.zeros_like(labels, dtype=torch.bool).scatter_(1, places, found >= 0)
    rank = torch.where(objects, 1 + keys, torch.where(labels == 0, keys, -1))
    found, places = rank.topk(count, dim=1)
    return Drawn(places, found >= 0, found[:, :most] >= 1)


def side_by_side(rows: list[Tensor], fill: Tensor) -> Tensor:
    """Rows of each image [N, ...] as [B, the greatest N, ...], filled up with one more row."""
    longest = max(map(len, rows))
    return torch.stack([torch.cat([it, fill.expand(longest - len(it), *fill.shape)]) for it in rows])


def a_pixel(like: Tensor) -> Tensor:
    """The box of the first pixel, [4], for boxes that do not count: one without a size has no coordinates."""
    box = like.new_zeros(4)
    box[2:] = 1
    return box


def likeliest(
    boxes: Tensor, scores: Tensor, groups: Tensor, wanted: Tensor, *, longest: float, overlap: float, most: int
) -> Tensor:
    """Places of the wanted boxes that NMS leaves over within their groups, the likeliest first, at most ``most``.

    The host learns how many these are: the one thing that it waits for. Boxes that are not wanted are not taken out
    before, which would ask for their number, too: they become one and the same box of the least score, of which NMS
    leaves one, at the end. One more of them makes sure that there is one to leave out.

    boxes: [N, 4] in [0, longest]; scores: [N], 0 or more; groups: int64 [N], from 0 on; wanted: bool [N]; overlap: the
    largest of two boxes that both stay, below 1.
    """
    apart = boxes + (groups.unsqueeze(1) + 1) * (longest + 1)  # groups do not overlap, nor a group with what follows
    unwanted = a_pixel(boxes)
    apart = torch.cat([torch.where(wanted.unsqueeze(1), apart, unwanted), unwanted.unsqueeze(0)])
    scores = torch.cat([torch.where(wanted, scores, -1), scores.new_full((1,), -1)])
    return nms(apart, scores, overlap)[:-1][:most]
