"""Averages over views and runs against plain loops, on several ranks, in a record, and refused where they are none."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from callbacks.averaged_predictions import AveragedPredictions
from evaluate import evaluate
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import build, load_run
from tests.callbacks.averages_on_ranks import PHOTOGRAPHS, figures_of, job
from tests.contract.life import composed
from tests.datamodules.test_imagenet import CLASSES, write_tiny
from tests.forks import run_in_fork
from tests.lightning_modules.test_resnet import FAST
from train import train


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    write_tiny(folder, None)  # type: ignore
    return folder / "imagenet"


def views_of(image: Image.Image, kind: str, scales: list[int]) -> list[Any]:
    """As the papers tell them, each and its mirror image; the tiny experiment tests crops of 32 pixels out of 36."""
    if kind == "scales":
        seen: Any = [functional.resize(image, [side]) for side in scales]  # type: ignore
    else:
        whole: Any = functional.resize(image, [36])  # type: ignore
        width, height = whole.size
        right, down = width - 32, height - 32
        middle = (round(right / 2), round(down / 2))
        places = [(0, 0), (right, 0), (0, down), (right, down), middle] if kind == "ten_crops" else [middle]
        seen = [whole.crop((x, y, x + 32, y + 32)) for x, y in places]
    return [it for view in seen for it in (view, view.transpose(Image.Transpose.FLIP_LEFT_RIGHT))]


def by_hand(modules: list[Any], images: Path, kind: str, scales: list[int]) -> tuple[float, float]:
    """The share of photographs that are taken for another class, and the mean -log p of their own."""
    wrong, nats, paths = 0, 0.0, sorted((images / "val").rglob("*.JPEG"))
    assert len(paths) == PHOTOGRAPHS
    for path in paths:
        label, found = CLASSES.index(path.parent.name), []
        for view in views_of(Image.open(path).convert("RGB"), kind, scales):
            for module in modules:
                with torch.no_grad():
                    found.append(module.class_logits(functional.to_tensor(view)[None])[0].double().softmax(0))
        p = torch.stack(found).mean(0)
        wrong, nats = wrong + int(int(p.argmax()) != label), nats - float(p[label].log())
    return wrong / len(paths), nats / len(paths)


@pytest.mark.parametrize(("kind", "scales", "name"), [
    ("ten_crops", [], "ten_crops"), ("mirrored", [], "mirrored"), ("scales", [32, 40], "scales_32_40"),
])  # fmt: skip
def test_views_are_averaged_as_a_plain_loop_does_it(kind, scales, name, images, tmp_path):
    words = [f"callbacks.averaged_predictions.views={kind}", f"callbacks.averaged_predictions.scales={scales or [32]}"]
    run = build(job(tmp_path, images, *words), trains=False)
    run.module.train()
    run.module(torch.rand(16, 3, 32, 32))  # statistics that tell images apart
    found = figures_of(run)
    error, nats = by_hand([run.module.eval()], images, kind, scales)
    assert found[f"test/error_{name}"] == pytest.approx(error)
    assert found[f"test/accuracy_{name}"] == pytest.approx(1 - error)
    assert found[f"test/cross_entropy_nats_{name}"] == pytest.approx(nats, rel=1e-4)
    assert f"test/error_top2_{name}" in found


def test_figures_are_equal_to_the_bit_on_any_number_of_ranks(images, tmp_path):
    done = run_in_fork("-m", "tests.callbacks.averages_on_ranks", tmp_path, images)
    assert done.returncode == 0, done.stderr
    alone, *others = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    averaged = {key for key in alone if "ten_crops" in key}
    assert len(averaged) == 4
    assert [{key: it[key] for key in averaged} for it in others] == [{key: alone[key] for key in averaged}] * 2


def test_no_more_is_seen_than_the_test_is_told_to_see(images, tmp_path):
    run = build(job(tmp_path, images, "trainer.limit_test_batches=1"), trains=False)
    figures_of(run)
    (callback,) = (it for it in run.callbacks if isinstance(it, AveragedPredictions))
    assert callback.describe_for_record() == {
        "predictions_ten_crops": {"views": "ten_crops", "runs": 1, "images": 4},
    }


# --- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two of few iterations."""
    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("runs") / f"seed{seed}"
        words = [*FAST, "trainer.max_steps=4", "datamodule.batch_size=64", f"seed={seed}"]
        train(composed(folder, {}, *words), None)
        folders.append(folder)
    return folders


def measured(run: Path, again: Path, *words: str) -> tuple[dict[str, float], dict[str, Any]]:
    asked = [f"run={run}", "trainer=cpu", "callbacks=[averaged_predictions]", *words]
    config = compose_job("evaluate", asked, str(again))
    again.mkdir()
    return evaluate(config, again), json.loads((again / "record.json").read_text())


@pytest.mark.parametrize(("kind", "name"), [("single", "2_runs"), ("mirrored", "mirrored_2_runs")])
def test_an_ensemble_is_the_mean_of_its_runs_probabilities(kind, name, runs, tmp_path):
    words = [f"callbacks.averaged_predictions.{it}" for it in (f"others.runs=[{runs[1]}]", f"views={kind}")]
    found, record = measured(runs[0], tmp_path / "again", *words)
    (one, _, datamodule), (other, *_) = load_run(runs[0]), load_run(runs[1])
    datamodule.setup("test")
    table: Any = datamodule.tables["test"]  # type: ignore
    batch = table[torch.arange(len(table))]
    seen = [batch["image"] / 255]
    seen += [seen[0].flip(-1)] if kind == "mirrored" else []
    with torch.no_grad():
        p = torch.stack([it.class_logits(x).double().softmax(1) for it in (one, other) for x in seen]).mean(0)  # type: ignore
    error = float((p.argmax(1) != batch["label"]).double().mean())
    assert found[f"test/error_{name}"] == pytest.approx(error)
    nats = -float(p.log().gather(1, batch["label"][:, None]).mean())
    assert found[f"test/cross_entropy_nats_{name}"] == pytest.approx(nats, rel=1e-5)
    assert record["judges"][f"predictions_{name}"] == {"views": kind, "runs": 2, "images": len(table)}
    given = record["inputs"]["callbacks.averaged_predictions.others.0"]
    assert (given["run"], given["experiment"], given["checkpoint"]) == ("seed1", "resnet_digits", "last.ckpt")
    assert "seed=1" in given["overrides"]
    assert record["directions"][f"test/error_{name}"] == "min"


def test_what_cannot_be_averaged_is_refused_in_a_sentence(runs, tmp_path):
    """Before anything is measured."""
    key = "callbacks.averaged_predictions"
    refused = {
        "": "has nothing to average: set its views to mirrored, ten_crops or scales, or name further runs by",
        f"{key}.others.runs=[{runs[1]},{runs[1]}]": "others: runs names .*seed1 twice: name each run once",
        f"{key}.others.runs=[{runs[0]}]": "seed0 has the weights of the run that is measured: name each run once",
        f"{key}.others.runs={runs[0]}": "runs is '.*seed0', which is not a list of texts",
        f"{key}.others.runs=[nowhere]": "there is no run nowhere",
        f"{key}.views=ten_crops": "views is ten_crops, of which there are none: digits holds its images in the size of a",
        f"{key}.views=ten_crop": "views is 'ten_crop', which is not one of single, mirrored, ten_crops, scales",
        f"{key}.views=mirrored {key}.top_k=10": "top_k is 10, and there are 10 classes",
    }
    for number, (words, message) in enumerate(refused.items()):
        with pytest.raises(UserError, match=message):
            measured(runs[0], tmp_path / str(number), *words.split())


def test_runs_of_other_classes_or_images_are_refused(runs):
    (one, _, datamodule), (other, *_) = load_run(runs[0]), load_run(runs[1])
    callback = AveragedPredictions(others={"outputs/b": other})
    callback._check_classes(one, datamodule)
    one.class_names = [str(it) for it in range(10)]  # type: ignore
    other.class_names = [f"letter {it}" for it in "abcdefghij"]  # type: ignore
    with pytest.raises(
        UserError, match=r"runs: outputs/b tells other classes apart \(letter a, letter b, .*, \.\.\.\) than"
    ):
        callback._check_classes(one, datamodule)
    other.class_names, other.num_classes = None, 3  # type: ignore
    with pytest.raises(UserError, match=r"other classes apart \(3 without names\)"):
        callback._check_classes(one, datamodule)
    other.num_classes, other.image_shape = 10, (3, 8, 8)  # type: ignore
    with pytest.raises(
        UserError, match=r"outputs/b sees images of .* \(3, 8, 8\), and the run that is measured \(1, 8, 8\)"
    ):
        callback._check_classes(one, datamodule)


def test_a_network_of_one_size_is_not_asked_for_others(images, tmp_path):
    words = ["callbacks.averaged_predictions.views=scales", "callbacks.averaged_predictions.scales=[32,64]"]
    run = build(job(tmp_path, images, *words), trains=False)
    run.module.network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 3))
    with pytest.raises(
        UserError, match=r"scales has 64, and this ResNet sees no images of that size \(.*\): leave it out"
    ):
        figures_of(run)
