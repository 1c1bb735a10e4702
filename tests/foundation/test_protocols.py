"""What a module is asked for, and what parts say of themselves."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from foundation.errors import UserError
from foundation.protocols import (
    AnnotatesObjects,
    Classifies,
    ClassifiesImages,
    ClassifiesText,
    Says,
    declared_metrics,
    members_of,
    said,
    serves,
)


class Reader:
    def capabilities(self) -> set[type]:
        return {ClassifiesText}


def test_who_serves_a_protocol_serves_its_base_and_no_sibling():
    assert serves(Reader(), ClassifiesText)
    assert serves(Reader(), Classifies)
    assert not serves(Reader(), ClassifiesImages)
    assert not serves(object(), Classifies)


def test_a_protocol_asks_for_what_it_and_its_bases_name():
    assert members_of(ClassifiesImages) == {"num_classes", "class_names", "image_shape", "class_logits"}
    assert members_of(AnnotatesObjects) == {"coco_ground_truth"}


def test_who_says_nothing_is_taken_by_the_default_and_others_at_their_word():
    silent, speaks = SimpleNamespace(), SimpleNamespace(needs_labels=True, pictures=lambda module: {"images/samples"})
    assert said(silent, "needs_labels") is False
    assert said(silent, "pictures")(None) == set()
    assert said(silent, "describe")() == {"name": "SimpleNamespace"}
    assert said(None, "describe")() == {"name": "NoneType"}
    assert said(speaks, "needs_labels") is True
    assert said(speaks, "pictures")(None) == {"images/samples"}
    with pytest.raises(KeyError):
        said(silent, "a word that is not written down")


def test_no_other_file_has_defaults_of_its_own_for_these_words():
    """Who asks with getattr or hasattr asks past the one place where the words are written down."""
    words = {it for it in vars(Says) if not it.startswith("_")}
    files = [it for room in ("callbacks", "launch", "finished") for it in Path(room).rglob("*.py")]
    asked = {
        (str(file), node.args[1].value)
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr")
        and isinstance(node.args[1], ast.Constant)
    }  # fmt: skip
    assert len(files) > 30
    assert not {(file, word) for file, word in asked if word in words}


def speaker(**directions: Any) -> Any:
    return SimpleNamespace(metrics=lambda *of: directions if of[-1] == "val" else {})


def test_metrics_are_declared_by_a_module_and_its_callbacks_each_with_its_direction():
    assert declared_metrics(speaker(loss="min"), [speaker(accuracy="max", lr=None), object()]) == {
        "loss": "min", "accuracy": "max", "lr": None}  # fmt: skip
    assert declared_metrics(speaker(loss="min"), [speaker(loss="min")]) == {"loss": "min"}
    assert declared_metrics(speaker(loss="min"), [], ["train"]) == {}


@pytest.mark.parametrize(
    ("module", "callback", "sentence"),
    [
        (speaker(loss="min"), speaker(loss="max"), "declares loss as max, and another part as min: give one of them"),
        (
            speaker(loss="minimize"),
            speaker(),
            "gives .*'minimize'.* for val: give the keys that it logs, each with max",
        ),
        (SimpleNamespace(metrics=lambda stage: {"train/loss"}), speaker(), "gives {'train/loss'} for train: give the"),
    ],
)
def test_declarations_that_cannot_be_followed_are_refused(module, callback, sentence):
    with pytest.raises(UserError, match=f"SimpleNamespace.* {sentence}"):
        declared_metrics(module, [callback])
