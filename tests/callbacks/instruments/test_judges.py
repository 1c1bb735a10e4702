"""A classifier's run as a judge of InfoGAN's digits: from the command that trains, and of a run that is finished."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from callbacks.instruments.judges import ClassifierJudge
from callbacks.instruments.pictures import as_8_bit
from callbacks.run_record import write_json
from evaluate import evaluate
from finished.tables import record
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.security import check_targets
from foundation.source_tree import git, source_tree
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.inputs import origin_of_module
from launch.parts_check import metrics_of_run
from launch.runs import build, load_module, load_run
from tests.callbacks.test_inception_score import scored
from tests.finished_runs import finished_run
from tests.lightning_modules.test_infogan import TINY

CLASSIFIER = ["experiment=resnet_digits", "trainer.precision=32-true", "lightning_module.network.width=4",
              "lightning_module.network.depth=8", "lightning_module.scheduler.warmup=5"]  # fmt: skip
KEYS = {f"test/{real}classifier_score{end}" for real in ("", "real_") for end in ("", "_std", "_all")}
KEYS.add("test/real_classifier_score_images")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It tells six in ten of the digits apart or more."""
    return finished_run(tmp_path_factory.mktemp("classifier"), *CLASSIFIER, "trainer.max_steps=100")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("generator"), *TINY["infogan_digits"])


def judged_by(run: Path) -> list[str]:
    return [f"callbacks.classifier_score.judge.run={run}", "callbacks.classifier_score.test_images=300",
            "callbacks.classifier_score.val_images=100"]  # fmt: skip


def test_a_run_is_judged_while_it_trains_and_says_by_whom(classifier, tmp_path):
    words = ["trainer=cpu", "trainer.max_steps=2", "trainer.log_every_n_steps=1", "trainer.val_check_interval=1",
             "logger=none", *TINY["infogan_digits"],
             "callbacks=[default,cluster_accuracy,image_grid,classifier_score,nearest_neighbours]",
             *judged_by(classifier), "datamodule.val_size=40", "optimized_metric=val/classifier_score"]  # fmt: skip
    config = compose_job("train", words, str(tmp_path))
    check_config(config, TrainConfig)
    check_targets(config, "a run's own config")  # with which evaluate.py goes on
    run = build(config)
    run.trainer.fit(run.module, datamodule=run.datamodule)
    logged = set(run.trainer.callback_metrics)
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    logged |= set(run.trainer.callback_metrics)
    assert logged == metrics_of_run(run.module, run.datamodule, run.callbacks).keys()
    assert KEYS | {"val/classifier_score"} < logged
    told = json.loads((tmp_path / "record.json").read_text())
    (judges,) = told["judges"].values()
    assert judges["images"] == {"val": 100, "test": 300, "real test": 360}
    (given,) = told["inputs"].items()
    assert given == ("callbacks.classifier_score.judge", {
        "run": classifier.name, "experiment": "resnet_digits", "checkpoint": "last.ckpt", "iteration": 100,
        "weights": "trained", "weights_sha256": judges["judge"]["weights_sha256"]})  # fmt: skip
    assert len(judges["judge"]["weights_sha256"]) == 64
    assert {"confident_samples-classifier_score.png", "nearest_neighbours.png"} < {
        path.name for path in (tmp_path / "images").iterdir()}  # fmt: skip

    (tmp_path / "record.json").write_text(json.dumps(told | {"clean": True, "commit": "abcdef0"}))
    kept = json.loads(record(tmp_path, tmp_path / "results").read_text())
    assert (kept["inputs"], kept["judges"]) == (told["inputs"], told["judges"])


def test_a_finished_run_is_judged_by_what_it_was_trained_without(classifier, generator, tmp_path):
    words = [f"run={generator}", "trainer=cpu", "callbacks=[classifier_score]", *judged_by(classifier)]
    found = evaluate(compose_job("evaluate", words, str(tmp_path)), tmp_path)
    assert found.keys() == KEYS | {"test/cluster_accuracy", "test/cluster_purity", "test/kmeans_cluster_accuracy"}
    module, _, datamodule = load_run(generator)
    judge = load_run(classifier)[0]
    datamodule.setup()
    with torch.no_grad():
        samples = as_8_bit(module.sample(torch.arange(300)))  # type: ignore
        real = datamodule.tables["test"].images  # type: ignore
        expected = {
            f"test/{name}classifier_score{end}": value
            for name, images in (("", samples), ("real_", real))
            for end, value in scored(judge.class_logits(images / 255)).items()  # type: ignore
        }
    expected["test/real_classifier_score_images"] = 360
    assert {key: found[key] for key in KEYS} == pytest.approx(expected, rel=1e-5)
    assert found["test/real_classifier_score"] > 2 * found["test/classifier_score"]  # two iterations make noise
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written["judges"]["classifier_score"]["images"] == {"test": 300, "real test": 360}
    assert written["inputs"]["callbacks.classifier_score.judge"]["run"] == classifier.name
    again = evaluate(compose_job("evaluate", words, str(tmp_path / "again")), tmp_path / "again")
    assert again == found


def test_what_a_measurement_finds_can_be_kept_as_a_result(classifier, generator, tmp_path):
    """Beside the run's own, named by what was asked for, and only where both trees were clean."""
    words = [f"run={generator}", "trainer=cpu", "callbacks=[classifier_score]", *judged_by(classifier)]
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "overrides.yaml").write_text(json.dumps(words))
    found = evaluate(compose_job("evaluate", words, str(tmp_path)), tmp_path)
    written, own = (json.loads((it / "record.json").read_text()) for it in (tmp_path, generator))
    assert written["clean"] == (own["clean"] and source_tree().clean)
    assert written["metrics"].keys() == own["metrics"].keys() | found.keys()
    assert all(written["metrics"][key] == pytest.approx(value, rel=1e-6) for key, value in found.items())
    assert (own["status"], written["status"]) == ("fitted", "finished")
    assert written["evaluation"]["commit"] == git("rev-parse", "HEAD")
    assert written["judges"].keys() == {"classifier_score"}
    assert written["inputs"].keys() == {"callbacks.classifier_score.judge"}

    with pytest.raises(UserError, match="changes that its commit does not hold"):
        record(write(tmp_path / "dirty", written | {"clean": False, "status": "finished"}), tmp_path / "results")
    clean = {"clean": True, "status": "finished", "commit": "abcdef0"}
    results = [record(write(tmp_path / name, it | clean), tmp_path / "results")
               for name, it in (("own", own), ("again", written))]  # fmt: skip
    assert len({path.name for path in results}) == 2
    kept = json.loads(results[1].read_text())
    assert kept["overrides"][len(own["overrides"]) :] == [
        "evaluate.callbacks=[classifier_score]", f"evaluate.callbacks.classifier_score.judge.run={classifier.name}",
        "evaluate.callbacks.classifier_score.test_images=300", "evaluate.callbacks.classifier_score.val_images=100"]  # fmt: skip
    assert str(tmp_path.parent) not in results[1].read_text()


def write(folder: Path, told: dict) -> Path:
    write_json(folder / "record.json", told)
    return folder


def test_callbacks_that_make_a_run_cannot_be_added_to_a_measurement(generator, tmp_path):
    words = [f"run={generator}", "trainer=cpu", "callbacks=[checkpoint]"]
    with pytest.raises(UserError, match=r"callbacks=\['checkpoint'\] make a run and measure nothing: leave them out"):
        evaluate(compose_job("evaluate", words, str(tmp_path)), tmp_path)


def test_a_judge_leaves_the_random_state_and_its_weights_alone(classifier):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    judge = ClassifierJudge(load_module(str(classifier)))
    assert torch.equal(torch.rand(1), expected)
    images = torch.randint(256, (5, 1, 8, 8)).byte()
    with evaluating(judge):
        logits, features = judge(images)
    assert features is None
    module = load_module(str(classifier))
    assert torch.equal(logits, module.class_logits(images / 255))  # type: ignore
    assert not any(it.requires_grad for it in judge.parameters())
    assert not judge.module.training


def test_a_fingerprint_is_of_weights_alone(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    path = copy / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["optimizer_states"] = []
    torch.save(checkpoint, path)
    (before, after) = (origin_of_module(str(it))["weights_sha256"] for it in (classifier, copy))
    assert before == after
    checkpoint["state_dict"]["network.linear.bias"][0] += 1
    torch.save(checkpoint, path)
    assert origin_of_module(str(copy))["weights_sha256"] != before


REFUSED = {
    "null": "callbacks.classifier_score.judge: run is null: give the folder of a finished run",
    "/nowhere": "callbacks.classifier_score.judge: there is no run /nowhere: it was moved or deleted",
    "generator": "callbacks.classifier_score.judge is InfoGAN, which classifies no images and cannot judge",
}


@pytest.mark.parametrize("run", REFUSED)
def test_what_is_no_classifier_s_run_is_refused_at_the_start(run, generator, tmp_path):
    named = generator if run == "generator" else run
    words = [
        "logger=none",
        *TINY["infogan_digits"],
        "callbacks=[default,image_grid,classifier_score]",
        *judged_by(named),
    ]
    with pytest.raises(UserError, match=REFUSED[run]):
        build(compose_job("train", words, str(tmp_path)))


def test_images_of_another_size_are_refused_at_the_start(classifier, tmp_path):
    words = ["experiment=infogan_mnist", "logger=none", "trainer=cpu", *TINY["infogan_mnist"],
             "callbacks=[default,image_grid,classifier_score]", *judged_by(classifier),
             "optimized_metric=null", "paper.metric=null"]  # fmt: skip
    expected = (
        "callbacks.classifier_score cannot judge InfoGAN: its judge tells images of (channels, height, width) "
        "(1, 8, 8) apart, and the module makes (1, 28, 28). Name another judge, or none."
    )
    with pytest.raises(UserError) as refused:
        build(compose_job("train", words, str(tmp_path)))
    assert str(refused.value) == expected
