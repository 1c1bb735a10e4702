import pytest
from omegaconf import OmegaConf

from foundation.errors import UserError
from foundation.security import check_targets, is_allowed
from launch.command_line import compose_job
from launch.resume import prepare
from launch.saved_config import saved_config

ALLOWED = [
    "lightning_modules.infogan.InfoGAN", "lightning_modules.networks.dcgan.Generator", "datamodules.digits.DigitsDataModule",
    "callbacks.checkpoint.Checkpoint", "callbacks.cluster_accuracy.ClusterAccuracyMetric", "launch.loggers.wandb_logger",
    "launch.loggers.MetricsFile", "lightning.Trainer", "lightning.pytorch.strategies.DDPStrategy",
    "lightning.pytorch.callbacks.ModelCheckpoint", "torch.optim.Adam", "torch.optim.lr_scheduler.StepLR", "torch.nn.ReLU",
    "torchmetrics.classification.MulticlassAccuracy", "torchvision.models.resnet18", "torchvision.models.detection.fasterrcnn_resnet50_fpn",
]  # fmt: skip
REFUSED = [
    "torch.utils.collect_env.run", "torch.hub.load", "torch.load", "torch.serialization.load", "torch.save",
    "torch.utils.cpp_extension.load_inline", "torch.utils.data.DataLoader", "torchvision.datasets.MNIST", "torchvision.io.write_file",
    "os.system", "subprocess.run", "subprocess.Popen", "builtins.eval", "builtins.exec", "shutil.rmtree", "torch.os.system",
    "torch.hub.shutil.rmtree", "callbacks.run_record.subprocess.run", "callbacks.run_record.git", "launch.runs.build",
    "launch.runs.instantiate", "hydra.utils.instantiate", "hydra.utils.get_object", "lightning_modules.infogan.UserError",
    "lightning.pytorch.cli.LightningCLI", "torch", "nothing.at.all", "torch.nn.nothing", "", None, 3,
]  # fmt: skip


@pytest.mark.parametrize("target", ALLOWED)
def test_what_configs_are_for_is_allowed(target):
    assert is_allowed(target)


@pytest.mark.parametrize("target", REFUSED)
def test_anything_else_is_refused(target):
    assert not is_allowed(target)


def test_a_target_nested_in_arguments_is_found():
    config = {
        "module": {"_target_": "torch.nn.ReLU", "inner": [{"deep": {"_target_": "torch.hub.load", "_partial_": True}}]}
    }
    with pytest.raises(
        UserError, match=r"here: module.inner\[0\].deep._target_ is 'torch.hub.load', which a run's config may not"
    ):
        check_targets(config, "here")


def test_a_first_command_cannot_bring_in_a_target(tmp_path):
    """overrides.yaml is composed again where a resume has overrides of its own."""
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create(compose_job("train", [])), tmp_path / ".hydra" / "config.yaml")
    trace = tmp_path / "executed"
    harm = f"+callbacks.harm={{_target_: os.mkdir, path: {trace}, mode: '${{trainer.max_steps}}'}}"
    OmegaConf.save(OmegaConf.create([harm]), tmp_path / ".hydra" / "overrides.yaml")
    with pytest.raises(UserError, match="callbacks.harm._target_ is 'os.mkdir'"):
        prepare(str(tmp_path), ["trainer.max_steps=7"])
    assert not trace.exists()


def test_a_run_folder_with_a_foreign_target_is_refused_before_anything_is_called(tmp_path):
    (tmp_path / ".hydra").mkdir()
    trace = tmp_path / "executed"
    harm = {"_target_": "os.mkdir", "path": str(trace)}
    OmegaConf.save({"paths": {"run_dir": "x"}, "callbacks": {"harm": harm}}, tmp_path / ".hydra" / "config.yaml")
    with pytest.raises(UserError, match="callbacks.harm._target_ is 'os.mkdir'"):
        saved_config(tmp_path)
    assert not trace.exists()


def write_config(folder, **changes):
    (folder / ".hydra").mkdir()
    config = OmegaConf.merge(OmegaConf.create(compose_job("train", [])), {"paths": {"run_dir": "."}}, changes)
    text = OmegaConf.to_yaml(config).replace("unknown", "${paths.run_dir}")
    (folder / ".hydra" / "config.yaml").write_text(text)


def test_a_text_that_would_be_resolved_a_second_time_is_refused(tmp_path):
    write_config(tmp_path)
    path = tmp_path / ".hydra" / "config.yaml"
    harm = "callbacks:\n  harm: {_target_: torch.nn.Identity, a: '\\${oc.create:{_target_:os.mkdir,path:x}}'}\n"
    path.write_text(path.read_text().replace("callbacks:\n", harm, 1))
    with pytest.raises(UserError, match="callbacks.harm.a holds an escaped interpolation"):
        saved_config(tmp_path)


def test_a_target_that_an_override_makes_harmful_is_refused(tmp_path):
    """The allow-list looks at the very config that is built."""
    target = "${oc.select:callbacks.y.n${trainer.max_steps},os.mkdir}"
    harm = {
        "_target_": "torch.nn.Identity",
        "n3000": "torch.nn.Identity",
        "inner": {"_target_": target, "path": str(tmp_path / "x")},
    }
    write_config(tmp_path, callbacks={"y": harm})
    with pytest.raises(UserError, match=r"callbacks.y.inner._target_ is 'os.mkdir'"):
        prepare(str(tmp_path), ["trainer.max_steps=14"])


def test_a_place_outside_the_run_folder_is_refused(tmp_path):
    write_config(tmp_path, callbacks={"image_grid": {"folder": "/somewhere/else"}})
    with pytest.raises(UserError, match="callbacks.image_grid.folder is /somewhere/else, which lies outside"):
        saved_config(tmp_path)


@pytest.mark.parametrize("text", ["- a list", "", "{}", "a: [unclosed"])
def test_a_config_that_is_none_is_named(tmp_path, text):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="config.yaml"):
        saved_config(tmp_path)
