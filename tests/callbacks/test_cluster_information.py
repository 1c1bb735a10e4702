"""The mutual information of categories by hand and against scikit-learn; tests/test_ranks.py has it on 1, 2, 3 ranks."""

import math

import pytest
import torch
from lightning import LightningModule, Trainer
from sklearn.metrics import mutual_info_score

from callbacks.cluster_information import ClusterInformation, ClusterInformationMetric, moves
from datamodules.digits import DigitsDataModule
from foundation.errors import UserError
from foundation.protocols import WeighsClustersOfImages

MOTION = {"rotation": 15.0, "shift": 1.0, "scale": 0.1, "shear": 0.2}


def measure(first, second):
    metric = ClusterInformationMetric(first.shape[1])
    for share in torch.arange(len(first)).split(7):
        metric.update(first[share], second[share])
    return metric.compute()


def test_sure_balanced_and_unmoved_categories_tell_log_k():
    categories = torch.eye(4).repeat(3, 1)
    assert measure(categories, categories) == pytest.approx(math.log(4))


def test_one_category_or_none_tells_nothing():
    assert measure(torch.eye(4)[[1] * 8], torch.eye(4)[[1] * 8]) == pytest.approx(0, abs=1e-12)
    assert measure(torch.full((8, 4), 0.25), torch.full((8, 4), 0.25)) == pytest.approx(0, abs=1e-12)


def test_by_hand():
    # Of two images the second changes its category when moved. P made symmetric: [[1/2, 1/4], [1/4, 0]].
    first, second = torch.eye(2)[[0, 0]], torch.eye(2)[[0, 1]]
    by_hand = 1 / 2 * math.log((1 / 2) / (9 / 16)) + 2 * 1 / 4 * math.log((1 / 4) / (3 / 16))
    assert measure(first, second) == pytest.approx(by_hand)


def test_for_sure_categories_it_is_scikit_learn_s_mutual_information():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randint(5, (2, 60), generator=generator)
    both_ways = torch.cat([first, second]), torch.cat([second, first])
    expected = mutual_info_score(both_ways[0].numpy(), both_ways[1].numpy())
    assert measure(torch.eye(5)[first], torch.eye(5)[second]) == pytest.approx(expected)


def test_a_copy_depends_on_its_image_alone():
    alone = torch.cat([moves(torch.tensor([index])) for index in (3, 1, 2)])
    assert torch.equal(moves(torch.tensor([3, 1, 2])), alone)
    assert moves(torch.tensor([])).shape == (0, 6)
    assert alone.abs().max() <= 1


class Brightness(LightningModule):
    """Two categories: is the image's brightest quarter above or below? Half a shift away it may change."""

    num_clusters = [2]

    def cluster_probabilities(self, images):
        above = images[:, 0, :4].sum((1, 2)) > images[:, 0, 4:].sum((1, 2))
        return [torch.eye(2)[above.long()]]

    def assign_clusters(self, images):
        return self.cluster_probabilities(images)[0].argmax(1, keepdim=True)

    def test_step(self, batch, batch_idx):
        return {"index": batch["index"]}

    validation_step = test_step


def test_callback_logs_what_it_declares_and_a_wider_motion_tells_less():
    datamodule = DigitsDataModule(batch_size=128, val_size=100, eval_batch_size=64)
    assert isinstance(Brightness(), WeighsClustersOfImages)
    found = []
    for motion in ({"rotation": 0.0, "shift": 0.0, "scale": 0.0, "shear": 0.0}, MOTION):
        callback = ClusterInformation(**motion)
        trainer = Trainer(accelerator="cpu", callbacks=[callback], logger=False, enable_progress_bar=False,
                          enable_model_summary=False, enable_checkpointing=False, use_distributed_sampler=False)  # fmt: skip
        trainer.validate(Brightness(), datamodule, verbose=False)
        assert set(trainer.callback_metrics) == callback.metrics(None, "val").keys()
        trainer.test(Brightness(), datamodule, verbose=False)
        assert set(trainer.callback_metrics) == callback.metrics(None, "test").keys()
        found.append(float(trainer.callback_metrics["test/cluster_information_nats"]))
    assert math.log(2) > found[0] > found[1] > 0


def test_a_code_that_is_not_there_is_told():
    callback = ClusterInformation(**MOTION, code=1)
    with pytest.raises(UserError, match="cluster_information.code is 1, but the module has 1"):
        callback.setup(Trainer(accelerator="cpu", logger=False), Brightness(), "test")
