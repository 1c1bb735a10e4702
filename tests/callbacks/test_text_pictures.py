"""Pictures of texts: what stands where, and what they are made of; how they look is for eyes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from callbacks.text_pictures import (
    SHORTEST,
    Filled,
    TextPictures,
    attention_of,
    draw_masked_words,
    laid_out,
    short_rows,
    told_of,
)
from evaluate import evaluate
from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import load_run
from tests.finished.test_words import trained


@pytest.fixture(scope="module")
def tales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("tales"), "bert_tiny_text")


@pytest.fixture(scope="module")
def parts(tales: Path) -> Any:
    module, _, data = load_run(tales)
    data.setup()  # type: ignore
    return module, data.tables["test"], data.tokenizer  # type: ignore


def test_pieces_of_a_word_stand_together_and_masks_by_themselves():
    pieces = ["[CLS]", "bake", "##s", "bake", "##s", "[MASK]", "##s", "[SEP]"]
    words = [(it.text, it.column, it.line, it.number) for it in laid_out(pieces, {4: 1}, columns=18)]
    assert words == [
        ("bakes", 0, 0, 0),
        ("bake", 6, 0, 0),
        ("##s", 11, 0, 1),
        ("[MASK]", 0, 1, 0),
        ("##s", 7, 1, 0),
        ("[SEP]", 11, 1, 0),
    ]


def test_short_rows_come_first_and_what_is_too_short_last():
    lengths = torch.tensor([30, 3, SHORTEST, 20, 8])

    class Table:
        def __len__(self):
            return 5

        def __getitem__(self, rows):
            return {"index": rows, "lengths": lengths[rows]}

    assert short_rows(Table(), 5)["index"].tolist() == [2, 3, 0, 4, 1]


def test_what_is_drawn_is_what_the_module_says(parts):
    module, table, tokenizer = parts
    batch = short_rows(table, 3)
    with torch.no_grad():
        pieces, filled, follows = told_of(module.eval(), batch, tokenizer)
        weights, shown = attention_of(module, batch, tokenizer)
        logits = module.token_logits(
            batch["input_ids"], batch["lengths"], batch["masked_positions"], batch["segment_ids"]
        )
    assert len(pieces) == len(filled) == len(follows) == 3
    shares = logits[1, 0].softmax(0)
    first = filled[1][0]
    assert first.was == tokenizer.pieces[batch["masked_ids"][1, 0]]
    assert [piece for piece, _ in first.told] == tokenizer.decode(shares.topk(5).indices.tolist())
    assert [share for _, share in first.told] == pytest.approx(shares.topk(5).values.tolist(), rel=1e-4)
    length = min(int(batch["lengths"][0]), 24)
    assert weights.shape == (1, 2, length, length)
    torch.testing.assert_close(weights.sum(3), torch.ones(1, 2, length))
    assert shown[:-1] == pieces[0][: length - 1]


def test_letters_that_mean_something_to_others_and_those_without_a_glyph_are_drawn(tmp_path):
    filled = [[Filled(1, "$x^$", [("東", 0.9), ("$_$", 0.1)])]]
    draw_masked_words([["[CLS]", "[MASK]", "東京", "$y_$", "[SEP]"]], filled, [""], tmp_path / "it.png")
    assert Image.open(tmp_path / "it.png").size[0] == 1019 + 1


def test_measuring_again_makes_both_and_one_that_reads_from_the_left_none(tales, tmp_path):
    folder = tmp_path / "again"
    evaluate(compose_job("evaluate", [f"run={tales}", "trainer=cpu"], str(folder)), folder)
    assert all(Image.open(folder / f"{name}.png").size[0] > 500 for name in ("attention", "masked_words"))
    assert TextPictures(".").pictures(SimpleNamespace(capabilities=lambda: set())) == set()


def test_no_text_is_refused():
    with pytest.raises(UserError, match="callbacks.text_pictures.texts is 0: give 1 or more"):
        TextPictures(".", texts=0)
