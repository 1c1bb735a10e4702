"""A run's folder for the Hub: the reference library reads it, tokens and all, and says what the module says."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from finished.hub import export, main
from foundation.errors import UserError
from launch.runs import load_on_device
from tests.finished_runs import finished_run
from tests.lightning_modules.test_bert import TINY
from tests.lightning_modules.test_improved_gan import TINY as TINY_IMPROVED_GAN

TEXTS = ["on monday anna the farmer feeds two cows .", "the baker goes to the oven"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("run"), "experiment=bert_tiny_text", *TINY["bert_tiny_text"])


def test_the_reference_library_reads_what_is_written(run, tmp_path):
    from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

    folder = export(run, out=tmp_path / "hub")
    finished = load_on_device(run, "last", "cpu")
    module: Any = finished.module
    data = finished.datamodule
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    lengths = tokens["attention_mask"].sum(1)
    own = data.encode(TEXTS)
    assert [tokens["input_ids"][row, :length].tolist() for row, length in enumerate(lengths)] == own
    with torch.no_grad():
        hidden = module.network(tokens["input_ids"], lengths)
        theirs = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()(**tokens)
        whole = AutoModelForPreTraining.from_pretrained(folder, attn_implementation="eager").eval()(**tokens)
        positions = torch.minimum(torch.arange(tokens["input_ids"].shape[1]), lengths.unsqueeze(1) - 1)
        logits = module.token_logits(tokens["input_ids"], lengths, positions)
        said = module.next_sentence_logits(tokens["input_ids"], lengths, torch.zeros_like(tokens["input_ids"]))
    is_token = tokens["attention_mask"].bool()
    torch.testing.assert_close(hidden[is_token], theirs.last_hidden_state[is_token], atol=1e-5, rtol=0)
    torch.testing.assert_close(said, whole.seq_relationship_logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits[is_token], whole.prediction_logits[is_token], atol=1e-5, rtol=1e-5)
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["BertForPreTraining"]


def test_who_may_read_the_config_may_read_the_weights(run, tmp_path):
    folder = export(run, out=tmp_path / "hub")
    assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_it_lies_in_the_run_and_training_begins_with_it(run, tmp_path, capsys):
    main([str(run)])
    assert capsys.readouterr().out.strip() == str(run / "hub")
    assert {it.name for it in (run / "hub").iterdir()} == {
        "config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    begun = finished_run(
        tmp_path / "again", "experiment=bert_tiny_text", *TINY["bert_tiny_text"], f"init_from={run / 'hub'}",
        "lightning_module.optimizer.lr=0",
    )  # fmt: skip
    first, second = (torch.load(it / "checkpoints" / "last.ckpt")["state_dict"] for it in (run, begun))
    assert all(torch.equal(first[name], it) for name, it in second.items())


def test_a_run_of_something_else_is_told(tmp_path):
    other = finished_run(tmp_path, "experiment=improved_gan_digits", *TINY_IMPROVED_GAN["improved_gan_digits"])
    with pytest.raises(UserError, match="for which the Hub has no layout"):
        export(other)
