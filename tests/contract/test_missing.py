"""The project lacks nothing, and what a new method, data set or sweep lacks is said: file, line, and what belongs there."""

import re
from pathlib import Path

import pytest

from finished.results import load_experiments
from tests.contract.missing import FIVE, experiment_of_sweep, missing

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = "defaults:\n  - override /lightning_module: {}\n  - override /datamodule: {}\nname: {}\n"
METHOD = {
    "lightning_modules/raml.py": "from lightning_modules.base import Base\n",
    "conf/lightning_module/raml.yaml": "_target_: lightning_modules.raml.RAML\nrate: {_target_: lightning_modules.rates.R}\n",
    "conf/experiment/raml_words.yaml": EXPERIMENT.format("raml", "words", "raml_words"),
    "tests/lightning_modules/test_raml.py": 'TINY = {"raml_words": []}\n',
    "docs/methods/raml.md": "# RAML\n\npython train.py experiment=raml_words\n",
}
OTHERS = {
    "lightning_modules/base.py": "",
    "lightning_modules/rates.py": "",
    "conf/experiment/raml_wmt.yaml": EXPERIMENT.format("raml", "wmt", "raml_wmt"),
    "conf/experiment/raml_wmt_best.yaml": "defaults: [raml_wmt]\nname: raml_wmt_best\n",
    "conf/datamodule/words.yaml": "_target_: datamodules.words.Words\n",
    "conf/datamodule/files.yaml": "_target_: datamodules.files.Files\nfolder: ${paths.data_dir}\n",
    "conf/datamodule/wmt.yaml": "defaults: [files]\nname: wmt\n",
    "tests/lightning_modules/test_raml.py": 'TINY = {"raml_words": [], "raml_wmt": [], "raml_wmt_best": []}\n',
    "conf/sweep/raml_words.yaml": "",
    "tests/datamodules/test_words.py": "",
    "tests/datamodules/test_files.py": "",
    "docs/methods/raml.md": "# RAML\n\nexperiment=raml_words, raml_wmt and raml_wmt_best\n",
    "docs/data.md": "# Data\n\n| key | what |\n|---|---|\n| `words` | W |\n| `wmt` | M |\n| `files` | any |\n\nAnd so on.\n",
}  # fmt: skip


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one method."""
    for name, content in (METHOD | OTHERS).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_the_project_lacks_nothing():
    assert "\n".join(missing(ROOT)) == ""


def test_the_readme_names_the_five_files():
    section = (ROOT / "README.md").read_text().partition("## Adding a method: five files\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\d\. `([^`]+)`", section, re.MULTILINE)) == sorted(FIVE)


def test_five_files_are_a_method(project):
    assert sorted(METHOD) == sorted(it.replace("<method>", "raml").replace("<data>", "words") for it in FIVE)
    for name, content in METHOD.items():
        (project / name.replace("raml", "bert")).write_text(content.replace("raml", "bert"))
    assert missing(project) == []


@pytest.mark.parametrize(
    ("without", "said"),
    [
        ("tests/lightning_modules/test_raml.py", "tests/lightning_modules/test_raml.py is missing, for "
         "lightning_modules/raml.py: its equations worked by hand, and TINY"),
        ("docs/methods/raml.md", "docs/methods/raml.md is missing, for lightning_modules/raml.py: equations, command, "
         "published against reached, departures"),
    ],
)  # fmt: skip
def test_a_file_that_is_missing_is_named(project, without, said):
    (project / without).unlink()
    assert missing(project) == [said]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("lightning_modules/bert.py", "", "lightning_modules/bert.py: no experiment trains it and no module imports it; "
         "a method has conf/experiment/bert_<data>.yaml, conf/lightning_module/bert.yaml, "
         "tests/lightning_modules/test_bert.py, docs/methods/bert.md"),
        ("tests/lightning_modules/test_raml.py", 'TINY = {"raml_wmt": [], "raml_wmt_best": []}\n', "tests/lightning_modules/test_raml.py: TINY has no "
         '"raml_words": the overrides with which it runs in seconds'),
        ("docs/methods/raml.md", "# RAML\n\nraml_wmt_best raml_wmt\n", "docs/methods/raml.md does not name raml_words: tell what "
         "conf/experiment/raml_words.yaml is for"),
        ("docs/methods/raml.md", "raml_words raml_wmt raml_wmt_best\n", "docs/methods/raml.md, line 1 is "
         "'raml_words raml_wmt raml_wmt_best', which is no title "
         "(# Name): the README's table names the method by it"),
        ("conf/sweep/rmal_rates.yaml", "", "conf/sweep/rmal_rates.yaml begins with the name of no experiment, and of no "
         "method with an experiment whose data needs no file: name it <experiment>_... or <method>_..."),
    ],
)  # fmt: skip
def test_what_a_file_lacks_is_named(project, file, content, said):
    (project / file).write_text(content)
    assert missing(project) == [said]


def test_a_data_set_needs_a_row_at_a_line_and_a_test(project):
    (project / "conf/datamodule/iwslt.yaml").write_text("_target_: datamodules.iwslt.IWSLT\n")
    assert missing(project) == [
        "docs/data.md, line 7: the table ends without iwslt.yaml of conf/datamodule; add | `iwslt` | what |",
        "tests/datamodules/test_iwslt.py is missing, for conf/datamodule/iwslt.yaml; write_tiny there makes its files",
    ]


def test_a_row_of_a_data_set_that_is_gone_is_named(project):
    page = project / "docs/data.md"
    page.write_text(page.read_text().replace("| `wmt`", "| `old` | O |\n| `wmt`"))
    assert missing(project) == ["docs/data.md, line 6: there is no conf/datamodule/old.yaml"]


@pytest.mark.parametrize(
    ("sweep", "experiment"),
    [
        ("raml_temperature", "raml_words"), ("raml_words", "raml_words"), ("raml_wmt_seeds", "raml_wmt"),
        ("raml_wmt_best_rates", "raml_wmt_best"), ("ramls_rates", None),
    ],
)  # fmt: skip
def test_a_sweep_is_for_the_experiment_or_the_method_that_its_name_begins_with(project, sweep, experiment):
    assert experiment_of_sweep(sweep, project, load_experiments(project / "conf")) == experiment
