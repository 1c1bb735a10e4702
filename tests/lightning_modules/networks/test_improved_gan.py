"""Layers against their definitions, and the sizes of the authors' networks."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import batch_norm

from foundation.errors import UserError
from lightning_modules.networks.improved_gan import ConvDiscriminator, ConvGenerator, MLPDiscriminator, MLPGenerator
from lightning_modules.networks.improved_gan_layers import (
    GaussianNoise,
    MinibatchDiscrimination,
    VirtualBatchNorm,
    WeightNorm,
    WeightNormConv2d,
    WeightNormLinear,
    WeightNormUp,
    initializing,
    l1_distances,
    similarity,
)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def weights_and_biases(network: nn.Module) -> int:
    """Without the trained scales of weight norm and minibatch discrimination."""
    return sum(it.numel() for name, it in network.named_parameters() if not name.endswith(("gain", "log_scale")))


def test_sizes_of_the_authors_networks():
    mnist = MLPDiscriminator([1, 28, 28], [1000, 500, 250, 250, 250], 10)
    assert weights_and_biases(mnist) == 1_538_760
    assert sum(it.numel() for it in mnist.parameters()) == 1_538_770  # the last layer's scales are trained
    assert weights_and_biases(ConvDiscriminator([3, 32, 32], [96, 192], 10)) == 1_406_794
    assert weights_and_biases(ConvDiscriminator([3, 32, 32], [64, 128], 10)) == 626_570


def test_shapes_and_ranges():
    with torch.no_grad():
        for network in (
            MLPGenerator(5, [7, 7], [1, 28, 28]),
            ConvGenerator(5, [8, 4, 4], [8, 4, 3]),
            ConvGenerator(5, [8, 4, 4], [8, 4, 4, 4, 3], "virtual", references=3),
        ):
            images = network(torch.rand(4, 5))
            assert images.shape == (4, *network.image_shape)
            assert images.min() > 0
            assert images.max() < 1
    assert network.image_shape == (3, 128, 128)
    classes = ConvDiscriminator([3, 128, 128], [4, 4, 4, 4], 7)(torch.rand(2, 3, 128, 128))
    assert classes.shape == (2, 7)


def test_pixels_enter_the_conv_net_as_the_code_has_them():
    network = ConvDiscriminator([3, 32, 32], [4, 4], 10, scale=128).eval()
    seen = []
    network.trunk = nn.Sequential(nn.Identity())
    network.trunk.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0]))
    network.features(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert seen[0].flatten().tolist() == pytest.approx([-127.5 / 128, 127.5 / 128])


# --- noise and weight norm ----------------------------------------------------------------------------------------


def test_noise_has_its_deviation_in_training_alone():
    noise, x = GaussianNoise(0.3), torch.full((200, 200), 2.0)
    added = noise(x) - x
    assert float(added.std()) == pytest.approx(0.3, rel=0.02)
    assert abs(float(added.mean())) < 0.01
    assert noise.eval()(x) is x


@pytest.mark.parametrize(
    ("layer", "plain", "shape"),
    [
        (WeightNormLinear(6, 5), nn.functional.linear, (3, 6)),
        (WeightNormConv2d(4, 5, 3, padding=1), lambda x, w, b: nn.functional.conv2d(x, w, b, padding=1), (3, 4, 6, 6)),
        (
            WeightNormUp(4, 5),
            lambda x, w, b: nn.functional.conv_transpose2d(x, w, b, stride=2, padding=2, output_padding=1),
            (3, 4, 6, 6),
        ),
    ],
)
@pytest.mark.parametrize("fused", [False, True])
def test_weight_norm_is_that_of_the_weights(layer, plain, shape, fused, monkeypatch):
    """On a CPU, and by the kernel that a GPU has for it."""
    monkeypatch.setattr(WeightNorm, "fuses", lambda self: fused)
    x, layer = torch.randn(shape, dtype=torch.float64), layer.double()
    layer.gain.data.uniform_(0.5, 2)
    layer.bias.data.normal_()
    along = 1 if isinstance(layer, WeightNormUp) else 0
    rows = layer.weight.transpose(0, along)
    weight = (rows * (layer.gain / rows.flatten(1).norm(dim=1)).view(-1, *[1] * (rows.ndim - 1))).transpose(0, along)
    expected, learnt = plain(x, weight, layer.bias), list(layer.parameters())
    torch.testing.assert_close(layer(x), expected)
    gradients = (torch.autograd.grad(it.square().sum(), learnt) for it in (layer(x), expected))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def pre_activations(network, forward):
    """What each weight-normalised layer gives."""
    found = {}
    parts = [it for it in network.modules() if isinstance(it, WeightNorm)]
    hooks = [it.register_forward_hook(lambda part, _, output: found.setdefault(part, output.detach())) for it in parts]
    forward()
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize(
    "network",
    [
        MLPDiscriminator([1, 8, 8], [20, 10], 4),
        ConvDiscriminator([1, 16, 16], [6, 8], 4),
        ConvDiscriminator([1, 16, 16], [6, 8], 4, 0.0, 0.2, minibatch_discrimination={
            "kernels": 3, "width": 2, "references": 40}),
    ],
)  # fmt: skip
def test_the_first_batch_makes_mean_0_and_std_1_in_one_pass(network):
    images = torch.rand(40, *network.image_shape)
    state = torch.random.get_rng_state()
    with initializing(network):
        network(images)
    assert not any(it.initializing for it in network.modules() if hasattr(it, "initializing"))
    torch.random.set_rng_state(state)  # the same noise and dropout
    for part, outputs in pre_activations(network.train(), lambda: network(images)).items():
        over = [0, *range(2, outputs.ndim)]
        std, mean = torch.std_mean(outputs, dim=over, correction=0)
        torch.testing.assert_close(mean, torch.zeros_like(mean), atol=2e-5, rtol=0)
        torch.testing.assert_close(std, torch.full_like(std, part.init_std), atol=2e-5, rtol=0)


# --- minibatch discrimination -------------------------------------------------------------------------------------


def test_minibatch_features_against_three_loops():
    layer, x = MinibatchDiscrimination(6, kernels=4, width=3, image_shape=(1, 2, 2), references=2).double(), None
    layer.log_scale.data.normal_()
    x = torch.randn(5, 6, dtype=torch.double, requires_grad=True)
    found = layer(x, [5])
    projection = layer.weight * layer.log_scale.exp() / layer.weight.square().sum(0).sqrt()
    m = torch.einsum("na,abc->nbc", x, projection)
    for i in range(5):
        for b in range(4):
            closeness = sum(torch.exp(-(m[i, b] - m[j, b]).abs().sum()) for j in range(5) if j != i)
            torch.testing.assert_close(found[i, 6 + b], closeness + layer.bias[b])
    torch.testing.assert_close(found[:, :6], x)
    assert torch.autograd.gradcheck(lambda it: layer(it, [2, 3]), x)


def test_batches_do_not_see_each_other():
    layer = MinibatchDiscrimination(6, 4, 3, (1, 2, 2), 2)
    x = torch.randn(7, 6)
    apart = torch.cat([layer(x[:3], [3]), layer(x[3:], [4])])
    torch.testing.assert_close(layer(x, [3, 4]), apart)


def test_the_first_batch_scales_distances_and_centres_the_features():
    layer = MinibatchDiscrimination(6, 4, 3, (1, 2, 2), 2)
    x = torch.randn(20, 6)
    with initializing(layer):
        layer(x, [10, 10])
    m = layer.project(x).detach()
    nearest = [
        min(float((m[i, 0] - m[j, 0]).abs().sum()) for j in range(20) if j != i and j // 10 == i // 10)
        for i in range(20)
    ]
    assert sum(nearest) / 20 / 2 == pytest.approx(1, rel=1e-4)
    features = layer(x, [10, 10])[:, 6:]
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    assert float(layer.neighbours) == 9


def test_in_evaluation_an_image_is_seen_beside_the_reference_alone():
    how = {"kernels": 4, "width": 3, "references": 5}
    network = MLPDiscriminator([1, 4, 4], [8], 3, minibatch_discrimination=how)
    network.minibatch.reference_images.uniform_()
    images = torch.rand(6, 1, 4, 4)
    assert not torch.allclose(network(images)[:2], network(images[:2]), atol=1e-3)
    network.eval()
    torch.testing.assert_close(network(images)[:2], network(images[:2]))
    # The reference has as many images as a training batch, so closeness has the same scale.
    own = network.minibatch.project(network.features(images))
    reference = network.minibatch.project(network.features(network.minibatch.reference_images))
    expected = similarity(own, reference) * 4 / 5 + network.minibatch.bias
    seen = network.minibatch.against(network.features(images), network.features(network.minibatch.reference_images))
    torch.testing.assert_close(seen[:, 8:], expected)


def test_a_misspelt_size_is_named():
    with pytest.raises(UserError, match="takes kernels, width and references; look at dims, width"):
        MLPDiscriminator([1, 4, 4], [8], 3, minibatch_discrimination={"kernels": 4, "dims": 3, "references": 5})


def test_distances_have_their_gradient():
    own, others = (torch.randn(size, 3, 4, dtype=torch.float64, requires_grad=True) for size in (5, 6))
    assert torch.autograd.gradcheck(l1_distances, (own, others))


def test_no_tensor_holds_the_differences_of_all_pairs():
    examples, kernels, width = 40, 10, 20
    rows = torch.randn(examples, kernels, width, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        similarity(rows, rows).sum().backward()
    largest = max(it.cpu_memory_usage for it in profile.events())
    pairs = 4 * kernels * examples**2  # bytes
    assert pairs <= largest < width * pairs / 2


@pytest.mark.parametrize("size", [0, -1, "a"])
def test_minibatch_features_of_nothing_are_refused(size):
    with pytest.raises(UserError, match=f"minibatch_discrimination.references is {size}: give 1 or more"):
        MLPDiscriminator([1, 4, 4], [8], 3, minibatch_discrimination={"kernels": 4, "width": 3, "references": size})


def test_a_discriminator_without_layers_is_refused():
    with pytest.raises(UserError, match=r"discriminator\.hidden is empty"):
        MLPDiscriminator([1, 4, 4], [], 3)


def test_a_first_batch_of_one_image_over_and_over_leaves_finite_features():
    network = MLPDiscriminator([1, 4, 4], [8], 3, 0.0, 0.0, {"kernels": 4, "width": 3, "references": 5})
    with initializing(network):
        network(torch.ones(10, 1, 4, 4), [5, 5])
    assert all(bool(it.isfinite().all()) for it in network.state_dict().values())


# --- virtual batch norm -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4,), (4, 5, 6)])
def test_virtual_batch_norm_by_its_equations(shape):
    """Moments about zero, as in the authors' code; the reference as batch norm has it."""
    n, layer = 7, VirtualBatchNorm(4, references=7).double()
    layer.bias.data.normal_()
    x = torch.randn(n + 3, *shape, dtype=torch.double) * 2 + 1
    found, space = layer(x), tuple(range(1, len(shape)))
    like = (-1, *[1] * len(space))
    torch.testing.assert_close(
        found[:n], batch_norm(x[:n], None, None, layer.gain, layer.bias, training=True, eps=1e-5)
    )
    over = (0, *(it + 1 for it in space))
    mean_r, square_r = x[:n].mean(over), x[:n].square().mean(over)
    for example, output in zip(x[n:], found[n:], strict=True):
        own, own_square = (example.mean(space), example.square().mean(space)) if space else (example, example.square())
        mean, square = own / (n + 1) + n / (n + 1) * mean_r, own_square / (n + 1) + n / (n + 1) * square_r
        normalized = (example - mean.view(like)) / (1e-5 + square - mean.square()).sqrt().view(like)
        torch.testing.assert_close(output, normalized * layer.gain.view(like) + layer.bias.view(like))


@pytest.mark.parametrize(
    "network",
    [
        MLPGenerator(5, [7, 7], [1, 4, 4], "virtual", references=6),
        ConvGenerator(5, [8, 4, 4], [8, 3], "virtual", references=6),
    ],
)
def test_with_virtual_batch_norm_an_image_depends_on_its_noise_alone(network):
    network = network.double()
    network.reference_noise.uniform_()
    noise = torch.rand(9, 5, dtype=torch.double)
    together = network(noise)
    torch.testing.assert_close(network(noise[4:5]), together[4:5])
    network.reference_noise.uniform_()
    assert not torch.allclose(network(noise), together)


def test_batch_norm_has_a_shift_and_no_gain():
    network = MLPGenerator(5, [7], [1, 4, 4])
    (norm,) = (it for it in network.modules() if isinstance(it, nn.BatchNorm1d))
    assert norm.bias.requires_grad
    assert not norm.weight.requires_grad
    assert norm.eps == 1e-6


def test_the_last_layer_of_the_code_s_generator_begins_at_glorot_s_uniform():
    torch.manual_seed(0)
    ours, code = (MLPGenerator(100, [500, 500], [1, 28, 28], output_weight_std=std) for std in (0.05, None))
    bound = math.sqrt(6 / (500 + 784))
    of_ours, of_code = ours.layers[-2].weight, code.layers[-2].weight
    assert of_ours.std().item() == pytest.approx(0.05, rel=0.01)
    assert of_code.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)  # 0.0395
    assert bound * 0.99 < of_code.abs().max().item() <= bound
    assert torch.equal(code.layers[-2].gain, torch.ones(784))
