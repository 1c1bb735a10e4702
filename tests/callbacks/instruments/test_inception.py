"""The judges from ImageNet with random weights: as torch-fidelity has them, and how weights are come by."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision.models import inception_v3

from callbacks.inception_score import InceptionScore
from callbacks.instruments import downloads, inception
from callbacks.instruments.inception import Inception2015, TorchvisionInception
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.parts_check import metrics_of_run
from launch.runs import build
from tests.callbacks.test_inception_score import Images, scored
from tests.lightning_modules.test_infogan import TINY


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random ones, with a last layer so large that probabilities differ."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patched:  # its constructor takes no weights but a file's
        patched.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patched.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        network = FeatureExtractorInceptionV3("random", ["2048"])
    spread(network)
    torch.save(network.state_dict(), folder / "weights.pth")
    return folder / "weights.pth"


def spread(network: nn.Module) -> None:
    """Keep the signal alive through forty layers, and let images differ in class."""
    for part in network.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
    network.fc.weight.data.normal_()  # type: ignore


def photographs(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()


def test_the_score_is_torch_fidelity_s_with_the_same_weights(weights):
    images = photographs(6)
    judge = Inception2015(str(weights))
    assert judge.unavailable_because() is None
    judge.load()
    logits, features = (torch.cat(them) for them in zip(*map(judge, images.split(4)), strict=True))
    assert logits.shape == (6, judge.classes)
    with torch.no_grad():  # the distance is of these
        network = FeatureExtractorInceptionV3("theirs", ["2048"], feature_extractor_weights_path=str(weights))
        (expected,) = network(images)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))
    assert features.shape == (6, judge.features)
    ours = scored(logits, splits=1)
    theirs = calculate_metrics(
        input1=Images(images), isc=True, isc_splits=1, samples_shuffle=False, feature_extractor_weights_path=str(weights),
        cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    assert ours[""] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert ours[""] > 1.05
    assert judge.describe_for_record()["weights_sha256"] != ""
    assert not any(it.requires_grad for it in judge.parameters())


def test_a_grey_image_is_that_image_in_color(weights):
    judge = Inception2015(str(weights))
    judge.load()
    grey = photographs(2)[:, :1]
    assert torch.equal(judge(grey)[0], judge(grey.repeat(1, 3, 1, 1))[0])
    assert judge.refusal((1, 28, 28)) is judge.refusal((3, 32, 32)) is None
    assert judge.refusal((4, 8, 8)) == "it looks at grey or colour images, and the module makes 4 channels"


def test_torchvision_s_network_sees_pixels_from_minus_one_to_one(tmp_path):
    torch.manual_seed(0)
    network = inception_v3(weights=None, aux_logits=True, transform_input=True, init_weights=False).eval()
    spread(network)
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    judge = TorchvisionInception(str(tmp_path / "weights.pth"))
    images = photographs(2)
    state = torch.random.get_rng_state()
    judge.load()
    assert torch.equal(torch.random.get_rng_state(), state)
    logits, features = judge(images)
    # As torchvision's own recipe: normalised by ImageNet's mean and deviation, which transform_input undoes.
    pixels = interpolate(images / 255, size=(299, 299), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(it).view(3, 1, 1) for it in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        expected = network((pixels - mean) / std)
    assert torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.std()))
    assert features.shape == (2, judge.features)
    assert logits.shape == (2, judge.classes)


# --- weights that are not there ------------------------------------------------------------------------------


def run_with(judge: str, tmp_path: Path, *words: str):
    chosen = f"callbacks=[default,cluster_accuracy,image_grid,{judge}]"
    places = [f"paths.data_dir={tmp_path / 'data'}", f"paths.cache_dir={tmp_path / 'cache'}"]
    words = ["trainer=cpu", "trainer.max_steps=2", "logger=none", *TINY["infogan_digits"], chosen, *places, *words]  # type: ignore
    return build(compose_job("train", words, str(tmp_path / "run")))


@pytest.mark.parametrize("judge", ["inception_score", "torchvision_inception_score"])
def test_a_download_that_fails_leaves_the_score_out(judge, tmp_path, capsys, monkeypatch):
    asked = []

    def fails(url, *_, **__):
        asked.append(url)
        raise URLError("no route to host")

    monkeypatch.setattr(downloads, "download_url_to_file", fails)
    run = run_with(judge, tmp_path, f"paper.metric=test/{judge}")
    run.trainer.fit(run.module, datamodule=run.datamodule)
    run.trainer.test(run.module, datamodule=run.datamodule, verbose=False)
    assert len(asked) == 1
    said = [it for it in capsys.readouterr().out.splitlines() if "left out" in it]
    assert len(said) == 1
    assert said[0].startswith(f"{judge} is left out: its weights are not at {tmp_path}/data/inception/")
    assert said[0].endswith("could not be downloaded (<urlopen error no route to host>).")
    assert not any(judge in key for key in metrics_of_run(run.module, run.datamodule, run.callbacks))
    assert "test/cluster_accuracy" in run.trainer.callback_metrics
    assert not any(judge in key for key in run.trainer.callback_metrics)


def test_what_is_known_before_is_said_before(tmp_path, monkeypatch):
    missing = tmp_path / "data" / "inception" / "weights-inception-2015-12-05-6726825d.pth"
    run = run_with("inception_score", tmp_path, "callbacks.inception_score.judge.download=false")
    (callback,) = (it for it in run.callbacks if isinstance(it, InceptionScore))
    assert callback.unavailable_because == f"its weights are not at {missing}"
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    assert (
        Inception2015("anywhere").unavailable_because() == "torch-fidelity is not installed: pip install '.[fidelity]'"
    )
    assert TorchvisionInception("anywhere").unavailable_because() is None
    with pytest.raises(UserError, match=r"optimized_metric is val/inception_score, which is left out here: torch-fid"):
        run_with("inception_score", tmp_path, "optimized_metric=val/inception_score", "datamodule.val_size=9")


def test_a_download_is_checked_and_brought_once(tmp_path, monkeypatch):
    calls = []

    def brings(url, path, hash_prefix, progress):
        calls.append((url, hash_prefix))
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(downloads, "download_url_to_file", brings)
    judge = Inception2015(str(tmp_path / "deep" / "weights.pth"))
    assert judge.fetch() is judge.fetch() is None
    assert calls == [(Inception2015.url, "6726825d")]


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    judge = TorchvisionInception(str(path))
    torch.save({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="does not hold this judge's weights"):
        judge.load()
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(UserError, match="is refused: .* could execute code"):
        judge.load()
