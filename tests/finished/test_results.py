"""What is a run of a recipe, how much of it was run, and which record stands for a method."""

import math

import pytest

from finished.results import (
    Record,
    best_of_each_method,
    digits,
    is_recipe,
    load_experiments,
    load_results,
    mean_and_spread,
    measured_on,
    reached,
    records_of,
    share_of,
    told_share,
)
from finished.tables import ROOT

PAPER = {"id": "arXiv:1", "metric": "test/error", "value": 0.1, "data": "mnist", "split": "test"}


def experiment(name="a_mnist", paper=PAPER, max_steps=100, callbacks=("default", "averaged_weights")):
    return {"name": name, "paper": paper, "length": {"max_steps": max_steps}, "callbacks": list(callbacks)}


def result(seed=0, error=0.2, overrides=(), iterations=100, data="mnist", **more):
    return {"seed": seed, "overrides": [f"seed={seed}", *overrides], "iterations": iterations, "file": f"{seed}.json",
            "data": {"name": data, "split": "test"}, "metrics": {"test/error": error}, "wall_time_s": {"fit": 1800},
            **more}  # fmt: skip


# --- a recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    ["trainer.max_steps=7", "trainer=gpu", "logger=csv", "datamodule=svhn", "datamodule.folder=mine", "datamodule.label_seed=3",
     "trainer.log_every_n_steps=5", "+callbacks@callbacks=classifier_score", "callbacks.classifier_score.judge.run=x",
     "~callbacks.image_grid", "callbacks=[default,classification,averaged_weights]", "evaluate.callbacks=[classifier_score]"],
)  # fmt: skip
def test_length_data_and_what_watches_leave_a_recipe_as_it_is(override):
    assert is_recipe(experiment(), result(overrides=[override]))


@pytest.mark.parametrize(
    "override",
    ["lightning_module.optimizer.lr=1", "lightning_module=resnet", "datamodule.num_labels=20", "datamodule.batch_size=7",
     "trainer.precision=64-true", "sweep=resnet_degradation", "~callbacks.averaged_weights", "callbacks=[default]",
     "callbacks.averaged_weights.decay=0.5", "+callbacks@callbacks=early_stopping", "evaluate.checkpoint=best"],
)  # fmt: skip
def test_any_other_setting_makes_a_variant(override):
    assert not is_recipe(experiment(), result(overrides=[override]))


# --- how much of it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "done", "told", "share"),
    [
        ({"max_steps": 50_000}, {"iterations": 13_000}, "13,000 of 50,000 iterations", 0.26),
        ({"max_steps": 100}, {"iterations": 300}, "300 of 100 iterations", 1.0),
        ({"max_steps": -1, "max_epochs": 30}, {"epochs": 12}, "12 of 30 epochs", 0.4),
        ({"max_epochs": 30}, {"epochs": 1.5}, "1.5 of 30 epochs", 0.05),
        ({"max_time": "00:01:30:00"}, {}, "0.5 of 1.5 hours", 1 / 3),
        ({"max_time": {"hours": 2}}, {}, "0.5 of 2.0 hours", 0.25),
        ({"max_epochs": 30}, {"iterations": 70}, "70 iterations", 0.0),  # a record from before epochs were counted
    ],
)
def test_how_much_of_a_recipe_was_run(length, done, told, share):
    recipe, run = experiment() | {"length": length}, result() | done
    assert told_share(recipe, run) == told
    assert share_of(recipe, run) == pytest.approx(share)


# --- which record stands for a method -----------------------------------------------------------------------------------


def test_most_of_the_recipe_stands_before_more_seeds():
    half = [result(seed, 0.3, ["trainer.max_steps=50"], iterations=50) for seed in range(5)]
    whole, variant = result(0, 0.2), result(1, 0.01, ["lightning_module.width=9"])
    first, second = records_of(experiment(), {"a_mnist": [*half, variant, whole]})
    assert (first.values, first.share, len(second.runs)) == ([0.2], 1.0, 5)


def test_of_whole_recipes_the_one_with_more_seeds_stands_and_other_data_has_a_row_of_its_own():
    recipes = [experiment("a_mnist"), experiment("a_mnist_small", PAPER | {"value": None}), experiment("b_mnist")]
    results = {
        "a_mnist": [result(0, 0.2), result(1, 0.3), result(0, 0.9, ["datamodule=mine"], data="mine")],
        "a_mnist_small": [result(seed, 0.4) for seed in range(3)],
        "b_mnist": [result(0, 0.5)],
    }
    methods = {"a_mnist": "A", "a_mnist_small": "A", "b_mnist": "B"}
    rows = [(it.experiment["name"], it.runs[0]["data"]["name"], it.reached(), it.of_paper)
            for it in best_of_each_method(recipes, results, methods)]  # fmt: skip
    assert rows == [
        ("a_mnist", "mine", "0.900 (1 seed)", None),
        ("a_mnist_small", "mnist", "0.4000 ± 0.0000 (3 seeds)", None),
        ("b_mnist", "mnist", "0.500 (1 seed)", 0.1),
    ]


def test_a_seed_counts_once():
    watched = result(0, 0.5, ["+callbacks@callbacks=classifier_score"], started_at="2026-03")
    runs = [watched, result(0, 0.2, started_at="2026-01"), result(0, 0.3, started_at="2026-02"), result(1, 0.4)]
    (found,) = records_of(experiment(), {"a_mnist": runs})
    assert found.values == [0.3, 0.4]
    subsets = [result(0, value, [f"datamodule.label_seed={seed}"]) for seed, value in enumerate((0.1, 0.2, 0.3))]
    (found,) = records_of(experiment(), {"a_mnist": subsets})
    assert len(found.runs) == 3


def test_mean_and_spread_by_hand():
    assert mean_and_spread([0.8, 0.9]) == f"0.850 ± {math.sqrt(2 * 0.05**2):.3f}"
    assert mean_and_spread([0.9871, 0.9873]) == "0.9872 ± 0.0001"
    assert (digits(0.0124), digits(0.8), digits(110.87)) == ("0.0124", "0.800", "110.870")
    record = Record(experiment(), [result(seed, 0.1 + seed / 10) for seed in range(3)])
    assert record.reached() == "0.200 ± 0.100 (3 seeds)"
    assert Record(experiment(), record.runs[:2]).reached() == "0.100, 0.200 (2 seeds)"
    subsets = [result(0, value, [f"datamodule.label_seed={seed}"]) for seed, value in enumerate((0.1, 0.2, 0.3))]
    assert Record(experiment(), subsets).reached() == "0.200 ± 0.100 (3 subsets of labels)"
    assert reached([0.125, 0.25]) == "0.125, 0.250"
    assert reached([0.25]) == "0.250"


def test_a_row_says_data_split_and_what_was_done_to_it():
    data = {"name": "mnist", "split": "test", "labels": 4000, "binarized": "sampled once, seed 0"}
    assert measured_on({"data": data}) == "mnist test, binarized (sampled once, seed 0), 4,000 labels"


def test_the_project_s_own_records_are_read():
    results = load_results(ROOT / "results")
    recipes = {it["name"]: it for it in load_experiments(ROOT / "conf")}
    assert results.keys() <= recipes.keys()
    (best, *_) = records_of(recipes["draw_mnist"], results)
    assert told_share(recipes["draw_mnist"], best.runs[0]).endswith(" of 200,000 iterations")
    assert best.of_paper is None  # the paper's is of the fixed binarisation
    assert recipes["infogan_mnist_best"]["length"]["max_steps"] == 5000  # of the experiment that it builds on
    assert recipes["infogan_mnist_best"]["paper"]["value"] is None
