"""What a person types reaches Hydra as it was meant, or is answered with how to write it."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString

from foundation.errors import UserError
from launch.arguments import readable
from launch.command_line import CONF, check_command_line, compose_job, split_arguments


def value_of(argument: str) -> object:
    value = OverridesParser.create().parse_override(argument).value()
    return value.text if isinstance(value, QuotedString) else value


NAMES = ["photo (1), it's [a] {b}.jpg", "a=b", "back\\slash", "ends\\", "it\\'s", "plain/1-b.png", "ünï/Äpfel & Öl.png",
         "a#b", "x[1]", "data(1)"]  # fmt: skip


@pytest.mark.parametrize("name", [*NAMES, "12", "null", "true", "1e5"])
def test_a_key_of_texts_has_its_text_whatever_it_looks_like(name):
    (argument,) = readable("predict", [f"input={name}"], ["input"])
    assert value_of(argument) == name


@pytest.mark.parametrize("name", [it for it in NAMES if "," not in it and "\\" not in it])
def test_a_path_that_hydra_has_no_grammar_for_is_a_text(name, tmp_path):
    (argument,) = readable("train", [f"paths.output_dir={tmp_path}/{name}"])
    assert compose_job("train", [argument])["paths"]["output_dir"] == f"{tmp_path}/{name}"
    assert readable("train", [argument]) == [argument]


def test_a_home_folder_is_understood():
    assert readable("train", ["paths.output_dir=~/x"]) == [f"paths.output_dir='{Path.home()}/x'"]
    assert split_arguments(["resume=~/x"]) == (f"{Path.home()}/x", [])
    assert split_arguments(["resume='/a b=c'", "seed=1"]) == ("/a b=c", ["seed=1"])


@pytest.mark.parametrize(
    "words",
    [
        ["input='a b'"],
        ["--multirun", "input=a,b"],
        ["input="],
        ["output=a b"],
        ["~x"],
        ["+x.y=1"],
        ["a@b=c"],
        ["x=[1,2]"],
    ],
)
def test_what_can_be_read_stays(words):
    assert readable("predict", words, ["input"]) == words


def test_flags_may_stand_anywhere():
    assert readable("train", ["seed=0,1", "-m", "trainer=cpu"]) == ["--multirun", "seed=0,1", "trainer=cpu"]
    assert readable("train", ["trainer=cpu", "--cfg", "job"]) == ["--cfg", "job", "trainer=cpu"]


UNREADABLE = {
    "--seed=1": "--seed=1 is no flag of this command: settings are written without dashes, as key=value, as in seed=1$",
    "--seed 1": "--seed is no flag of this command: .* as in seed=...",
    "seed": "'seed' is no setting: it is written key=value without blanks around the '='",
    "seed = 1": "'seed' is no setting",
    "seed:1": "'seed:1' is no setting",
    "=1": "'=1' is no setting",
    "--cfg nothing": "The command line cannot be read: argument --cfg/-c: invalid choice: 'nothing'",
    "--cfg job -m": "--multirun and --cfg cannot be asked for together: leave out --multirun",
    "--resolve": "--resolve belongs to --cfg",
    "--shell-completion": "as in --shell-completion install=bash",
    "--config-path x": "--config-path=x would take the place of conf/: keep your own files .* --config-dir <folder>",
    "--config-name evaluate": "--config-name=evaluate would take the place of conf/train.yaml: write what is yours into",
    "--experimental-rerun x": "builds a job from a pickled file: train.py resume=<folder>",
    "--config-dir nowhere": "--config-dir .*/nowhere: there is no such folder",
    "hydra.searchpath=own": r"hydra.searchpath=own is no list of folders: write --config-dir <folder>",
    "trainer.max_steps=[1": r"""no value such as trainer.max_steps=\[1; as a text it stands in quotes: 'trainer.max_steps="\[1"'""",
    "-m name=a,b=c": """as a text it stands in quotes: 'name="a","b=c"'""",
    "-m seed=glob(*)": r"seed=glob\(\*\): seed is no group of files of conf/ to choose from",
    "-m experiment=glob(nix*)": r"experiment=glob\(nix\*\): no file of conf/experiment matches",
}  # fmt: skip


@pytest.mark.parametrize("words", UNREADABLE)
def test_what_cannot_be_read_is_told_how_to_be_written(words):
    with pytest.raises(UserError, match=UNREADABLE[words]):
        readable("train", words.split())


@pytest.mark.parametrize("words", ["name=[a", "paths.output_dir='x", "-m name=a,b=c"])
def test_the_cure_is_what_a_shell_and_hydra_take(words):
    with pytest.raises(UserError) as told:
        readable("train", words.split())
    (cure,) = shlex.split(str(told.value).rpartition("quotes: ")[2])
    again = [*words.split()[:-1], cure]
    assert readable("train", again)[-1] == cure


def test_glob_stands_for_the_files_of_a_group():
    words = readable("train", ["-m", "experiment=infogan_digits,glob(resnet_*,exclude=[*t,*10*])"])
    others = sorted(
        it.stem for it in (CONF / "experiment").glob("resnet_*") if it.stem[-1] != "t" and "10" not in it.stem
    )
    assert words == ["--multirun", f"experiment={','.join(['infogan_digits', *others])}"]
    assert readable("train", ["-m", "trainer=glob(ddp*)"])[-1] == "trainer=ddp,ddp_cpu"


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder of one's own experiments, as ``--config-dir`` takes it."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    lines = "# @package _global_\ndefaults:\n  - infogan_digits\nname: mine\ntrainer: {max_steps: 7}\n"
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(lines)
    return tmp_path / "own"


def test_experiments_of_one_s_own_are_chosen_like_others(own):
    for flag in ([f"--config-dir={own}"], ["-cd", str(own)], [f"hydra.searchpath=[{own}]"]):
        (config,) = check_command_line("train", [*flag, "experiment=mine"])
        assert (config["name"], config["trainer"]["max_steps"]) == ("mine", 7)
    configs = check_command_line("train", ["--config-dir", str(own), "-m", "experiment=glob(*in*,exclude=*minibatch*)"])
    assert "mine" in [it["name"] for it in configs]
    words = readable("train", ["--config-dir", str(own), f"hydra.searchpath=[{own}]"])
    assert words == [f"hydra.searchpath=['file://{own}']"] == readable("train", words)


def test_a_file_of_one_s_own_is_named_where_it_is_looked_for_and_hides_nothing(own):
    with pytest.raises(UserError, match=f"in experiment/ of conf/ or {own}; did you mean 'mine'"):
        check_command_line("train", [f"--config-dir={own}", "experiment=mein"])
    (own / "experiment" / "infogan_digits.yaml").write_text("{}")
    with pytest.raises(UserError, match=r"infogan_digits.yaml would be hidden by conf/experiment/infogan_digits.yaml"):
        check_command_line("train", [f"--config-dir={own}", "experiment=mine"])
