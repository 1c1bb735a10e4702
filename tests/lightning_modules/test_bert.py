"""The objectives by hand and against another library; what it begins with and what it is asked for."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from foundation.protocols import EmbedsText, FillsMasks, HasReleasedLayout, PredictsTokens, WholeIteration
from lightning_modules.bert import BertPretraining, next_tokens, token_weight
from lightning_modules.networks.bert import Bert
from lightning_modules.networks.bert_released import released_config, to_released
from lightning_modules.uncorrected_adam import UncorrectedAdam
from tests.lightning_modules.alone import alone, step_alone

NETWORK = "lightning_module.network"
SMALL = ["trainer.precision=32-true", "lightning_module.optimizer.fused=false", f"{NETWORK}.layers=1",
         f"{NETWORK}.hidden_size=16", f"{NETWORK}.heads=2", f"{NETWORK}.max_length=64", "datamodule.max_length=32",
         "datamodule.batch_size=8", "datamodule.eval_batch_size=8", "datamodule.test_size=8"]  # fmt: skip
TINY = {
    "bert_tiny_text": [*SMALL, "datamodule.documents=60"],
    "bert_tiny_pretrain": SMALL,
    "bert_mini_pretrain": SMALL,
    "bert_base_pretrain": SMALL,
    "bert_base_pretrain_512": SMALL,
    "bert_budget": [*SMALL, "lightning_module.micro_batch_size=null"],
}
SIZES = {"vocabulary_size": 60, "layers": 2, "hidden_size": 16, "heads": 2, "max_length": 12}


def pretraining(objective: Any = "mlm_and_nsp", micro: int | None = None, device: str = "cpu", **network: Any) -> Any:
    torch.manual_seed(0)
    causal = objective == "left_to_right"
    net = Bert(**(SIZES | {"dropout": 0.0, "attention_dropout": 0.0, "causal": causal} | network))
    optimizer = partial(UncorrectedAdam, lr=1e-3)
    module = BertPretraining(
        net, objective=objective, optimizer=optimizer, gradient_clip_norm=1.0, micro_batch_size=micro
    )
    return alone(module.to(device))


def batch_of(*lengths: int, slots: int = 3, seed: int = 0) -> dict[str, Tensor]:
    """Rows as the DataModules give them; the first masks one token, the second two, and so on up to ``slots``."""
    generator = torch.Generator().manual_seed(seed)
    of, places = torch.tensor(lengths), torch.arange(max(lengths))
    is_token = places < of[:, None]
    ids = torch.randint(5, SIZES["vocabulary_size"], is_token.shape, generator=generator)
    positions = torch.zeros(len(lengths), slots, dtype=torch.int64)
    masked = torch.full((len(lengths), slots), -100)
    for row, length in enumerate(lengths):
        count = min(row % slots + 1, length - 1)
        chosen = torch.randperm(length - 1, generator=generator)[:count].sort().values + 1
        positions[row, :count], masked[row, :count] = chosen, ids[row, chosen]
        ids[row, chosen[0]] = 4
    return {
        "index": torch.arange(len(lengths)), "input_ids": ids * is_token, "lengths": of,
        "segment_ids": ((places >= of[:, None] // 2) & is_token).long(), "masked_positions": positions,
        "masked_ids": masked, "is_random_next": torch.arange(len(lengths)) % 2,
    }  # fmt: skip


# --- the loss --------------------------------------------------------------------------------------------------------


def test_what_follows_is_guessed_left_of_it():
    positions, ids = next_tokens(torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]]), torch.tensor([4, 3]))
    assert positions.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert ids.tolist() == [[7, 8, 3], [9, 3, -100]]


def test_rows_are_weighted_so_that_their_mean_is_that_of_the_tokens():
    """Of two ranks with rows of 1 and 3 tokens, and of 2 and 0."""
    sums, more = torch.tensor([1.0, 6.0]), torch.tensor([5.0, 0.0])
    weight = token_weight(2, (4 + 2) / 2, ranks=2)
    assert ((sums * weight).mean() + (more * weight).mean()) / 2 == pytest.approx(12 / (6 + 1e-5))
    assert token_weight(3, 0) == pytest.approx(3e5)  # and no token at all divides by 1e-5


@pytest.mark.parametrize("padding_free", [True, False])
def test_the_loss_is_the_reference_library_s(padding_free):
    from transformers import BertConfig, BertForPreTraining

    module = pretraining(padding_free=padding_free)
    for it in module.parameters():
        nn.init.normal_(it, std=0.3)
    module.eval()
    other = BertForPreTraining(BertConfig(**released_config(module.network), attn_implementation="eager")).eval()
    other.load_state_dict(to_released(module.state_dict()), strict=False)
    other.tie_weights()
    batch = batch_of(9, 12, 4, 7)
    labels = torch.full_like(batch["input_ids"], -100)
    for row in range(4):
        used = batch["masked_ids"][row] >= 0
        labels[row, batch["masked_positions"][row][used]] = batch["masked_ids"][row][used]
    theirs = other(
        batch["input_ids"], token_type_ids=batch["segment_ids"], labels=labels,
        attention_mask=(torch.arange(12) < batch["lengths"][:, None]).long(), next_sentence_label=batch["is_random_next"],
    )  # fmt: skip
    told = module.loss(module.host_inputs(batch, 0))
    assert told["loss"].item() == pytest.approx(theirs.loss.item(), rel=1e-4)
    assert told["loss"].item() == pytest.approx(told["mlm_nats"].item() + told["nsp_nats"].item())


def test_a_module_that_knows_nothing_loses_ln_v_and_ln_2():
    torch.manual_seed(0)
    module = alone(BertPretraining(Bert(1000, 2, 64, 2), optimizer=UncorrectedAdam))
    told = module.loss(module.host_inputs(batch_of(*[12] * 32), 0))
    assert told["loss"].item() == pytest.approx(math.log(1000) + math.log(2), rel=0.02)


@pytest.mark.parametrize("objective", ["mlm", "left_to_right"])
def test_without_next_sentences_nothing_is_said_of_them(objective):
    module = pretraining(objective)
    batch = {key: it for key, it in batch_of(9, 12, 4).items() if key != "is_random_next"}
    told = step_alone(module, batch)
    assert told.keys() == {"loss"}
    assert not any(name.startswith(("pooler", "next_sentence")) for name in module.state_dict())
    assert all(it.grad is not None for it in module.parameters())
    assert module.metrics("train").keys() == {"train/loss"}


def test_reading_from_the_left_the_loss_is_the_mean_over_all_that_follows():
    module = pretraining("left_to_right").eval()
    batch = batch_of(5, 3)
    nats = 0.0
    for row, length in enumerate([5, 3]):
        ids, segments = batch["input_ids"][row : row + 1, :length], batch["segment_ids"][row : row + 1, :length]
        places = torch.arange(length - 1)[None]
        logits = module.token_logits(ids, torch.tensor([length]), places, segments)[0]
        nats += nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
    assert module.loss(module.host_inputs(batch, 0))["loss"].item() == pytest.approx(nats / 6, rel=1e-4)


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    found = []
    for micro in (None, 2):
        module = pretraining(micro=micro)
        step_alone(module, batch_of(9, 12, 4, 7, 8))
        found.append({name: it.grad for name, it in module.named_parameters()})
    for name, it in found[0].items():
        torch.testing.assert_close(found[1][name], it, atol=1e-6, rtol=1e-4)


# --- the step --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["mlm_and_nsp", "mlm", "left_to_right"])
def test_with_sizes_of_the_shape_alone_no_value_is_read_on_the_host(objective):
    """As a GPU is to take an iteration as a whole; without padding the host waits for the lengths."""
    module = pretraining(objective, device="meta", padding_free=False)
    assert isinstance(module, WholeIteration)
    batch = {key: it.to("meta") for key, it in batch_of(9, 12, 4).items()}
    told = step_alone(module, batch, 3)
    assert all(it.is_meta and not it.requires_grad for it in told.values())


def test_it_learns_a_batch_by_heart():
    module = pretraining()
    batch = batch_of(9, 12, 4, 7)
    losses = [step_alone(module, batch, it)["loss"].item() for it in range(60)]
    assert losses[0] > 4.5
    assert losses[-1] < 1.0


def test_evaluation_tells_of_each_token_what_was_asked_and_guessed():
    module = pretraining().eval()
    batch = batch_of(9, 12, 4)
    with torch.no_grad():
        told = module.validation_step(batch, 0)
        logits = module.token_logits(
            batch["input_ids"], batch["lengths"], batch["masked_positions"], batch["segment_ids"]
        )
    used = batch["masked_ids"] >= 0
    assert torch.equal(told["token_ids"], batch["masked_ids"])
    assert torch.equal(told["likeliest_ids"][used], logits.argmax(2)[used])
    nats = nn.functional.cross_entropy(logits[used], batch["masked_ids"][used], reduction="none")
    torch.testing.assert_close(told["token_nats"][used], nats)
    assert told["token_nats"][~used].abs().max() == 0
    assert told["next_sentence_logits"].shape == (3, 2)


def test_a_text_s_vector_is_the_mean_of_its_tokens():
    for padding_free in (True, False):
        module = pretraining(padding_free=padding_free).eval()
        batch = batch_of(9, 12, 4)
        given = batch["input_ids"], batch["lengths"], batch["segment_ids"]
        vectors, hidden = module.embed(*given), module.network(*given)
        for row, length in enumerate([9, 12, 4]):
            torch.testing.assert_close(vectors[row], hidden[row, :length].mean(0))


# --- what goes together ----------------------------------------------------------------------------------------------


def test_capabilities_are_those_of_the_objective():
    assert pretraining().capabilities() == {PredictsTokens, EmbedsText, FillsMasks, HasReleasedLayout}
    assert pretraining("left_to_right").capabilities() == {PredictsTokens, EmbedsText}


def test_what_does_not_go_together_is_told():
    with pytest.raises(UserError, match="objective is nsp: give one of mlm_and_nsp, mlm, left_to_right"):
        pretraining("nsp")
    with pytest.raises(UserError, match="objective=mlm and lightning_module.network.causal=True do not go together"):
        pretraining("mlm", causal=True)
    module = pretraining()
    with pytest.raises(UserError, match="objective=mlm_and_nsp needs is_random_next"):
        module.host_inputs({key: it for key, it in batch_of(4).items() if key != "is_random_next"}, 0)


def test_released_weights_of_other_sizes_are_told_by_the_keys_that_set_them():
    module = pretraining()
    weights = to_released(module.state_dict())
    config = released_config(module.network) | {"num_attention_heads": 4, "hidden_act": "gelu_new"}
    with pytest.raises(UserError) as told:
        module.from_elsewhere(weights, config)
    assert str(told.value) == (
        "init_from is a BERT of other sizes: set lightning_module.network.heads=4 "
        "lightning_module.network.activation=gelu_tanh."
    )
    larger = pretraining(layers=3, intermediate_size=48)
    with pytest.raises(UserError, match=r"layers=3 lightning_module\.network\.intermediate_size=48\.$"):
        module.from_elsewhere(larger.state_dict(), None)  # of a run, whose weights say it
    with pytest.raises(UserError, match=r"set lightning_module\.network\.causal=True\.$"):
        module.from_elsewhere(module.state_dict(), {"network": {"heads": 2, "causal": True}})
    back = module.from_elsewhere(weights, released_config(module.network))
    own = module.state_dict()
    assert back.keys() == own.keys()
    assert all(torch.equal(back[name], it) for name, it in own.items())
