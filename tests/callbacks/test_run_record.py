import json
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Trainer
from omegaconf import OmegaConf

from callbacks import run_record
from callbacks.run_record import RunRecord, describe_run
from foundation.source_tree import SourceTree


def resumed(folder, split: str, *overrides: str) -> dict[str, Any]:
    """The record once a run goes on at iteration 4 with these overrides and data."""
    (folder / "config.yaml").write_text("name: x")
    (folder / "resumes").mkdir(exist_ok=True)
    note = {"command": "train.py", "overrides": list(overrides), "started_at": "now"}
    OmegaConf.save(OmegaConf.create(note), folder / "resumes" / f"{len(list((folder / 'resumes').iterdir()))}.yaml")
    data = SimpleNamespace(describe=lambda: {"name": "coco", "test_split": split})
    record = RunRecord(str(folder), "x", seed=0)
    record.take_up_former()
    trainer: Any = SimpleNamespace(
        global_step=4, world_size=1, precision="32-true", datamodule=data, is_global_zero=True, callbacks=[record]
    )
    record.setup(trainer, None, "fit")  # type: ignore
    record.on_train_start(trainer, None)  # type: ignore
    return json.loads((folder / "record.json").read_text())


def test_a_resumed_run_is_told_by_what_holds_now(tmp_path):
    first = {"overrides": ["experiment=x", "trainer.max_steps=4"], "data": {"name": "coco", "test_split": "train"},
             "commit": "abc", "clean": True}  # fmt: skip
    (tmp_path / "record.json").write_text(json.dumps(first))
    record = resumed(tmp_path, "train", "trainer.max_steps=8")
    assert record["overrides"] == ["experiment=x", "trainer.max_steps=8"]
    record = resumed(tmp_path, "val", "trainer.max_steps=9", "datamodule.test_split=val")
    assert record["overrides"] == ["experiment=x", "trainer.max_steps=9", "datamodule.test_split=val"]
    assert record["data"] == {"name": "coco", "test_split": "val"}
    assert [it.get("data_before") for it in record["resumes"]] == [None, first["data"]]
    assert [it["from_iteration"] for it in record["resumes"]] == [4, 4]
    assert record["clean"] is False  # another commit than abc
    assert record["changes"][-1].startswith("the commit (abc up to iteration 4, then ")


def test_data_that_training_changes_is_told_as_it_began_and_as_it_is(tmp_path, tree):
    """A run that is killed leaves a record of its start, one that is interrupted of its end; neither has other data."""
    told = {"name": "numbers", "train": 8}
    trainer: Any = SimpleNamespace(
        global_step=0, world_size=1, datamodule=SimpleNamespace(describe=lambda: dict(told)), is_global_zero=True,
        precision="32-true", strategy=SimpleNamespace(root_device=torch.device("cpu")), callbacks=[],
        callback_metrics={}, fit_loop=Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop,
        num_training_batches=2,
    )  # fmt: skip
    tree |= {"commit": "abc", "changes": {}}

    def begun(step: int) -> RunRecord:
        record = RunRecord(str(tmp_path), "x", seed=0)
        record.take_up_former()
        told["train"] = 8
        record.setup(trainer, None, "fit")  # type: ignore
        trainer.global_step, told["train"] = step, 8 if step == 0 else 5  # a resume restores the DataModule's state
        record.on_train_start(trainer, torch.nn.Linear(1, 1))  # type: ignore
        return record

    def read() -> dict[str, Any]:
        return json.loads((tmp_path / "record.json").read_text())

    begun(0)  # and killed
    assert (read()["data"]["train"], "data_at_start" in read()) == (8, False)
    record = begun(4)
    told["train"] = 3
    record.on_exception(trainer, None, KeyboardInterrupt())  # type: ignore
    assert (read()["data"]["train"], read()["data_at_start"]["train"]) == (3, 8)
    begun(6)
    assert (read()["data"]["train"], read()["data_at_start"]["train"]) == (5, 8)
    assert ["data_before" in it for it in read()["resumes"]] == [False, False]


@pytest.fixture
def tree(monkeypatch):
    """The state of the tree that a run finds, to be set."""
    found = {}
    monkeypatch.setattr(run_record, "source_tree", lambda composed_from: SourceTree(**found))
    return found


def test_what_is_not_committed_is_told_when_the_run_starts(tmp_path, tree, capsys):
    tree |= {"commit": "abc", "changes": {"conf/train.yaml": "changed", "conf/gone.yaml": "new"}}
    told = describe_run(tmp_path)
    assert (told["commit"], told["clean"]) == ("abc", False)
    assert told["changes"] == ["conf/gone.yaml (new)", "conf/train.yaml"]
    printed = capsys.readouterr().out
    assert printed.startswith(
        "Not committed: conf/gone.yaml (new), conf/train.yaml. No commit stands for this run, so "
    )
    assert "`make record` would refuse it" in printed
    assert (tmp_path / "diff.patch").exists()


def test_of_a_clean_tree_nothing_is_said(tmp_path, tree, capsys):
    tree |= {"commit": "abc", "changes": {}}
    told = describe_run(tmp_path)
    assert (told["clean"], told["changes"], capsys.readouterr().out) == (True, [], "")
    assert not (tmp_path / "diff.patch").exists()


def test_a_run_that_goes_on_at_another_commit_says_so_and_keeps_its_first_patch(tmp_path, tree, capsys):
    (tmp_path / "record.json").write_text(json.dumps({"commit": "abcdef0123", "clean": True}))
    (tmp_path / "diff.patch").write_text("of the start")
    tree |= {"commit": "0123456789", "changes": {"conf/train.yaml": "changed"}}
    record = resumed(tmp_path, "train")
    printed = capsys.readouterr().out
    assert "began at commit abcdef0 and goes on at 0123456: `make record` would refuse it" in printed
    assert record["changes"] == ["conf/train.yaml", "the commit (abcdef0 up to iteration 4, then 0123456)"]
    assert (tmp_path / "diff.patch").read_text() == "of the start"
    assert (tmp_path / "diff-4.patch").exists()


def test_folders_that_a_config_was_composed_from_are_read_from_what_hydra_left(tmp_path):
    sources = [{"path": "hydra.conf", "schema": "pkg"}, {"path": "/a/conf", "schema": "file"}]
    (tmp_path / ".hydra").mkdir()
    told = {"hydra": {"runtime": {"config_sources": sources}}}
    OmegaConf.save(OmegaConf.create(told), tmp_path / ".hydra" / "hydra.yaml")
    assert [str(it) for it in run_record.config_folders(tmp_path)] == ["/a/conf"]
    OmegaConf.save(OmegaConf.create({"hydra": {}}), tmp_path / ".hydra" / "hydra.yaml")
    assert run_record.config_folders(tmp_path) == run_record.config_folders(tmp_path / "none") == []
