import json
from types import SimpleNamespace
from typing import Any

from omegaconf import OmegaConf

from callbacks.run_record import RunRecord


def resumed(folder, split: str, *overrides: str) -> dict[str, Any]:
    """The record once a run goes on at iteration 4 with these overrides and data."""
    (folder / "config.yaml").write_text("name: x")
    (folder / "resumes").mkdir(exist_ok=True)
    note = {"command": "train.py", "overrides": list(overrides), "started_at": "now"}
    OmegaConf.save(OmegaConf.create(note), folder / "resumes" / f"{len(list((folder / 'resumes').iterdir()))}.yaml")
    data = SimpleNamespace(describe=lambda: {"name": "coco", "test_split": split})
    record = RunRecord(str(folder), "x", seed=0)
    record.take_up_former()
    record.on_train_start(SimpleNamespace(global_step=4, world_size=1, datamodule=data), None)  # type: ignore
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
