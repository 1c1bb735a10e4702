"""Both networks: what they see, step by step as at once; attention's scores by hand."""

from functools import partial

import pytest
import torch

from foundation.errors import UserError
from lightning_modules.networks.attention_lstm import AttentionLSTM, reversal
from lightning_modules.networks.sequence_to_sequence import is_token
from lightning_modules.networks.translation_transformer import TranslationTransformer

SMALL = {"embedding_size": 6, "hidden_size": 8, "dropout": 0.3}
NETWORKS = {
    "general": partial(AttentionLSTM, **SMALL, layers=2),
    "dot": partial(AttentionLSTM, **SMALL, encoder_size=4, score="dot"),
    "bahdanau": partial(AttentionLSTM, **SMALL, score="bahdanau"),
    "not fed": partial(AttentionLSTM, **SMALL, input_feeding=False),
    "transformer": partial(TranslationTransformer, hidden_size=8, heads=2, layers=2, dropout=0.3),
}
SOURCE, LENGTHS = torch.tensor([[4, 5, 6, 7], [8, 4, 0, 0], [5, 0, 0, 0]]), torch.tensor([4, 2, 1])
INPUTS = torch.tensor([[[2, 5, 6, 7], [2, 7, 7, 4]], [[2, 4, 4, 4], [2, 9, 8, 7]], [[2, 6, 5, 4], [2, 8, 8, 8]]])


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    return NETWORKS[request.param](10, 11).double().eval()


def test_step_by_step_is_as_at_once(network):
    memory = network.encode(SOURCE, LENGTHS)
    whole = network.forced(memory, INPUTS)
    assert whole.shape == (3, 2, 4, 8)
    state = network.begin(memory, 2)
    for time in range(4):
        x, state = network.step(INPUTS[:, :, time], state, memory)
        torch.testing.assert_close(x, whole[:, :, time])
    assert network.logits(whole.flatten(0, 2)).shape == (24, 11)
    always = torch.ones(INPUTS.shape, dtype=torch.bool)
    torch.testing.assert_close(network.partly_forced(memory, INPUTS, always, torch.rand(INPUTS.shape)), whole)


def test_padding_and_the_other_texts_of_a_batch_change_nothing(network):
    whole = network.forced(network.encode(SOURCE, LENGTHS), INPUTS)
    other = SOURCE.masked_fill(~is_token(LENGTHS, 4), 9)
    torch.testing.assert_close(network.forced(network.encode(other, LENGTHS), INPUTS), whole)
    for row, length in enumerate(LENGTHS):
        memory = network.encode(SOURCE[row : row + 1, :length], LENGTHS[row : row + 1])
        for text in range(2):
            alone = network.forced(memory, INPUTS[row : row + 1, text : text + 1])
            torch.testing.assert_close(alone[0, 0], whole[row, text])


def test_no_input_is_seen_before_its_time_and_each_word_of_the_source_counts(network):
    memory = network.encode(SOURCE, LENGTHS)
    whole, later = (network.forced(memory, it) for it in (INPUTS, INPUTS.index_fill(2, torch.tensor([2]), 10)))
    torch.testing.assert_close(later[:, :, :2], whole[:, :, :2])
    assert (later[:, :, 2:] != whole[:, :, 2:]).any(3).all()
    for place in range(4):
        changed = network.forced(
            network.encode(SOURCE[:1].index_fill(1, torch.tensor([place]), 9), LENGTHS[:1]), INPUTS[:1]
        )
        assert (changed != whole[:1]).any(3).all()


def test_all_weights_have_a_gradient_and_dropout_is_of_training(network):
    network.train()
    losses = [
        network.logits(network.forced(network.encode(SOURCE, LENGTHS), INPUTS).flatten(0, 2)).square().mean()
        for _ in range(2)
    ]
    assert losses[0] != losses[1]
    losses[0].backward()
    assert all(
        it.grad is not None and it.grad.abs().sum() > 0 for name, it in network.named_parameters() if not quiet(name)
    )


def quiet(name: str) -> bool:
    """A key's bias adds the same to all scores."""
    return "keys_values.bias" in name


def test_where_truth_ends_a_token_is_drawn_by_its_probability(network):
    """A number in the middle of a token's share of the cumulated probabilities draws that token."""
    memory = network.encode(SOURCE, LENGTHS)
    first = network.forced(memory, INPUTS[:, :, :1])[:, :, 0]
    sums = network.logits(first.flatten(0, 1)).softmax(1).cumsum(1).view(3, 2, 11)
    uniform = torch.zeros(INPUTS.shape)
    uniform[:, :, 1] = (sums[:, :, 6] + sums[:, :, 7]) / 2
    is_true = torch.tensor([True, False, True, True]).expand(INPUTS.shape)
    found = network.partly_forced(memory, INPUTS, is_true, uniform.double())
    torch.testing.assert_close(found, network.forced(memory, INPUTS.index_fill(2, torch.tensor([1]), 7)))


@pytest.mark.parametrize("score", ["general", "dot", "bahdanau"])
def test_attention_by_hand(score):
    torch.manual_seed(1)
    network = AttentionLSTM(10, 11, **SMALL, encoder_size=4, score=score).double().eval()
    network.keys.register_forward_hook(lambda layer, given, out: seen.append(given[0].view(1, 3, 8)[0]))
    seen: list = []
    memory = network.encode(torch.tensor([[4, 5, 6]]), torch.tensor([3]))
    state, vectors = torch.rand(8).double(), seen[0]
    if score == "bahdanau":
        projected = network.query.weight @ state + network.query.bias + vectors @ network.keys.weight.T
        scores = projected.tanh() @ network.energy.weight[0]
    else:
        scores = (vectors if score == "dot" else vectors @ network.keys.weight.T) @ state
    context = scores.softmax(0) @ vectors
    both = torch.cat([network.combined.weight, network.values.weight], 1) @ torch.cat([state, context])
    expected = (both + network.combined.bias).tanh()
    torch.testing.assert_close(network.attended(state.view(1, 1, 8), memory)[0, 0], expected)


def test_a_row_is_turned_round_within_its_length():
    assert reversal(LENGTHS, 4).tolist() == [[3, 2, 1, 0], [1, 0, 2, 3], [0, 1, 2, 3]]


def test_what_does_not_go_together_is_told():
    with pytest.raises(UserError, match="score=dot compares 8 numbers of the decoder with 16"):
        AttentionLSTM(10, 11, **SMALL, score="dot")
    with pytest.raises(UserError, match="score is cosine"):
        AttentionLSTM(10, 11, score="cosine")  # pyright: ignore
    with pytest.raises(UserError, match="layers is 0: give 1 or more"):
        TranslationTransformer(10, 11, layers=0)
    with pytest.raises(UserError, match="hidden_size is 10, which 4 heads cannot share: give a multiple of 8"):
        TranslationTransformer(10, 11, hidden_size=10)
