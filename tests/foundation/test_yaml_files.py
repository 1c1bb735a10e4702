"""Words of YAML as OmegaConf reads them, whichever version of it is installed."""

import pytest
import yaml
from omegaconf import OmegaConf

from foundation.errors import UserError
from foundation.yaml_files import WithoutAliases, read_yaml

WORDS = ["1e-4", "1E5", "-3e+2", "1.5e3", ".5e3", "1_000", "1_0e3", "yes", "no", "~", "null", "true", ".inf", "-.inf", "0x1F",
         "017", "1.", ".5", "1e", "e5", "'1e-4'", "0.1.2", "nan", "infinity", "1e400", "text", "2026-11-28_16"]  # fmt: skip


@pytest.mark.parametrize("word", WORDS)
def test_a_word_means_what_omegaconf_makes_of_it(word, tmp_path):
    path = tmp_path / "it.yaml"
    path.write_text(f"key: {word}\n")
    expected = OmegaConf.to_container(OmegaConf.create(path.read_text()))
    assert repr(read_yaml(path)) == repr(expected)


def test_a_date_is_a_text_and_an_interpolation_stays(tmp_path):
    path = tmp_path / "it.yaml"
    path.write_text("a: 2026-11-28\nb: ${c.d}\n")
    assert read_yaml(path) == {"a": "2026-11-28", "b": "${c.d}"}


@pytest.mark.parametrize(
    ("content", "told"), [("a: 1\na: 2", "key 'a' twice"), ("a: &x [1]\nb: *x", "alias"), ("a: [", "cannot be read")]
)
def test_what_no_run_writes_is_told(content, told, tmp_path):
    path = tmp_path / "it.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=told):
        read_yaml(path)


def test_nothing_is_built():
    with pytest.raises(yaml.YAMLError):
        yaml.load("!!python/object/apply:os.getcwd []", Loader=WithoutAliases)
