"""Texts with their endings, in folds of whole groups."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.text.contexts import Layout, folds_of
from datamodules.text.continuations import ContinuationsDataModule
from foundation.errors import UserError
from tests.datamodules.text.test_multiple_choice import example, write_tiny

__all__ = ["write_tiny"]


def made(folder: Path, **settings: Any) -> ContinuationsDataModule:
    if not (folder / "text").exists():
        write_tiny(folder)
    files = {"file": str(folder / "text/hellaswag/hellaswag_val.jsonl"),
             "vocabulary": str(folder / "text/vocab/bert-base-uncased-vocab.txt")}  # fmt: skip
    return ContinuationsDataModule(
        **(files | {"context": "ctx", "group": "activity_label", "batch_size": 8} | settings)
    )


def test_folds_are_whole_groups_of_like_sizes_that_hold_all():
    groups = [f"group {number % 7}" for number in range(100)]
    folds = folds_of(groups, 3, seed=0)
    assert sorted(folds.count(it) for it in range(3)) == [29, 29, 42]  # groups of 14 or 15
    assert len({(group, fold) for group, fold in zip(groups, folds, strict=True)}) == 7
    assert folds_of(groups, 3, seed=0) == folds
    assert any(folds_of(groups, 3, seed=it) != folds for it in range(1, 5))


def test_every_text_is_held_out_once(tmp_path):
    seen: list[int] = []
    for fold in range(3):
        datamodule = made(tmp_path, folds=3, fold=fold, val_size=4)
        datamodule.setup()
        held_out = datamodule.held_out()
        sizes = datamodule.sizes()
        assert sizes["val"] == 4
        assert (sizes["test"], sum(sizes.values())) == (len(held_out), 60)
        seen += [it.item for it in held_out]
        assert datamodule.tested_on()["split"] == f"fold {fold + 1} of 3"
        first = datamodule.tables["test"][torch.tensor([0])]["input_ids"][0].tolist()
        row = example(held_out[0].item)
        (ids,) = datamodule.tokenizer.ids_of([f"{row['ctx']} {row['endings'][row['label']]}"])
        assert first == [2, *ids, 3]
    assert sorted(seen) == list(range(60))


BAD = [
    ({"label": -1}, {}, r"mine.jsonl, line 2: label is '-1', which says no right ending: give 0 to 3"),
    ({"ctx": " "}, {}, "mine.jsonl, line 2: it has no text to go on with"),
    ({"endings": ["", "a"], "label": 0}, {}, "mine.jsonl, line 2: it has no ending"),
    ({}, {"fold": 2}, "datamodule.fold is 2: give one of 0 to 1"),
    ({}, {"folds": 1}, "datamodule.folds is 1: give 2 or more"),
    ({}, {"folds": 4, "fold": 3}, "datamodule.folds=4 leaves fold 3 of continuations with nothing to test on"),
]


@pytest.mark.parametrize(("change", "settings", "told"), BAD)
def test_what_cannot_be_is_told(tmp_path, change, settings, told):
    rows = [example(0), example(1) | change, example(5)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(it) + "\n" for it in rows))
    with pytest.raises(UserError, match=told):
        made(tmp_path, file=str(tmp_path / "mine.jsonl"), **settings).setup()
    with pytest.raises(UserError, match="has no column 'x' in line 1: set datamodule.ending to one of"):
        Layout("ctx", ending="x").read(str(tmp_path / "mine.jsonl"))
