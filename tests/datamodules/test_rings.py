import math

import pytest
import torch

from datamodules.rings import RingsDataModule
from foundation.errors import UserError


def ready(**settings) -> RingsDataModule:
    datamodule = RingsDataModule(**{"batch_size": 128} | settings)
    datamodule.setup()
    return datamodule


def test_points_lie_inside_or_outside_the_ring_as_their_label_says():
    datamodule = ready(val_size=100)
    assert datamodule.sizes() == {"train": 9900, "val": 100, "test": 4000}
    table = datamodule.tables["train"]
    distance, label = table.columns["point"].norm(dim=1), table.columns["label"]
    assert float(distance[label == 0].max()) <= math.sqrt(2) / 1.3
    assert float(distance[label == 1].min()) >= math.sqrt(2) * 1.3
    # 1 - exp(-1 / 1.69) and exp(-1.69) of a plane's normal points lie there.
    assert float((label == 0).float().mean()) == pytest.approx(0.4466 / (0.4466 + 0.1845), abs=0.02)


def test_the_points_depend_on_their_own_seed_alone_and_the_splits_share_none():
    assert ready(seed=1).describe()["sha256"] == ready(seed=2).describe()["sha256"]
    assert ready(data_seed=1).describe()["sha256"] != ready().describe()["sha256"]
    tables = ready().tables
    train, test = (tables[split].columns["point"] for split in ("train", "test"))
    assert not (train[:4000] == test).any()


def test_a_batch_holds_index_point_and_label():
    batch = next(iter(ready().train_dataloader()))
    batch = ready().on_after_batch_transfer(batch, 0)
    assert {key: (tuple(it.shape), it.dtype) for key, it in batch.items()} == {
        "index": ((128,), torch.int64), "point": ((128, 2), torch.float32), "label": ((128,), torch.int64),
    }  # fmt: skip


def test_a_set_of_no_points_is_refused():
    with pytest.raises(UserError, match="datamodule.test_size is 0: give a number of points"):
        RingsDataModule(test_size=0, batch_size=8)
