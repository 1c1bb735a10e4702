"""Both libraries' products are the same up to rounding, with all their gradients; where neither is asked, nothing changes."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from lightning_modules.networks import products
from lightning_modules.networks.products import LEAST, Linear, linear, multiply, suits, with_own_linears

needs_onednn = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN product of dense matrices"
)


@pytest.fixture
def wide(monkeypatch):
    """As on a processor where oneDNN is the faster one."""
    monkeypatch.setattr(products, "by_onednn", lambda: True)


def operands(dtype=torch.float32, rows=6):
    generator = torch.Generator().manual_seed(0)
    sizes = (rows, 130), (260, 130), (260,)
    return [torch.randn(it, generator=generator, dtype=dtype).requires_grad_() for it in sizes]


@needs_onednn
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_and_its_gradients_are_torch_s(wide, biased):
    x, weight, bias = operands()
    taken = [x, weight, bias] if biased else [x, weight]
    assert suits(x, weight)
    ours, theirs = linear(*taken), functional.linear(*taken)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    outer = torch.randn(6, 260)
    for mine, other in zip(*(torch.autograd.grad(it, taken, outer) for it in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-4)


@needs_onednn
def test_a_gradient_has_a_gradient(wide):
    """As of a penalty on input gradients."""
    found = []
    for product in (linear, functional.linear):
        x, weight, bias = operands()
        (slope,) = torch.autograd.grad(product(x, weight, bias).tanh().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, weight, bias]))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


@needs_onednn
def test_only_what_is_asked_for_is_computed(wide, monkeypatch):
    made = []
    monkeypatch.setattr(products, "multiply", lambda *them: made.append(them[0].shape) or multiply(*them))
    x, weight, bias = operands()
    linear(x.detach(), weight, bias).sum().backward()
    assert x.grad is None
    assert made == [(6, 130), (260, 6)]
    made.clear()
    linear(x, weight.detach(), None).sum().backward()
    assert made == [(6, 130), (6, 260)]


@needs_onednn
def test_there_are_few_numbers_of_rows_and_those_that_are_added_change_nothing(wide, monkeypatch):
    """The library keeps kernels for each number that it meets."""
    made = set()
    monkeypatch.setattr(products, "multiply", lambda *them: made.update(them[0].shape) or multiply(*them))
    for rows in range(1025, 1090):
        x, weight, bias = operands(rows=rows)
        ours = linear(x, weight, bias)
        mine = torch.autograd.grad(ours.square().sum(), [x, weight, bias])
        if rows == 1027:
            theirs = functional.linear(x, weight, bias)
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
            other = torch.autograd.grad(theirs.square().sum(), [x, weight, bias])
            for one, two in zip(mine, other, strict=True):
                torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-2)
    assert made == {1088, 1152, 260, 130}


def test_what_does_not_suit_is_left_to_torch(wide):
    x, weight, _ = operands()
    assert suits(x, weight)
    assert not suits(x[0], weight)
    assert not suits(x[:1], weight)
    assert not suits(x.double(), weight.double())
    assert not suits(x.to("meta"), weight.to("meta"))
    assert not suits(x, weight[: LEAST // 130])
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(x, weight)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not suits(x, weight)


def test_on_intel_s_processors_nothing_changes(monkeypatch):
    monkeypatch.setattr(products.Path, "exists", lambda _: True)
    for maker, whether in {"GenuineIntel": False, "AuthenticAMD": True}.items():
        monkeypatch.setattr(products.Path, "read_text", lambda _, maker=maker: f"vendor_id : {maker}")
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
        monkeypatch.setattr(products.platform, "machine", lambda: "x86_64")
        assert products.by_onednn.__wrapped__() == (whether and hasattr(torch.ops.mkldnn, "_linear_pointwise"))
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        assert not products.by_onednn.__wrapped__()
        monkeypatch.setattr(products.platform, "machine", lambda: "aarch64")
        assert not products.by_onednn.__wrapped__()


def test_a_layer_measures_as_torch_s_and_keeps_its_names(wide):
    layer, x = Linear(130, 260), operands()[0]
    usual = nn.Linear(130, 260)
    usual.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x), usual(x))
    torch.testing.assert_close(layer.train()(x), usual(x), rtol=1e-5, atol=1e-5)


def test_layers_are_changed_where_they_stand():
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.Sequential(nn.Linear(2, 2, bias=False)))
    before = deepcopy(network.state_dict())
    assert with_own_linears(network) is network
    assert [type(it) for it in network.modules() if isinstance(it, nn.Linear)] == [Linear, Linear]
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


@needs_onednn
def test_evaluation_takes_them_where_it_is_asked_to_alone(wide, monkeypatch):
    made = []
    monkeypatch.setattr(products, "multiply", lambda *them: made.append(them[0].shape) or multiply(*them))
    layer, (x, _, _) = Linear(130, 260).eval(), operands()
    with torch.no_grad():
        plain = layer(x)
        assert not made
        with products.as_in_training():
            torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
        assert made == [(6, 130)]
        assert torch.equal(layer(x), plain)
        assert len(made) == 1
