"""A pool written by a run of two iterations, and another's endings scored by it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.text.pools import read_pool
from datamodules.text.tokens import WordPieceDataModule
from finished.choices import acc_and_acc_norm
from finished.choices import main as choices
from finished.endings import main
from foundation.errors import UserError
from launch.runs import load_run
from lightning_modules.language_model import LanguageModel
from tests.datamodules.text.test_continuations import write_tiny
from tests.finished_runs import finished_run
from tests.lightning_modules.test_bert import TINY as BERT
from tests.lightning_modules.test_language_model import TINY


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sharp enough to end texts now and then."""
    folder = tmp_path_factory.mktemp("writes")
    write_tiny(folder / "data")
    name = "language_model_hellaswag"
    small = "lightning_module.network.vocabulary_size=150"  # more than the vocabulary's own, none of which are written
    return finished_run(folder / "run", f"experiment={name}", f"paths.data_dir={folder / 'data'}", *TINY[name], small)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(it) for it in path.read_text().splitlines()]


def test_a_pool_has_endings_for_the_texts_that_the_run_has_not_seen(run, tmp_path, capsys):
    whole, part = tmp_path / "pool.jsonl", tmp_path / "part.jsonl"
    common = [str(run), "--shortest", "1", "--longest", "30", "--accelerator", "cpu", "--top-p", "0.9"]
    main([*common, "--out", str(whole), "--count", "6", "--batch", "4"])
    assert "were drawn" in capsys.readouterr().err
    rows = lines(whole)
    assert len({it["item"] for it in rows}) == len(rows) > 20
    assert len({it["group"] for it in rows}) < len(rows)
    main([*common, "--out", str(part), "--count", "6", "--batch", "7", "--texts", "9"])
    for one, other in zip(rows, lines(part), strict=False):  # of each text the same, whatever stands beside it
        assert {key: one[key] for key in ("item", "candidates")} == {key: other[key] for key in ("item", "candidates")}
    pool = read_pool(str(whole))
    assert sum(len(it.candidates) for it in pool) > 10
    assert all(len(it.nats) == 1 + len(it.candidates) for it in pool)
    assert {name for it in pool for name in it.generators} == {f"language_model_hellaswag {run.name}"}


def test_nats_are_the_module_s(run, tmp_path):
    out, again = tmp_path / "pool.jsonl", tmp_path / "again.jsonl"
    mine = {"context": "on monday anna", "ending": "feeds one cow .", "candidates": ["sews a coat .", "goes ."],
            "generator": "me"}  # fmt: skip
    (tmp_path / "mine.jsonl").write_text(json.dumps(mine) + "\n")
    main([str(run), "--pool", str(tmp_path / "mine.jsonl"), "--out", str(out), "--accelerator", "cpu"])
    main([str(run), "--pool", str(out), "--out", str(again), "--accelerator", "cpu"])
    (row,), (other,) = lines(out), lines(again)
    assert row == other
    assert {key: row[key] for key in mine} == mine
    module, _, data = load_run(run)
    assert isinstance(data, WordPieceDataModule)
    assert isinstance(module, LanguageModel)
    text, ending = data.tokenizer.ids_of([mine["context"], mine["candidates"][1]])
    ids = torch.tensor([[2, *text, *ending, 3]])
    nats, _, _ = module.guessed(ids, torch.tensor([ids.shape[1]]))
    first = len(text)
    assert row["nats"]["candidates"][1][0] == pytest.approx(nats[0, first:-1].sum().item(), rel=1e-4)
    assert row["nats"]["candidates"][1][2] == pytest.approx(nats[0, -1].item(), rel=1e-4)
    assert row["nats"]["context"] == pytest.approx(nats[0, :first].sum().item(), rel=1e-4)


@pytest.mark.parametrize(("words", "told"), [
    (["--top-p", "0"], "--top-p is 0.0: give a share above 0"),
    (["--count", "0"], "--count is 0: give 1 or more"),
    (["--longest", "64"], "--longest is 64, and the run reads 64 tokens"),
    (["--longest", "2", "--shortest", "1"], "No right ending of .* texts has 1 to 2 tokens"),
    (["--contexts", "nowhere.jsonl"], "--contexts=nowhere.jsonl is no file"),
])  # fmt: skip
def test_what_cannot_be_is_told(run, tmp_path, words, told):
    with pytest.raises(UserError, match=told):
        main([str(run), "--out", str(tmp_path / "pool.jsonl"), "--accelerator", "cpu", *words])
    assert not (tmp_path / "pool.jsonl").exists()


def test_a_run_that_writes_nothing_is_refused(tmp_path):
    run = finished_run(tmp_path / "run", "experiment=bert_tiny_text", *BERT["bert_tiny_text"])
    with pytest.raises(UserError, match="is a run of BertPretraining, which writes no endings"):
        main([str(run), "--out", str(tmp_path / "pool.jsonl")])


# --- choosing without having learnt to -------------------------------------------------------------------------------


def test_acc_and_acc_norm_are_two_figures():
    """Of the first text the short ending is likelier as a whole, the long one by its letters."""
    nats, letters = [[10.0, 12.0], [3.0, 9.0]], [[5, 10], [4, 4]]
    assert acc_and_acc_norm(nats, letters, [0, 0]) == {"acc": 1.0, "acc_norm": 0.5}
    assert acc_and_acc_norm(nats, letters, [1, 1]) == {"acc": 0.0, "acc_norm": 0.5}


def test_a_run_chooses_by_its_nats(run, tmp_path):
    endings = ["feeds one cow .", "sews a long coat in the shop .", "goes ."]
    rows = [{"ctx": "on monday anna", "endings": endings, "label": it} for it in (0, 1, 2)]
    file = tmp_path / "choices.jsonl"
    file.write_text("".join(json.dumps(it) + "\n" for it in rows))
    words = [str(run), "--file", str(file), "--context", "ctx", "--accelerator", "cpu"]
    found = choices([*words, "--out", str(tmp_path / "told.json")])
    assert found["acc"] == found["acc_norm"] == pytest.approx(1 / 3)  # each ending is the right one of one text
    assert json.loads((tmp_path / "told.json").read_text())["texts"] == 3
    file.write_text(json.dumps(rows[0] | {"label": -1}) + "\n")
    with pytest.raises(UserError, match="line 1: label is '-1', which says no right ending: hidden labels are not"):
        choices(words)
