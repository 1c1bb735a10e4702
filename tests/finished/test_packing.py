"""A run as one file, from its making to its use by others."""

import json
import zipfile

import pytest

from finished.card import card_of
from finished.packing import main, pack
from foundation.errors import UserError
from launch import packed
from launch.packed import folder_of, with_folders
from relight import load, train
from tests.lightning_modules import test_resnet


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("of somebody")
    small = [*test_resnet.TINY["resnet_digits"], "trainer=cpu", "logger=csv", "trainer.max_steps=2"]
    return train("resnet_digits", [*small, f"paths.output_dir='{folder}'", f"paths.data_dir={folder.parent}/my_data"])


def test_it_holds_what_others_need_and_nothing_of_this_machine(run, tmp_path):
    path = pack(run.folder, tmp_path / "handed on.zip")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        texts = {name: archive.read(name).decode() for name in names if not name.endswith((".ckpt", ".png"))}
    assert {"README.md", "record.json", ".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoints/last.ckpt",
            "classes.png", "classes.csv", "metrics.csv"} == {*names}  # fmt: skip
    for text in texts.values():
        assert "of somebody" not in text
        assert "my_data" not in text
        assert str(run.folder.parent) not in text
    assert not {"host", "pid"} & json.loads(texts["record.json"]).keys()
    assert f"| `test/error` | digits test | {run['test/error']:.4g} | - |" in texts["README.md"]
    assert "run='handed on.zip'" in texts["README.md"]


def test_it_is_used_where_a_folder_is(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack(run.folder, tmp_path / "a b.zip")
    (argument,) = with_folders(["run='a b.zip'"])
    folder = folder_of("a b.zip")
    assert argument == f"run={folder}"
    assert folder.parent == packed.UNPACKED
    assert folder_of(folder) == folder
    ours, theirs = load(run.folder, accelerator="cpu"), load("a b.zip", accelerator="cpu")
    for name, it in ours.module.state_dict().items():
        assert it.equal(theirs.module.state_dict()[name])
    assert with_folders(["run=folder", "input=x.zip"]) == ["run=folder", "input=x.zip"]


@pytest.mark.parametrize("name", ["../outside.txt", "/tmp/outside.txt"])
def test_what_would_write_elsewhere_or_is_no_run_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("bad.zip", "w") as archive:
        archive.writestr(".hydra/config.yaml", "name: x")
        archive.writestr(name, "x")
    with pytest.raises(UserError, match="outside"):
        folder_of("bad.zip")
    with zipfile.ZipFile("other.zip", "w") as archive:
        archive.writestr("photo.txt", "x")
    with pytest.raises(UserError, match="no packed run"):
        folder_of("other.zip")
    with pytest.raises(UserError, match="missing"):
        folder_of("none.zip")


def test_what_cannot_be_packed_is_told_and_leaves_nothing(run, tmp_path, capsys):
    with pytest.raises(UserError, match="is not a run"):
        pack(tmp_path)
    with pytest.raises(UserError, match=r"ends in \.zip"):
        pack(run.folder, tmp_path / "run.tar")
    assert list(tmp_path.iterdir()) == []
    main([str(run.folder), "--out", str(tmp_path / "x.zip")])
    assert capsys.readouterr().out.strip() == str(tmp_path / "x.zip")


def test_a_card_of_a_run_without_figures_says_so():
    card = card_of({"experiment": "x", "seed": 3}, "use")
    assert "# x, seed 3" in card
    assert "Nothing was tested." in card
    assert "commit: none stands for it" in card
