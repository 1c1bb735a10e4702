"""``init_from``: what begins elsewhere, what does not and why; and who has the last word."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model, resnet18

from callbacks.instruments import downloads
from evaluate import evaluate
from foundation.errors import UserError
from launch import initial_weights
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.initial_weights import PUBLISHED, InitialWeights, own_name, source_of
from launch.resume import prepare, take_up
from launch.runs import Run, build, instantiate, load_run, with_classes
from lightning_modules.networks.bert_released import from_released, released_config, to_released
from tests.finished_runs import finished_run
from tests.lightning_modules.test_bert import TINY as TINY_BERT
from tests.lightning_modules.test_faster_rcnn import LIGHT
from tests.lightning_modules.test_improved_gan import TINY as TINY_IMPROVED_GAN
from tests.lightning_modules.test_infogan import TINY as TINY_INFOGAN

NET = ["lightning_module.network.width=4", "lightning_module.network.depth=8", "trainer.precision=32-true"]
CLASSIFIER = ["experiment=resnet_digits", *NET]
IMPROVED_GAN = ["experiment=improved_gan_digits", *TINY_IMPROVED_GAN["improved_gan_digits"]]
BERT = ["experiment=bert_tiny_text", *TINY_BERT["bert_tiny_text"]]
INFOGAN = ["experiment=infogan_digits", *TINY_INFOGAN["infogan_digits"]]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("classifier"), *CLASSIFIER, "seed=7")


@pytest.fixture(scope="module")
def improved_gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("improved_gan"), *IMPROVED_GAN, "seed=7")


class FirstWeights(Callback):
    """Keeps the weights that training begins with."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.state = {name: it.clone() for name, it in pl_module.state_dict().items()}


def built(folder: Path, *words: str) -> Run:
    common = ["trainer=cpu", "trainer.max_steps=1", "logger=none"]
    config = compose_job("train", [*common, *words], str(folder))
    check_config(config, TrainConfig)
    return build(config)


def begun(folder: Path, *words: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The first weights, and what the record says of them."""
    run, first = built(folder, *words), FirstWeights()
    run.trainer.callbacks.append(first)  # type: ignore
    run.trainer.fit(run.module, datamodule=run.datamodule)
    return first.state, json.loads((folder / "record.json").read_text()).get("inputs", {}).get("init_from", {})


def weights_of(run: Path) -> dict[str, Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> set[str]:
    return {name for name in first.keys() & second.keys() if torch.equal(first[name], second[name])}


# --- what begins there ---------------------------------------------------------------------------------------


def test_everything_whose_name_and_shape_match_begins_with_a_run(classifier, tmp_path, capsys):
    theirs = weights_of(classifier)
    state, told = begun(tmp_path, *CLASSIFIER, f"init_from={classifier}")
    assert same(state, theirs) == state.keys()
    expected = {"run": classifier.name, "experiment": "resnet_digits", "checkpoint": "last.ckpt", "iteration": 2,
                "weights": "trained", "taken": len(theirs), "of": len(theirs), "other_shape": {}, "not_there": [],
                "unused": []}  # fmt: skip
    assert {name: told[name] for name in expected} == expected
    assert told.keys() - expected.keys() == {"weights_sha256"}
    line = f"init_from: {len(theirs)} of {len(theirs)} weights begin with those of the run {classifier.name}.\n"
    assert line in capsys.readouterr().out


def test_what_does_not_fit_is_told_and_begins_at_its_own_start(classifier, tmp_path, capsys):
    deeper = ["experiment=resnet_digits", "trainer.precision=32-true", "lightning_module.network.width=4",
              "lightning_module.network.depth=14"]  # fmt: skip
    config = compose_job("train", deeper)
    own = built(tmp_path / "alone", *deeper).module.state_dict()
    state, told = begun(tmp_path / "run", *deeper, f"init_from={classifier}/checkpoints/last.ckpt")
    theirs = weights_of(classifier)
    assert config["lightning_module"]["network"]["depth"] == 14
    assert same(state, theirs) >= state.keys() - set(told["not_there"]) - told["other_shape"].keys()
    assert same(state, own) >= set(told["not_there"]) | told["other_shape"].keys()
    assert told["taken"] == len(state) - len(told["not_there"]) - len(told["other_shape"])
    assert told["other_shape"]["network.blocks.1.conv1.weight"] == [[4, 4, 3, 3], [8, 4, 3, 3]]
    assert told["file"] == "last.ckpt"
    (line,) = [it for it in capsys.readouterr().out.splitlines() if it.startswith("init_from:")]
    assert re.match(
        rf"init_from: {told['taken']} of {len(state)} weights begin with those of last.ckpt; \d+ of another shape "
        r"\(network.blocks.1.conv1.weight \[4, 4, 3, 3\] here and \[8, 4, 3, 3\] there, .*, \.\.\.\); "
        r"\d+ not there \(.*, \.\.\.\)\.", line
    )  # fmt: skip


def test_parts_begin_with_other_parts_by_their_names(classifier, tmp_path):
    theirs = weights_of(classifier)
    torch.save({name.removeprefix("network."): it for name, it in theirs.items()}, tmp_path / "network.pt")
    own = built(tmp_path / "alone", *CLASSIFIER).module.state_dict()

    state, told = begun(tmp_path / "a", *CLASSIFIER, f"init_from={{run: {classifier}, parts: [network.blocks]}}")
    blocks = {name for name in theirs if name.startswith("network.blocks.")}
    assert same(state, theirs) >= blocks
    assert same(state, own) >= {"network.conv.weight", "network.linear.weight", "network.linear.bias"}
    assert (told["parts"], told["taken"]) == ({"network.blocks": "network.blocks"}, len(blocks))

    words = (
        f"init_from={{weights: {tmp_path}/network.pt, parts: {{network.blocks.0: blocks.0, network.linear: linear}}}}"
    )
    state, told = begun(tmp_path / "b", *CLASSIFIER, words)
    chosen = {name for name in theirs if name.startswith(("network.blocks.0.", "network.linear."))}
    assert same(state, theirs) >= chosen
    assert told["taken"] == len(chosen)
    assert (told["not_there"], told["unused"]) == ([], [])

    state, told = begun(
        tmp_path / "c", *CLASSIFIER, f"init_from={{weights: {tmp_path}/network.pt, parts: {{network: .}}}}"
    )
    assert same(state, theirs) == state.keys()


def test_a_network_s_own_state_dict_is_understood(classifier, tmp_path):
    theirs = weights_of(classifier)
    torch.save({name.removeprefix("network."): it for name, it in theirs.items()}, tmp_path / "network.pt")
    state, told = begun(tmp_path / "run", *CLASSIFIER, f"init_from={tmp_path}/network.pt")
    assert same(state, theirs) == state.keys()
    assert told["taken"] == len(theirs)


@pytest.mark.parametrize("nested", ["state_dict", "model"])
def test_a_file_may_hold_a_state_dict_beside_other_things(classifier, tmp_path, nested):
    torch.save({nested: weights_of(classifier), "epoch": 3}, tmp_path / "weights.pt")
    state, told = begun(tmp_path / "run", *CLASSIFIER, f"init_from={tmp_path}/weights.pt")
    assert same(state, weights_of(classifier)) == state.keys()
    assert told["file"] == "weights.pt"


def test_averages_begin_with_what_training_begins_with(classifier, tmp_path):
    run = built(tmp_path, *CLASSIFIER, "callbacks=[default,classification,averaged_weights]", f"init_from={classifier}",
                "lightning_module.optimizer.lr=0", "lightning_module.optimizer.weight_decay=0")  # fmt: skip
    run.trainer.fit(run.module, datamodule=run.datamodule)
    averaged = weights_of(tmp_path)
    trained = {name for name, _ in run.module.named_parameters()}
    assert same(averaged, weights_of(classifier)) >= trained


def test_a_module_s_own_first_steps_come_before(improved_gan, tmp_path):
    """Improved GAN sets gains and biases by its first batch, whatever they were."""
    theirs = weights_of(improved_gan)
    own, _ = begun(tmp_path / "alone", *IMPROVED_GAN)
    state, _ = begun(tmp_path / "part", *IMPROVED_GAN, f"init_from={{run: {improved_gan}, parts: [discriminator]}}")
    discriminator = {name for name in theirs if name.startswith("discriminator.")}
    generator = {name for name in theirs if name.startswith("generator.")}
    assert same(state, theirs) >= discriminator
    assert same(state, own) >= generator
    whole, _ = begun(tmp_path / "whole", *IMPROVED_GAN, f"init_from={improved_gan}")
    assert same(whole, theirs) == whole.keys()


def test_nothing_asked_changes_nothing(tmp_path):
    first, told = begun(tmp_path / "a", *INFOGAN)
    second, _ = begun(tmp_path / "b", *INFOGAN, "init_from=null")
    assert same(first, second) == first.keys()
    assert told == {}


# --- a resume and a measurement ------------------------------------------------------------------------------


def test_a_checkpoint_has_its_way_and_a_measurement_reads_nothing(classifier, tmp_path, capsys):
    source = shutil.copytree(classifier, tmp_path / "source")
    words = [*CLASSIFIER, f"init_from={source}", "trainer=cpu", "trainer.max_steps=2", "logger=none"]
    run = finished_run(tmp_path / "run", *words)
    told = json.loads((run / "record.json").read_text())["inputs"]["init_from"]
    shutil.rmtree(source)  # nobody needs it any more
    capsys.readouterr()

    words = [f"run={run}", "trainer=cpu"]
    evaluate(compose_job("evaluate", words, str(tmp_path / "again")), tmp_path / "again")
    assert json.loads((tmp_path / "again" / "record.json").read_text())["inputs"]["init_from"] == told
    config, path = prepare(str(run), ["trainer.max_steps=3"])
    again = build(config, resumes=True)
    take_up(again, path)
    again.trainer.fit(again.module, datamodule=again.datamodule, ckpt_path=path, weights_only=True)
    record = json.loads((run / "record.json").read_text())
    assert (record["iterations"], record["inputs"]["init_from"]) == (3, told)
    assert "inputs_before" not in record["resumes"][0]
    assert "init_from" not in capsys.readouterr().out


def test_a_measurement_of_a_run_from_elsewhere_neither_reads_nor_downloads(classifier, tmp_path, monkeypatch):
    def fails(*_: Any, **__: Any) -> None:
        raise AssertionError

    run = shutil.copytree(classifier, tmp_path / "run")
    config: Any = OmegaConf.load(run / ".hydra" / "config.yaml")
    for asked in ({"weights": f"{PUBLISHED}resnet50/IMAGENET1K_V1"}, {"weights": "/etc/passwd"}, {"run": "/root"}):
        config.init_from = asked
        OmegaConf.save(config, run / ".hydra" / "config.yaml")
        monkeypatch.setattr(initial_weights, "read", fails)
        monkeypatch.setattr(initial_weights, "fetch", fails)
        load_run(run)
    evaluate(compose_job("evaluate", [f"run={run}", "trainer=cpu"], str(tmp_path / "x")), tmp_path / "x")


# --- what is refused, before anything starts -----------------------------------------------------------------

PLACE = "{classifier}"
REFUSED = {
    "init_from=nowhere": "init_from: there is neither a run nor a file nowhere. Weights of torchvision are named as",
    "init_from=tests": "init_from: tests has no checkpoint 'last'",
    "init_from=train.py": r"init_from: train.py .*no checkpoint",
    "init_from={parts: [network]}": "init_from names neither a run nor weights: give one of them, or init_from=null",
    "init_from=''": "init_from names neither a run nor weights",
    "init_from={run: a, weights: b}": "init_from names a run, a, and weights, b: leave one of them out",
    "init_from={rn: a}": "init_from has no key 'rn'; did you mean 'run'",
    "init_from.run=a": "init_from.run=a: init_from is null and has no key 'run': give init_from as a whole",
    "init_from={run: x, parts: []}": "init_from.parts is empty: name parts of the module, or null for all that is there",
    "init_from={run: x, parts: {network: 3}}": "init_from.parts.network is 3, which is not a text",
    "init_from=torchvision:resnet5/IMAGENET1K_V1": "torchvision has no model 'resnet5'; did you mean 'resnet50'",
    "init_from=torchvision:resnet50/V9": "torchvision has no weights 'V9' of resnet50; known: DEFAULT, IMAGENET1K_V1, IMAGENET1K_V2",
    "init_from=torchvision:ResNet5_Weights.V1": "torchvision has no weights 'ResNet5_Weights.V1'; name them as",
    f"init_from={{run: {PLACE}, parts: [netwrk]}}": "init_from.parts: ResNet has no part 'netwrk'; did you mean 'network'",
    f"init_from={{run: {PLACE}, parts: {{network: net}}}}": "init_from.parts: the run .* has no part 'net'; did you mean 'network'",
    f"init_from={{run: {PLACE}, parts: [network.block]}}": "ResNet has no part 'network.block'; did you mean 'network.blocks'",
    f"init_from={{run: {PLACE}, checkpoint: best}}": "init_from: .* has no checkpoint 'best'; known: last",
    f"init_from={{run: {PLACE}, parts: {{network.conv: network.linear}}}}": "init_from: no weight of ResNet's network.conv begins with those of the run .*'s network.linear: none has",
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_begin_is_told(classifier, tmp_path, words):
    with pytest.raises(UserError, match=REFUSED[words]):
        built(tmp_path, *CLASSIFIER, words.replace(PLACE, str(classifier)))


def test_nothing_in_common_is_refused_with_the_parts_that_would_fit(classifier, tmp_path):
    theirs = weights_of(classifier)
    torch.save({name.replace("network.", "a.b."): it for name, it in theirs.items()}, tmp_path / "net.pt")
    expected = (
        f"init_from: no weight of ResNet begins with those of net.pt: none has a name and shape of there. "
        f"{len(theirs)} weights would by init_from={{weights: {tmp_path}/net.pt, parts: {{network: a.b}}}}"
    )
    with pytest.raises(UserError, match=re.escape(expected)):
        built(tmp_path, *CLASSIFIER, f"init_from={tmp_path}/net.pt")
    with pytest.raises(UserError, match="no weight of InfoGAN begins with those of the run"):
        built(tmp_path, *INFOGAN, f"init_from={classifier}")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1, 2], "holds no weights by their names"),
        ({"state_dict": {}}, "holds no weights by their names"),
        ({"network.linear.bias": torch.tensor([float("nan")] * 10)}, "has weights that are not finite, such as network.linear.bias"),
        ({"x": Path("harm")}, "is refused: it is no checkpoint of this platform, or holds objects that could execute code"),
    ],
)  # fmt: skip
def test_a_file_without_good_weights_is_refused(tmp_path, content, sentence):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(UserError, match=f"init_from: .*weights.pt {sentence}"):
        built(tmp_path, *CLASSIFIER, f"init_from={tmp_path}/weights.pt")


def test_safetensors_are_read_where_they_are_installed(tmp_path, monkeypatch):
    (tmp_path / "weights.safetensors").write_bytes(b"")
    monkeypatch.setattr(initial_weights, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match="weights.safetensors needs a package that is not installed: pip install safetensors"
    ):
        built(tmp_path, *CLASSIFIER, f"init_from={tmp_path}/weights.safetensors")


def test_an_unfinished_run_is_refused(classifier, tmp_path):
    copy = shutil.copytree(classifier, tmp_path / "copy")
    (copy / "record.json").write_text('{"status": "interrupted", "iterations": 1}')
    with pytest.raises(UserError, match="init_from: the run .*copy is interrupted after 1 iterations, not finished"):
        built(tmp_path / "run", *CLASSIFIER, f"init_from={copy}")


# --- weights of torchvision ----------------------------------------------------------------------------------

IMAGENET = ["experiment=resnet_imagenet", "lightning_module=resnet_torchvision", "trainer.precision=32-true", "datamodule=digits", "datamodule.batch_size=8",
            "lightning_module.network={name: resnet18, image_shape: [3, 8, 8], num_classes: 10}"]  # fmt: skip


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(folder))
    return folder / "checkpoints"


def test_both_ways_to_name_weights_mean_the_same():
    one, other = (source_of(f"{PUBLISHED}{it}") for it in ("resnet18/IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1"))
    assert one is not None
    assert other is not None
    assert (one.url, one.path) == (other.url, other.path)
    assert one.path.name == "resnet18-f37072fd.pth"


def test_they_are_downloaded_as_the_fit_begins(tmp_path, monkeypatch):
    cached, torch_s = hub(monkeypatch, tmp_path / "hub"), resnet18(num_classes=10).state_dict()

    def brings(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        assert (url, hash_prefix) == ("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")
        torch.save(torch_s, path)

    monkeypatch.setattr(downloads, "download_url_to_file", brings)
    monkeypatch.setattr(initial_weights, "check_hash", lambda url, path: None)
    config = compose_job("train", [*IMAGENET, "init_from=torchvision:resnet18/IMAGENET1K_V1"])
    module: Any = build_module(config)
    start = InitialWeights(config["init_from"], module, inputs := {})
    assert not cached.exists()  # nothing is downloaded before
    trainer: Any = FakeTrainer()
    start.setup(trainer, module, "test")
    assert not cached.exists()
    start.setup(trainer, module, "fit")
    start.on_fit_start(trainer, module)
    assert all(torch.equal(it, torch_s[name]) for name, it in module.network.net.state_dict().items())
    assert inputs["init_from"]["file"] == "resnet18-f37072fd.pth"


class FakeTrainer:
    ckpt_path, local_rank, is_global_zero = None, 0, True


def build_module(config: dict[str, Any]) -> Any:
    return instantiate(config["lightning_module"])


def test_a_failed_download_says_what_to_fetch_and_where_to_put_it(tmp_path, monkeypatch):
    cached = hub(monkeypatch, tmp_path / "hub")

    def fails(*_: Any, **__: Any) -> None:
        raise OSError("no route")

    monkeypatch.setattr(downloads, "download_url_to_file", fails)
    module = build_module(compose_job("train", IMAGENET))
    start = InitialWeights(f"{PUBLISHED}resnet18/IMAGENET1K_V1", module, {})
    trainer: Any = FakeTrainer()
    expected = rf"init_from: https://.*/resnet18-f37072fd.pth could not be downloaded \(no route\). Fetch it by hand and put it into {cached}"
    with pytest.raises(UserError, match=expected):
        start.setup(trainer, module, "fit")


def test_a_file_that_is_not_the_published_one_is_refused_at_once(tmp_path, monkeypatch):
    cached = hub(monkeypatch, tmp_path / "hub")
    cached.mkdir(parents=True)
    torch.save(resnet18().state_dict(), cached / "resnet18-f37072fd.pth")
    module = build_module(compose_job("train", IMAGENET))
    with pytest.raises(UserError, match="init_from: .*resnet18-f37072fd.pth is not the file of https"):
        InitialWeights(f"{PUBLISHED}resnet18/IMAGENET1K_V1", module, {})


# --- detectors -----------------------------------------------------------------------------------------------

COCO = ["experiment=faster_rcnn_coco", *LIGHT, "lightning_module.network.backbone.name=resnet18",
        "lightning_module.network.backbone.channels=8", "lightning_module.network.rpn.channels=8",
        "lightning_module.network.heads.channels=8"]  # fmt: skip


@pytest.fixture(scope="module")
def classifier_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save(resnet18().state_dict(), path)
    return path


def test_a_backbone_begins_with_a_classifier(classifier_file):
    config = compose_job("train", [*COCO, f"init_from={classifier_file}"])
    module = build_module(config)
    start = InitialWeights(config["init_from"], module, inputs := {})
    line = start.begin(module)
    given, own = torch.load(classifier_file, weights_only=True), module.network.backbone.body.state_dict()
    assert len(own) == 100  # 20 convolutions and 20 norms of four
    assert all(torch.equal(value, given[key]) for key, value in own.items())
    assert inputs["init_from"]["taken"] == 100
    assert inputs["init_from"]["unused"] == ["fc.weight", "fc.bias"]
    assert line.startswith(
        "init_from: 100 of 130 weights begin with those of resnet18.pt; 30 not there (network.backbone.fpn."
    )
    assert line.endswith("; 2 there and unused (fc.weight, fc.bias).")


def test_an_experiment_on_coco_begins_with_its_backbone_s_published_weights():
    files = {"faster_rcnn_coco": "resnet50-0676ba61", "faster_rcnn_coco_vgg16": "vgg16-397923af",
             "faster_rcnn_coco_mobilenet": "mobilenet_v3_large-8738ca79"}  # fmt: skip
    for name, file in files.items():
        config = compose_job("train", [f"experiment={name}"])
        source = source_of(config["init_from"])
        assert source is not None
        assert source.path.stem == file
        with torch.device("meta"):
            module = build_module(config)
        own = module.state_dict()
        begun = {own_name(it, own, module.initial_prefixes) for it in names_in_torchvision(config)} & own.keys()
        expected = {it for it in own if it.startswith("network.backbone.body.")}
        if name == "faster_rcnn_coco_vgg16":  # fc6 and fc7, too
            expected |= {f"network.roi_heads.box_head.{it}" for it in ("1.weight", "1.bias", "4.weight", "4.bias")}
        assert begun == expected
    assert source_of(compose_job("train", ["experiment=faster_rcnn_coco_overfit"])["init_from"]) is None


def test_a_folder_of_one_s_own_can_begin_with_all_of_torchvision_s_small_detector_but_its_classes():
    config = compose_job("train", ["experiment=faster_rcnn_folder_tuned"])
    assert source_of(config["init_from"]).path.name.startswith("fasterrcnn_mobilenet_v3_large_320_fpn")  # pyright: ignore
    with torch.device("meta"):
        own = build_module({"lightning_module": with_classes(config["lightning_module"], 90)}).state_dict()
        theirs = get_model("fasterrcnn_mobilenet_v3_large_320_fpn", weights=None, weights_backbone=None).state_dict()
    counts = ("num_batches_tracked",)  # that a frozen norm does not keep
    shapes = {f"network.{name}": it.shape for name, it in theirs.items() if not name.endswith(counts)}
    assert {name: it.shape for name, it in own.items()} == shapes


def names_in_torchvision(config: dict[str, Any]) -> set[str]:
    with torch.device("meta"):
        return set(get_model(config["lightning_module"]["network"]["backbone"].get("name", "vgg16")).state_dict())


def test_frozen_norms_that_begin_nowhere_are_refused(classifier_file, tmp_path):
    """torchvision would train nothing that matters in silence: statistics of 0 and 1, layers that stay at random."""
    config = compose_job("train", COCO)
    module = build_module(config)
    expected = "norm is frozen, which keeps what weights have learned, and of 80 such weights 80 begin with none: set init_from"
    with pytest.raises(UserError, match=expected):
        InitialWeights(None, module, {})
    asked = {"weights": str(classifier_file), "parts": {"network.backbone.body.layer1": "layer1"}}
    with pytest.raises(UserError, match="of 80 such weights 64 begin with none"):
        InitialWeights(asked, module, {})
    assert InitialWeights({"weights": str(classifier_file), "parts": {"network.backbone.body": "."}}, module, {})


def detector(classes: int, names: list[str] | None = None) -> Any:
    words = ["experiment=faster_rcnn_shapes", "lightning_module.network.heads.width=8"]
    module = build_module(compose_job("train", [*words, f"lightning_module.network.heads.num_classes={classes}"]))
    module.class_names = names
    return module


SCORES = "network.roi_heads.box_predictor.cls_score.weight"


def test_a_detector_of_coco_s_numbers_gives_the_rows_of_classes_by_their_names(tmp_path):
    """Whatever numbers the data have for them: ids [0, 1, 2] began as background, person and bicycle before."""
    coco, three = detector(90), detector(3, ["person", "helmet", "traffic-light"])
    three.category_ids = [0, 1, 2]
    torch.save(coco.network.state_dict(), tmp_path / "coco.pt")
    start = InitialWeights({"weights": str(tmp_path / "coco.pt"), "parts": {"network": "."}}, three, inputs := {})
    before = three.state_dict()[SCORES].clone()
    line = start.begin(three)
    given = coco.state_dict()[SCORES]
    assert torch.equal(three.state_dict()[SCORES], torch.stack([given[0], given[1], before[2], given[10]]))
    told = "of 3 classes 2 by their names (person, traffic-light) and 1 at random (helmet)"
    assert (
        line
        == f"init_from: {len(three.state_dict())} of {len(three.state_dict())} weights begin with those of coco.pt; {told}."
    )
    assert inputs["init_from"]["classes"] == told


def test_a_checkpoint_gives_rows_by_the_names_it_holds_and_nameless_ones_by_their_places(tmp_path):
    two, three = detector(2, ["nut", "bolt"]), detector(3, ["bolt", "washer", "nut"])
    torch.save({"state_dict": two.state_dict(), "class_names": two.class_names}, tmp_path / "two.ckpt")
    before = three.state_dict()[SCORES].clone()
    line = InitialWeights(str(tmp_path / "two.ckpt"), three, {}).begin(three)
    given = two.state_dict()[SCORES]
    assert torch.equal(three.state_dict()[SCORES], torch.stack([given[0], given[2], before[2], given[1]]))
    assert "; of 3 classes 2 by their names (bolt, nut) and 1 at random (washer)." in line
    torch.save(detector(3).state_dict(), tmp_path / "nameless.pt")
    line = InitialWeights(str(tmp_path / "nameless.pt"), three, {}).begin(three)
    assert "its last layers by the places of their classes, whose names are not known there" in line


def test_torchvision_s_first_ones_were_trained_without_an_epsilon(tmp_path):
    config = compose_job("train", COCO)
    module = build_module(config)
    path = tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    torch.save(module.network.state_dict(), path)
    asked = {"weights": str(path), "parts": {"network": "."}}
    with pytest.raises(
        UserError,
        match="without an epsilon in its norms, which are frozen here: set lightning_module.network.backbone.frozen_eps=0",
    ):
        InitialWeights(asked, module, {})
    module = build_module(compose_job("train", [*COCO, "lightning_module.network.backbone.frozen_eps=0"]))
    assert InitialWeights(asked, module, {}).begin(module).endswith(f"begin with those of {path.name}.")


# --- folders from the Hub ------------------------------------------------------------------------------------


def hub_folder(
    folder: Path, weights: dict[str, Tensor], config: dict[str, Any], file: str = "model.safetensors"
) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    if file.endswith(".safetensors"):
        save_file(weights, folder / file)
    else:
        torch.save(weights, folder / file)
    return folder


@pytest.fixture(scope="module")
def pretraining(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A module whose weights are no beginning's."""
    module: Any = built(tmp_path_factory.mktemp("bert"), *BERT).module
    torch.manual_seed(5)
    for it in module.parameters():
        torch.nn.init.normal_(it)
    return module


def test_a_bert_begins_with_a_folder_from_the_hub_heads_included(pretraining, tmp_path):
    folder = hub_folder(tmp_path / "hub", to_released(pretraining.state_dict()), released_config(pretraining.network))
    first, origin = begun(tmp_path / "run", *BERT, f"init_from={folder}")
    assert same(first, pretraining.state_dict()) == first.keys()
    assert origin["file"] == "model.safetensors"
    assert (origin["taken"], origin["unused"]) == (len(first), [])


def test_it_begins_with_an_encoder_of_old_names_without_heads(pretraining, tmp_path):
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = {"embeddings.position_ids": torch.arange(8)}
    for name, it in to_released(pretraining.state_dict()).items():
        for now, before in old.items():
            name = name.replace(now, before)
        if name.startswith("bert.embeddings") or name.startswith("bert.encoder"):
            weights[name.removeprefix("bert.")] = it
    folder = hub_folder(tmp_path / "hub", weights, released_config(pretraining.network))
    first, origin = begun(tmp_path / "run", *BERT, f"init_from={folder}")
    assert {it for it in first if it.startswith("network.")} == same(first, pretraining.state_dict())
    assert all(it.startswith(("pooler", "token_head", "next_sentence")) for it in origin["not_there"])
    assert origin["unused"] == []


def test_a_folder_without_safetensors_is_refused_and_its_pickle_can_be_named(pretraining, tmp_path):
    weights, config = to_released(pretraining.state_dict()), released_config(pretraining.network)
    folder = hub_folder(tmp_path / "hub", weights, config, "pytorch_model.bin")
    with pytest.raises(
        UserError, match="has no model.safetensors as a folder from the Hub does. Its pytorch_model.bin"
    ):
        source_of(str(folder))
    first, _ = begun(tmp_path / "run", *BERT, f"init_from={folder / 'pytorch_model.bin'}")
    assert same(first, pretraining.state_dict()) == first.keys()


def test_a_folder_of_another_bert_is_told_by_the_keys_that_would_fit_it(pretraining, tmp_path):
    config = released_config(pretraining.network) | {"num_attention_heads": 1}
    folder = hub_folder(tmp_path / "hub", to_released(pretraining.state_dict()), config)
    with pytest.raises(UserError, match=r"of other sizes: set lightning_module\.network\.heads=1\.$"):
        built(tmp_path / "run", *BERT, f"init_from={folder}")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is no JSON"):
        built(tmp_path / "run", *BERT, f"init_from={folder}")
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))
    with pytest.raises(UserError, match="a model of type roberta, not bert"):
        built(tmp_path / "run", *BERT, f"init_from={folder}")


def test_a_head_of_its_own_embeddings_or_half_an_attention_is_refused(pretraining, tmp_path):
    weights = to_released(pretraining.state_dict())
    embeddings = weights["bert.embeddings.word_embeddings.weight"]
    tied = weights | {"cls.predictions.decoder.weight": embeddings.clone()}
    assert from_released(tied).keys() == pretraining.state_dict().keys()
    with pytest.raises(UserError, match="a head with embeddings of its own is no BERT's"):
        from_released(weights | {"cls.predictions.decoder.weight": embeddings + 1})
    del weights["bert.encoder.layer.0.attention.self.key.bias"]
    with pytest.raises(UserError, match=r"no encoder\.layer\.0\.attention\.self\.key\.bias: the file is not whole"):
        from_released(weights)
