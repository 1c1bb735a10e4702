import pytest
import torch

from datamodules.features import FeaturesDataModule
from foundation.errors import UserError
from lightning_modules.oracles.synthetic import SyntheticOracle


def ready(**settings) -> FeaturesDataModule:
    datamodule = FeaturesDataModule(**{"batch_size": 128, "train_size": 5000, "test_size": 1000} | settings)
    datamodule.setup()
    return datamodule


def test_the_label_is_the_sign_of_what_is_necessary_and_keeps_its_margin():
    datamodule = ready(val_size=100)
    assert datamodule.sizes() == {"train": 4900, "val": 100, "test": 1000}
    points, label = (datamodule.tables["train"].columns[it] for it in ("point", "label"))
    total = points[:, :4].sum(1)
    assert torch.equal(label, (total > 0).long())
    assert float(total.abs().min()) == pytest.approx(0.2, abs=1e-5)
    assert torch.equal(SyntheticOracle(4, 60).label(points, torch.zeros(len(points))), label)


@pytest.mark.parametrize("leak", [0.0, 0.3])
def test_what_is_unnecessary_tells_of_the_label_as_much_as_leaks(leak):
    points, label = (ready(leak=leak).tables["train"].columns[it] for it in ("point", "label"))
    apart = points[label == 1][:, 4:].mean() - points[label == 0][:, 4:].mean()
    assert float(apart) == pytest.approx(2 * leak, abs=0.02)  # 300,000 numbers of deviation 1
    assert float(points[label == 1][:, 4:].std()) == pytest.approx(1, abs=0.01)


def test_the_points_depend_on_their_own_seed_alone_and_the_splits_share_none():
    assert ready(seed=1).describe()["sha256"] == ready(seed=2).describe()["sha256"]
    assert ready(data_seed=1).describe()["sha256"] != ready().describe()["sha256"]
    train, test = (ready().tables[split].columns["point"] for split in ("train", "test"))
    assert not (train[:1000] == test).any()


def test_a_batch_holds_index_point_and_label():
    batch = ready().on_after_batch_transfer(next(iter(ready().train_dataloader())), 0)
    assert {key: (tuple(it.shape), it.dtype) for key, it in batch.items()} == {
        "index": ((128,), torch.int64), "point": ((128, 64), torch.float32), "label": ((128,), torch.int64),
    }  # fmt: skip


@pytest.mark.parametrize("value", [0, 10**12])
@pytest.mark.parametrize("key", ["necessary", "unnecessary", "train_size", "test_size"])
def test_counts_are_1_or_more_and_fit_into_memory(key, value):
    with pytest.raises(UserError, match=f"datamodule.{key} is {value}: give 1 or more, and 10,000,000 at most"):
        FeaturesDataModule(**{"batch_size": 8, key: value})


@pytest.mark.parametrize("key", ["margin", "leak"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_margin_and_leak_are_sizes(key, value):
    with pytest.raises(UserError, match=f"datamodule.{key} is .*: give a number from 0 to 10"):
        FeaturesDataModule(**{"batch_size": 8, key: value})
