"""Proposals as a file: what is written is read, goes with its images, flipped with them; what does not fit is told."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.detection import draw_flips
from datamodules.proposals import FORMAT, Proposals, ProposedSplit, write_proposals
from foundation.errors import UserError
from tests.datamodules.test_detection import WIDE, Numbered, batches, on_rank, ready, size_of

IDS = torch.arange(len(WIDE)) * 10 + 7
SIZES = np.array([size_of(it) for it in range(len(WIDE))])


def rows_of(position: int) -> Tensor:
    """Of image i of ``Numbered``: i % 4 boxes, of which the j-th is j + 1 wide."""
    count = position % 4
    return torch.tensor([[1.0, 2, 2 + it, 5 + it] for it in range(count)]).reshape(-1, 4)


def split_of(order: list[int] | None = None) -> ProposedSplit:
    """In another order than the table's where one is asked for."""
    order = [*range(len(WIDE))] if order is None else order
    boxes = [rows_of(it) for it in order]
    counts = torch.tensor([len(it) for it in boxes])
    scores = torch.cat([torch.linspace(0.9, 0.5, len(it)) for it in boxes])
    return ProposedSplit(IDS[order], torch.from_numpy(SIZES[order]), counts, torch.cat(boxes), scores)


def written(folder: Path, *, most: tuple[int, int] = (10, 10), **splits: ProposedSplit) -> Proposals:
    path = folder / "proposals.safetensors"
    write_proposals(path, splits or {it: split_of() for it in ("train", "val", "test")})
    return Proposals(path, most)


def test_the_file_is_safetensors_of_the_format_that_is_stated(tmp_path):
    written(tmp_path)
    found = load_file(tmp_path / "proposals.safetensors")
    assert {name for name in found if name.startswith("val.")} == {
        "val.image_ids", "val.sizes", "val.counts", "val.boxes", "val.scores"}  # fmt: skip
    assert found["val.boxes"].dtype == found["val.scores"].dtype == torch.float32
    assert torch.equal(found["val.boxes"][:1], rows_of(1))
    assert not list(tmp_path.glob("*.unfinished"))
    (tmp_path / "other").touch()
    modes = {it.stat().st_mode for it in tmp_path.iterdir()}
    assert len(modes) == 1  # who may read a run's other files may read this one


def test_every_image_gets_its_own_in_whatever_order_the_file_has_them(tmp_path):
    given = written(tmp_path, train=split_of(list(range(len(WIDE)))[::-1])).of("train", IDS, SIZES)
    packed = given.at(torch.tensor([3, 0, 7]))
    assert packed["counts"] == [3, 0, 3]
    assert torch.equal(packed["boxes"], torch.cat([rows_of(3), rows_of(7)]))
    assert packed["scores"].tolist() == pytest.approx([0.9, 0.7, 0.5] * 2)


def test_the_best_of_an_image_others_in_training_than_after_it(tmp_path):
    proposals = written(tmp_path, most=(2, 1))
    assert proposals.of("train", IDS, SIZES).at(torch.tensor([3]))["boxes"].tolist() == rows_of(3)[:2].tolist()
    assert proposals.of("test", IDS, SIZES).at(torch.tensor([3]))["boxes"].tolist() == rows_of(3)[:1].tolist()


def test_they_go_with_their_images_and_are_flipped_with_them(tmp_path):
    flips = draw_flips(len(WIDE), seed=0, epoch=0)
    for batch in batches(ready(proposals=written(tmp_path))):
        for position, image, it in zip(batch["index"].tolist(), batch["image"], batch["proposals"], strict=True):
            expected, width = rows_of(position), image.shape[2]
            if flips[position]:
                expected = torch.stack(
                    [width - expected[:, 2], expected[:, 1], width - expected[:, 0], expected[:, 3]], 1
                )
            assert torch.equal(it["boxes"], expected)
            assert len(it["scores"]) == len(expected)


def test_workers_and_ranks_change_nothing(tmp_path):
    proposals = written(tmp_path)
    (alone, *_) = batches(ready(proposals=proposals))
    (by_workers, *_) = batches(ready(proposals=pickle.loads(pickle.dumps(proposals)), num_workers=1))
    shares = [batches(on_rank(ready(proposals=proposals), rank, 2))[0]["proposals"] for rank in range(2)]
    for others in (by_workers["proposals"], [it for share in shares for it in share]):
        for one, other in zip(alone["proposals"], others, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_double_precision_module_gets_them_as_doubles(tmp_path):
    datamodule = on_rank(ready(proposals=written(tmp_path)), 0, 1)
    datamodule.trainer.lightning_module.dtype = torch.float64
    assert batches(datamodule)[0]["proposals"][0]["boxes"].dtype == torch.float64


def test_without_there_are_none():
    assert all("proposals" not in batch for batch in batches(ready()))
    assert Numbered()[torch.tensor([0]), None]["proposals"] is None  # type: ignore


# --- what does not fit ---------------------------------------------------------------------------------------


def changed(**kinds: Any) -> ProposedSplit:
    return replace(split_of(), **kinds)


def boxes_with(row: int, *box: float) -> Tensor:
    boxes = split_of().boxes.clone()
    boxes[row] = torch.tensor(box)
    return boxes


NAN, INF = float("nan"), float("inf")
WRONG = {
    "that is not finite": [
        {"boxes": boxes_with(0, NAN, 2, 3, 4)}, {"boxes": boxes_with(0, 1, 2, INF, 4)},
        {"scores": torch.full((len(split_of().scores),), NAN)},
    ],
    "whose right or bottom lies before its left or top": [
        {"boxes": boxes_with(0, 5, 2, 3, 4)}, {"boxes": boxes_with(0, 1, 6, 3, 4)}],
    "that reaches out of the image": [
        {"boxes": boxes_with(0, -2, 2, 3, 4)}, {"boxes": boxes_with(0, 1, 2, 13, 4)}, {"boxes": boxes_with(0, 1, 2, 3, 10)}],
    "that scores higher than the one before it": [{"scores": torch.arange(len(split_of().scores)).float()}],
}  # fmt: skip


@pytest.mark.parametrize(("what", "kinds"), [(what, it) for what, each in WRONG.items() for it in each])
def test_a_proposal_that_is_none_is_told_with_its_image(tmp_path, what, kinds):
    with pytest.raises(UserError, match=rf"proposals.safetensors: image \d+ of train has a proposal {what}, \["):
        written(tmp_path, train=changed(**kinds))


@pytest.mark.parametrize(
    ("kinds", "sentence"),
    [
        ({"counts": split_of().counts + 1}, r"train.boxes has the shape \[\d+, 4\], and others say \[\d+, 4\]"),
        ({"counts": -split_of().counts}, "train.boxes has the shape|train.counts has a number below 0"),
        ({"counts": split_of().counts[:-1]}, r"train.counts has the shape \[13\], and others say \[14\]"),
        ({"sizes": split_of().sizes[:, :1]}, r"train.sizes has the shape \[14, 1\], and others say \[14, 2\]"),
        ({"image_ids": IDS * 0}, "train.image_ids has an image more than once"),
        ({"boxes": split_of().boxes.double()}, "train.boxes is F64, and has to be F32"),
        ({"image_ids": IDS.int()}, "train.image_ids is I32, and has to be I64"),
    ],
)
def test_a_file_that_contradicts_itself_is_told(tmp_path, kinds, sentence):
    with pytest.raises(UserError, match=sentence):
        written(tmp_path, train=changed(**kinds))


def test_a_missing_image_another_size_and_a_missing_split_are_told(tmp_path):
    proposals = written(tmp_path, train=split_of([0, 1, 2, 5]))
    with pytest.raises(UserError, match="lacks 10 of the 14 images of train, the first of them image 37: make the"):
        proposals.of("train", IDS, SIZES)
    other = SIZES.copy()
    other[2, 0] += 1
    with pytest.raises(UserError, match="image 27 of train has 8 x 12 pixels there and 8 x 13 here"):
        written(tmp_path).of("train", IDS, other)
    with pytest.raises(UserError, match="has no proposals of val: it has those of train"):
        proposals.of("val", IDS, SIZES)
    with pytest.raises(UserError, match="lacks 10 of the 14 images of train"):
        ready(proposals=proposals)


def test_what_is_no_file_of_proposals_is_told(tmp_path):
    path = tmp_path / "proposals.safetensors"
    with pytest.raises(UserError, match="there is no file of proposals"):
        Proposals(path)
    path.write_bytes(pickle.dumps({"train": [1, 2]}))
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        Proposals(path)
    save_file({"train.boxes": torch.zeros(2, 4)}, path)
    with pytest.raises(UserError, match="holds no proposals, or in another format than 'proposals 1'"):
        Proposals(path)
    save_file({"train.boxes": torch.zeros(2, 4)}, path, {"format": FORMAT})
    with pytest.raises(UserError, match="has no train.image_ids: a split has image_ids, sizes, counts, boxes, scores"):
        Proposals(path)
    written(tmp_path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        Proposals(path)


@pytest.mark.parametrize("most", [(0, 5), (5,), (1, 2, 3)])
def test_numbers_of_proposals_that_are_none_are_told(tmp_path, most):
    with pytest.raises(UserError, match="give two numbers of proposals, for training and after it"):
        written(tmp_path, most=most)
