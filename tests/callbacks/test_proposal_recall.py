"""Recall by hand, as COCO's and py-faster-rcnn's definitions have it, and on 1, 2 and 3 ranks."""

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing
from torchvision.ops import box_iou

from callbacks.proposal_recall import ProposalRecall, ProposalRecallMetric, overlaps_found
from foundation.errors import UserError
from tests.callbacks.detections_on_ranks import SHARES, scenes
from tests.forks import run_in_fork

COUNTS = [1, 3, 20]


def rows(*boxes: tuple[float, ...]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def truth_of(*boxes: tuple[float, ...], image: int = 7, crowds: int = 0) -> dict[str, Any]:
    """The last ``crowds`` boxes are crowds."""
    annotations = [
        {"id": number, "image_id": image, "category_id": 1, "iscrowd": int(number >= len(boxes) - crowds),
         "bbox": [left, top, right - left, bottom - top], "area": 1}
        for number, (left, top, right, bottom) in enumerate(boxes)
    ]  # fmt: skip
    images = [{"id": it, "height": 100, "width": 100} for it in (image, image + 1)]
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "it"}]}


def measured(truth: dict[str, Any], proposals: dict[int, Tensor], counts: list[int]) -> dict[str, float]:
    metric = ProposalRecallMetric(truth, counts)
    for image, boxes in proposals.items():
        metric.update(torch.tensor([image]), [{"boxes": boxes}])
    return metric.compute()


class TestOverlaps:
    def test_by_hand(self):
        """Of a square of 10 the right three quarters and the whole of another, which a third does not touch."""
        objects, proposals = (
            rows((0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60)),
            rows((2.5, 0, 10, 10), (20, 20, 30, 30), (80, 80, 90, 90)),
        )
        assert overlaps_found(proposals, objects).tolist() == [0.75, 1.0, 0.0]

    def test_a_proposal_finds_one_object(self):
        """Two objects side by side: the one proposal overlaps the first by 10 / 15, the second by 5 / 20."""
        objects = rows((0, 0, 10, 1), (10, 0, 20, 1))
        assert overlaps_found(rows((0, 0, 15, 1)), objects).tolist() == [pytest.approx(10 / 15), 0.0]
        both = rows((0, 0, 15, 1), (0, 0, 12, 1))
        assert overlaps_found(both, objects).tolist() == [pytest.approx(10 / 12), pytest.approx(5 / 20)]

    def test_the_best_pair_goes_first_whatever_the_order(self):
        objects, proposals = rows((0, 0, 10, 10), (0, 0, 10, 8)), rows((0, 0, 10, 8), (0, 0, 10, 5))
        assert overlaps_found(proposals, objects).tolist() == [0.5, 1.0]

    @pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
    def test_nothing_finds_nothing(self, shape):
        boxes = rows((0, 0, 5, 5)).expand(4, 4)
        assert overlaps_found(boxes[: shape[0]], boxes[: shape[1]]).tolist() == [0.0] * shape[1]

    def test_as_a_search_for_the_largest_of_all_pairs(self):
        """In plain Python: the largest overlap of all pairs, then of those of what neither has taken."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(20):
            corners = torch.rand(9, 2, generator=generator, dtype=torch.float64) * 20
            boxes = torch.cat([corners, corners + 5 + torch.rand(9, 2, generator=generator) * 20], dim=1)
            proposals, objects = boxes[:5], boxes[5:]
            overlaps, expected, taken = box_iou(proposals, objects).tolist(), [0.0] * 4, set()
            pairs = sorted(((it, p, o) for p, row in enumerate(overlaps) for o, it in enumerate(row)), reverse=True)
            for overlap, proposal, number in pairs:
                if ("p", proposal) not in taken and ("o", number) not in taken:
                    expected[number] = overlap
                    taken |= {("p", proposal), ("o", number)}
            assert overlaps_found(proposals, objects).tolist() == expected


class TestRecall:
    objects = ((0, 0, 10, 10), (20, 20, 30, 30), (50, 50, 60, 60), (70, 70, 80, 80))

    def test_by_hand(self):
        """Found with 1, 0.75 and 0.5 in this order, the last one not: at .5 a quarter, a half, three quarters; of ten
        thresholds the first is found at all, the second at .5 to .75, the third at .5."""
        proposals = rows((0, 0, 10, 10), (22.5, 20, 30, 30), (50, 50, 60, 55))
        found = measured(truth_of(*self.objects), {7: proposals}, [1, 2, 100])
        assert found == {
            "proposal_recall_1": 0.25, "proposal_average_recall_1": pytest.approx(0.25),
            "proposal_recall_2": 0.5, "proposal_average_recall_2": pytest.approx((10 + 6) / 40),
            "proposal_recall_100": 0.75, "proposal_average_recall_100": pytest.approx((10 + 6 + 1) / 40),
        }  # fmt: skip

    def test_a_crowd_is_no_object_and_an_image_without_proposals_has_missed_its_own(self):
        truth = truth_of(*self.objects, crowds=3)
        assert measured(truth, {7: rows(self.objects[0])}, [5])["proposal_recall_5"] == 1
        assert measured(truth, {7: rows()}, [5])["proposal_recall_5"] == 0

    def test_images_that_were_not_seen_do_not_count_and_no_object_is_no_figure(self):
        truth = truth_of(*self.objects)
        assert all(math.isnan(it) for it in measured(truth, {8: rows(self.objects[0])}, [5]).values())
        assert math.isnan(measured(truth_of(), {7: rows(self.objects[0])}, [5])["proposal_recall_5"])

    def test_an_image_of_another_set_is_refused(self):
        with pytest.raises(UserError, match="proposals in image 1, which is not one of the 2 images"):
            measured(truth_of(), {1: rows()}, [5])

    @pytest.mark.parametrize("counts", [[], [0], [5, 5]])
    def test_numbers_that_are_none_are_refused(self, counts):
        with pytest.raises(UserError, match="counts is .*: give numbers of proposals, 1 or more, each once"):
            ProposalRecall(counts)

    def test_declares_a_share_for_each_number(self):
        keys = ProposalRecall([5, 9]).metrics(None, "val")
        assert keys == dict.fromkeys(["val/proposal_recall_5", "val/proposal_average_recall_5",
                                      "val/proposal_recall_9", "val/proposal_average_recall_9"], "max")  # fmt: skip
        assert ProposalRecall([5]).metrics(None, "train") == {}


# --- ranks ---------------------------------------------------------------------------------------------------


def measure_on_rank(rank: int, world_size: int, folder: Path) -> None:
    """Shares that are uneven, with images on two ranks, and one without."""
    meeting = f"file://{folder}/meet{world_size}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world_size)
    truth, found = scenes(7)
    told = {}
    for name, shares in SHARES.items():
        metric = ProposalRecallMetric(truth, COUNTS)
        ids = [truth["images"][it]["id"] for it in shares[world_size][rank]]
        metric.update(torch.tensor(ids, dtype=torch.int64), [found[it] for it in ids])
        told[name] = metric.compute()
    (folder / f"{world_size}r{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def test_is_exactly_the_same_on_one_two_and_three_ranks(tmp_path):
    done = run_in_fork("-m", "tests.callbacks.test_proposal_recall", tmp_path)
    assert done.returncode == 0, done.stderr
    (alone,) = (json.loads(path.read_text()) for path in tmp_path.glob("1r*.json"))
    assert 0 < alone["even"]["proposal_recall_3"] < 1
    for world_size in (2, 3):
        shares = [json.loads(path.read_text()) for path in tmp_path.glob(f"{world_size}r*.json")]
        assert shares == [alone] * world_size


def test_goes_by_the_split_that_is_measured():
    truth = truth_of((0, 0, 10, 10))
    datamodule = SimpleNamespace(coco_ground_truth=lambda stage: truth if stage == "test" else truth_of())
    trainer: Any = SimpleNamespace(datamodule=datamodule, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    callback = ProposalRecall([2])
    callback.on_test_epoch_start(trainer, None)  # type: ignore
    outputs = {"image_id": torch.tensor([7]), "proposals": [{"boxes": rows((0, 0, 10, 9))}]}
    callback.update(trainer, None, outputs, None)
    assert callback.figures() == {"proposal_recall_2": 1.0, "proposal_average_recall_2": pytest.approx(0.9)}
    callback.on_validation_epoch_start(trainer, None)  # type: ignore
    callback.update(trainer, None, outputs, None)
    assert np.isnan(callback.figures()["proposal_recall_2"])


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for world_size in (1, 2, 3):
        multiprocessing.start_processes(measure_on_rank, (world_size, folder), world_size, start_method="fork")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
