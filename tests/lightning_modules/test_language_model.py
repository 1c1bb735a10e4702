"""The loss and scores by hand and against another library; what is drawn, and that it depends on its key alone."""

from functools import partial
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from foundation.protocols import ContinuesText, HasReleasedLayout, PredictsTokens
from foundation.randomness import keyed_uniforms
from lightning_modules.language_model import LanguageModel, top_p_choice
from lightning_modules.networks.gpt2_released import released_config, to_released
from tests.lightning_modules.alone import alone, step_alone
from tests.lightning_modules.networks.test_language_models import network, texts

NETWORK = "lightning_module.network"
SMALL = ["trainer.precision=32-true", "lightning_module.optimizer.fused=false", f"{NETWORK}.layers=1",
         f"{NETWORK}.hidden_size=16", "datamodule.max_length=32", "datamodule.batch_size=8",
         "datamodule.eval_batch_size=8", "datamodule.test_size=8"]  # fmt: skip
DECODER = [f"{NETWORK}.heads=2", f"{NETWORK}.max_length=64"]
TINY = {
    "language_model_tales": [*SMALL, *DECODER, "datamodule.documents=60"],
    "language_model_transformer": [*SMALL, *DECODER],
    "language_model_lstm": [*SMALL, f"{NETWORK}.embedding_size=8"],
    "language_model_hellaswag": [*SMALL[:-1], *DECODER],
    "language_model_hellaswag_lstm": [*SMALL[:-1], f"{NETWORK}.embedding_size=8"],
}
KINDS = pytest.mark.parametrize("kind", ["lstm", "transformer"])


def model(kind: str, **more: Any) -> Any:
    return alone(LanguageModel(network(kind), optimizer=partial(torch.optim.Adam, lr=1e-2), **more))


def one_by_one(module: Any, context: torch.Tensor, ending: torch.Tensor) -> float:
    """-log p(ending | context) of two rows of ids without padding, by reading each prefix by itself."""
    nats, read = 0.0, context
    for it in ending:
        x, _ = module.network.encode(read[None], torch.tensor([len(read)]))
        nats += cross_entropy(module.network.logits(x[-1:]), it[None]).item()
        read = torch.cat([read, it[None]])
    return nats


# --- training --------------------------------------------------------------------------------------------------------


@KINDS
def test_the_loss_is_the_mean_over_all_that_follows(kind):
    module = model(kind)
    ids, lengths = texts(5, 3)
    batch = {"index": torch.arange(2), "input_ids": ids, "lengths": lengths}
    nats = sum(one_by_one(module, ids[row, :1], ids[row, 1:length]) for row, length in enumerate([5, 3]))
    assert module.loss(module.host_inputs(batch, 0))["loss"].item() == pytest.approx(nats / 6, rel=1e-4)
    told = module.validation_step(batch, 0)
    assert told["token_ids"].tolist() == [ids[0, 1:].tolist(), [*ids[1, 1:3].tolist(), -100, -100]]
    assert told["token_nats"].sum().item() == pytest.approx(nats, rel=1e-5)
    assert module.capabilities() == {PredictsTokens, ContinuesText} | (
        {HasReleasedLayout} if kind == "transformer" else set()
    )


@KINDS
def test_a_batch_in_parts_has_the_gradient_of_the_whole(kind):
    found, (ids, lengths) = [], texts(9, 12, 4, 7)
    for micro in (None, 2):
        module = model(kind, micro_batch_size=micro)
        step_alone(module, {"index": torch.arange(4), "input_ids": ids, "lengths": lengths})
        found.append({name: it.grad for name, it in module.named_parameters()})
    for name, it in found[0].items():
        torch.testing.assert_close(found[1][name], it, atol=1e-6, rtol=1e-4)


# --- scores ----------------------------------------------------------------------------------------------------------


@KINDS
def test_endings_are_as_likely_as_read_one_by_one(kind):
    module = model(kind).eval()
    contexts, lengths = texts(7, 3, 5)
    endings, of_endings = texts(1, 6, 4, 2, 5, 0, seed=1)
    of_tokens = module.ending_nats(contexts, lengths, endings.view(3, 2, 6), of_endings.view(3, 2))
    assert torch.equal(of_tokens.flatten(0, 1) > 0, torch.arange(6) < of_endings[:, None])
    found = of_tokens.sum(2)
    for row in range(6):
        context = contexts[row // 2, : lengths[row // 2]]
        expected = one_by_one(module, context, endings[row, : of_endings[row]])
        assert found[row // 2, row % 2].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
    single = module.ending_nats(contexts, lengths, endings.view(3, 2, 6)[:, :, :1], torch.ones(3, 2, dtype=torch.int64))
    assert single[0, 0, 0].item() == pytest.approx(found[0, 0].item(), rel=1e-5)


def test_scores_are_the_reference_library_s():
    from transformers import GPT2Config, GPT2LMHeadModel

    module = model("transformer").eval()
    other = GPT2LMHeadModel(GPT2Config(**released_config(module.network))).eval()
    other.load_state_dict(to_released(module.network), strict=False)
    other.tie_weights()
    contexts, lengths = texts(7, 7)
    endings, _ = texts(4, 4, 4, 4, seed=1)
    found = module.ending_nats(contexts, lengths, endings.view(2, 2, 4), torch.full((2, 2), 4)).sum(2).flatten()
    whole = torch.cat([contexts.repeat_interleave(2, 0), endings], 1)
    logits = other(whole).logits[:, 6:-1]
    theirs = cross_entropy(logits.transpose(1, 2), endings, reduction="none").sum(1)
    torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-5)


# --- endings that are written ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("p", "kept"), [(0.2, [2]), (0.5, [2]), (0.51, [0, 2]), (0.79, [0, 2]), (0.95, [0, 1, 2, 3]),
                                         (1.0, [0, 1, 2, 3])])  # fmt: skip
def test_what_is_drawn_lies_in_the_nucleus_with_the_probabilities_it_has_there(p, kept):
    probabilities = torch.tensor([0.3, 0.1, 0.5, 0.1], dtype=torch.float64)  # of equal ones both are in or out
    uniforms = torch.from_numpy(keyed_uniforms(0, "test", rows=torch.arange(20_000).numpy(), columns=2))
    found = top_p_choice(probabilities.log().repeat(20_000, 1), p, uniforms)
    shares = found.bincount(minlength=4) / 20_000
    nucleus = torch.zeros(4, dtype=torch.float64).index_fill(0, torch.tensor(kept), 1.0) * probabilities
    torch.testing.assert_close(shares.double(), nucleus / nucleus.sum(), atol=0.012, rtol=0)
    assert shares.nonzero().flatten().tolist() == kept


def test_what_has_no_chance_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 1.0, float("-inf")]]).repeat(3, 1)
    edge = torch.tensor([[0.0, 0.0], [0.5, 0.5], [1 - 1e-12, 1 - 1e-12]], dtype=torch.float64)
    for p in (0.1, 1.0):
        assert top_p_choice(logits, p, edge).tolist() == [1, 1, 1]


@KINDS
def test_an_ending_depends_on_its_key_alone(kind):
    module = model(kind).eval()
    contexts, lengths = texts(7, 3, 5)
    how = {"longest": 6, "ends": [3], "never": [0, 1], "p": 0.9}
    found = module.continuations(contexts, lengths, [4, 9, 2], 5, **how)
    fewer = module.continuations(contexts[1:], lengths[1:], [9, 2], 3, **how)
    assert [it[:3] for it in found[1:]] == fewer
    rows = [row for of_text in found for row in of_text]
    assert len({tuple(row) for row in rows}) > 8
    assert all(1 <= len(row) <= 6 and not {0, 1} & set(row) for row in rows)
    assert all(3 not in row[:-1] for row in rows)
    module.seed = 1
    assert module.continuations(contexts, lengths, [4, 9, 2], 5, **how) != found
