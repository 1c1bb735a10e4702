"""A paper's figures stand on the page as the paper's, and ours beside them where it is of the same."""

import pytest

from finished import tables
from finished.paper_figures import are_alike
from finished.results import read_experiment
from foundation.errors import UserError
from tests.finished.test_tables import EXPERIMENTS, PAGES, result


def experiment_of(name: str) -> dict:
    return read_experiment(tables.ROOT / "conf" / "experiment" / f"{name}.yaml")


def test_a_paper_s_figures_stand_on_the_page_and_beside_records_of_the_same_alone():
    figures = [{"what": "20 labels", "metric": "test/error", "value": 0.1677, "spread": 0.0452,
                "where": {"datamodule.num_labels": 20}},
               {"what": "on other images", "metric": "test/error", "value": 0.5, "data": "elsewhere"}]  # fmt: skip
    paper = {"id": "arXiv:1", "metric": "test/error", "value": 0.0093, "data": "mnist", "split": "test",
             "where": {"datamodule.num_labels": 100}, "figures": figures}  # fmt: skip
    recipe = EXPERIMENTS[0] | {
        "name": "improved_gan_mnist",
        "paper": paper,
        "callbacks": ["default", "averaged_weights"],
    }
    runs = [result(seed, 0.0) | {"overrides": ["experiment=improved_gan_mnist", f"seed={seed}", *words],
                                 "metrics": {"test/error": error}, "iterations": 25_000}
            for seed, error, words in (
                (0, 0.02, ["trainer=cpu"]), (1, 0.03, ["lightning_module.optimizer_d.lr=0.1"]),  # a variant
                (2, 0.25, ["datamodule.num_labels=20"]), (3, 0.35, ["datamodule.num_labels=20", "datamodule.label_seed=1"]),
                (4, 0.45, ["datamodule.num_labels=20", "lightning_module.label_smoothing=0.9"]),
                (5, 0.55, ["datamodule.num_labels=50"]), (6, 0.65, ["a.key.of.old=1"]))]  # fmt: skip
    page = "<!-- table: improved_gan_mnist paper -->\n<!-- end of table -->"
    made = tables.with_tables(page, [recipe], {"improved_gan_mnist": runs}, PAGES).splitlines()
    assert made[3:6] == [
        "| as the experiment's file has it | `error` | mnist test | 0.0093 | 0.0200 (1 seed) | 25,000 of 50,000 iterations |",
        "| 20 labels | `error` | mnist test | 0.1677 ± 0.0452 | 0.250, 0.350 (2 seeds) | 25,000 of 50,000 iterations |",
        "| on other images | `error` | elsewhere test | 0.5 | - | - |",
    ]
    assert tables.with_tables(page, [recipe], {}, PAGES).count("| - | - |") == 3  # nobody has run it
    with pytest.raises(UserError, match="'improved_gan_mnist paper', but that experiment names no figure"):
        tables.with_tables(page, [recipe | {"paper": {"metric": "test/error", "value": None}}], {}, PAGES)


def test_a_row_of_an_ablation_is_the_figure_s_that_its_choices_make():
    recipe = experiment_of("improved_gan_cifar10_minibatch")
    words = ["experiment=improved_gan_cifar10_minibatch", "sweep=improved_gan_ablation", "seed=0",
             "+lightning_module/ablation=no_labels"]  # fmt: skip
    run = result(0, 0.0) | {"overrides": words, "data": {"name": "cifar10", "split": "test"},
                            "metrics": {"test/inception_score": 4.0}, "iterations": 600_000}  # fmt: skip
    rows = tables.paper_table(recipe, [run]).splitlines()
    assert [row for row in rows if "600,000" in row] == [
        "| no labels | `inception_score` | cifar10 test | 4.36 | 4.000 (1 seed) | 600,000 of 600,000 iterations |"
    ]
    longer = run | {"overrides": [*words, "lightning_module.generator_steps=5"]}
    assert "600,000" not in tables.paper_table(recipe, [longer])


def evaluated(experiment: str, metric: str, *words: str, seed: int = 0, **more) -> dict:
    """A record of an evaluation, of as many iterations as the recipe has."""
    recipe = experiment_of(experiment)
    split = {"imagenet": "val"}.get(recipe["paper"]["data"], "test")
    own = {"experiment": experiment, "overrides": [f"experiment={experiment}", f"seed={seed}", *words],
           "data": {"name": recipe["paper"]["data"], "split": split}, "metrics": {metric: 0.125},
           "iterations": recipe["length"]["max_steps"]}  # fmt: skip
    return result(seed, 0.0) | own | more


def found(experiment: str, *records: dict) -> list[tuple[str, str]]:
    """What and metric of the figures that have one of ours beside them."""
    recipe = experiment_of(experiment)
    rows = [row.split(" | ") for row in tables.paper_table(recipe, list(records)).splitlines()[2:]]
    return [(row[0].removeprefix("| "), row[1].strip("`")) for row in rows if row[4] != "-"]


SCALES = "scales_224_256_384_480_640"
VIEWS = "evaluate.callbacks.averaged_predictions.views"


def test_an_evaluation_stands_beside_the_figure_of_what_it_measured():
    asked = ["evaluate.callbacks=[averaged_predictions]", "evaluate.callbacks.averaged_predictions.top_k=5"]
    scales = evaluated("resnet_imagenet", f"test/error_top5_{SCALES}", *asked, f"{VIEWS}=scales")
    assert found("resnet_imagenet", scales) == [("50 layers", f"error_top5_{SCALES}")]
    unwatched = ["callbacks=[default,classification]", *asked, f"{VIEWS}=ten_crops"]
    crops = evaluated("resnet_imagenet", "test/error_top5_ten_crops", *unwatched)
    assert found("resnet_imagenet", crops) == [("50 layers", "error_top5_ten_crops")]
    for other in ("evaluate.checkpoint=best", "datamodule.test_short_side=224"):
        assert not found("resnet_imagenet", scales | {"overrides": [*scales["overrides"], other]}), other


def test_how_many_images_an_evaluation_saw_decides():
    experiment, metric = "improved_gan_cifar10_minibatch", "test/inception_score"
    words = ["sweep=improved_gan_ablation", "+lightning_module/ablation=no_labels",
             "evaluate.callbacks=[inception_score]", "evaluate.callbacks.inception_score.test_images=50000"]  # fmt: skip
    assert found(experiment, evaluated(experiment, metric, *words)) == [("no labels", "inception_score")]
    assert not found(experiment, evaluated(experiment, metric, *words[:-1], words[-1].removesuffix("0")))


def ten_models(*words: str, **changes) -> dict:
    """changes: of one of those that the run was measured with."""
    one = {"experiment": "improved_gan_mnist", "iteration": 180_000}
    others = [one | {"overrides": ["experiment=improved_gan_mnist", f"seed={1 + it}", *words]} for it in range(9)]
    others[3] = {key: value for key, value in (others[3] | changes).items() if value is not None}
    inputs = {f"callbacks.averaged_predictions.others.{place}": it for place, it in enumerate(others)}
    asked = [
        "evaluate.callbacks=[averaged_predictions]",
        f"{VIEWS.removesuffix('views')}others.runs=[a,b,c,d,e,f,g,h,i]",
    ]
    return evaluated("improved_gan_mnist", "test/error_10_runs", *words, *asked, inputs=inputs)


def test_ten_models_stand_beside_the_paper_s():
    assert found("improved_gan_mnist", ten_models("datamodule.num_labels=20")) == [("20 labels", "error_10_runs")]
    assert not found("improved_gan_mnist", ten_models(iteration=36_000))


def test_models_are_alike_where_they_differ_in_their_seeds_alone():
    assert are_alike(ten_models())
    assert are_alike(ten_models("datamodule.label_seed=3"))
    unlike: list[dict] = [
        {"experiment": "improved_gan_mnist_labels_alone"},
        {"iteration": 36_000},
        {"overrides": ["datamodule.label_seed=3"]},  # together they saw more labels than the paper's
        {"overrides": ["datamodule.num_labels=200"]},
        {"overrides": None},  # of before a record said them
    ]
    assert not any(are_alike(ten_models(**it)) for it in unlike)
