"""What is found against all texts there are; the same in any batch."""

import itertools

import pytest
import torch

from datamodules.text.words import BEGIN, END, PADDING
from lightning_modules.networks.attention_lstm import AttentionLSTM
from lightning_modules.networks.beam_search import beam_search
from lightning_modules.networks.translation_transformer import TranslationTransformer


def network(kind=AttentionLSTM, seed=0, words=3, **sizes):
    torch.manual_seed(seed)
    net = kind(12, 4 + words, **sizes).double().eval()
    with torch.no_grad():
        net.output.weight.mul_(20)  # so that texts differ in how likely they are
    return net


def log_p(net, source, lengths, texts):
    """Of each text of words and its end, [texts]."""
    memory = net.encode(source, lengths)
    found = []
    for text in texts:
        logits = net.logits(net.forced(memory, torch.tensor([[[BEGIN, *text]]])).flatten(0, 2))
        found.append(logits.log_softmax(1)[range(len(text) + 1), [*text, END]].sum())
    return torch.stack(found)


@pytest.mark.parametrize("kind", [AttentionLSTM, TranslationTransformer])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_all_texts_finds_the_best(kind, penalty):
    net = network(kind, hidden_size=8)
    source, lengths = torch.randint(4, 12, (6, 5)), torch.tensor([5, 3, 1, 4, 2, 5])
    texts = [text for size in range(4) for text in itertools.product([1, 4, 5, 6], repeat=size)]
    sizes = torch.tensor([len(text) + 1 for text in texts])
    ids, found = beam_search(net, source, lengths, torch.full((6,), 4), beam=100, length_penalty=penalty)
    for row in range(6):
        scores = log_p(net, source[row : row + 1], lengths[row : row + 1], texts) / sizes**penalty
        assert tuple(ids[row, : found[row]].tolist()) == texts[int(scores.argmax())]
    assert (ids[torch.arange(ids.shape[1]) >= found[:, None]] == PADDING).all()


@pytest.mark.parametrize("kind", [AttentionLSTM, TranslationTransformer])
@pytest.mark.parametrize("beam", [1, 4])
def test_what_is_found_does_not_depend_on_the_batch(kind, beam):
    net = network(kind, words=20, hidden_size=16)
    source, lengths = torch.randint(4, 12, (15, 6)), torch.randint(1, 7, (15,))
    limits = 2 * lengths + 3
    whole = beam_search(net, source, lengths, limits, beam)
    assert len(set(whole[1].tolist())) > 2
    for size in (1, 4):
        rows = []
        for part in torch.arange(15).split(size):
            longest = int(lengths[part].max())
            ids, found = beam_search(net, source[part, :longest], lengths[part], limits[part], beam)
            rows += [row[:n].tolist() for row, n in zip(ids, found, strict=True)]
        assert rows == [row[:n].tolist() for row, n in zip(*whole, strict=True)]


def test_one_beam_takes_the_likeliest_word_each_time_and_ends_at_its_limit():
    net = network(words=20, hidden_size=16, seed=3)
    source, lengths = torch.randint(4, 12, (8, 5)), torch.full((8,), 5)
    ids, found = beam_search(net, source, lengths, torch.full((8,), 6), beam=1)
    memory = net.encode(source, lengths)
    state, tokens = net.begin(memory, 1), torch.full((8, 1), BEGIN)
    ended, expected = [False] * 8, [[] for _ in range(8)]
    for _ in range(5):
        x, state = net.step(tokens, state, memory)
        logits = net.logits(x.flatten(0, 1))
        logits[:, [PADDING, BEGIN]] = -torch.inf
        tokens = logits.argmax(1, keepdim=True)
        for row, token in enumerate(tokens.flatten().tolist()):
            ended[row] |= token == END
            expected[row] += [] if ended[row] else [token]
    assert [row[:n].tolist() for row, n in zip(ids, found, strict=True)] == expected
    assert int(found.max()) == 5


def test_of_no_source_nothing_is_made_and_a_limit_of_one_leaves_no_word():
    net = network(hidden_size=8)
    none = torch.zeros(0, dtype=torch.int64)
    assert [it.shape[0] for it in beam_search(net, torch.zeros(0, 3, dtype=torch.int64), none, none, 2)] == [0, 0]
    ids, found = beam_search(net, torch.tensor([[4, 5]]), torch.tensor([2]), torch.tensor([1]), 3)
    assert ids.shape == (1, 0)
    assert found.tolist() == [0]


def test_a_search_stops_when_nothing_better_can_come():
    """A network that ends at once takes one step, whatever its limit is."""
    net = network(hidden_size=8)
    with torch.no_grad():
        net.output.bias[END] = 1e3
    steps, step = [], net.step
    net.step = lambda *given: (steps.append(1), step(*given))[1]
    beam_search(net, torch.tensor([[4, 5]]), torch.tensor([2]), torch.tensor([1000]), 5)
    assert len(steps) == 1
