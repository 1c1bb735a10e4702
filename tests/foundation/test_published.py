"""A paper's figure stands beside figures of its own data, split, metric and settings, and beside no other."""

import pytest

from foundation.published import published, split_of

PAPER = {"id": "arXiv:1", "metric": "test/error", "value": 0.0875, "data": "cifar10", "split": "test",
         "where": {"lightning_module.network.depth": 20, "lightning_module.extra": None}}  # fmt: skip
DATA = {"name": "cifar10", "split": "test", "test": 10_000}


def config(depth=20, **module):
    return {"lightning_module": {"network": {"depth": depth}, **module}}


def test_the_figure_stands_beside_its_own():
    assert published(PAPER, "test/error", DATA, config()) == 0.0875
    assert published(PAPER, "test/error", DATA, None) == 0.0875  # the experiment as its file has it


@pytest.mark.parametrize(
    ("paper", "metric", "data", "of"),
    [
        (PAPER, "test/accuracy", DATA, config()),
        (PAPER, "val/error", DATA, config()),
        (PAPER, "train_set/error", DATA, config()),
        (PAPER, "test/error", DATA | {"name": "cifar10_jpeg"}, config()),
        (PAPER, "test/error", DATA | {"name": "image_folder"}, config()),
        (PAPER, "test/error", DATA | {"split": "test, 300 examples"}, config()),
        (PAPER, "test/error", DATA | {"split": "test, limit_test_batches=2"}, config()),
        (PAPER, "test/error", {}, config()),
        (PAPER, "test/error", None, config()),
        (PAPER, "test/error", DATA, config(depth=56)),
        (PAPER, "test/error", DATA, config(extra={"balance": 3})),
        (PAPER, "test/error", DATA, {"lightning_module": {"network": None}}),
        (PAPER | {"value": None}, "test/error", DATA, config()),
        (PAPER | {"split": None}, "test/error", DATA, config()),
        ({"id": "arXiv:1", "metric": "test/error", "value": 0.0875}, "test/error", DATA, config()),  # of an old config
        (None, "test/error", DATA, config()),
    ],
)
def test_and_beside_no_other(paper, metric, data, of):
    assert published(paper, metric, data, of) is None


def test_a_figure_of_zero_is_one():
    assert published(PAPER | {"value": 0.0}, "test/error", DATA, config()) == 0.0


def test_what_records_from_before_splits_had_names_were_tested_on():
    assert split_of({"name": "mnist", "test": 10_000}) == "test"
    assert split_of({"name": "coco", "test": 5_000, "test_split": "val"}) == "val2017"
    assert split_of({"name": "coco", "test": 64, "test_split": "val"}) == "val2017, 64 examples"
    assert split_of({"name": "coco", "test": 64, "test_split": "train"}) == "train2017, 64 examples"
