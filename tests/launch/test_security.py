import pytest
from omegaconf import OmegaConf

from launch.command_line import compose_job
from launch.errors import UserError
from launch.resume import prepare
from launch.runs import saved_config
from launch.security import check_targets, is_allowed

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
    harm = f"+callbacks.harm={{_target_: os.mkdir, path: {trace}, mode: '${{seed}}'}}"
    OmegaConf.save(OmegaConf.create([harm]), tmp_path / ".hydra" / "overrides.yaml")
    with pytest.raises(UserError, match="callbacks.harm._target_ is 'os.mkdir'"):
        prepare(str(tmp_path), ["seed=7"])
    assert not trace.exists()


def test_a_run_folder_with_a_foreign_target_is_refused_before_anything_is_called(tmp_path):
    (tmp_path / ".hydra").mkdir()
    trace = tmp_path / "executed"
    harm = {"_target_": "os.mkdir", "path": str(trace)}
    OmegaConf.save({"paths": {"run_dir": "x"}, "callbacks": {"harm": harm}}, tmp_path / ".hydra" / "config.yaml")
    with pytest.raises(UserError, match="config.yaml: callbacks.harm._target_ is 'os.mkdir'"):
        saved_config(tmp_path)
    assert not trace.exists()
