"""The four objectives: what they minimise, how they are related, and that nothing else decides their draws."""

import itertools
import json
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.text.words import BEGIN, END
from foundation.errors import UserError
from foundation.protocols import EditsTargets, Translates, WholeIteration
from lightning_modules.networks.attention_lstm import AttentionLSTM
from lightning_modules.networks.translation_transformer import TranslationTransformer
from lightning_modules.raml import RAML, share_of_truth, with_marks
from tests.forks import run_in_fork
from tests.lightning_modules.alone import alone, step_alone

NETWORKS = {
    "lstm": partial(AttentionLSTM, 12, 14, embedding_size=8, hidden_size=8, dropout=0.2),
    "not_fed": partial(AttentionLSTM, 12, 14, embedding_size=8, hidden_size=8, dropout=0.2, input_feeding=False),
    "transformer": partial(TranslationTransformer, 12, 14, hidden_size=8, layers=1, heads=2),
}
NET = "lightning_module.network"
SMALL = ["trainer.precision=32-true", f"{NET}.hidden_size=16", f"{NET}.embedding_size=8", "datamodule.batch_tokens=200"]
TINY = {
    "raml_copy": [*SMALL, "datamodule.rows=300", "datamodule.test_size=40"],
    "raml_cmudict": [*SMALL, "datamodule.test_size=3"],
    "raml_multi30k": [*SMALL, "datamodule.val_size=3"],
    "raml_iwslt14": SMALL,
}


def made(network: str = "lstm", device: str = "cpu", **given: Any) -> Any:
    torch.manual_seed(0)
    defaults: Any = {"optimizer": partial(torch.optim.Adam, lr=1e-3), "longest_output": {"factor": 2, "extra": 3}}
    return alone(RAML(NETWORKS[network]().to(device), **(defaults | given)).to(device))


def batch_of(*lengths: int, seed: int = 0) -> dict[str, Tensor]:
    """Sources of these lengths, and targets of one word less, so that there may be one of none."""
    generator, sizes = torch.Generator().manual_seed(seed), torch.tensor(lengths)
    ids = torch.randint(4, 12, (len(lengths), max(lengths)), generator=generator)
    places = torch.arange(max(lengths))
    targets = (ids + 1)[:, : max(lengths) - 1] * (places[:-1] < sizes[:, None] - 1)
    return {
        "index": 7 + torch.arange(len(lengths)), "input_ids": ids * (places < sizes[:, None]), "lengths": sizes,
        "target_ids": targets, "target_lengths": sizes - 1,
    }  # fmt: skip


def gradients(module: Any) -> dict[str, Tensor]:
    return {name: it.grad for name, it in module.named_parameters()}


# --- the objectives --------------------------------------------------------------------------------------------------


def test_a_decoder_reads_from_the_begin_and_says_the_end():
    read, to_say = with_marks(torch.tensor([[[5, 6, 0], [7, 8, 9], [0, 0, 0]]]), torch.tensor([[2, 3, 0]]))
    assert read.tolist() == [[[BEGIN, 5, 6, 0], [BEGIN, 7, 8, 9], [BEGIN, 0, 0, 0]]]
    assert to_say.tolist() == [[[5, 6, END, 0], [7, 8, 9, END], [END, 0, 0, 0]]]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("proposal", ["hamming", "edit_distance"])
def test_near_zero_a_step_is_one_of_maximum_likelihood_to_the_bit(network, proposal):
    """Losses, gradients and weights."""
    found = []
    for given in ({"objective": "ml"}, {"objective": "raml", "proposal": proposal, "tau": 0.01}):
        module = made(network, **given)
        torch.manual_seed(1)  # of dropout
        losses = [step_alone(module, batch_of(6, 4, 3, 2, 1), it)["loss"] for it in range(3)]
        found.append((losses, gradients(module), dict(module.named_parameters())))
    assert found[0][0] == found[1][0]
    for ml, raml in zip(found[0][1:], found[1][1:], strict=True):
        assert all(torch.equal(ml[name], raml[name]) for name in ml)


def test_the_loss_is_the_mean_over_tokens_of_what_they_lose():
    batch, module = batch_of(6, 4, 1), made(objective="ml").eval()
    nats = 0.0
    for row in range(3):
        own = slice(row, row + 1)
        size = int(batch["target_lengths"][row])
        memory = module.network.encode(batch["input_ids"][own, : size + 1], batch["lengths"][own])
        target = batch["target_ids"][row, :size].tolist()
        logits = module.network.logits(module.network.forced(memory, torch.tensor([[[BEGIN, *target]]])).flatten(0, 2))
        nats -= logits.log_softmax(1)[range(size + 1), [*target, END]].sum().item()
    assert module.loss(module.host_inputs(batch, 0))["loss"].item() == pytest.approx(nats / 11, rel=1e-5)
    assert module.measured(batch, 1)["nll"].sum().item() == pytest.approx(nats, rel=1e-5)


@pytest.mark.parametrize("proposal", ["hamming", "edit_distance"])
def test_over_many_samples_the_loss_is_eq_7(proposal):
    """One word out of three: all targets there are by their probabilities, against 4,000 samples."""
    module = made(objective="raml", samples=4000, tau=1.5, proposal=proposal, rescaled=False).eval()
    module.words = 3
    batch = {"index": torch.tensor([3]), "input_ids": torch.tensor([[5]]), "lengths": torch.tensor([1]),
             "target_ids": torch.tensor([[5]]), "target_lengths": torch.tensor([1])}  # fmt: skip
    weights: dict[tuple, float] = {(5,): 1.0, (4,): math.exp(-1 / 1.5), (6,): math.exp(-1 / 1.5)}
    if proposal == "edit_distance":  # eq. 11 counts the ways to make a text, one for each way
        weights[()] = math.exp(-1 / 1.5)
        for word in (4, 5, 6):
            for text in ((word, 5), (5, word)):
                weights[text] = weights.get(text, 0.0) + math.exp(-1 / 1.5)
        for one, other in itertools.product((4, 5, 6), repeat=2):
            for text in ((5, one, other), (one, 5, other), (one, other, 5)):
                weights[text] = weights.get(text, 0.0) + math.exp(-2 / 1.5)
        for first in ((4,), (6,), ()):  # a word in its place or none, and one more
            for word in (4, 5, 6):
                weights[(*first, word)] = weights.get((*first, word), 0.0) + math.exp(-2 / 1.5)
    memory = module.network.encode(batch["input_ids"], batch["lengths"])
    nats = {
        it: module.nats(memory, torch.tensor([[it]], dtype=torch.int64), torch.tensor([[len(it)]])).item()
        for it in weights
    }
    expected = sum(weight * nats[it] for it, weight in weights.items()) / sum(weights.values())
    found = module.loss(module.host_inputs(batch, 0))["loss"].item() * 2  # by two tokens
    assert found == pytest.approx(expected, rel=0.02)


def test_smoothing_gives_a_share_to_all_tokens_in_training_alone():
    batch, module = batch_of(6, 4, 1), made(objective="label_smoothing", smoothing=0.2)
    module.network.eval()
    read, to_say = with_marks(batch["target_ids"][:, None], batch["target_lengths"][:, None])
    memory = module.network.encode(batch["input_ids"], batch["lengths"])
    log_p = module.network.logits(module.network.forced(memory, read).flatten(0, 2)).log_softmax(1)
    said, used = to_say.flatten(), to_say.flatten() > 0
    plain = -log_p[used].gather(1, said[used, None]).sum()
    expected = 0.8 * plain - 0.2 * log_p[used].mean(1).sum()
    assert module.loss(module.host_inputs(batch, 0))["loss"].item() == pytest.approx(expected.item() / 11, rel=1e-5)
    assert module.eval().measured(batch, 1)["nll"].sum().item() == pytest.approx(plain.item(), rel=1e-5)


def test_scheduled_sampling_begins_with_the_truth_and_ends_without():
    assert [round(share_of_truth(it, 500), 4) for it in (0, 2500, 5000, 10**9)] == [0.998, 0.7711, 0.0222, 0]
    module, true, batch = made(objective="scheduled_sampling").eval(), made(objective="ml").eval(), batch_of(6, 4, 3)
    for it in (module, true):
        torch.nn.init.normal_(it.network.target.weight, generator=torch.Generator().manual_seed(0))
    early, late = (module.host_inputs(batch, it) for it in (0, 10**6))
    assert early["is_true"].float().mean() > 0.9
    assert not late["is_true"].any()
    early["is_true"] = torch.ones_like(early["is_true"])
    assert module.loss(early)["loss"].item() == pytest.approx(
        true.loss(true.host_inputs(batch, 0))["loss"].item(), rel=1e-5
    )
    assert module.loss(late)["loss"].item() != pytest.approx(module.loss(early)["loss"].item(), rel=1e-5)


@pytest.mark.parametrize("given", [{}, {"proposal": "edit_distance"}, {"reward": "bleu"}, {"proposal": "edit_distance", "reward": "bleu"},
                                   {"proposal": "ngram"}, {"proposal": "ngram", "reward": "bleu", "candidates": 9}], ids=str)  # fmt: skip
def test_weights_of_samples_sum_to_one_and_their_loss_moves_every_weight(given):
    module = made(samples=3, tau=0.9, **given)
    inputs = module.host_inputs(batch_of(7, 5, 3, 2, 1), 0)
    assert inputs["sample_ids"].shape[:2] == (5, 3)
    torch.testing.assert_close(inputs["sample_weights"].sum(1), torch.ones(5))
    sizes = inputs["sample_lengths"]
    used = torch.arange(inputs["sample_ids"].shape[2]) < sizes[:, :, None]
    assert inputs["sample_ids"][used].min() >= 4
    assert not inputs["sample_ids"][~used].any()
    step_alone(module, batch_of(7, 5, 3, 2, 1))
    assert all(it is not None and it.isfinite().all() for it in gradients(module).values())


def test_of_n_grams_a_reward_of_bleu_prefers_what_is_near():
    """Near zero the target alone is drawn; at a high temperature any candidate."""
    batch = batch_of(9, 9, 9, 9)
    for tau, least, most in ((0.005, 1.0, 1.0), (50.0, 0.0, 0.3)):
        module = made(samples=20, tau=tau, proposal="ngram", reward="bleu", candidates=50)
        ids = module.host_inputs(batch, 0)["sample_ids"]
        untouched = (ids == batch["target_ids"][:, None]).all(2).float().mean().item()
        assert least <= untouched <= most


# --- what decides the draws ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective", ["raml", "scheduled_sampling", "label_smoothing"])
def test_two_shares_of_a_batch_have_the_gradient_of_the_whole(objective):
    """As two ranks have them, of unlike numbers of texts; what is drawn for a text does not depend on its share."""
    network = "not_fed"
    torch.manual_seed(0)
    batch = batch_of(6, 6, 4, 3, 3)
    given: Any = {"objective": objective, "tau": 1.0, "proposal": "edit_distance", "truth_decay": 1.0}
    whole = made(network, **given).double().eval()
    whole.trainer.current_epoch = 3
    whole.train(objective == "label_smoothing").network.eval()
    loss = step_alone(whole, batch, 5)["loss"]
    shares = [{key: it[part] for key, it in batch.items()} for part in (slice(0, 3), slice(3, 5))]
    mean = sum((it["target_lengths"] + 1).sum().double() for it in shares) / 2
    losses, found = [], []
    for share in shares:
        module = made(network, **given).double().eval()
        module.trainer.current_epoch = 3
        module.train(objective == "label_smoothing").network.eval()
        module.trainer.strategy.reduce = lambda it, reduce_op: mean
        module.gradient_clip_norm = None
        losses.append(step_alone(module, share, 5)["loss"])
        found.append(gradients(module))
    torch.testing.assert_close(sum(losses) / 2, loss, rtol=1e-6, atol=0)
    for name, it in gradients(whole).items():
        torch.testing.assert_close((found[0][name] + found[1][name]) / 2, it, rtol=1e-5, atol=1e-9)


def test_ranks_take_the_steps_of_one_and_measure_the_same(tmp_path):
    """Three ranks have unlike numbers of texts; figures are the same up to the order of what is added."""
    done = run_in_fork("-m", "tests.lightning_modules.raml_on_ranks", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    weights = [torch.load(tmp_path / f"{size}.pt", weights_only=True) for size in (1, 2, 3)]
    assert found["1"].keys() >= {"train/loss", "test/loss", "test/error_rate"}
    for size, of in zip("23", weights[1:], strict=True):
        torch.testing.assert_close(of, weights[0], rtol=1e-6, atol=1e-8)
        assert found[size] == pytest.approx(found["1"], rel=1e-5)


def test_a_batch_in_parts_has_the_gradient_of_the_whole():
    found = []
    for micro in (None, 2):
        module = made("not_fed", micro_batch_size=micro, samples=2, tau=1.0, proposal="edit_distance").eval()
        step_alone(module, batch_of(6, 5, 4, 3, 1))
        found.append(gradients(module))
    for name, it in found[0].items():
        torch.testing.assert_close(found[1][name], it, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("objective", ["ml", "label_smoothing", "scheduled_sampling", "raml"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_step_reads_no_value_on_the_host(objective, network):
    """So that a GPU does not wait for it; samples that differ in length are drawn before it."""
    module = made(network, objective=objective)
    inputs = module.host_inputs(batch_of(6, 4, 3), 3)
    module.to("meta")
    told = module.device_step({key: it.to("meta") for key, it in inputs.items()})
    assert isinstance(module, WholeIteration)
    assert told.keys() == {"loss"}
    assert "differ in size" in module.not_capturable()


# --- measuring -------------------------------------------------------------------------------------------------------


def test_evaluation_tells_what_was_made_and_what_the_target_loses():
    module, batch = made().eval(), batch_of(6, 4, 3, 1)
    told = module.measured(batch, module.beam_size)
    assert told["output_ids"].shape == (4, int(told["output_lengths"].max()))
    assert (told["output_lengths"] < 2 * batch["lengths"] + 3).all()
    assert told["nll"].shape == (4,)
    ids, lengths = module.translate(batch["input_ids"], batch["lengths"])
    assert torch.equal(ids, told["output_ids"])
    assert torch.equal(lengths, told["output_lengths"])
    assert module.capabilities() == {Translates, EditsTargets}
    assert made(objective="ml").capabilities() == {Translates}
    assert module.edit_probabilities(5).shape == (6, 6)
    none = module.measured({key: it[:0] for key, it in batch.items()}, 1)
    assert none["output_lengths"].shape == none["nll"].shape == (0,)


def test_what_cannot_be_asked_for_is_told():
    for given, told in {
        "objective=reinforce": "lightning_module.objective is reinforce: known: label_smoothing, ml, raml",
        "reward=rouge": "lightning_module.reward is rouge: known: bleu, distance.",
        "proposal=hammin": "lightning_module.proposal is hammin: did you mean 'hamming'?",
        "tau=0": "lightning_module.tau is 0: give a temperature above 0; near 0",
        "tau=-1": "lightning_module.tau is -1: give a temperature above 0",
        "beam_size=15": "lightning_module.beam_size is 15: give 1 to 14, the size of the target vocabulary.",
        "validation_beam_size=0": "lightning_module.validation_beam_size is 0: give 1 to 14",
        "samples=0": "lightning_module.samples is 0: give 1 or more.",
        "length_penalty=-1": "lightning_module.length_penalty is -1: give 0 or more.",
        "reward=bleu": "lightning_module.samples=1 knows nothing: set samples to 2 or more, or proposal to ngram.",
    }.items():
        key, _, value = given.partition("=")
        with pytest.raises(UserError) as error:
            made(**{key: int(value) if value.lstrip("-").isdigit() else value})
        assert told in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"longest_output has factor: give factor and extra\."):
        made(longest_output={"factor": 2})
