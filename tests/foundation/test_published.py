"""A paper's figure stands beside figures of its own data, split, metric and settings, and beside no other."""

from types import SimpleNamespace

import pytest

from foundation.published import figures_of, key_for, key_in, metrics_of, published, split_of

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
        (PAPER, "test/error", DATA, config() | {"init_from": "outputs/other"}),
        (PAPER | {"value": None}, "test/error", DATA, config()),
        (PAPER | {"split": None}, "test/error", DATA, config()),
        ({"id": "arXiv:1", "metric": "test/error", "value": 0.0875}, "test/error", DATA, config()),  # of an old config
        (None, "test/error", DATA, config()),
    ],
)
def test_and_beside_no_other(paper, metric, data, of):
    assert published(paper, metric, data, of) is None


def test_a_figure_of_weights_that_were_trained_before_says_so():
    given = config() | {"init_from": {"weights": "torchvision:vgg16/IMAGENET1K_V1"}}
    paper = PAPER | {"where": {"init_from": given["init_from"]}}
    assert published(paper, "test/error", DATA, given) == 0.0875
    assert published(paper, "test/error", DATA, config()) is None


def test_a_figure_of_zero_is_one():
    assert published(PAPER | {"value": 0.0}, "test/error", DATA, config()) == 0.0


def test_of_several_figures_that_of_the_same_metric_split_and_settings_stands_there():
    more = [{"what": "56 layers", "metric": "test/error", "value": 0.0697, "where": {"lightning_module.network.depth": 56}},
            {"what": "top five", "metric": "test/top_5_error", "value": 0.01, "spread": 0.002},
            {"what": "on other images", "metric": "test/error", "value": 0.5, "split": "nobody's"}]  # fmt: skip
    paper = PAPER | {"figures": more}
    assert published(paper, "test/error", DATA, config()) == 0.0875
    assert published(paper, "test/error", DATA, config(depth=56)) == 0.0697
    assert published(paper, "test/error", DATA, config(depth=56, extra={})) is None  # the paper's own where holds, too
    assert published(paper, "test/error", DATA, config(depth=44)) is None
    assert published(paper, "test/top_5_error", DATA, config()) == 0.01
    assert published(paper, "test/error", DATA | {"split": "nobody's"}, config()) == 0.5
    # without a value of its own, and of the experiment as its file has it
    alone = paper | {"value": None}
    assert published(alone, "test/error", DATA, config(depth=56)) == 0.0697
    assert published(alone, "test/error", DATA, None) is None
    assert published(alone, "test/top_5_error", DATA, None) == 0.01
    assert [(it.what, it.value, it.spread) for it in figures_of(alone)] == [
        ("56 layers", 0.0697, None), ("top five", 0.01, 0.002), ("on other images", 0.5, None)]  # fmt: skip
    several = {"what": "both", "values": {"test/error": [0.06, 0.001], "test/error_top5": 0.01}, "spread": 0.5}
    assert [(it.what, it.metric, it.value, it.spread, it.data) for it in figures_of(alone | {"figures": [several]})] == [
        ("both", "test/error", 0.06, 0.001, "cifar10"), ("both", "test/error_top5", 0.01, None, "cifar10")]  # fmt: skip
    assert figures_of(PAPER | {"figures": None})[0].value == 0.0875
    assert figures_of(None) == figures_of({"id": "arXiv:1"}) == []


def test_what_records_from_before_splits_had_names_were_tested_on():
    assert split_of({"name": "mnist", "test": 10_000}) == "test"
    assert split_of({"name": "coco", "test": 5_000, "test_split": "val"}) == "val2017"
    assert split_of({"name": "coco", "test": 64, "test_split": "val"}) == "val2017, 64 examples"
    assert split_of({"name": "coco", "test": 64, "test_split": "train"}) == "train2017, 64 examples"


# --- tests on training data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "expected"),
    [("test/map", "train_set/map"), ("val/map", "val/map"), ("train/loss", "train/loss"), ("images/x", "images/x")],
)
def test_what_is_measured_on_training_data_is_called_no_test(key, expected):
    assert key_for(key, SimpleNamespace(tests_on_training_data=True)) == expected
    assert key_for(key, SimpleNamespace(tests_on_training_data=False)) == key
    assert key_for(key, SimpleNamespace()) == key_for(key, None) == key


def test_who_asks_for_a_metric_gets_it_by_the_key_that_a_run_has():
    assert key_in({"train_set/map"}, "test/map") == "train_set/map"
    assert key_in({"test/map"}, "train_set/map") == "test/map"
    assert key_in({"test/map", "train_set/map"}, "test/map") == "test/map"
    assert key_in({"train_set/map"}, "val/map") == "val/map"
    assert key_in({}, "test/map") == "test/map"


def test_records_from_before_there_was_a_name_for_it_are_read_by_the_name_of_today():
    metrics = {"test/map": 0.7, "train/loss": 0.1}
    assert metrics_of({"metrics": metrics, "data": {"name": "coco", "test_split": "train"}}) == {
        "train_set/map": 0.7, "train/loss": 0.1}  # fmt: skip
    assert metrics_of({"metrics": metrics, "data": {"name": "coco", "test_split": "val"}}) == metrics
    assert metrics_of({"metrics": metrics}) == metrics
    assert metrics_of({}) == {}
