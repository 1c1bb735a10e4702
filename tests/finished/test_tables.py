import json

import pytest

from finished import tables
from finished.results import load_experiments
from foundation.errors import UserError

RECORD = {
    "status": "finished", "clean": True, "experiment": "infogan_mnist", "seed": 3, "commit": "abcdef0123456789",
    "overrides": ["experiment=infogan_mnist", "seed=3", "paths.output_dir=/somewhere/of/mine"], "data": {"name": "mnist"},
    "hardware": {"device": "a processor", "threads": 2}, "precision": "32-true", "world_size": 1, "iterations": 5000,
    "wall_time_s": {"fit": 61.2, "test": 1.0}, "versions": {}, "metrics": {"test/cluster_accuracy": 0.9},
    "command": "train.py", "started_at": "now", "python": "3",
}  # fmt: skip
EXPERIMENTS = [
    {
        "name": "infogan_mnist",
        "paper": {"id": "arXiv:1", "metric": "test/cluster_accuracy", "value": 0.95, "data": "mnist", "split": "test"},
        "data": "mnist", "module": "infogan", "callbacks": ["default", "cluster_accuracy"],
        "length": {"max_steps": 50_000},
    }
]  # fmt: skip
PAGES = {"infogan_mnist": ("InfoGAN", "docs/methods/infogan.md")}


def write_run(folder, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "record.json").write_text(json.dumps(RECORD | changes))
    return folder


def result(seed, accuracy, *overrides):
    return RECORD | {
        "seed": seed,
        "metrics": {"test/cluster_accuracy": accuracy},
        "file": f"f{seed}",
        "overrides": list(overrides),
    }


def test_a_result_is_named_by_experiment_seed_and_commit_and_keeps_no_place(tmp_path):
    path = tables.record(write_run(tmp_path / "run"), tmp_path / "results")
    assert path.name == "infogan_mnist-3-abcdef0.json"
    content = json.loads(path.read_text())
    required = {"experiment", "seed", "overrides", "commit", "data", "hardware", "wall_time_s", "metrics"}
    assert required <= content.keys()
    assert content["overrides"] == ["experiment=infogan_mnist", "seed=3"]
    assert "somewhere" not in path.read_text()
    assert tables.record(tmp_path / "run", tmp_path / "results") == path  # the same again changes nothing


def test_what_a_run_was_given_is_named_without_its_place(tmp_path):
    overrides = ["experiment=infogan_mnist", "datamodule.folder=/home/me/coco/", "+callbacks@callbacks=classifier_score",
                 "callbacks.classifier_score.judge.run=outputs/resnet_mnist/now-seed0", "x.data=~/mine/set",
                 "optimized_metric=val/map", "a.b=[/1,2]", "x.others.runs=[outputs/a/b, /c/d]"]  # fmt: skip
    inputs = {"a.0": {"run": "r", "overrides": ["seed=1", "paths.data_dir=/home/me", "init_from=/home/me/b"]}, "b": {}}
    path = tables.record(write_run(tmp_path / "run", overrides=overrides, inputs=inputs), tmp_path / "results")
    given = {"a.0": {"run": "r", "overrides": ["seed=1", "init_from=b"]}, "b": {}}
    assert json.loads(path.read_text())["inputs"] == given
    assert json.loads(path.read_text())["overrides"] == [
        "experiment=infogan_mnist", "datamodule.folder=coco", "+callbacks@callbacks=classifier_score",
        "callbacks.classifier_score.judge.run=now-seed0", "x.data=set", "optimized_metric=val/map", "a.b=[/1,2]", "x.others.runs=[b, d]"]  # fmt: skip


def test_of_what_the_slices_of_a_run_were_asked_the_latest_counts(tmp_path):
    overrides = ["experiment=infogan_mnist", "trainer.max_steps=1", "+callbacks@callbacks=drawing", "trainer=cpu",
                 "+callbacks@callbacks=classifier_score", "+trainer.max_steps=3"]  # fmt: skip
    path = tables.record(write_run(tmp_path / "run", overrides=overrides), tmp_path / "results")
    assert json.loads(path.read_text())["overrides"] == [
        "experiment=infogan_mnist", "+trainer.max_steps=3", "+callbacks@callbacks=drawing", "trainer=cpu",
        "+callbacks@callbacks=classifier_score"]  # fmt: skip


def test_a_setting_that_did_not_hold_from_the_start_says_since_when(tmp_path):
    overrides = ["experiment=infogan_mnist", "trainer.max_steps=8", "lightning_module.optimizer.lr=0.1"]
    changed = {"trainer.max_steps": [4, 8], "lightning_module.optimizer.lr": [0.3, 0.1]}
    resumes = [{"from_iteration": 4, "changed": changed}, {"from_iteration": 6, "changed": {}}, {"from_iteration": 7}]
    path = tables.record(write_run(tmp_path / "run", overrides=overrides, resumes=resumes), tmp_path / "results")
    assert json.loads(path.read_text())["overrides"] == [
        *overrides[:2], "lightning_module.optimizer.lr=0.1 (from iteration 4)"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"clean": False}, "ran with changes that its commit does not hold: commit, and run it again"),
        (
            {"clean": False, "changes": ["a.py (new)", "b.py"]},
            r"its commit does not hold \(a.py \(new\), b.py\): commit",
        ),
        ({"clean": None}, "outside a git checkout"),
        ({"status": "failed"}, "is failed: only a run that was trained and tested"),
        ({"status": "fitted"}, "is fitted"),
    ],
)
def test_what_is_no_evidence_is_refused(tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        tables.record(write_run(tmp_path / "run", **changes), tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_folder_without_record_is_named(tmp_path):
    with pytest.raises(UserError, match="has no record.json"):
        tables.record(tmp_path, tmp_path / "results")


def test_another_run_does_not_replace_a_result(tmp_path):
    tables.record(write_run(tmp_path / "run"), tmp_path / "results")
    with pytest.raises(UserError, match="already holds another run"):
        tables.record(write_run(tmp_path / "other", metrics={"test/cluster_accuracy": 0.99}), tmp_path / "results")


def test_tables_stand_between_their_marks():
    page = "before\n<!-- table: methods -->\nold\n<!-- end of table -->\nafter\n<!-- table: infogan_mnist runs -->\n<!-- end of table -->\n"
    results = {"infogan_mnist": [result(0, 0.8, "seed=0", "trainer.max_steps=5000")]}
    made = tables.with_tables(page, EXPERIMENTS, results, PAGES)
    assert made.startswith("before\n<!-- table: methods -->\n| method | measured on |")
    assert "old" not in made
    assert (
        "| [InfoGAN](docs/methods/infogan.md) | mnist test | `cluster_accuracy` | 0.95 | 0.800 (1 seed) "
        "| 5,000 of 50,000 iterations | `infogan_mnist` |\n"
    ) in made
    assert (
        "| 0 | trainer.max_steps=5000 | mnist test | 5,000 of 50,000 iterations | 0.8000 | 61 s "
        "| a processor, 2 threads, 32-true | `f0` |\n"
    ) in made
    assert tables.with_tables(made, EXPERIMENTS, results, PAGES) == made


def test_what_nobody_has_run_is_not_on_the_front_page():
    page = "<!-- table: methods -->\n<!-- end of table -->"
    assert "infogan" not in tables.with_tables(page, EXPERIMENTS, {}, PAGES)


def test_a_figure_on_training_images_is_called_no_test():
    overfit = result(0, 0.7) | {"data": {"name": "coco", "test": 64, "test_split": "train"}}
    page = "<!-- table: infogan_mnist runs -->\n<!-- end of table -->\n<!-- table: methods -->\n<!-- end of table -->"
    made = tables.with_tables(page, EXPERIMENTS, {"infogan_mnist": [overfit]}, PAGES)
    assert "coco train2017, 64 examples" in made
    assert "test" not in made
    assert "0.95" not in made


def test_variants_are_compared_over_their_seeds():
    results = [
        result(0, 0.8),
        result(1, 0.9, "seed=1", "trainer=gpu"),
        result(0, 0.7, "a.b=1", "seed=0"),
        result(2, 0.6, "a.b=1"),
        result(3, 0.5, "a.b=1"),
        result(2, 0.1, "a.b=1") | {"started_at": "2020-01-01"},  # the same seed, before
    ]
    page = "<!-- table: infogan_mnist variants test/cluster_accuracy -->\n<!-- end of table -->"
    made = tables.with_tables(page, EXPERIMENTS, {"infogan_mnist": results}, PAGES).splitlines()
    assert (
        made[3] == "| as the experiment's file has it | mnist test | 2 | 0.800, 0.900 | 0.800, 0.900 | 0.800 | 0.900 |"
    )
    assert made[4] == "| `a.b=1` | mnist test | 3 | 0.600 ± 0.100 | 0.600 ± 0.100 | 0.500 | 0.700 |"


def test_experiments_stand_beside_one_another_as_their_files_have_them():
    """A run that another goes on from is no change, another length is; runs with all metrics go before others, and of a
    seed the newest."""
    one = [result(0, 0.2) | {"started_at": "2020-01-01"}, result(0, 0.8, "init_from=a"), result(1, 0.9, "datamodule.proposals.run=b"),
           result(2, 0.1, "trainer.max_steps=1")]  # fmt: skip
    whole = result(3, 0.5)
    whole["metrics"] = whole["metrics"] | {"test/image_s": 0.0123}
    results = {"infogan_mnist": one, "other": [*one, whole]}
    metrics = ["test/cluster_accuracy", "test/image_s"]
    assert tables.beside_table(["infogan_mnist", "other", "none"], results, metrics).splitlines() == [
        "| experiment | measured on | seeds | `cluster_accuracy` | `image_s` |",
        "|---|---|---|---|---|",
        "| `infogan_mnist` | mnist test | 2 | 0.800, 0.900 | - |",
        "| `other` | mnist test | 1 | 0.500 | 0.0123 |",
        "| `none` | not run yet | - | - | - |",
    ]
    page = "<!-- table: infogan_mnist beside test/cluster_accuracy -->\n<!-- end of table -->"
    made = tables.with_tables(page, EXPERIMENTS, results, PAGES)
    assert "| `infogan_mnist` | mnist test | 2 | 0.800, 0.900 |" in made
    with pytest.raises(UserError, match="'mnist beside test/a', but there is no experiment mnist"):
        tables.with_tables("<!-- table: mnist beside test/a -->\n<!-- end of table -->", EXPERIMENTS, results, PAGES)


def test_the_best_of_an_error_is_the_smallest():
    results = [result(0, 0.25), result(1, 0.125)]
    made = tables.variants_table(results, ["test/cluster_accuracy"], "min").splitlines()
    assert made[2].endswith(" | 0.250 | 0.125 |")
    assert tables.direction_of("resnet_digits", "test/error") == "min"
    assert tables.direction_of("improved_gan_cifar10_minibatch", "test/inception_score") == "max"  # unavailable or not
    with pytest.raises(UserError, match="resnet_digits declares no direction of test/nothing"):
        tables.direction_of("resnet_digits", "test/nothing")


def test_runs_without_a_metric_that_is_asked_for_are_left_out():
    judged = result(1, 0.9, "a.b=1")
    judged["metrics"] = judged["metrics"] | {"test/classifier_score": 8.0}
    page = "<!-- table: infogan_mnist variants test/classifier_score -->\n<!-- end of table -->"
    made = tables.with_tables(page, EXPERIMENTS, {"infogan_mnist": [result(0, 0.8), judged]}, PAGES).splitlines()
    assert made[3:-1] == ["| `a.b=1` | mnist test | 1 | 0.900 | 8.000 | 0.900 | 0.900 |"]
    with pytest.raises(
        UserError, match="'infogan_mnist variants test/classifier_score', but no run .* all its metrics"
    ):
        tables.with_tables(page, EXPERIMENTS, {"infogan_mnist": [result(0, 0.8)]}, PAGES)


def test_a_table_of_runs_has_the_metrics_that_are_named_and_all_where_they_are_few():
    many = {f"test/error_fgm_l2_1e-{it:02}": it / 100 for it in range(1, 20)}
    attacked = result(0, 0.8)
    attacked["metrics"] = attacked["metrics"] | many
    results = {"infogan_mnist": [attacked, result(1, 0.9)]}
    page = "<!-- table: infogan_mnist runs test/error_fgm_l2_1e-05 -->\n<!-- end of table -->"
    made = tables.with_tables(page, EXPERIMENTS, results, PAGES).splitlines()
    assert "| length | `error_fgm_l2_1e-05` | fit |" in made[1]
    assert [("| 0.0500 |" in made[3]), ("| - |" in made[4])] == [True, True]
    with pytest.raises(UserError, match="runs have 20 metrics, .*: name at most 12 behind the word, as in 'infogan_mn"):
        tables.with_tables("<!-- table: infogan_mnist runs -->\n<!-- end of table -->", EXPERIMENTS, results, PAGES)
    with pytest.raises(UserError, match="runs test/cluster_acuracy', but no run in results/ has test/cluster_acuracy"):
        tables.with_tables(page.replace("error_fgm_l2_1e-05", "cluster_acuracy"), EXPERIMENTS, results, PAGES)


def test_a_variant_has_a_name_of_its_own(tmp_path):
    plain = tables.record(write_run(tmp_path / "run"), tmp_path / "results")
    variant = tables.record(write_run(tmp_path / "other", overrides=["a.b=1"]), tmp_path / "results")
    assert variant.name.startswith("infogan_mnist-3-abcdef0-")
    assert plain.exists()


def test_a_table_of_nothing_is_refused():
    with pytest.raises(UserError, match="the table 'infogan_svhn runs', but results/ holds no run"):
        tables.with_tables("<!-- table: infogan_svhn runs -->\n<!-- end of table -->", EXPERIMENTS, {}, PAGES)


def test_the_project_s_pages_agree_with_its_results():
    assert tables.update_pages(tables.ROOT, check=True) == []


def test_the_listing_has_a_line_an_experiment(capsys):
    assert tables.main(["experiments"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["experiment", "paper", "data"]
    assert [line.split()[0] for line in lines[1:]] == [it["name"] for it in load_experiments(tables.ROOT / "conf")]


def test_every_experiment_has_a_method_with_a_page():
    pages = tables.methods_of(load_experiments(tables.ROOT / "conf"), tables.ROOT)
    assert pages["infogan_mnist_terms_alone"] == ("InfoGAN", "docs/methods/infogan.md")
    assert pages["mask_rcnn_coco"] == ("Faster R-CNN", "docs/methods/faster_rcnn.md")  # by its module
    assert pages["oracle_deepcloak_cifar10"] == ("Oracle robustness", "docs/methods/oracle_robustness.md")  # by a word
    assert all((tables.ROOT / page).exists() for _, page in pages.values())


def test_the_best_of_a_table_is_known_though_a_callback_asks_for_a_run_that_a_person_has_to_name():
    assert tables.direction_of("oracle_mnist_manifold", "test/error") == "min"
