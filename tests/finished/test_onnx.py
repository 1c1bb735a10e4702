"""The exported file computes what the module does, says what it is, and stays only if it does."""

import io
import json
import shutil
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import onnxruntime
import pytest
import torch

from finished import onnx as onnx_export
from foundation.errors import UserError
from launch.runs import load_run
from lightning_modules.infogan import InfoGAN
from lightning_modules.resnet import ResNet
from tests.finished_runs import finished_run
from tests.lightning_modules import test_improved_gan
from tests.lightning_modules.test_infogan import TINY
from tests.test_predict import SMALL


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("classifier"), *SMALL, "trainer.max_steps=3")


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("generator"), "seed=7", *TINY["infogan_digits"])


@pytest.fixture(scope="module")
def exported(classifier: Path) -> tuple[Path, str]:
    """The classifier's file as the command makes it, and what it prints."""
    with redirect_stdout(io.StringIO()) as printed, warnings.catch_warnings():
        warnings.simplefilter("error")
        onnx_export.main([str(classifier)])
    return classifier / "model.onnx", printed.getvalue()


def opened(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def computed(path: Path, **inputs: torch.Tensor) -> torch.Tensor:
    (output,) = opened(path).run(None, {name: value.numpy() for name, value in inputs.items()})
    return torch.from_numpy(output)


def metadata(path: Path) -> dict[str, str]:
    return opened(path).get_modelmeta().custom_metadata_map


def shapes(path: Path) -> dict[str, list]:
    session = opened(path)
    return {it.name: it.shape for it in [*session.get_inputs(), *session.get_outputs()]}


def test_a_classifier_s_file_gives_the_module_s_logits_for_any_batch_size(classifier, exported):
    path, _ = exported
    assert shapes(path) == {"images": ["batch", 1, 8, 8], "logits": ["batch", 10]}
    module, _, _ = load_run(classifier)
    for size in (1, 4, 33):
        images = torch.rand(size, 1, 8, 8)
        with torch.no_grad():
            expected = module.class_logits(images)  # type: ignore
        torch.testing.assert_close(computed(path, images=images), expected, rtol=1e-5, atol=1e-5)


def test_a_class_by_minibatch_features_goes_with_the_reference_images(tmp_path):
    words = [
        "experiment=improved_gan_digits",
        *test_improved_gan.TINY["improved_gan_digits"],
        *test_improved_gan.CLOSENESS,
    ]
    run = finished_run(tmp_path, *words)
    path, _ = onnx_export.export(run)
    module, _, _ = load_run(run)
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        expected = module.class_logits(images)  # type: ignore
    torch.testing.assert_close(computed(path, images=images), expected, rtol=1e-5, atol=1e-5)


def test_a_generator_s_file_makes_the_samples_out_of_the_latents_that_it_describes(generator, tmp_path):
    path, difference = onnx_export.export(generator, out=tmp_path / "new" / "generator.onnx")
    assert difference < 1e-5
    assert shapes(path) == {"latents": ["batch", 28], "images": ["batch", 1, 8, 8]}
    module, _, _ = load_run(generator)
    assert isinstance(module, InfoGAN)
    noise, codes = module.latents(torch.arange(6))
    values = {"noise": noise, "code0_categorical": codes[0], "code1_continuous": codes[1]}
    parts = []
    for part in json.loads(metadata(path)["latent_layout"]):
        value = values.pop(part["name"])
        value = torch.eye(part["size"])[value] if part["values"] == "one-hot" else value
        assert value.shape == (6, part["size"])
        parts.append(value)
    assert not values
    images = computed(path, latents=torch.cat(parts, dim=1))
    torch.testing.assert_close(images, module.sample(torch.arange(6)), rtol=1e-5, atol=1e-5)


def test_the_file_says_what_it_is_and_nothing_of_the_machine(classifier, exported):
    path, _ = exported
    assert metadata(path) == {
        "experiment": "resnet_digits",
        "checkpoint": "last.ckpt",
        "iteration": "3",
        "weights": "trained",
        "input": "images [batch, channels, height, width] in [0, 1]",
        "output": "logits [batch, classes]; their softmax gives probabilities",
        "classes": json.dumps([str(number) for number in range(10)]),
    }
    content = path.read_bytes()
    for trace in (b".py", str(Path.cwd()).encode(), str(classifier).encode()):
        assert trace not in content
    assert not list(classifier.glob("*.unfinished"))


def test_the_file_goes_into_a_folder_that_is_there(classifier, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "write", lambda exportable, metadata, path: shutil.copy(exported[0], path))
    path, _ = onnx_export.export(classifier, out=tmp_path)
    assert path == tmp_path / "model.onnx"
    assert sorted(tmp_path.iterdir()) == [tmp_path / "model.md", path]


@pytest.mark.parametrize("wrong", [1.001, torch.nan])
def test_a_file_that_computes_something_else_is_not_kept(classifier, exported, tmp_path, monkeypatch, wrong):
    def write_another(exportable, _metadata, path):
        with torch.no_grad():
            exportable.network.module.network.linear.weight.mul_(wrong)
        shutil.copy(exported[0], path)

    monkeypatch.setattr(onnx_export, "write", write_another)
    (tmp_path / "former.onnx").write_text("as it was")
    with pytest.raises(
        UserError, match="onnxruntime differs from the module by .*, more than 1e-04, so no file is kept"
    ):
        onnx_export.export(classifier, out=tmp_path / "former.onnx")
    assert [it.read_text() for it in tmp_path.iterdir()] == ["as it was"]


def test_mistakes_get_their_sentence(classifier, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="tests is not a run"):
        onnx_export.export(Path("tests"))
    with pytest.raises(UserError, match="has no checkpoint 'best'"):
        onnx_export.export(classifier, "best", tmp_path / "it.onnx")
    with pytest.raises(UserError, match="--out=README.md cannot be written"):
        onnx_export.export(classifier, out=Path("README.md/it.onnx"))
    monkeypatch.setattr(ResNet, "capabilities", lambda self: set())
    with pytest.raises(
        UserError, match="is a run of ResNet, which neither classifies images or texts nor detects objects nor makes"
    ):
        onnx_export.export(classifier, out=tmp_path / "it.onnx")
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="needs onnx, onnxscript, onnxruntime, not installed here: pip install '.\\[export\\]'"
    ):
        onnx_export.export(classifier, out=tmp_path / "it.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_file_and_how_well_it_agrees(exported):
    path, told = exported
    assert told.startswith(f"{path}: differs from the module by ")
    assert told.endswith(" at most; model.md beside it says what it is\n")
    assert float(told.partition(" by ")[2].split()[0]) < 1e-5
    card = path.with_suffix(".md").read_text()
    assert "- input: images [batch, channels, height, width] in [0, 1]" in card
    assert "## What it reached" in card
