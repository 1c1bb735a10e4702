"""Mistakes a person makes on the command line or in a file, and the sentence that each gets before anything starts."""

import pytest

from foundation.errors import UserError
from launch import command_line, composition
from launch.command_line import check_command_line, sweep_choices
from launch.goes_on import begun

MISTAKES = {
    # a choice or a key that does not exist
    "experiment=infogan_mnst": "experiment=infogan_mnst: there is no such choice; did you mean 'infogan_mnist'",
    "trainer=gpus": "did you mean 'gpu'",
    "callbacks=[default,image_grids]": "image_grids: there is no such choice; did you mean 'image_grid'",
    "trianer.max_steps=3": "there is no key 'trianer.max_steps'; write trainer.max_steps=3",
    "trianer=cpu": "did you mean 'trainer'",
    "lr=0.1": "write lightning_module.optimizer_g.lr=0.1 or lightning_module.optimizer_d.lr=0.1",
    "epochs=10": "write trainer.max_epochs=10 trainer.max_steps=null",
    "batch_size=64": "write datamodule.batch_size=64",
    "datamodule.lr=3": "datamodule has no key 'lr'; write lightning_module.optimizer_g.lr=3 or",
    "train=false": "python evaluate.py run=<folder>",
    "callbacks.every_n_steps=3": "callbacks has no key 'every_n_steps'; write callbacks.image_grid.every_n_steps=3",
    "trainer.max_step=3": "trainer has no key 'max_step'; did you mean 'max_steps'",
    "datamodule.batchsize=3": "datamodule has no key 'batchsize'; did you mean 'batch_size'",
    "lightning_module.optimizer_g.lrr=1": "lightning_module.optimizer_g has no key 'lrr'; did you mean 'lr'",
    "trainer.gradient_clip_val=1": r"trainer has no key 'gradient_clip_val' yet, but .* takes it: write \+trainer.gradient_clip_val=1",
    # a key added by hand that the target does not take
    "+trainer.max_stepz=3": r"trainer \(lightning.Trainer\) has no key 'max_stepz'; did you mean 'max_steps'",
    "+lightning_module.noise=3": "lightning_module .* has no key 'noise'; did you mean 'noise_size'",
    "+lightning_module.optimizer_g.momentum=1": r"optimizer_g \(torch.optim.Adam\) has no key 'momentum'",
    "+sed=1": "The config has no key 'sed'; did you mean 'seed'",
    "+paper.figures=[{what:more,metric:test/error}]": r"paper.figures\[0\] \(more\): give metric and value, or",
    "+paper.valu=1": "paper has no key 'valu'; did you mean 'value'",
    # a value of another kind
    "trainer.max_steps=many": "trainer.max_steps is 'many', which is not a whole number",
    "datamodule.batch_size=1.5": "datamodule.batch_size is 1.5, which is not a whole number",
    "lightning_module.q_optimizer=with_q": "is 'with_q', which is not one of with_d, with_g, own",
    "trainer.precision=bf17": "trainer.precision is 'bf17', which is not one of .*bf16-mixed",
    "lightning_module.optimizer_g=adam": r"lightning_module.optimizer_g is 'adam', which is not a node with a _target_",
    "lightning_module.codes=[{kind:categorical,siez:10}]": r"lightning_module.codes\[0\] has no key 'siez'; did you mean 'size'",
    "lightning_module.codes=[{kind:discrete,size:10}]": r"codes\[0\].kind is 'discrete', which is not one of categorical, continuous",
    "lightning_module.codes=[{kind:categorical}]": r"codes\[0\] needs a value for 'size'",
    "seed=-1": "seed is -1: give a whole number from 0 to 4294967295",
    # settings of something that was not chosen
    "callbacks=[default,image_grid]": "callbacks.cluster_accuracy has settings but was not chosen: add cluster_accuracy to callbacks=",
    # a target that is not there
    "lightning_module._target_=lightning_modules.infogan.InfoGANN": "lightning_module._target_ is .*InfoGANN', which cannot be imported",
    # several values without -m
    "seed=0,1": "seed=0,1 gives several values: add -m",
    "trainer.max_steps=[1": "The command line cannot be read",
    "callbacks=default,drawing": r"""a list is written callbacks=\[default,drawing\], a text 'callbacks="default,drawing"'""",
    # null, and other things that are no choice
    "logger=null": "logger=null: null is no choice of logger: write logger=none",
    "callbacks=null": r"null is no choice of callbacks: name those that are to stay, as in callbacks=\[default\]",
    "trainer=null": "null is no choice of trainer, and a run needs one: name it, or leave this out for auto",
    "experiment=null": "null is no choice of experiment, and a run needs one",
    "debug=null": "nothing of debug is chosen unless a command names it: leave it out",
    "~logger": "~logger: null is no choice of logger: write logger=none",
    "~datamodule": "~datamodule: null is no choice of datamodule, and a run needs one",
    "trainer=true": "trainer=true: there is no such choice; known: auto, cpu",
    "trainer=[cpu,gpu]": "one of trainer is chosen, as in trainer=auto; -m trainer=cpu,gpu runs a job for each",
    "+experiment=resnet_digits": r"experiment is chosen already, as infogan_digits: write experiment=resnet_digits",
    "experiment@x=resnet_digits": "experiment is chosen already, as infogan_digits: write experiment=resnet_digits",
    "lightning_module/ablation=ours": r"nothing of lightning_module/ablation is chosen yet: write \+lightning_module/abl",
    "callbacks@callbacks=drawing": r"write callbacks=drawing, or \+callbacks@callbacks=drawing to add",
    "+trainer.max_steps=5": r"\+trainer.max_steps=5: there is a key 'trainer.max_steps' already: write trainer.max_steps=5",
    "trainer={max_stps:5}": "trainer has no key 'max_stps'; did you mean 'max_steps'",
    "paths.output_dir=2024": """is 2024, which is not a text. If it is a name, write it in quotes: 'paths.output_dir="2024"'""",
    # Hydra's own settings
    "hydra.run.dri=x": "hydra.run.dri=x: hydra.run has no key 'dri'; did you mean 'dir'",
    "hydra/job_loging=none": "there is no key 'hydra/job_loging'; did you mean 'hydra/job_logging'",
    "hydra/job_logging=colorlog": "hydra/job_logging=colorlog: there is no such choice; known: default, disabled, none",
    "hydra/launcher=basic": "hydra/launcher=basic is for the jobs of a sweep: add -m",
    "hydra.run.dir=null": "hydra.run.dir=null: a text is needed, not null",
    "hydra.run.dir=.": "hydra.run.dir=. is where the code lies: name a folder of the run's own",
    "hydra.run.dir=x/${nothing}": "hydra.run.dir: Interpolation key 'nothing' not found",
    "hydra.output_subdir=null": "hydra.output_subdir=null: evaluate.py and resume= read a run by what lies in the .hydra/",
    "hydra.output_subdir=other": "hydra.output_subdir=other: evaluate.py and resume= read a run by what lies in",
    "hydra.job.env_set={A:b}": r"hydra.job.env_set is empty: write \+hydra.job.env_set.A=",
    "paths.run_dir=x": "paths.run_dir=x: the folder of a run is named by hydra.run.dir=",
}  # fmt: skip


@pytest.mark.parametrize("word", ["batch_size=64", "bs=64", "datamodule.batch_size=64"])
def test_a_batch_that_is_counted_otherwise_is_told_by_its_key_and_value(word):
    told = r"no key '(batch_size|bs)'; here it is counted otherwise, by datamodule.batch_tokens, which is 600"
    with pytest.raises(UserError, match=told):
        check_command_line("train", ["experiment=raml_copy", word])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_on_the_command_line_gets_its_sentence(mistake):
    with pytest.raises(UserError, match=MISTAKES[mistake]):
        check_command_line("train", [mistake])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("lightning_module/training=pgd", r"is chosen yet: write \+lightning_module/training=pgd$"),
        (
            "+lightning_module/training=pgd +lightning_module/training=erm",
            "another one of lightning_module/training is chosen, too",
        ),
        (
            "+datamodule=mnist",
            r"^\+datamodule=mnist: datamodule is chosen already, as digits: write datamodule=mnist$",
        ),
    ],
)
def test_a_choice_that_wants_a_plus_or_none_beside_an_experiment_that_is_right(words, sentence):
    with pytest.raises(UserError, match=sentence):
        check_command_line("train", ["experiment=wrm_digits", *words.split()])


SWEEP_MISTAKES = {
    "launcher=joblib": "launcher=joblib is for the jobs of a sweep: add -m, or leave it out",
    "-m seed=0,1 launcher=slrm": "launcher=slrm: there is no such choice; did you mean 'slurm'",
    "-m seed=0,1 optimized_metric=val/cluster_accuracy": "optimized_metric=val/cluster_accuracy needs validation data",
    "-m seed=0,1 ~callbacks.run_record": "add run_record to callbacks=",
    "-m seed=interval(0,1)": r"seed=interval\(0,1\) is for Optuna to draw from",
    "sweep=infogan_digits optimized_metric=test/cluster_accuracy": "a search on test data overstates what it finds",
    "sweep=infogan_digits optimized_metric=null": "a search on test data overstates what it finds",
    "sweep=infogan_digits datamodule.val_size=0": "needs validation data: set datamodule.val_size above 0",
    "sweep=infogan_digits seed=interval(2,1)": "an interval begins below its end",
    "-m sweep=infogan_digits,resnet_degradation": "a sweep has one of these: name one",
    "-m launcher=joblib,slurm": "a sweep has one of these: name one",
    "-m logger=null,csv": "null is no choice of logger: write logger=none",
    "-m seed=range(3,1)": "holds no value",
    "-m seed=0,1 hydra.sweep.subdir=x": "would be the folder of several jobs, each over the other's record: put",
    "-m seed=0,1 trainer=cpu,gpu hydra.sweep.subdir=${seed}": "would be the folder of several jobs",
    "-m hydra.sweeper.params={seed:1}": "values are given by themselves, as in -m seed=0,1",
    "sweep=infogan_digits hydra.sweeper.n_trials=0": "hydra.sweeper.n_trials=0 starts no job: give 1 or more",
    "--cfg job seed=0,1": "seed=0,1 gives several values, and --cfg shows the config of one job: name one",
    "-m sweep=infogan_digits seed=tag(log,interval(0,1))": "a logarithmic interval begins above 0",
    "-m sweep=infogan_digits seed=int(interval(-1,1))": "seed is -1: give a whole number",
    "-m sweep=infogan_digits seed=int(interval(1,4294967296))": "seed is 4294967296: give a whole number",
    "-m sweep=infogan_digits lightning_module.q_optimizer=choice(with_d,with_q)": "is 'with_q', which is not one of",
}


@pytest.mark.parametrize("mistake", SWEEP_MISTAKES)
def test_a_mistake_in_a_sweep_gets_its_sentence_before_the_first_job(mistake):
    with pytest.raises(UserError, match=SWEEP_MISTAKES[mistake]):
        check_command_line("train", mistake.split())


def test_a_sweep_under_torchrun_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="run it without torchrun"):
        check_command_line("train", ["-m", "seed=0,1", "trainer=ddp_cpu"])


@pytest.mark.parametrize(
    "words", ["-m seed=0,1 launcher=joblib", "sweep=infogan_digits", "-m seed=0,1 hydra/launcher=joblib"]
)
def test_a_package_that_is_not_installed_is_asked_for(words, monkeypatch):
    monkeypatch.setattr(command_line, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=f"{words.split()[-1]} needs packages that are not installed: pip install '.\\[sweeps\\]'"
    ):
        check_command_line("train", words.split())


def test_intervals_are_looked_at_by_their_ends():
    parse = command_line.OverridesParser.create().parse_overrides
    assert list(sweep_choices(parse(["a=tag(log, interval(1e-5, 2))", "b=range(1,4,2)", "c=choice(x,y)"]))) == [
        ["a=1e-05", "b=1", "c=x"], ["a=2.0", "b=1", "c=x"], ["a=1e-05", "b=3", "c=x"], ["a=1e-05", "b=1", "c=y"]]  # fmt: skip


def test_a_right_command_passes():
    check_command_line(
        "train", ["experiment=infogan_mnist", "trainer=cpu", "trainer.max_steps=7", "+trainer.min_steps=1"]
    )
    assert len(check_command_line("train", ["-m", "seed=0,1", "lightning_module.noise_size=range(1,3)"])) == 3


@pytest.mark.parametrize(
    ("name", "groups", "key"),
    [("train", {"experiment", "lightning_module/ablation", "launcher"}, "seed: 0 "), ("sample", {"paths"}, "count: 64"),
     ("evaluate", {"callbacks", "trainer", "paths"}, "precision: null"), ("predict", {"paths"}, "invert: false")],
)  # fmt: skip
def test_help_tells_a_command_s_own_groups_and_keys(name, groups, key, capsys):
    with pytest.raises(SystemExit) as end:
        check_command_line(name, ["experiment=infogan_mnist", "-h"])
    assert not end.value.code
    told = capsys.readouterr().out
    listed, keys = told.split("== Keys")
    assert groups <= {line.partition(":")[0] for line in listed.splitlines()}
    assert ("experiment: " in listed) == (name == "train")
    assert f"\n{key}" in keys
    assert f"python {name}.py " in listed
    assert "@package" not in told


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        UserError, match=f"paths.output_dir={tmp_path}/file/runs cannot be written: {tmp_path}/file is no folder"
    ):
        check_command_line("train", [f"paths.output_dir={tmp_path}/file/runs"])


def test_each_value_of_a_sweep_is_checked_before_the_first_job():
    with pytest.raises(UserError, match="is 'with_q', which is not one of"):
        check_command_line("train", ["-m", "seed=0,1", "lightning_module.q_optimizer=with_d,with_q"])


def test_a_sweep_is_looked_at_one_key_at_a_time():
    parse = command_line.OverridesParser.create().parse_overrides
    assert list(sweep_choices(parse(["+a=1,2", "++b=3,4"]))) == [
        ["+a=1", "++b=3"],
        ["+a=2", "++b=3"],
        ["+a=1", "++b=4"],
    ]
    assert list(sweep_choices(parse(["a=1,2,3", "b=x", "c=0,5"]))) == [
        ["a=1", "b=x", "c=0"], ["a=2", "b=x", "c=0"], ["a=3", "b=x", "c=0"], ["a=1", "b=x", "c=5"]]  # fmt: skip


def test_evaluate_needs_a_run():
    with pytest.raises(UserError, match="run has no value yet: add run=..."):
        check_command_line("evaluate", [])


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("trianer: {max_steps: 5}", "The config has no key 'trianer'; did you mean 'trainer'"),
        ("trainer: {max_stps: 5}", r"trainer \(lightning.Trainer\) has no key 'max_stps'; did you mean 'max_steps'"),
        ("datamodule: {val_sze: 5}", "datamodule .* has no key 'val_sze'; did you mean 'val_size'"),
        ("callbacks: {image_grid: {every_n_step: 5}}", "callbacks.image_grid .* did you mean 'every_n_steps'"),
        ("optimized_metric: ${lightning_module.nois}", "Interpolation key 'lightning_module.nois' not found"),
    ],
)
def test_a_mistake_inside_an_experiment_file_gets_its_sentence(line, sentence, tmp_path, monkeypatch):
    """Hydra merges such a key without a word."""
    conf = tmp_path / "conf"
    for path in command_line.CONF.rglob("*.yaml"):
        target = conf / path.relative_to(command_line.CONF)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    text = (conf / "experiment" / "infogan_digits.yaml").read_text()
    key = line.partition(":")[0]
    kept = [it for it in text.splitlines() if not it.startswith(f"{key}:")]
    (conf / "experiment" / "infogan_digits.yaml").write_text("\n".join([*kept, line]) + "\n")
    monkeypatch.setattr(composition, "CONF", conf)
    with pytest.raises(UserError, match=sentence):
        check_command_line("train", [])


def test_a_chosen_sweep_is_checked_like_the_same_values_on_the_command_line():
    words = ["sweep=infogan_mutual_information", "trainer=cpu"]
    configs = check_command_line("train", words)
    assert [it["lightning_module"]["mutual_information_weight"] for it in configs] == [0, 1]
    (one,) = check_command_line("train", [*words, "lightning_module.mutual_information_weight=0.5"])
    assert one["lightning_module"]["mutual_information_weight"] == 0.5
    assert len(check_command_line("train", [*words[:1], "trainer=ddp_cpu"])) == 2
    with pytest.raises(UserError, match="sweep=infogan_mutual: there is no such choice; did you mean"):
        check_command_line("train", ["sweep=infogan_mutual"])


@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_relative_places_go_on_beginning_where_the_command_was_given(name):
    words = {"train": [], "evaluate": ["run=outputs/x"], "predict": ["run=outputs/x", "input=x.png"]}[name]
    with pytest.raises(
        UserError, match=r"hydra.job.chdir=true would have relative places, such as data/, begin in the run"
    ):
        check_command_line(name, [*words, "hydra.job.chdir=true"])
    if name == "train":
        assert len(check_command_line(name, ["hydra.job.chdir=false"])) == 1


def test_what_hydra_is_asked_to_show_is_composed_and_no_more():
    assert check_command_line("train", ["--cfg", "job", "trainer.max_steps=many"]) == []
    with pytest.raises(UserError, match="experiment=nix: there is no such choice"):
        check_command_line("train", ["--cfg", "job", "experiment=nix"])


def test_no_run_is_written_over_another(tmp_path):
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text("- seed=1\n")
    with pytest.raises(UserError, match=f"{tmp_path}/run holds a run of another command .seed=1.: name another folder"):
        begun([f"hydra.run.dir={tmp_path}/run"], {})
    with pytest.raises(UserError, match=f"hydra.sweep.dir={tmp_path} holds the jobs of another sweep"):
        check_command_line("train", ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}"])
    assert len(check_command_line("train", [f"hydra.run.dir={tmp_path}/other"])) == 1


def test_each_job_of_a_sweep_has_a_folder_of_its_own(tmp_path):
    for named in ("${seed}", "${hydra:job.override_dirname}", "a/${hydra.job.num}"):
        words = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}", f"hydra.sweep.subdir={named}"]
        assert len(check_command_line("train", words)) == 2


def test_other_ranks_and_jobs_of_a_sweep_take_the_folder_that_they_are_given(tmp_path, monkeypatch):
    (tmp_path / ".hydra").mkdir()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert len(check_command_line("train", [f"hydra.run.dir={tmp_path}", "hydra.output_subdir=null"])) == 1
