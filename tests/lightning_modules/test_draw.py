"""DRAW's bound by hand and against torch, its noise, and what callbacks ask of it."""

import math
from functools import partial

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from benchmarks.launches import Operations
from foundation.errors import UserError
from foundation.protocols import BoundsLikelihoodOfImages, DrawsStepwise, MovesLatents, SamplesImages
from lightning_modules.draw import (
    Draw,
    DrawClassifier,
    gaussian_log_density,
    importance_weighted_bound,
    latent_loss,
    reconstruction_loss,
)
from lightning_modules.networks import draw_pass
from lightning_modules.networks.draw import DrawNetwork, GlimpseClassifier
from tests.lightning_modules.alone import alone, step_alone
from tests.lightning_modules.usual_recurrence import class_logits as usual_class_logits
from tests.lightning_modules.usual_recurrence import losses as usual_losses

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SMALL = ["datamodule.batch_size=8", "datamodule.eval_batch_size=8", "lightning_module.network.steps=3",
         "lightning_module.network.hidden=8", "trainer.precision=32-true"]  # fmt: skip
DRAWN = [*SMALL, "lightning_module.network.latent=3", "callbacks.image_grid.samples=4", "callbacks.drawing.images=2",
         "callbacks.likelihood_bound.importance_samples=2"]  # fmt: skip
TINY = {
    "draw_digits": DRAWN,
    "draw_mnist": [*DRAWN, "datamodule.val_size=8"],
    "draw_mnist_no_attention": [*DRAWN, "datamodule.val_size=8"],
    "draw_mnist_t10": [*DRAWN, "datamodule.val_size=8"],
    "draw_svhn": [*DRAWN, "datamodule.val_size=8"],
    "draw_cifar10": DRAWN,
    "draw_two_digits": DRAWN,
    "draw_cluttered": [*SMALL, "datamodule.val_size=8"],
    "draw_cluttered_convolutional": [*SMALL[:2], "lightning_module.network.hidden=8", "datamodule.val_size=8"],
}

ADAM = partial(torch.optim.Adam, lr=1e-3)


def draw(steps=3, image_shape=(1, 4, 5), read_size=2, write_size=3, world_size=1, rank=0, **settings) -> Draw:
    """A small module without a run."""
    torch.manual_seed(0)
    network = DrawNetwork(image_shape, steps, hidden=6, latent=2, read_size=read_size, write_size=write_size)
    return alone(Draw(network, optimizer=ADAM, **settings), world_size, rank)


def inputs(module, size=6, iteration=0):
    return module.host_inputs({"image": binary(size), "index": torch.arange(size)}, iteration)


def noise_of(module, size=6, iteration=0):
    """[T, B, latent]"""
    return inputs(module, size, iteration)["noise"].transpose(0, 1)


def binary(size=6, shape=(1, 4, 5)) -> torch.Tensor:
    return torch.rand(size, *shape, generator=torch.Generator().manual_seed(1)).round()


# --- the bound -----------------------------------------------------------------------------------------------------


def test_an_empty_canvas_costs_log_2_a_pixel():
    images = binary(3, (1, 28, 28))
    loss = reconstruction_loss(torch.zeros_like(images), images)
    torch.testing.assert_close(loss, torch.full((3,), 784 * math.log(2)))
    assert float(loss[0]) == pytest.approx(543.4, abs=0.05)


def test_reconstruction_is_torch_s_and_finite_for_any_logit():
    logits, images = torch.randn(4, 3, 5, 5), binary(4, (3, 5, 5))
    expected = -Independent(torch.distributions.Bernoulli(logits=logits), 3).log_prob(images)
    torch.testing.assert_close(reconstruction_loss(logits, images), expected)
    assert reconstruction_loss(1e4 * logits, images).isfinite().all()


def test_the_latent_loss_is_torch_s_divergence():
    mean, log_deviation = torch.randn(2, 7, 5, 3)
    q, p = Normal(mean, log_deviation.exp()), Normal(torch.zeros(3), torch.ones(3))
    expected = kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(latent_loss(mean, log_deviation), expected)
    assert bool((latent_loss(mean, log_deviation) > 0).all())
    assert latent_loss(torch.zeros(7, 3), torch.zeros(7, 3)).tolist() == [0.0] * 7


def test_the_density_is_torch_s():
    value, mean, log_deviation = torch.randn(3, 5, 4)
    expected = Independent(Normal(mean, log_deviation.exp()), 1).log_prob(value)
    torch.testing.assert_close(gaussian_log_density(value, mean, log_deviation), expected)


def test_importance_weights_are_averaged_as_probabilities():
    weights = torch.tensor([[0.1, 0.5], [0.3, 0.5]])
    torch.testing.assert_close(importance_weighted_bound(weights.log()), torch.tensor([0.2, 0.5]).log())
    assert importance_weighted_bound(torch.full((3, 1), -2000.0)).tolist() == [-2000.0]


def test_a_linear_gaussian_model_has_its_known_likelihood():
    """z ~ N(0, 1), x = 2 z + N(0, 0.5^2), so that x ~ N(0, 4.25) and z given x ~ N(2 x / 4.25, 0.25 / 4.25)."""
    x, samples = torch.tensor([-1.5, 0.0, 3.0], dtype=torch.float64), 4096
    known = Normal(0.0, 4.25**0.5).log_prob(x)
    noise = torch.randn(samples, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def log_weights(mean: torch.Tensor, log_deviation: float) -> torch.Tensor:
        """Of samples of a posterior: log p(x, z) - log q(z | x), [samples, 3]."""
        z, zero = mean.unsqueeze(1) + math.exp(log_deviation) * noise, torch.zeros(())
        likelihood = gaussian_log_density(x.view(1, 3, 1), 2 * z, torch.tensor(math.log(0.5)))
        posterior = gaussian_log_density(z, mean.unsqueeze(1), torch.tensor(log_deviation))
        return likelihood + gaussian_log_density(z, zero, zero) - posterior

    # With the posterior itself every weight is p(x), however many there are.
    exact = log_weights(2 * x / 4.25, 0.5 * math.log(0.25 / 4.25))
    for count in (1, 7):
        torch.testing.assert_close(importance_weighted_bound(exact[:count]), known)
    # With another one the mean of single samples lies below by the divergence, and many samples come up to it.
    rough, wide = log_weights(2 * x / 4.25 + 0.2, math.log(0.4)), Normal(2 * x / 4.25 + 0.2, 0.4)
    gap = kl_divergence(wide, Normal(2 * x / 4.25, (0.25 / 4.25) ** 0.5))
    torch.testing.assert_close(rough.mean(0), known - gap, rtol=0, atol=0.1)
    rising = [importance_weighted_bound(rough.view(count, -1, 3)).mean(0) for count in (1, 8, 64)]
    assert bool((rising[0] < rising[1] - 0.1).all())
    assert bool((rising[1] < rising[2]).all())
    torch.testing.assert_close(importance_weighted_bound(rough), known, rtol=0, atol=0.05)


def test_one_sample_s_weight_is_the_bound_of_that_sample():
    """With K = 1: log p(x | z) + log p(z) - log q(z | x) of the noise that its key draws."""
    module, images, index = draw().double(), binary().double(), torch.arange(6)
    noise = module.keyed_noise("importance", index, 0)
    done = module.read_and_draw(images, noise)
    z = done.means + done.log_deviations.exp() * noise
    prior, posterior = Normal(torch.zeros(()).double(), 1.0), Normal(done.means, done.log_deviations.exp())
    expected = (prior.log_prob(z) - posterior.log_prob(z)).sum((0, 2)) - reconstruction_loss(done.logits(), images)
    torch.testing.assert_close(module.importance_weighted_log_likelihood(images, index, 1), expected)


def test_one_importance_sample_is_the_bound_on_average_and_many_lie_above():
    module, images = draw().double(), binary(1).double().expand(1000, -1, -1, -1)
    with torch.no_grad():
        one, eight = (module.importance_weighted_log_likelihood(images, torch.arange(1000), it) for it in (1, 8))
        noise = torch.randn(3, 1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        reconstruction, latent = module.losses(images, noise)
    bound = -(reconstruction + latent.sum(0)).mean()
    deviation = float(one.std()) / 1000**0.5
    assert float(one.mean()) == pytest.approx(float(bound), abs=5 * deviation)
    assert float(eight.mean()) > float(one.mean()) + 3 * deviation


def test_one_step_is_a_variational_auto_encoder():
    """The same weights without the recurrence: encoder, one latent, decoder."""
    module = draw(steps=1, read_size=None, write_size=None).double()
    network, images = module.network, binary().double()
    assert network.image_gates is not None
    noise = torch.randn(1, 6, 2, dtype=torch.float64)
    flat = images.flatten(1)

    def lstm_from_zero(linear, gates):
        _, let_in, let_out, new = (gates + linear.bias).chunk(4, dim=1)
        return let_out.sigmoid() * (let_in.sigmoid() * new.tanh()).tanh()

    encoder, decoder = network.encoder.linear, network.decoder.linear
    hidden = lstm_from_zero(encoder, flat @ network.image_gates.weight.T + (flat - 0.5) @ encoder.weight[:, :20].T)
    mean, log_deviation = network.posterior(hidden).chunk(2, dim=1)
    z = mean + log_deviation.exp() * noise[0]
    logits = network.patch(lstm_from_zero(decoder, z @ decoder.weight[:, :2].T))
    bernoulli = -Independent(torch.distributions.Bernoulli(logits=logits), 1).log_prob(flat)
    divergence = kl_divergence(Normal(mean, log_deviation.exp()), Normal(0.0, 1.0)).sum(1)

    reconstruction, latent = module.losses(images, noise)
    torch.testing.assert_close(reconstruction, bernoulli)
    torch.testing.assert_close(latent[0], divergence)


def test_the_error_of_the_canvas_so_far_is_what_is_read():
    module, images = draw(), binary()
    seen = []
    forward = module.network.forward
    module.network.forward = lambda x, gates, state, noise: (seen.append(state), forward(x, gates, state, noise))[1]  # type: ignore
    done = module.read_and_draw(images, torch.randn(3, 6, 2), keep_steps=True)
    assert [it.canvas.data_ptr() for it in seen] == [it.canvas.data_ptr() for it in done.steps[:3]]
    assert torch.equal(done.steps[3].canvas, done.canvas)
    assert not seen[0].canvas.any()
    assert not torch.equal(seen[1].canvas, seen[2].canvas)
    assert done.logits().shape == images.shape


def test_the_loss_is_the_mean_of_the_bound():
    module, images = draw(), binary()
    reconstruction, latent = module.losses(images, noise_of(module))
    told = module.loss(inputs(module))
    torch.testing.assert_close(told["loss"], (reconstruction + latent.sum(0)).mean())
    torch.testing.assert_close(told["kl_nats"] + told["reconstruction_nats"], told["loss"])


def test_gradients_are_clipped_together():
    module = draw(gradient_clip_norm=0.5)
    step_alone(module, {"image": binary(), "index": torch.arange(6)})
    gradients = [it.grad for it in module.parameters() if it.grad is not None]
    assert float(torch.cat([it.flatten() for it in gradients]).norm()) == pytest.approx(0.5, rel=1e-4)


# --- noise ---------------------------------------------------------------------------------------------------------


def test_noise_differs_between_steps_examples_and_iterations():
    noise = noise_of(draw(steps=5), 7)
    assert noise.shape == (5, 7, 2)
    assert len(noise.flatten().unique()) == noise.numel()
    assert not torch.equal(noise, noise_of(draw(steps=5), 7, iteration=1))
    assert torch.equal(noise, noise_of(draw(steps=5), 7))
    many = noise_of(draw(steps=2), 20_000)
    assert float(many.mean()) == pytest.approx(0, abs=0.02)
    assert float(many.std()) == pytest.approx(1, abs=0.02)
    assert float(torch.corrcoef(many[:, :, 0])[0, 1]) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_noise_of_the_global_batch(world_size):
    shares = [noise_of(draw(world_size=world_size, rank=rank), 6 // world_size) for rank in range(world_size)]
    assert torch.equal(torch.cat(shares, dim=1), noise_of(draw()))


def test_an_evaluation_depends_on_index_and_seed_alone():
    module, images = draw().double(), binary().double()
    whole = module.test_step({"image": images, "index": torch.arange(6)}, 0)
    part = module.test_step({"image": images[4:5], "index": torch.tensor([4])}, 3)
    torch.testing.assert_close(part["kl_nats"], whole["kl_nats"][4:5])
    torch.testing.assert_close(part["reconstruction_nats"], whole["reconstruction_nats"][4:5])
    assert whole["kl_nats"].shape == (6, 3)
    other = draw(seed=1).double().test_step({"image": images, "index": torch.arange(6)}, 0)
    assert not torch.equal(other["reconstruction_nats"], whole["reconstruction_nats"])
    for samples in (1, 2):
        estimates = module.importance_weighted_log_likelihood(images, torch.arange(6), samples)
        alone = module.importance_weighted_log_likelihood(images[4:5], torch.tensor([4]), samples)
        torch.testing.assert_close(alone, estimates[4:5])


def test_a_rank_without_examples_measures_none():
    seen = draw().test_step({"image": binary(0), "index": torch.arange(0)}, 0)
    assert {key: tuple(value.shape) for key, value in seen.items()} == {
        "index": (0,), "reconstruction_nats": (0,), "kl_nats": (0, 3)}  # fmt: skip


# --- what callbacks ask --------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_index_alone_and_is_the_end_of_its_drawing():
    module = draw().eval()
    together, alone = module.sample(torch.tensor([3, 8, 5])), module.sample(torch.tensor([8]))
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    drawing = module.drawing(torch.tensor([3, 8, 5]))
    torch.testing.assert_close(drawing.canvases[-1], together)
    assert drawing.canvases.shape == (3, 3, 1, 4, 5)
    assert drawing.read_windows is None
    assert drawing.write_windows is not None
    assert drawing.write_windows.shape == (3, 3, 5)


def test_a_redrawing_shows_the_window_through_which_each_step_has_read():
    drawing = draw().redrawing(binary(), torch.arange(6))
    assert drawing.read_windows is not None
    # The first one is at rest: columns 0 to 4, and as many rows about the centre of four.
    torch.testing.assert_close(drawing.read_windows[0, 0], torch.tensor([0.0, -0.5, 4.0, 3.5, 1.0]))
    assert not torch.equal(drawing.read_windows[1], drawing.write_windows[0])  # type: ignore
    none = draw(read_size=None, write_size=None).redrawing(binary(), torch.arange(6))
    assert none.read_windows is none.write_windows is None


def test_what_it_serves():
    module = draw()
    assert module.capabilities() == {SamplesImages, MovesLatents, BoundsLikelihoodOfImages, DrawsStepwise}
    assert all(isinstance(module, protocol) for protocol in module.capabilities())  # type: ignore


def test_the_compiled_step_keeps_its_keys(monkeypatch):
    module, asked = draw(compile_mode="default"), []
    monkeypatch.setattr(module.network, "compile", lambda **settings: asked.append(settings))
    keys = module.state_dict().keys()
    module.setup("test")
    assert asked == []
    module.setup("fit")
    assert asked == [{"mode": "default"}]
    assert module.state_dict().keys() == keys


def test_the_classifier_clips_its_gradients():
    torch.manual_seed(0)
    network = GlimpseClassifier([1, 12, 12], num_classes=3, steps=2, hidden=6, read_size=3)
    module = DrawClassifier(network, mean=[0.0], std=[1.0], optimizer=ADAM, gradient_clip_norm=1e-3)
    module.class_logits(torch.rand(4, 1, 12, 12)).square().sum().backward()
    module.on_before_optimizer_step(module.optimizer(module.parameters()))
    gradients = torch.cat([it.grad.flatten() for it in module.parameters() if it.grad is not None])
    assert float(gradients.norm()) == pytest.approx(1e-3, rel=1e-2)


# --- the whole recurrence ----------------------------------------------------------------------------------------


def shaken(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.double()


def value_and_gradients(network, loss) -> list[torch.Tensor]:
    network.zero_grad()
    loss.backward()
    return [loss.detach(), *(parameter.grad.clone() for parameter in network.parameters())]


@pytest.mark.parametrize("read_size", [1, 2, 3, None])
@pytest.mark.parametrize("write_size", [1, 3, None])
def test_the_recurrence_is_the_paper_s(read_size, write_size):
    """Four steps of three channels against the same step by step, with gradients."""
    module = draw(steps=4, image_shape=(3, 5, 7), read_size=read_size, write_size=write_size)
    network = shaken(module.network)
    images, noise = binary(6, (3, 5, 7)).double(), torch.randn(4, 6, 2, dtype=torch.float64)
    (found, found_costs), (expected, costs) = module.losses(images, noise), usual_losses(network, images, noise)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found_costs, costs)
    torch.testing.assert_close(
        value_and_gradients(network, (found + found_costs.sum(0)).mean()),
        value_and_gradients(network, (expected + costs.sum(0)).mean()),
    )


@pytest.mark.parametrize(
    ("read_size", "write_size", "shape"), [(2, 3, (3, 5, 7)), (1, 1, (1, 7, 5)), (5, 2, (2, 6, 6))]
)
def test_all_steps_at_once_are_the_steps_one_by_one(read_size, write_size, shape):
    """Value and gradients of everything that learns, the beginning among it; some logarithms lie beyond their bounds."""
    torch.manual_seed(0)
    network = shaken(DrawNetwork(shape, 4, 6, 2, read_size, write_size, learn_init=True))
    with torch.no_grad():
        network.attention.linear.bias[2] = 12.0  # type: ignore
        network.attention.linear.weight[8] *= 8  # type: ignore
    module, images = alone(Draw(network, optimizer=ADAM)), binary(6, shape).double()
    noise = torch.randn(4, 6, 2, dtype=torch.float64)
    found = both_ways(module, images, noise)
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", [30.0, 1e4])
def test_all_steps_at_once_have_the_same_gradient_where_windows_lie_far_outside(scale):
    torch.manual_seed(0)
    network = DrawNetwork((1, 10, 7), 4, 6, 2, 2, 3, learn_init=True).double()
    with torch.no_grad():
        network.attention.linear.weight.mul_(scale)  # type: ignore
        network.initial_outputs.normal_()
    module, noise = alone(Draw(network, optimizer=ADAM)), torch.randn(4, 5, 2, dtype=torch.float64)
    at_once, one_by_one = both_ways(module, binary(5, (1, 10, 7)).double(), noise)
    torch.testing.assert_close(at_once, one_by_one, rtol=1e-6, atol=1e-9)
    network.float()
    single, _ = both_ways(module, binary(5, (1, 10, 7)), noise.float())
    assert all(bool(it.isfinite().all()) for it in single)


def both_ways(module: Draw, images: torch.Tensor, noise: torch.Tensor) -> list[list[torch.Tensor]]:
    """Loss and gradients, of all steps at once and of one after the other."""
    found = []
    for at_once in (True, False):
        module.weighs_alone = lambda images, at_once=at_once: at_once  # type: ignore
        reconstruction, latent = module.losses(images, noise)
        found.append(value_and_gradients(module.network, (reconstruction + latent.sum(0)).mean()))
    return found


def test_all_steps_at_once_in_half_precision_are_as_near_as_the_steps_one_by_one():
    """Both round otherwise: neither lies further from double precision than the other by much."""
    torch.manual_seed(0)
    network = DrawNetwork((1, 8, 8), 5, 16, 4, 3, 3, learn_init=True)
    module, images, noise = alone(Draw(network, optimizer=ADAM)), binary(20, (1, 8, 8)), torch.randn(5, 20, 4)
    with torch.autocast("cpu", torch.bfloat16):
        at_once, one_by_one = both_ways(module, images, noise)
    network.double()
    exact, _ = both_ways(module, images.double(), noise.double())
    distances = [
        float(torch.cat([(a.double() - b).flatten() for a, b in zip(them, exact, strict=True)]).norm())
        for them in (at_once, one_by_one)
    ]
    assert 0 < distances[0] < 1.5 * distances[1]


def test_the_steps_of_a_gpu_are_those_of_a_cpu(monkeypatch):
    """With a stand-in for torch's fused LSTM: gates in its order, a workspace that its backward pass reads."""

    def forward(gates, none, cell):
        assert not none.any()
        let_in, keep, new, let_out = gates.chunk(4, dim=1)
        left = torch.cat([let_in.sigmoid(), keep.sigmoid(), new.tanh(), let_out.sigmoid()], dim=1)
        let_in, keep, new, let_out = left.chunk(4, dim=1)
        after = keep * cell + let_in * new
        return let_out * after.tanh(), after, left

    def backward(of_output, of_cell, before, after, left, has_bias):
        let_in, keep, new, let_out = left.chunk(4, dim=1)
        of_cell = of_cell + of_output * let_out * (1 - after.tanh() ** 2)
        gates = [of_cell * new * let_in * (1 - let_in), of_cell * before * keep * (1 - keep),
                 of_cell * let_in * (1 - new**2), of_output * after.tanh() * let_out * (1 - let_out)]  # fmt: skip
        return torch.cat(gates, dim=1), of_cell * keep, None

    module = draw(steps=4, image_shape=(2, 5, 7))
    shaken(module.network)
    images, noise = binary(6, (2, 5, 7)).double(), torch.randn(4, 6, 2, dtype=torch.float64)
    (expected, _) = both_ways(module, images, noise)
    monkeypatch.setattr(draw_pass, "lstm_forward", forward)
    monkeypatch.setattr(draw_pass, "lstm_backward", backward)
    monkeypatch.setattr(draw_pass, "FUSED_DEVICES", ("cpu",))
    (found, _) = both_ways(module, images, noise)
    torch.testing.assert_close(found, expected)


def test_a_gradient_of_the_images_is_taken_step_by_step():
    module, images = draw().double(), binary().double().requires_grad_()
    reconstruction, latent = module.losses(images, torch.randn(3, 6, 2, dtype=torch.float64))
    (reconstruction.sum() + latent.sum()).backward()
    assert images.grad is not None
    assert bool(images.grad.flatten(1).any(dim=1).all())


def test_the_operations_of_64_steps_are_few_where_an_lstm_s_step_is_one():
    """On the device without values, which takes a GPU's way: 15,259 launches before, of 3,000 that were asked for."""
    network = DrawNetwork((1, 28, 28), 64, 16, 5, 2, 5, learn_init=True).to("meta")
    images, noise = torch.empty(4, 28, 1, 28, device="meta"), torch.empty(64, 4, 5, device="meta")
    assert network.whole is not None
    with Operations() as counted:
        canvas, posterior = network.whole.run(network, images, noise)
        (canvas.sum() + posterior.sum()).backward()
    assert all(it.grad is not None for it in network.parameters())
    assert counted.total < 2900


def test_drawing_from_the_prior_takes_each_step_s_latents():
    """With the latents that reading chose, the drawing is the same."""
    module = draw(steps=4, image_shape=(3, 5, 7))
    network = shaken(module.network)
    noise = torch.randn(4, 6, 2, dtype=torch.float64)
    done = module.read_and_draw(binary(6, (3, 5, 7)).double(), noise)
    latents = done.means + done.log_deviations.exp() * noise
    torch.testing.assert_close(module.draw_from_prior(latents)[-1].canvas, done.canvas)
    assert not torch.allclose(module.draw_from_prior(latents.flip(0))[-1].canvas, done.canvas)
    assert network.steps == 4


def test_glimpses_are_the_paper_s():
    torch.manual_seed(0)
    network = shaken(GlimpseClassifier((2, 6, 5), 3, steps=4, hidden=7, read_size=3))
    images = torch.rand(6, 2, 6, 5, dtype=torch.float64)
    found, expected = network(images), usual_class_logits(network, images, 3)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        value_and_gradients(network, found.square().sum()), value_and_gradients(network, expected.square().sum())
    )


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda: draw(compile_mode="reduce-overhead"), "compile_mode is reduce-overhead: give default"),
        (lambda: draw(image_shape=(8, 8)), r"image_shape is \[8, 8\]: give channels, height and width"),
        (lambda: GlimpseClassifier((8, 8), 3, 2, 4, 3), r"image_shape is \[8, 8\]: give channels, height and width"),
    ],
)
def test_what_cannot_be_built_is_told(made, words):
    with pytest.raises(UserError, match=words):
        made()


def test_nats_are_summed_in_single_precision():
    images = binary(6, (1, 28, 28)).bfloat16()
    logits = torch.randn(6, 1, 28, 28).bfloat16()
    expected = reconstruction_loss(logits.double(), images.double())
    torch.testing.assert_close(reconstruction_loss(logits, images).double(), expected, rtol=1e-5, atol=1e-3)
