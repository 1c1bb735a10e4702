"""A paper's figures stand on the page as the paper's, and ours beside them where it is of the same."""

import pytest

from finished import tables
from finished.results import load_experiments
from foundation.errors import UserError
from tests.finished.test_tables import EXPERIMENTS, PAGES, result


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
    (recipe,) = (it for it in load_experiments(tables.ROOT / "conf") if it["name"] == "improved_gan_cifar10_minibatch")
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
