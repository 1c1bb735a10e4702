"""What goes on from a text is what reads it all; against another library, and what a sum begins with."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks.gpt2_released import released_config, to_released
from lightning_modules.networks.language_models import LstmLanguageModel, TransformerLanguageModel

SIZES = {"vocabulary_size": 50, "layers": 2, "hidden_size": 16}


def network(kind: str, **more: Any) -> Any:
    torch.manual_seed(0)
    made = {
        "lstm": (LstmLanguageModel, {"embedding_size": 12}),
        "transformer": (TransformerLanguageModel, {"heads": 2}),
    }
    net = made[kind][0](**(SIZES | made[kind][1] | {"dropout": 0.0} | more))
    for it in net.parameters():
        nn.init.normal_(it, std=0.3)
    return net.eval()


def texts(*lengths: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    of = torch.tensor(lengths)
    drawn = torch.randint(1, 50, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    return drawn * (torch.arange(max(lengths)) < of[:, None]), of


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_going_on_from_a_text_is_reading_all_of_it(kind):
    net = network(kind)
    contexts, lengths = texts(7, 3, 5)
    endings, of_endings = texts(1, 6, 4, 2, 5, 6, seed=1)
    last, past = net.begin(contexts, lengths)
    x, rows, _ = net.go_on(past, endings, of_endings)
    by_steps = []
    for place in range(6):
        step, _, past = net.go_on(past, endings[:, place : place + 1], torch.ones(6, dtype=torch.int64))
        by_steps.append(step)
    for row, (found, stepped) in enumerate(zip(rows.unpacked(x), torch.stack(by_steps, 1), strict=True)):
        text, length, more = contexts[row // 2], lengths[row // 2], of_endings[row]
        whole = torch.cat([text[:length], endings[row, :more]])[None]
        expected, _ = net.encode(whole, torch.tensor([whole.shape[1]]))
        torch.testing.assert_close(last[row // 2], expected[length - 1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[:more], expected[length:], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(stepped[:more], expected[length:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_nothing_behind_a_token_changes_what_is_guessed_there(kind):
    net = network(kind)
    ids, lengths = texts(8, 5)
    found, rows = net.encode(ids, lengths)
    ids[0, 6:], ids[1, 5:] = 7, 9
    again, _ = net.encode(ids, lengths)
    torch.testing.assert_close(rows.unpacked(again)[0, :6], rows.unpacked(found)[0, :6])
    torch.testing.assert_close(rows.unpacked(again)[1, :5], rows.unpacked(found)[1, :5])
    padded = network(kind, padding_free=False)
    x, places = padded.encode(ids, lengths)
    torch.testing.assert_close(places.unpacked(x)[1, :5], rows.unpacked(again)[1, :5], atol=1e-5, rtol=1e-4)


def test_the_decoder_is_the_reference_library_s():
    from transformers import GPT2Config, GPT2LMHeadModel

    net = network("transformer")
    other = GPT2LMHeadModel(GPT2Config(**released_config(net))).eval()
    missing = other.load_state_dict(to_released(net), strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"}
    assert not missing.unexpected_keys
    other.tie_weights()
    ids, lengths = texts(9, 4)
    x, rows = net.encode(ids, lengths)
    logits = rows.unpacked(net.logits(x))
    theirs = other(ids, attention_mask=(torch.arange(9) < lengths[:, None]).long()).logits
    for row, length in enumerate(lengths):
        torch.testing.assert_close(logits[row, :length], theirs[row, :length], atol=1e-5, rtol=1e-5)


def test_what_an_lstm_drops_it_drops_in_all_of_a_text():
    net = network("lstm", dropout=0.5).train()
    masks = net.dropped(torch.ones(4, 6, 16))
    assert torch.equal(masks, masks[:, :1].expand_as(masks))
    assert set(masks.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(net.eval().dropped(masks), masks)


def test_heads_share_a_vector():
    with pytest.raises(UserError, match="hidden_size is 16, which 3 heads cannot share"):
        network("transformer", heads=3)
