import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import finished.onnx
import finished.report
from finished.curves import names_of
from finished.report import read_run
from finished.results import load_experiments
from foundation import security
from foundation.errors import UserError
from foundation.security import CONF, check_targets, is_allowed, named_by_conf, split_trust, trusted, trusting
from launch.command_line import compose_job
from launch.resume import prepare
from launch.runs import load_run
from launch.saved_config import name_in, saved_config
from tests.finished_runs import finished_run
from tests.launch.test_resume import write_run

ALLOWED = [
    "lightning_modules.infogan.InfoGAN", "lightning_modules.networks.dcgan.Generator", "datamodules.digits.DigitsDataModule",
    "callbacks.checkpoint.Checkpoint", "callbacks.cluster_accuracy.ClusterAccuracy", "launch.loggers.wandb_logger",
    "launch.loggers.MetricsFile", "lightning.Trainer", "lightning.pytorch.strategies.DDPStrategy", "torch.optim.Adam",
    "lightning.pytorch.callbacks.ModelCheckpoint",  # of before, which is the project's own today
    "launch.runs.load_module", "launch.runs.load_modules", "launch.runs.load_datamodule", "launch.runs.load_metric",
]  # fmt: skip
REFUSED = [
    "torch.utils.collect_env.run", "torch.hub.load", "torch.load", "torch.serialization.load", "torch.save",
    "torch.utils.cpp_extension.load_inline", "torch.utils.data.DataLoader", "torchvision.datasets.MNIST", "torchvision.io.write_file",
    "os.system", "subprocess.run", "subprocess.Popen", "builtins.eval", "builtins.exec", "shutil.rmtree", "torch.os.system",
    "torch.hub.shutil.rmtree", "callbacks.run_record.subprocess.run", "callbacks.run_record.git", "launch.runs.build",
    "launch.runs.instantiate", "hydra.utils.instantiate", "hydra.utils.get_object", "lightning_modules.infogan.UserError",
    "lightning.pytorch.cli.LightningCLI", "torch", "nothing.at.all", "torch.nn.nothing", "", None, 3, [], {},
    # a library's, whatever it inherits from, and the project's own by a detour
    "torchmetrics.image.fid.FrechetInceptionDistance", "torchmetrics.image.lpip.LearnedPerceptualImagePatchSimilarity",
    "torchmetrics.text.bert.BERTScore", "torchmetrics.multimodal.clip_score.CLIPScore", "torch.optim.RAdam", "torch.nn.ReLU",
    "torch.nn.Identity", "torch.optim.lr_scheduler.StepLR", "torchvision.models.resnet18", "torch.ao.nn.quantized.Linear",
    "lightning.pytorch.loggers.WandbLogger", "lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.MLFlowLogger",
    "lightning.pytorch.callbacks.ModelSummary", "lightning.pytorch.strategies.DeepSpeedStrategy", "lightning.pytorch.Trainer",
    "lightning_modules.wrm.torch.load", "lightning_modules.infogan.InfoGAN.load_from_checkpoint", "callbacks.checkpoint.Callback",
    "launch.sweeps.SweepStart", "finished.table_curves.TableCurves", "lightning_modules.infogan", "lightning_modules..infogan.InfoGAN",
]  # fmt: skip


@pytest.mark.parametrize("target", ALLOWED)
def test_what_configs_are_for_is_allowed(target):
    assert is_allowed(target)


@pytest.mark.parametrize("target", REFUSED)
def test_anything_else_is_refused(target):
    assert not is_allowed(target)


def test_what_conf_names_is_found_by_reading_it(tmp_path):
    (tmp_path / "group" / "deep").mkdir(parents=True)
    (tmp_path / "hydra").mkdir()
    (tmp_path / "hydra" / "default.yaml").write_text("callbacks: {it: {_target_: of.hydra}}")
    (tmp_path / "group" / "deep" / "a.yaml").write_text(
        "b: [{c: {_target_: one.A}}]\nhydra: {d: {_target_: of.sweeps}}"
    )
    (tmp_path / "train.yaml").write_text("_target_: two.B\n# _target_: commented.C\n")
    assert named_by_conf(tmp_path) == {*security.FUNCTIONS, "one.A", "two.B"}


@pytest.mark.parametrize("experiment", [it["name"] for it in load_experiments(CONF)])
def test_every_experiment_may_be_named_by_a_run_folder(experiment):
    check_targets(compose_job("train", [f"experiment={experiment}"]), experiment)


# --- what a person trusts ------------------------------------------------------------------------------------


def test_a_refusal_prints_what_trusts_all_that_is_refused_and_nothing_that_a_shell_reads():
    config = {"a": {"_target_": "torch.optim.RAdam"}, "b": [{"_target_": "mine.B"}], "c": {"_target_": "$(touch x)"}}
    with pytest.raises(UserError) as refused:
        check_targets(config, "here")
    assert "here: a._target_ is 'torch.optim.RAdam', and b[0]._target_ is 'mine.B', and c._target_ is" in str(
        refused.value
    )
    assert str(refused.value).endswith("add to the command: trust=[mine.B,torch.optim.RAdam]")
    with trusting(["x.Y"]), pytest.raises(UserError, match=r"trust=\[mine.B,torch.optim.RAdam,x.Y\]"):
        check_targets(config, "here")
    with trusting(split_trust(["trust=[mine.B, torch.optim.RAdam]"])[0]):
        check_targets({key: config[key] for key in ("a", "b")}, "here")
        assert not is_allowed("torch.optim.RAdamW")
    assert trusted() == frozenset()


def test_trust_is_taken_from_among_the_other_words():
    words = ["run=a", "trust=[a.B,c.D]", "trust='[e.F]'", "x=trust"]
    assert split_trust(words) == (["a.B", "c.D", "e.F"], ["run=a", "x=trust"])


@pytest.fixture(scope="module")
def of_another_optimizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["experiment=resnet_digits", "lightning_module.network.width=4", "lightning_module.network.depth=8",
             "trainer.precision=32-true", "lightning_module.optimizer._target_=torch.optim.RAdam",
             "~lightning_module.optimizer.nesterov", "~lightning_module.optimizer.fused",
             "~lightning_module.optimizer.momentum"]  # fmt: skip
    folder = finished_run(tmp_path_factory.mktemp("run") / "radam", *words)
    OmegaConf.save(OmegaConf.create(words), folder / ".hydra" / "overrides.yaml")
    return folder


def test_a_run_of_ones_own_goes_on_with_the_words_that_its_refusal_prints(of_another_optimizer):
    folder = of_another_optimizer
    with pytest.raises(UserError, match=r"optimizer._target_ is 'torch.optim.RAdam'.* trust=\[torch.optim.RAdam\]$"):
        load_run(folder)
    with trusting(["torch.optim.RAdam"]):
        load_run(folder)
        assert prepare(str(folder), ["trainer.max_steps=3"])[0]["trainer"]["max_steps"] == 3


def run_script(name: str, *words: str) -> str:
    """The end of a command that was typed; in this process, since importing torch takes seconds."""
    import runpy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *words])
        patch.setattr("hydra.main", lambda **_: lambda function: lambda: None)
        try:
            runpy.run_path(str(CONF.parent / f"{name}.py"), run_name="__main__")
        except SystemExit as ended:
            return str(ended.code)
    return "0"


def test_each_command_takes_the_words(of_another_optimizer, monkeypatch, capsys):
    folder, words = str(of_another_optimizer), "trust=[torch.optim.RAdam]"
    assert run_script("evaluate", f"run={folder}") == "2"
    assert words in capsys.readouterr().err
    for name, own in (("evaluate", []), ("sample", ["count=2"]), ("predict", ["input=a"])):
        assert run_script(name, f"run={folder}", words, *own) == "0", capsys.readouterr().err
    seen = []
    monkeypatch.setattr("launch.resume.prepare", lambda *_: seen.append(trusted()) or sys.exit(0))
    assert run_script("train", f"resume={folder}", words) == "0"
    monkeypatch.setattr(finished.onnx, "export", lambda *_: seen.append(trusted()) or (Path("a"), 0.0))
    finished.onnx.main([words, "--", folder])
    assert seen == [{"torch.optim.RAdam"}] * 2
    finished.report.main([words, folder])
    assert trusted() == frozenset()


# --- where it is held against a config -----------------------------------------------------------------------


def test_a_target_nested_in_arguments_is_found():
    config = {
        "module": {
            "_target_": "torch.optim.Adam",
            "inner": [{"deep": {"_target_": "torch.hub.load", "_partial_": True}}],
        }
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
        "_target_": "torch.optim.Adam",
        "n3000": "torch.optim.Adam",
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


# --- what it may read, and where it may send -----------------------------------------------------------------


@pytest.mark.parametrize(
    "asked", ["${oc.env:WANDB_API_KEY}", "${oc.env:WANDB_API_KEY,none}", "a${oc.env:${paths.which}}b", "${oc.env:HOME}"]
)
def test_a_foreign_config_reads_no_key_from_the_environment(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    write_config(tmp_path)
    path = tmp_path / ".hydra" / "config.yaml"
    text = path.read_text().replace("paths:\n", "paths:\n  which: WANDB_API_KEY\n", 1)
    path.write_text(re.sub("^name: .*", f"name: {asked}", text, flags=re.M))
    for read in (saved_config, name_in, lambda folder: prepare(str(folder), [])):
        with pytest.raises(
            UserError, match="asks for the environment's (WANDB_API_KEY|HOME), and a run's config is given DATA"
        ):
            read(tmp_path)


def test_the_variables_of_places_are_read_and_ones_own_configs_read_any(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", "/from/here")
    write_config(tmp_path)
    path = tmp_path / ".hydra" / "config.yaml"
    path.write_text(re.sub("  data_dir: .*", "  data_dir: ${oc.env:DATA_DIR,data}", path.read_text()))
    assert saved_config(tmp_path)["paths"]["data_dir"] == "/from/here"
    monkeypatch.setenv("MINE", "own")
    assert compose_job("train", ["name='${oc.env:MINE}'"])["name"] == "own"


def test_the_first_command_of_a_foreign_run_reads_no_key(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    write_config(tmp_path)
    OmegaConf.save(
        OmegaConf.create(["logger.wandb.project='${oc.env:WANDB_API_KEY}'"]), tmp_path / ".hydra" / "overrides.yaml"
    )
    with pytest.raises(UserError, match="asks for the environment's WANDB_API_KEY"):
        prepare(str(tmp_path), ["trainer.max_steps=9000"])
    assert names_of([tmp_path, tmp_path]) == [tmp_path.name] * 2  # and what they are called is not resolved


def test_a_resume_takes_its_loggers_from_conf_and_the_command_line(tmp_path, capsys):
    hostile = {"_target_": "lightning.pytorch.loggers.WandbLogger", "settings": {"base_url": "http://127.0.0.1:9"}}
    run = write_run(tmp_path / "run", overrides=["logger=wandb"])
    path = run / ".hydra" / "config.yaml"
    saved: Any = OmegaConf.load(path)
    saved.logger.wandb = {**saved.logger.wandb, "project": "theirs", "base_url": "http://127.0.0.1:9"}
    saved.logger.more = hostile
    OmegaConf.save(saved, path)
    logger = prepare(str(run), [])[0]["logger"]
    expected = compose_job("train", ["logger=wandb", f"name={saved.name}"], str(run))["logger"]
    assert logger == expected
    assert "logger.wandb.project was 'theirs' and is 'relight'" in capsys.readouterr().out
    assert prepare(str(run), ["logger.wandb.project=mine"])[0]["logger"]["wandb"]["project"] == "mine"
    assert prepare(str(run), ["logger=csv"])[0]["logger"].keys() == {"csv"}


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("none", set()),
        ("csv", {"csv"}),
        ("wandb", {"csv", "wandb"}),
        ("mlflow", {"csv", "mlflow"}),
        ("[wandb,tensorboard]", {"csv", "wandb", "tensorboard"}),
    ],
)
def test_a_resume_keeps_which_loggers_a_run_has(tmp_path, choice, names):
    run = write_run(tmp_path / "run", overrides=[f"logger={choice}"])
    assert (prepare(str(run), [])[0]["logger"] or {}).keys() == names


def test_yaml_that_grows_as_it_is_read_is_refused(tmp_path):
    doubling = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(doubling)
    (tmp_path / "config.yaml").write_text(doubling)
    for read in (saved_config, lambda folder: read_run(folder, "it")):
        with pytest.raises(UserError, match="config.yaml cannot be read: it holds an alias"):
            read(tmp_path)
    (tmp_path / ".hydra" / "config.yaml").write_text("a: " + "[" * 5000)
    with pytest.raises(UserError, match="config.yaml cannot be read"):
        saved_config(tmp_path)
    (tmp_path / ".hydra" / "config.yaml").unlink()
    os.mkfifo(tmp_path / ".hydra" / "config.yaml")
    with pytest.raises(UserError, match="config.yaml is a pipe or a device"):
        saved_config(tmp_path)


def test_what_the_command_of_a_resume_names_is_trusted_by_that(tmp_path):
    run = write_run(tmp_path / "run")
    words = ["+lightning_module.it={_target_: torch.optim.RAdam, _partial_: true}"]
    with pytest.raises(UserError, match="has no key 'it'"):  # and no word of trust
        prepare(str(run), words)
    assert trusted() == frozenset()
