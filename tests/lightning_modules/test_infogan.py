"""InfoGAN's equations by hand, its sizes, who learns from what, and a module trained for a few steps."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from foundation.errors import UserError
from foundation.protocols import (
    ChoosesCodes,
    MapsLatents,
    MovesLatents,
    SamplesImages,
    TraversesLatents,
    WeighsClustersOfImages,
)
from foundation.randomness import keyed_generator
from lightning_modules.infogan import (
    Code,
    InfoGAN,
    categorical_log_likelihood,
    discriminator_loss,
    gaussian_log_likelihood,
    generator_loss,
    mutual_information_lower_bound,
)
from lightning_modules.networks.dcgan import Discriminator, Generator
from tests.lightning_modules.alone import alone

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SMALL = ["datamodule.batch_size=8", "lightning_module.discriminator.hidden=[16]", "callbacks.image_grid.samples=4",
         "callbacks.image_grid.rows=2", "trainer.precision=32-true"]  # fmt: skip
SMALL_32 = ["lightning_module.generator.base=[8,2,2]", "lightning_module.generator.channels=[8,8,4,3]",
            "lightning_module.discriminator.channels=[4,8,8]"]  # fmt: skip
SMALL_28 = [*SMALL, "lightning_module.generator.hidden=[16]", "lightning_module.generator.base=[4,7,7]",
            "lightning_module.generator.channels=[4,1]", "lightning_module.discriminator.channels=[4,8]",
            "datamodule.val_size=8"]  # fmt: skip
TINY = {
    "infogan_digits": SMALL,
    "infogan_mnist": SMALL_28,
    "infogan_mnist_code": SMALL_28,
    "infogan_mnist_best": SMALL_28,
    "infogan_mnist_bound_off": SMALL_28,
    "infogan_svhn": [*SMALL[:1], *SMALL[2:], *SMALL_32],
    "infogan_celeba": [*SMALL[:1], *SMALL[2:], *SMALL_32],
    "infogan_faces": [*SMALL, "lightning_module.generator.hidden=[16]", "lightning_module.generator.base=[4,8,8]",
                      "lightning_module.generator.channels=[4,1]", "lightning_module.discriminator.channels=[4,8]"],
    "infogan_chairs": [*SMALL, "lightning_module.generator.hidden=[16]", "lightning_module.generator.base=[4,8,8]",
                       "lightning_module.generator.channels=[4,4,4,4,1]",
                       "lightning_module.discriminator.channels=[4,4,4,4,4]"],
}  # fmt: skip

TERMS = {
    "balance": 3.0,
    "confidence": 1.0,
    "consistency": 3.0,
    "rotation": 15.0,
    "shift": 1.0,
    "scale": 0.1,
    "shear": 0.2,
}
ADAM = partial(torch.optim.Adam, lr=1e-3)
CODES = [Code("categorical", 3), Code("continuous", 2, 0.5)]


def infogan(codes=CODES, noise_size=4, world_size=1, rank=0, **settings) -> InfoGAN:
    """A small module that stands at iteration 0 of a run, logging nothing."""
    torch.manual_seed(0)
    input_size = noise_size + sum(code.size for code in codes)
    posterior_size = sum(code.posterior_size for code in codes)
    generator = Generator(input_size, hidden=[8], base=[4, 4, 4], channels=[1])
    discriminator = Discriminator([1, 8, 8], [4, 4], [8], posterior_hidden=8, posterior_size=posterior_size)
    module = InfoGAN(
        generator, discriminator, optimizer_g=ADAM, optimizer_d=ADAM, codes=codes, noise_size=noise_size, **settings
    )
    return alone(module, world_size, rank)


def inputs(module, size=6, iteration=0):
    images = torch.rand(size, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return module.host_inputs({"image": images, "index": torch.arange(size)}, iteration)


def loss(module, player):
    return module.players()[player].loss(inputs(module))["loss"]


def drawn(module, player="g", iteration=0):
    return module.drawn(inputs(module, iteration=iteration)[player])


def bound(module, posterior, codes, iteration=0):
    return module.weighted_bound(posterior, codes, module.code_weights(iteration))[0]


def has_gradient(part: nn.Module) -> bool:
    return any(it.grad is not None and bool(it.grad.abs().sum() > 0) for it in part.parameters())


def test_without_its_weight_the_bound_moves_q_and_not_the_generator():
    plain, asked = infogan(mutual_information_weight=0.0), infogan()
    for module in (plain, asked):
        loss(module, "d").backward()
    assert has_gradient(plain.discriminator.posterior)
    before = generator_loss(plain.discriminator.real_logit(plain.generator(drawn(plain)[0])))
    torch.testing.assert_close(loss(plain, "g"), before)
    assert float(loss(asked, "g").detach()) != float(before.detach())


def test_the_weights_of_the_bound_rise_from_zero():
    module = infogan(mutual_information_warmup=10)
    whole = infogan()
    _, codes = drawn(module)
    posterior = torch.randn(6, module.discriminator.posterior_size)
    for iteration, share in {0: 0.0, 5: 0.5, 10: 1.0, 20: 1.0}.items():
        found = bound(module, posterior, codes, iteration)
        torch.testing.assert_close(found, share * bound(whole, posterior, codes))


# --- equations -------------------------------------------------------------------------------------------------


def test_adversarial_losses_of_two_images_by_hand():
    real, fake = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, -math.log(3)])
    # D(real) = 1/2, 3/4; D(fake) = 1/2, 1/4
    expected_d = -(math.log(1 / 2) + math.log(3 / 4)) / 2 - (math.log(1 / 2) + math.log(3 / 4)) / 2
    expected_g = -(math.log(1 / 2) + math.log(1 / 4)) / 2
    assert float(discriminator_loss(real, fake)) == pytest.approx(expected_d)
    assert float(generator_loss(fake)) == pytest.approx(expected_g)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([1e4, -1e4])
    assert torch.isfinite(discriminator_loss(logits, -logits))
    assert torch.isfinite(generator_loss(logits))


def test_categorical_likelihood_is_torch_s():
    logits, category = torch.randn(5, 7), torch.tensor([0, 3, 6, 1, 1])
    expected = torch.distributions.Categorical(logits=logits).log_prob(category)
    torch.testing.assert_close(categorical_log_likelihood(logits, category), expected)


def test_gaussian_likelihood_is_torch_s():
    mean, log_variance, value = torch.randn(3, 5, 2)
    expected = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(value).sum(1)
    torch.testing.assert_close(gaussian_log_likelihood(mean, log_variance, value), expected)


def test_the_bound_reaches_log_k_where_q_is_certain_and_zero_where_it_knows_nothing():
    code, category = Code("categorical", 10), torch.arange(10)
    certain = categorical_log_likelihood(100 * torch.eye(10), category)
    ignorant = categorical_log_likelihood(torch.zeros(10, 10), category)
    assert float(mutual_information_lower_bound(certain, code.entropy)) == pytest.approx(math.log(10), abs=1e-4)
    assert float(mutual_information_lower_bound(ignorant, code.entropy)) == pytest.approx(0, abs=1e-6)


def test_the_bound_of_a_continuous_code_with_variance_one_is_at_most_log_2_less_half_log_2_pi():
    code, value = Code("continuous", 2), torch.rand(4, 2)
    exact = gaussian_log_likelihood(value, torch.zeros(4, 2), value)
    assert torch.equal(exact, gaussian_log_likelihood(value, None, value))
    ceiling = 2 * (math.log(2) - 0.5 * math.log(2 * math.pi))
    assert float(mutual_information_lower_bound(exact, code.entropy)) == pytest.approx(ceiling)


def test_weighted_bound_is_the_sum_over_codes_by_hand():
    module = infogan()
    posterior = torch.tensor([[0.0, 0.0, 0.0, 0.5, -0.5, 9.0, 9.0]])  # 3 logits, 2 means, 2 unused log-variances
    codes = [torch.tensor([1]), torch.tensor([[0.5, 0.5]])]
    gaussian = -math.log(2 * math.pi) - 0.5  # squared errors 0 and 1 with variance 1
    expected = 1.0 * (-math.log(3) + math.log(3)) + 0.5 * (gaussian + 2 * math.log(2))
    assert float(bound(module, posterior, codes)) == pytest.approx(expected)


def test_learned_variance_is_read_from_q_and_clamped():
    fixed, learned = infogan(), infogan(learned_variance=True)
    output, value = torch.tensor([[0.0, 0.0, -50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    difference = learned.log_likelihood(CODES[1], output, value) - fixed.log_likelihood(CODES[1], output, value)
    assert float(difference) == pytest.approx(4.0)  # log-variance -50 clamped to -8, half of it


def test_discriminator_loss_by_hand():
    module = infogan()
    module.eval()  # frozen statistics, so that the parts can be computed apart
    latents, codes = drawn(module, "d")
    fake_logit, posterior = module.discriminator(module.generator(latents))
    real_logit = module.discriminator.real_logit(inputs(module)["image"])
    probabilities = real_logit.sigmoid().log().mean() + (1 - fake_logit.sigmoid()).log().mean()
    expected = -probabilities - bound(module, posterior, codes)
    torch.testing.assert_close(loss(module, "d"), expected)


# --- who learns from what ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "player", "moved"),
    [
        ("with_d", "d", {"trunk", "head", "posterior"}),
        ("with_d", "g", {"generator", "trunk", "head", "posterior"}),
        ("with_g", "d", {"trunk", "head"}),
        ("with_g", "g", {"generator", "trunk", "head", "posterior"}),
        ("own", "d", {"trunk", "head"}),
        ("own", "g", {"generator", "trunk", "head"}),
        ("own", "q", {"generator", "trunk", "posterior"}),
    ],
)
def test_where_each_loss_has_gradient(reading, player, moved):
    module = infogan(q_optimizer=reading)
    loss(module, player).backward()
    parts = {"generator": module.generator, **dict(module.discriminator.named_children())}
    assert {name for name, part in parts.items() if has_gradient(part)} == moved


@pytest.mark.parametrize(
    ("reading", "owners"),
    [
        ("with_d", {"d": {"trunk", "head", "posterior"}, "g": {"generator"}}),
        ("with_g", {"d": {"trunk", "head"}, "g": {"generator", "posterior"}}),
        ("own", {"d": {"trunk", "head"}, "g": {"generator"}, "q": {"generator", "trunk", "posterior"}}),
    ],
)
def test_what_each_optimizer_moves(reading, owners):
    module = infogan(q_optimizer=reading)
    parts = {"generator": module.generator, **dict(module.discriminator.named_children())}
    for player, names in owners.items():
        expected = {id(parameter) for name in names for parameter in parts[name].parameters()}
        assert {id(parameter) for parameter in module.players()[player].parameters} == expected


def test_without_weight_the_bound_has_no_gradient():
    module = infogan([Code("categorical", 3, 0.0)])
    loss(module, "d").backward()
    assert not has_gradient(module.discriminator.posterior)


def test_terms_on_real_images_stand_in_d_s_loss_alone():
    with_terms, without = infogan(real_images=TERMS).eval(), infogan().eval()
    given = inputs(with_terms)
    _, bonus = with_terms.judge_real_images(given["image"], given["motion"], with_terms.real_images)
    assert float(bonus) != 0
    torch.testing.assert_close(loss(with_terms, "d"), loss(without, "d") - bonus)
    torch.testing.assert_close(loss(with_terms, "g"), loss(without, "g"))


# --- codes ---------------------------------------------------------------------------------------------------------


def test_codes_are_uniform_over_all_categories_and_the_whole_range():
    module = infogan([Code("categorical", 10), Code("continuous", 1)])
    noise, (category, number) = module.draw_prior(20_000, keyed_generator(0, "test"))
    counts = torch.bincount(category, minlength=10)
    assert counts.min() > 1800
    assert counts.max() < 2200
    for uniform in (noise, number):
        assert -1 <= uniform.min() < -0.99
        assert 0.99 < uniform.max() <= 1
        assert abs(float(uniform.mean())) < 0.02


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_draws_of_the_global_batch(world_size):
    whole_latents, whole_codes = drawn(infogan())
    modules = [infogan(world_size=world_size, rank=rank) for rank in range(world_size)]
    shares = [module.drawn(inputs(module, 6 // world_size)["g"]) for module in modules]
    assert torch.equal(torch.cat([latents for latents, _ in shares]), whole_latents)
    for position, whole in enumerate(whole_codes):
        assert torch.equal(torch.cat([codes[position] for _, codes in shares]), whole)


def test_d_and_g_see_different_codes_and_each_iteration_new_ones():
    module = infogan()
    first = drawn(module, "d")[0]
    assert not torch.equal(first, drawn(module, "g")[0])
    assert not torch.equal(first, drawn(module, "d", iteration=1)[0])


def test_inputs_are_noise_then_codes_in_order():
    module = infogan()
    module.generator.forward = lambda inputs: inputs  # type: ignore
    inputs = module.generate(torch.full((2, 4), 0.3), [torch.tensor([2, 0]), torch.tensor([[0.1, 0.2], [-1, 1]])])
    expected = [[0.3] * 4 + [0, 0, 1] + [0.1, 0.2], [0.3] * 4 + [1, 0, 0] + [-1, 1]]
    torch.testing.assert_close(inputs, torch.tensor(expected))


@pytest.mark.parametrize(
    ("noise_size", "codes", "inputs"),
    [
        (62, [Code("categorical", 10), Code("continuous", 2)], 74),
        (124, [Code("categorical", 10)] * 4 + [Code("continuous", 4)], 168),
        (128, [Code("categorical", 10)] * 10, 228),
        (128, [Code("continuous", 5)], 133),
        (128, [Code("categorical", 20)] * 3 + [Code("continuous", 1)], 189),
    ],
)
def test_input_sizes_of_the_paper_s_layouts(noise_size, codes, inputs):
    assert infogan(codes, noise_size).generator.input_size == inputs


# --- what callbacks ask --------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_index_alone():
    module = infogan().eval()
    together = module.sample(torch.tensor([3, 8, 5]))
    alone = module.sample(torch.tensor([8]))
    torch.testing.assert_close(together[1:2], alone)
    assert not torch.equal(together[0], together[1])


def test_a_traversal_varies_one_code_in_a_row():
    module = infogan().eval()
    calls = []
    module.generate = lambda noise, codes: (calls.append((noise, codes)), torch.zeros(len(noise), 1, 8, 8))[1]  # type: ignore
    images = module.traversals(rows=4)
    assert {name: tuple(grid.shape[:2]) for name, grid in images.items()} == {
        "code0_categorical": (4, 3), "code1_continuous0": (4, 10), "code1_continuous1": (4, 10)}  # fmt: skip
    for (noise, codes), columns in zip(calls, (3, 10, 10), strict=True):
        assert torch.equal(noise, noise[::columns].repeat_interleave(columns, dim=0))
        rows = [value.unflatten(0, (4, columns)) for value in codes]
        varied = [bool((row != row[:, :1]).any()) for row in rows]
        assert sum(varied) == 1
    assert calls[0][1][0].tolist() == [0, 1, 2] * 4
    assert calls[1][1][0].tolist() == [row % 3 for row in range(4) for _ in range(10)]
    torch.testing.assert_close(calls[2][1][1][:10, 1], torch.linspace(-2, 2, 10))
    assert len(calls[2][1][1][:10, 0].unique()) == 1


def test_clusters_are_the_most_likely_categories():
    module = infogan([Code("continuous", 1), Code("categorical", 3), Code("categorical", 2)])
    module.discriminator.code_posterior = lambda images: torch.tensor([[9.0, 9.0, 0.0, 1.0, 0.0, 2.0, 1.0]])  # type: ignore
    assert module.assign_clusters(torch.zeros(1, 1, 8, 8)).tolist() == [[1, 0]]
    assert module.num_clusters == [3, 2]


def test_capabilities_depend_on_the_codes():
    always = {SamplesImages, TraversesLatents, ChoosesCodes, MapsLatents, MovesLatents}
    assert infogan().capabilities() == always | {WeighsClustersOfImages}
    assert infogan([Code("continuous", 1)]).capabilities() == always


def test_sizes_that_do_not_fit_are_named():
    parts = {"optimizer_g": ADAM, "optimizer_d": ADAM, "codes": CODES}
    generator = Generator(9, hidden=[8], base=[4, 4, 4], channels=[1])
    discriminator = Discriminator([1, 8, 8], [4, 4], [8], posterior_hidden=8, posterior_size=7)
    with pytest.raises(
        UserError, match="make 10 inputs, but the generator takes 9: set lightning_module.generator.input_size=10"
    ):
        InfoGAN(generator, discriminator, noise_size=5, **parts)
    with pytest.raises(UserError, match="need 7 outputs of Q, but the discriminator has 6"):
        small = Discriminator([1, 8, 8], [4, 4], [8], posterior_hidden=8, posterior_size=6)
        InfoGAN(generator, small, noise_size=4, **parts)
    with pytest.raises(UserError, match=r"makes images of shape \(1, 8, 8\), the discriminator reads \(3, 8, 8\)"):
        wide = Discriminator([3, 8, 8], [4, 4], [8], posterior_hidden=8, posterior_size=7)
        InfoGAN(generator, wide, noise_size=4, **parts)
