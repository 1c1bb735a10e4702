"""A released GPT-2 is read as transformers reads it; what is no such folder is told in a sentence; a kill costs a batch."""

import json
import os
import shutil
import signal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from datamodules.text.tales import tale
from finished import endings
from finished.choices import acc_and_acc_norm
from finished.choices import main as choices
from finished.hub import export
from finished.writer import Writer, writer_of
from foundation.errors import UserError
from foundation.randomness import keyed_generator
from tests.datamodules.text.test_continuations import write_tiny
from tests.finished_runs import finished_run
from tests.interruption import in_a_fork
from tests.lightning_modules.test_language_model import TINY

TALES = [tale(keyed_generator(0, "for a released model", number)) for number in range(40)]
ROWS = [{"ctx": it[0], "endings": [it[1], "naïve  sheep — far too many of them, and more", "goes.", "sews a coat ."],
         "label": number % 4} for number, it in enumerate(TALES)]  # fmt: skip


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of the Hub, with bytes merged as in these texts, and the rows in a file."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("released")
    bytes_of_texts = ByteLevelBPETokenizer()
    texts = [" ".join(it) for it in TALES]
    bytes_of_texts.train_from_iterator(texts, 330, show_progress=False, special_tokens=["<|endoftext|>"])
    bytes_of_texts.save_model(str(folder))
    size = bytes_of_texts.get_vocab_size()
    torch.manual_seed(0)
    sizes = {"vocab_size": size + 6, "n_positions": 96, "n_embd": 16, "n_layer": 2, "n_head": 2}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, initializer_range=0.3)  # pyright: ignore
    GPT2LMHeadModel(config).save_pretrained(folder)
    (folder / "rows.jsonl").write_text("".join(json.dumps(it) + "\n" for it in ROWS))
    return folder


@cache
def theirs_of(folder: Path) -> tuple[Any, Any]:
    from transformers import GPT2LMHeadModel, GPT2Tokenizer

    tokenizer = GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    return GPT2LMHeadModel.from_pretrained(folder).eval(), tokenizer  # pyright: ignore


def their_nats(folder: Path, text: str, ending: str) -> float:
    """By transformers alone: text and ending read as one."""
    model, tokenizer = theirs_of(folder)
    before = tokenizer(text)["input_ids"] or [0]  # what stands before an empty text
    whole = before + tokenizer(f" {ending}")["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0, :-1]
    nats = cross_entropy(logits, torch.tensor(whole[1:]), reduction="none")
    return float(nats[len(before) - 1 :].sum())


def test_it_says_what_transformers_says(released):
    writer = writer_of(released, "last", "cpu")
    assert writer.name == f"gpt2 {released.name}"
    texts = [ROWS[3]["ctx"], ROWS[5]["ctx"], ""]
    found = writer.nats_given_texts(
        [writer.context(it) for it in writer.ids(texts)],
        [writer.ids_of_endings(row["endings"]) for row in (ROWS[3], ROWS[5], ROWS[7])],
    )
    for text, row, of_text in zip(texts, (ROWS[3], ROWS[5], ROWS[7]), found, strict=True):
        theirs = [their_nats(released, text, it) for it in row["endings"]]
        assert of_text == pytest.approx(theirs, rel=1e-5, abs=1e-5)


def test_both_figures_are_of_transformers_nats(released, tmp_path):
    rows = ROWS[:16]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(it) + "\n" for it in rows))
    out = tmp_path / "told.json"
    words = [str(released), "--file", str(tmp_path / "rows.jsonl"), "--context", "ctx", "--accelerator", "cpu"]
    told = choices([*words, "--out", str(out), "--batch", "4"])
    nats = [[their_nats(released, it["ctx"], one) for one in it["endings"]] for it in rows]
    letters, labels = [[len(one) for one in it["endings"]] for it in rows], [it["label"] for it in rows]
    assert {key: told[key] for key in ("acc", "acc_norm")} == acc_and_acc_norm(nats, letters, labels)
    assert told["acc"] != told["acc_norm"]
    assert json.loads(out.read_text()) == told
    assert [it.name for it in tmp_path.iterdir() if it.name.endswith(".begun")] == []


@pytest.mark.parametrize("layout", ["tokenizer.json", "bare names", "half precision"])
def test_other_layouts_are_read_the_same(released, tmp_path, layout):
    folder = tmp_path / "other"
    shutil.copytree(released, folder)
    state = load_file(folder / "model.safetensors")
    if layout == "tokenizer.json":
        from transformers import GPT2Tokenizer

        GPT2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt")).save_pretrained(folder)
        assert (folder / "tokenizer.json").exists()
        (folder / "vocab.json").unlink(missing_ok=True)
    else:  # as OpenAI's own file: without a prefix, and with masks
        state = {name.removeprefix("transformer."): it for name, it in state.items()}
        state |= {"h.0.attn.bias": torch.ones(1, 1, 96, 96), "lm_head.weight": state["wte.weight"].clone()}
        if layout == "half precision":
            state = {name: it.bfloat16() for name, it in state.items()}
        save_file(state, folder / "model.safetensors")
    one, other = (writer_of(it, "last", "cpu") for it in (released, folder))
    texts = [it["ctx"] for it in ROWS[:3]]
    assert one.ids(texts) == other.ids(texts)
    nats = [
        it.nats_given_texts([it.context(ids) for ids in it.ids(texts)], [it.ids_of_endings(["goes ."])] * 3)
        for it in (one, other)
    ]
    tolerance = 0.05 if layout == "half precision" else 1e-6
    assert [it[0] for it in nats[1]] == pytest.approx([it[0] for it in nats[0]], rel=tolerance)


def test_it_writes_endings_that_end(released, tmp_path):
    out = tmp_path / "pool.jsonl"
    rows = [{"context": it[0], "ending": it[1]} for it in TALES[:5]]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(it) + "\n" for it in rows))
    words = ["--contexts", str(tmp_path / "texts.jsonl"), "--shortest", "1", "--longest", "40", "--accelerator", "cpu"]
    endings.main([str(released), *words, "--out", str(out), "--count", "20"])
    lines = [json.loads(it) for it in out.read_text().splitlines()]
    assert len(lines) == 5
    assert [it["context"] for it in lines] == [it["context"] for it in rows]  # spelled as they were
    written = [one for it in lines for one in it["candidates"]]
    assert written
    assert {it["generator"] for it in lines} == {f"gpt2 {released.name}"}
    with pytest.raises(UserError, match="A released model has no fold that was held out: give --contexts"):
        endings.main([str(released), "--out", str(out)])


# --- what is no such folder ------------------------------------------------------------------------------------------


def test_a_released_model_holds_no_texts_out_and_some_of_a_file_can_be_asked(released):
    with pytest.raises(UserError, match="--file is missing, and .* holds no texts with several endings out: name a"):
        choices([str(released)])
    with pytest.raises(UserError, match="--texts is 0: give 1 or more"):
        choices([str(released), "--texts", "0"])
    words = ["--file", str(released / "rows.jsonl"), "--context", "ctx", "--accelerator", "cpu"]
    assert choices([str(released), *words, "--texts", "3"])["texts"] == 3


def without(folder: Path, *names: str) -> None:
    for it in names:
        (folder / it).unlink()


def with_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def with_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    state = load_file(folder / "model.safetensors") | {name.replace("__", "."): it for name, it in changes.items()}
    save_file({name: it for name, it in state.items() if it is not None}, folder / "model.safetensors")


BAD: dict[str, tuple[Any, str]] = {
    "nothing in it": (lambda it: without(it, "config.json"), "is neither a run, which has .hydra/config.yaml, nor a rel"),
    "no weights": (lambda it: without(it, "model.safetensors"), "has no model.safetensors: download it"),
    "no vocabulary": (lambda it: without(it, "merges.txt"), "has neither tokenizer.json nor vocab.json and merges.txt"),
    "bad merges": (lambda it: (it / "merges.txt").write_text("a b c\n"), "vocab.json or merges.txt cannot be read"),
    "bad json": (lambda it: (it / "config.json").write_text("{"), "config.json is no JSON"),
    "a BERT": (lambda it: with_config(it, model_type="bert"), "says model_type 'bert', not 'gpt2': give the folder of"),
    "no size": (lambda it: with_config(it, n_layer=None), "n_layer is None, and a GPT-2 has 1 or more of it"),
    "heads": (lambda it: with_config(it, n_head=3), "n_embd is 16, which n_head, 3, does not divide"),
    "another activation": (lambda it: with_config(it, activation_function="relu"), "activation_function is 'relu'; known"),
    "another attention": (lambda it: with_config(it, scale_attn_by_inverse_layer_idx=True), "inverse_layer_idx is True"),
    "a small vocabulary": (lambda it: with_config(it, vocab_size=100), "the vocabulary has 330 tokens, and by config.json"),
    "fewer layers": (lambda it: with_config(it, n_layer=1), r"has h.1.attn.c_attn.bias, which no GPT-2 of the sizes"),
    "more layers": (lambda it: with_config(it, n_layer=3), r"has no h.2.ln_1.weight, which a GPT-2 of the sizes"),
    "longer": (lambda it: with_config(it, n_positions=97), r"wpe.weight is \(96, 16\), and by its config.json it would"),
    "another head": (lambda it: with_weights(it, lm_head__weight=torch.zeros(336, 16)), "lm_head.weight is not wte.weight"),
    "not finite": (lambda it: with_weights(it, transformer__ln_f__bias=torch.full((16,), torch.nan)), "are not finite"),
    "cut": (lambda it: os.truncate(it / "model.safetensors", 3000), r"model.safetensors cannot be read \(.*truncated"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_released_model_is_told(released, tmp_path, name):
    shutil.copytree(released, tmp_path / "bad")
    BAD[name][0](tmp_path / "bad")
    with pytest.raises(UserError, match=BAD[name][1]):
        choices([str(tmp_path / "bad"), "--file", str(released / "rows.jsonl"), "--context", "ctx"])


# --- a run, and the same written as a released one --------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("writes")
    write_tiny(folder / "data")
    name = "language_model_hellaswag"
    return finished_run(folder / "run", f"experiment={name}", f"paths.data_dir={folder / 'data'}", *TINY[name])


def test_what_a_run_is_written_as_says_the_same(run, released, tmp_path):
    folder = export(run, out=tmp_path / "hub")
    words = ["--file", str(released / "rows.jsonl"), "--context", "ctx", "--accelerator", "cpu"]
    one, other = (choices([str(it), *words]) for it in (run, folder))
    assert {**one, "run": ""} == {**other, "run": ""}


def test_of_a_run_s_own_file_those_are_asked_that_it_has_not_learnt_from(run, capsys):
    data = writer_of(run, "last", "cpu").data
    told = choices([str(run), "--accelerator", "cpu"])
    assert told["texts"] == len(data.held_out()) < len(data.layout.read(data.file))
    assert told["split"] == "fold 1 of 2"
    every = choices([str(run), "--accelerator", "cpu", "--file", data.file, "--context", "ctx"])
    assert every["texts"] == len(data.layout.read(data.file))
    assert "The run has learnt from right endings of this file: leave --file out" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["write", "score", "choose"])
def test_killed_after_a_batch_it_goes_on_behind_it_and_ends_the_same(run, released, tmp_path, command, monkeypatch):
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    words = [str(run), "--accelerator", "cpu", "--batch", "4"]
    if command == "write":
        words += ["--shortest", "1", "--longest", "30", "--count", "5", "--texts", "18"]
    elif command == "score":
        rows = [{"context": it["ctx"], "ending": it["endings"][0], "candidates": it["endings"][1:]} for it in ROWS[:18]]
        (tmp_path / "pool.jsonl").write_text("".join(json.dumps(it) + "\n" for it in rows))
        words += ["--pool", str(tmp_path / "pool.jsonl")]
    else:
        words += ["--file", str(released / "rows.jsonl"), "--context", "ctx"]
    main = choices if command == "choose" else endings.main
    done: list[int] = []
    behind = Writer.behind

    def counted(self: Writer, contexts: Any, of: Any) -> Any:
        done.append(len(contexts))
        return behind(self, contexts, of)

    monkeypatch.setattr(Writer, "behind", counted)
    main([*words, "--out", str(whole)])
    once = sum(done)

    def killed_behind(calls: int) -> None:
        done.clear()

        def kills(self: Writer, contexts: Any, of: Any) -> Any:
            if len(done) == calls:
                os.kill(os.getpid(), signal.SIGKILL)
            return counted(self, contexts, of)

        Writer.behind = kills  # pyright: ignore
        main([*words, "--out", str(out)])

    calls = 10 if command == "score" else 3
    assert in_a_fork(killed_behind, calls) == -signal.SIGKILL
    assert not out.exists()
    begun = tmp_path / "out.jsonl.begun"
    assert len(begun.read_bytes().split(b"\n")) > 3
    begun.write_bytes(begun.read_bytes()[:-7])  # and a line that a kill has cut
    done.clear()
    main([*words, "--out", str(out)])
    assert out.read_bytes() == whole.read_bytes()
    assert 0 < sum(done) <= once - 4
    assert not begun.exists()
    if command == "write":
        assert in_a_fork(killed_behind, calls) == -signal.SIGKILL
        with pytest.raises(
            UserError, match=r"was begun with another count \(5, and now 6\): ask for the same to go on"
        ):
            main([*words, "--out", str(out), "--count", "6"])
