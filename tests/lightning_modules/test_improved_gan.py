"""Improved GAN's equations by hand, who learns from what, the first batch, and runs that are resumed or on two ranks."""

import json
import math
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import log_softmax

from foundation.errors import UserError
from foundation.protocols import ClassifiesImages, MapsLatents, MovesLatents, SamplesImages
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.parts_check import unfit_streams
from launch.runs import build
from lightning_modules.improved_gan import (
    AdamInsideRoot,
    HistoricalAverage,
    ImprovedGAN,
    adversarial_loss,
    feature_matching,
    labelled_loss,
    real_log_odds,
    unlabelled_loss,
)
from lightning_modules.networks.improved_gan import MLPDiscriminator, MLPGenerator
from tests.forks import run_in_fork
from tests.lightning_modules.alone import alone, step_alone

ROOT = Path(__file__).resolve().parents[2]

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SMALL = ["datamodule.batch_size=10", "datamodule.num_labels=10", "trainer.precision=32-true"]
GRID = ["callbacks.image_grid.samples=4", "callbacks.image_grid.rows=2"]
MLP = [*SMALL, "lightning_module.generator.hidden=[16,16]", "lightning_module.discriminator.hidden=[16,16]"]
CONV = [*SMALL, *GRID, "lightning_module.generator.base=[8,4,4]", "lightning_module.generator.channels=[8,4,3]",
        "lightning_module.discriminator.blocks=[8,8]"]  # fmt: skip
CLOSENESS = ["lightning_module.discriminator.minibatch_discrimination={kernels:5,width:3,references:10}"]
ABLATION = Path(__file__).parents[2] / "conf" / "lightning_module" / "ablation"
TINY = {
    "improved_gan_digits": [*MLP, *GRID],
    "improved_gan_mnist": [*MLP, *GRID],
    "improved_gan_mnist_labels_alone": MLP,
    "improved_gan_mnist_minibatch": [*MLP, *GRID, *CLOSENESS],
    "improved_gan_cifar10": CONV,
    "improved_gan_cifar10_minibatch": [*CONV, *CLOSENESS, "callbacks.inception_score.judge.download=false"],
    "improved_gan_svhn": CONV,
    "improved_gan_imagenet": [*GRID, "trainer.precision=32-true", "datamodule.batch_size=4", "datamodule.num_labels=3",
                              "datamodule.num_workers=0", "datamodule.eval_batch_size=4",
                              "datamodule.size=32", "datamodule.short_sides=[32,40]", "datamodule.test_short_side=32",
                              "lightning_module.generator.base=[8,4,4]", "lightning_module.generator.channels=[8,4,3]",
                              "lightning_module.generator.references=4",
                              "lightning_module.discriminator.image_shape=[3,32,32]",
                              "lightning_module.discriminator.blocks=[8,8]",
                              "lightning_module.discriminator.num_classes=3", *CLOSENESS],
}  # fmt: skip

ADAM = partial(torch.optim.Adam, lr=1e-3)
MINIBATCH = {"kernels": 4, "width": 3, "references": 6}


def improved_gan(minibatch=None, normalization="batch", world_size=1, rank=0, noise=0.0, **settings) -> ImprovedGAN:
    """A small module that stands at iteration 0 of a run, logging nothing."""
    torch.manual_seed(0)
    generator = MLPGenerator(4, [8], [1, 4, 4], normalization, references=5)
    discriminator = MLPDiscriminator([1, 4, 4], [9, 7], 3, noise, noise, minibatch)
    module = ImprovedGAN(generator, discriminator, optimizer_g=ADAM, optimizer_d=ADAM, **settings)
    return alone(module, world_size, rank)


def batch(size=6):
    generator = torch.Generator().manual_seed(1)
    streams = {name: {"image": torch.rand(size, 1, 4, 4, generator=generator), "index": torch.arange(size)}
               for name in ("labelled", "unlabelled", "for_generator")}  # fmt: skip
    streams["labelled"]["label"] = torch.arange(size) % 3
    return streams


def loss(module, player, streams, repetition=0):
    module.repetition = repetition
    return module.turns[player].loss(module.host_inputs(streams, 0))["loss"]


def has_gradient(part: nn.Module) -> bool:
    return any(it.grad is not None and bool(it.grad.abs().sum() > 0) for it in part.parameters())


# --- equations -------------------------------------------------------------------------------------------------


def test_the_k_plus_1_loss_is_that_of_an_11_way_softmax():
    """The eleventh logit is 0 and means "generated"."""
    generator = torch.Generator().manual_seed(0)
    labelled, real, fake = (3 * torch.randn(20, 10, generator=generator, dtype=torch.double) for _ in range(3))
    label = torch.randint(10, (20,), generator=generator)

    def log_probabilities(logits):
        return log_softmax(torch.cat([logits, torch.zeros(20, 1)], dim=1), dim=1)

    is_real = log_probabilities(real)[:, :10].exp().sum(1)
    of_real, of_fake = is_real.log().mean(), log_probabilities(fake)[:, 10].mean()
    found = unlabelled_loss(real_log_odds(real), real_log_odds(fake))
    torch.testing.assert_close(found, -(of_real + of_fake) / 2)
    eleven = log_probabilities(labelled)
    given_real = eleven[torch.arange(20), label] - eleven[:, :10].exp().sum(1).log()
    torch.testing.assert_close(labelled_loss(labelled, label), -given_real.mean())
    torch.testing.assert_close(real_log_odds(real).sigmoid(), is_real)


def test_smoothing_is_a_cross_entropy_with_real_targets_alone():
    odds = torch.tensor([0.5, -1.0, 2.0], dtype=torch.double)
    probability = odds.sigmoid()
    of_real = -(0.9 * probability.log() + 0.1 * (1 - probability).log()).mean()
    of_fake = -(1 - probability).log().mean()
    torch.testing.assert_close(unlabelled_loss(odds, odds, smoothing=0.9), (of_real + of_fake) / 2)


def test_generator_losses_of_two_images_by_hand():
    odds = torch.tensor([0.0, math.log(3)])  # D(G(z)) = 1/2, 3/4
    assert float(adversarial_loss(odds, None)) == pytest.approx((math.log(1 / 2) + math.log(1 / 4)) / 2)
    assert float(adversarial_loss(odds, 1.0)) == pytest.approx(-(math.log(1 / 2) + math.log(3 / 4)) / 2)
    half = -(math.log(1 / 2) + 0.5 * math.log(3 / 4) + 0.5 * math.log(1 / 4)) / 2
    assert float(adversarial_loss(odds, 0.5)) == pytest.approx(half)


def test_feature_matching_is_a_mean_over_features():
    real, fake = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 4.0, 2.0])
    assert float(feature_matching(real, fake, "squared")) == pytest.approx((0 + 4 + 1) / 3)
    assert float(feature_matching(real, fake, "absolute")) == pytest.approx((0 + 2 + 1) / 3)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [-1e4, -1e4]])
    odds = real_log_odds(logits)
    for loss in (
        unlabelled_loss(odds, odds, 0.9),
        labelled_loss(logits, torch.tensor([1, 0])),
        adversarial_loss(odds, 1.0),
    ):
        assert torch.isfinite(loss)


def test_discriminator_loss_is_its_parts_in_passes_of_their_own():
    module, streams = improved_gan(labelled_weight=2.0, unlabelled_weight=0.5, label_smoothing=0.8), batch()
    module.eval()  # frozen statistics
    d = module.discriminator
    fake = module.generator(module.host_inputs(streams, 0)["noise_d"])
    odds = [real_log_odds(d(images)) for images in (streams["unlabelled"]["image"], fake)]
    expected = 2 * labelled_loss(d(streams["labelled"]["image"]), streams["labelled"]["label"])
    expected = expected + 0.5 * unlabelled_loss(*odds, smoothing=0.8)
    torch.testing.assert_close(loss(module, "d", streams), expected)


def test_minibatch_features_are_of_each_stream_apart():
    module, streams = improved_gan(MINIBATCH), batch()
    module.generator.eval()
    d = module.discriminator
    fake = module.generator(module.host_inputs(streams, 0)["noise_d"])
    apart = [d(images) for images in (streams["labelled"]["image"], streams["unlabelled"]["image"], fake)]
    expected = labelled_loss(apart[0], streams["labelled"]["label"])
    expected = expected + unlabelled_loss(*map(real_log_odds, apart[1:]))
    torch.testing.assert_close(loss(module, "d", streams), expected)


# --- historical averaging and the optimiser ----------------------------------------------------------------------


def test_the_historical_term_is_the_distance_from_the_mean_so_far():
    parameter = nn.Parameter(torch.zeros(2))
    history, seen = HistoricalAverage([parameter]), []
    for step in range(5):
        parameter.data.copy_(torch.tensor([step**2, -float(step)]))
        seen.append(parameter.detach().clone())
        history.take([parameter])
        term = history([parameter])
        distance = parameter.detach() - torch.stack(seen).mean(0)
        torch.testing.assert_close(term, distance.square().sum())
    term.backward()
    torch.testing.assert_close(parameter.grad, 2 * distance)
    assert set(history.state_dict()) == {"steps", "mean0"}


def distance_from_equilibrium(weight: float, steps: int = 1500) -> list[float]:
    """Of the paper's toy game, whose value is (f(x) - 1) (y - 1) with f(x) = x below 0 and x^2 above."""
    x, y = (nn.Parameter(torch.tensor(it, dtype=torch.double)) for it in (-0.5, 0.0))
    players, distances = ((x, HistoricalAverage([x]), 1), (y, HistoricalAverage([y]), -1)), []
    for _ in range(steps):
        for parameter, history, sign in players:
            f = x if x < 0 else x.square()
            history.take([parameter])
            loss = sign * (f - 1) * (y - 1) + weight * history([parameter])
            (gradient,) = torch.autograd.grad(loss, parameter)
            parameter.data -= 0.05 * gradient
        distances.append(math.hypot(x.item() - 1, y.item() - 1))
    return distances


def test_the_paper_s_toy_game_orbits_and_with_history_converges():
    orbit, settled = distance_from_equilibrium(0.0), distance_from_equilibrium(0.1)
    assert min(orbit[-300:]) > 0.9
    assert max(settled[-300:]) < 0.01


def test_history_stands_in_both_losses_and_in_the_checkpoint():
    module, streams = improved_gan(historical_averaging=3.0), batch()
    module.eval()
    plain = improved_gan().eval()
    for name, player in module.turns.items():
        module.histories[name].take(player.parameters)
        torch.testing.assert_close(loss(module, name, streams), loss(plain, name, streams))  # one step, its mean
    for parameter in module.parameters():
        parameter.data += 0.5
    plain.load_state_dict(module.state_dict(), strict=False)
    for name, player in module.turns.items():
        module.histories[name].take(player.parameters)
        moved = sum(it.numel() for it in player.parameters)
        with torch.no_grad():
            difference = loss(module, name, streams) - loss(plain, name, streams)
        assert float(difference) == pytest.approx(3.0 * 0.25**2 * moved, rel=1e-3)
    assert module.state_dict()["histories.d.steps"] == module.state_dict()["histories.g.steps"] == 2


def test_history_takes_the_parameters_in_once_a_step():
    module, taken = improved_gan(historical_averaging=3.0, generator_steps=2), []
    for name, history in module.histories.items():
        history.take = lambda parameters, name=name: taken.append(name)  # type: ignore
    step_alone(module, batch())
    assert taken == ["d", "g", "g"]


def test_adam_divides_by_the_root_of_what_holds_epsilon():
    """As written in the authors' code, for gradients above and below 1e-4."""
    for fused in (False, True):
        parameter = nn.Parameter(torch.zeros(4, dtype=torch.double))
        optimizer = AdamInsideRoot([parameter], lr=0.1, betas=(0.5, 0.999), eps=1e-8, fused=fused)
        expected, m, v = torch.zeros(4, dtype=torch.double), 0.0, 0.0
        for t in range(1, 6):
            gradient = torch.tensor([1.0, -1e-3, 1e-4, 1e-7], dtype=torch.double) * t
            m, v = 0.5 * m + 0.5 * gradient, 0.999 * v + 0.001 * gradient.square()
            expected -= 0.1 * (m / (1 - 0.5**t)) / (v / (1 - 0.999**t) + 1e-8).sqrt()
            parameter.grad = gradient
            optimizer.step()
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=0)
    assert abs(float(expected[3])) < 0.01 < abs(float(expected[0]))


# --- who learns from what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matching", ["squared", "absolute", None])
def test_where_each_loss_has_gradient(matching):
    module, streams = improved_gan(matching=matching), batch()
    loss(module, "d", streams).backward()
    assert has_gradient(module.discriminator)
    assert not has_gradient(module.generator)
    module.zero_grad()
    loss(module, "g", streams).backward()
    assert has_gradient(module.generator)


def test_the_generator_is_matched_with_its_own_stream():
    module, streams = improved_gan(), batch()
    module.eval()
    before = loss(module, "g", streams)
    streams["unlabelled"]["image"] += 1
    torch.testing.assert_close(loss(module, "g", streams), before)
    streams["for_generator"]["image"] += 1
    assert not torch.allclose(loss(module, "g", streams), before)


def test_each_step_of_a_turn_draws_new_noise():
    module = improved_gan(generator_steps=3)
    assert module.players()["g"].steps == 3
    drawn = []
    module.generator.register_forward_hook(lambda _, inputs, output: drawn.append(inputs[0]))
    for repetition in range(3):
        loss(module, "g", batch(), repetition)
    loss(module, "d", batch())
    assert len({tuple(noise.flatten().tolist()) for noise in drawn}) == 4
    assert all(noise.min() >= 0 and noise.max() < 1 for noise in drawn)


def test_without_unlabelled_images_the_generator_rests():
    module, streams = improved_gan(unlabelled_weight=0.0), batch()
    assert set(module.players()) == {"d"}
    assert module.capabilities() == {ClassifiesImages}
    assert module.metrics("train").keys() == {"train/loss_d", "train/loss_labelled_nats"}
    expected = labelled_loss(module.discriminator(streams["labelled"]["image"]), streams["labelled"]["label"])
    torch.testing.assert_close(loss(module, "d", streams), expected)


def test_without_labels_it_is_an_ordinary_gan():
    module, streams = improved_gan(labelled_weight=0.0), batch()
    assert module.capabilities() == {SamplesImages, MapsLatents, MovesLatents}
    assert not module.needs_labels
    del streams["labelled"]
    loss(module, "d", streams).backward()
    loss(module, "g", streams).backward()
    assert "logits" not in module.validation_step({"image": torch.rand(2, 1, 4, 4), "index": torch.arange(2)}, 0)


def test_batch_norm_s_gain_and_the_discriminator_s_fixed_scales_are_not_moved():
    module = improved_gan()
    moved = {id(it) for player in module.players().values() for it in player.parameters}
    fixed = [name for name, it in module.named_parameters() if id(it) not in moved]
    assert fixed == ["generator.layers.1.weight"]
    assert "discriminator.trunk.2.gain" in dict(module.named_buffers())
    assert "discriminator.head.gain" in dict(module.named_parameters())


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_share_the_noise_of_the_global_batch(world_size):
    whole = improved_gan().host_inputs(batch(), 0)["noise_g0"]
    modules = [improved_gan(world_size=world_size, rank=rank) for rank in range(world_size)]
    shares = [module.host_inputs(batch(6 // world_size), 0)["noise_g0"] for module in modules]
    assert torch.equal(torch.cat(shares), whole)


# --- the first batch, and what callbacks ask ------------------------------------------------------------------------


def test_the_first_batch_is_told_in_the_checkpoint_and_leaves_the_generator_s_state_alone():
    module, images = improved_gan(MINIBATCH, noise=0.3), torch.rand(12, 1, 4, 4)
    assert not module.initialized
    state = torch.random.get_rng_state()
    module.initialize(images, batch_size=6)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = improved_gan(MINIBATCH, noise=0.3)
    again.initialize(images, batch_size=6)
    saved = module.state_dict()
    assert saved["initialized"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in again.state_dict().items())
    assert torch.equal(saved["discriminator.minibatch.reference_images"], images[:6])
    assert saved["discriminator.minibatch.neighbours"] == 5


def test_the_virtual_batch_is_the_seed_s():
    noise = [improved_gan(normalization="virtual", seed=seed).generator.reference_noise for seed in (0, 0, 1)]
    assert torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert noise[0].shape == (5, 4)


@pytest.mark.parametrize("normalization", ["batch", "virtual", "none"])
def test_a_sample_depends_on_its_index_alone(normalization):
    module = improved_gan(normalization=normalization).eval()
    together = module.sample(torch.tensor([3, 8, 5]))
    torch.testing.assert_close(together[1:2], module.sample(torch.tensor([8])))
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"label_smoothing": 1.2}, "label_smoothing is 1.2: give a target above 0"),
        (
            {"micro_batch_size": 4, "minibatch": MINIBATCH},
            "micro_batch_size=4 would compare an image with those of its part",
        ),
        ({"matching": None, "generator_target": 7.0}, "generator_target is 7.0: give a probability, or null"),
        ({"generator_target": 0.9}, "generator_target=0.9 has no effect beside matching=squared"),
        ({"generator_steps": 0}, "generator_steps is 0: give 1 or more"),
        ({"historical_averaging": -1.0}, "historical_averaging is -1.0: give 0 or more"),
        ({"labelled_weight": 0.0, "unlabelled_weight": 0.0}, "are both 0, which leaves nothing to learn"),
    ],
)
def test_what_cannot_be_is_told(settings, words):
    with pytest.raises(UserError, match=words):
        improved_gan(**settings)


def test_streams_are_asked_for_and_offered_to_none_other():
    def problems(num_labels, needs_streams=True, needs_labels=True):
        module = SimpleNamespace(needs_streams=needs_streams, needs_labels=needs_labels)
        return list(unfit_streams(module, SimpleNamespace(num_labels=num_labels)))

    assert not problems(100)
    assert not problems(0, needs_labels=False)
    assert not problems(None, needs_streams=False)
    assert "set datamodule.num_labels to the number of labels" in problems(None)[0]
    assert "leaves SimpleNamespace no labels" in problems(0)[0]
    assert "set datamodule.num_labels=null" in problems(100, needs_streams=False)[0]


# --- whole runs -----------------------------------------------------------------------------------------------------


def run_of(*overrides: str, folder: Path):
    words = ["experiment=improved_gan_digits", "trainer=cpu", "logger=none", *TINY["improved_gan_digits"]]
    config = compose_job("train", [*words, *overrides], str(folder))
    check_config(config, TrainConfig)
    return build(config)


TECHNIQUES = [
    "lightning_module.matching=null", "lightning_module.generator_steps=2", "lightning_module.label_smoothing=0.9",
    "lightning_module.historical_averaging=0.1", "lightning_module.generator.normalization=virtual",
    "lightning_module.generator.references=7", *CLOSENESS,
]  # fmt: skip


def test_a_run_with_every_technique_goes_on_as_if_nothing_had_happened(tmp_path):
    """Streams, noise inside layers, the virtual batch, histories and the average; saved inside an epoch of 28."""

    def trained(folder, steps, checkpoint=None):
        torch.manual_seed(1)
        run = run_of(*TECHNIQUES, "datamodule.batch_size=50", f"trainer.max_steps={steps}", folder=tmp_path / folder)
        run.trainer.fit(run.module, datamodule=run.datamodule, ckpt_path=checkpoint, weights_only=True)
        assert run.trainer.global_step == steps
        return run.module.state_dict()

    whole = trained("whole", 36)
    trained("first", 31)
    checkpoint = tmp_path / "first" / "checkpoints" / "last.ckpt"
    resumed = trained("second", 36, checkpoint)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    saved = torch.load(checkpoint, weights_only=True)["current_model_state"]
    assert saved["histories.g.steps"] == 62
    assert saved["initialized"]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    done = run_in_fork("-m", "tests.lightning_modules.improved_gan_on_ranks", folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", ["matching", "techniques"])
def test_two_ranks_learn_what_one_does(ranks, case):
    """In float64, 8 steps: mean features, batches that are compared, the virtual batch, the first batch, histories."""
    folder, found = ranks
    assert found[case] == "torch.float64"
    alone, together = torch.load(folder / f"{case}1.pt"), torch.load(folder / f"{case}2.pt")
    assert float((alone["start"] - together["start"]).abs().max()) == 0
    assert float((alone["end"] - alone["start"]).abs().max()) > 1e-3
    assert float((alone["end"] - together["end"]).abs().max()) < 1e-10


def test_micro_batches_on_two_ranks_match_the_features_of_the_whole_batch(ranks):
    folder, _ = ranks
    whole, cut = torch.load(folder / "matching1.pt"), torch.load(folder / "cut2.pt")
    assert float((whole["end"] - cut["end"]).abs().max()) < 1e-10
    assert not torch.equal(whole["end"], cut["end"])


def test_closeness_within_a_rank_would_be_another_gradient(ranks):
    """So the test above can fail: without gathering, two ranks end elsewhere."""
    folder, _ = ranks
    gathered, apart = torch.load(folder / "techniques2.pt"), torch.load(folder / "apart2.pt")
    assert float((gathered["end"] - apart["end"]).abs().max()) > 1e-5


@pytest.mark.parametrize("variant", sorted(it.stem for it in ABLATION.glob("*.yaml")))
def test_each_line_of_the_ablation_can_be_built(variant, tmp_path):
    words = ["experiment=improved_gan_digits", f"+lightning_module/ablation={variant}", "trainer=cpu", "logger=none",
             "callbacks=[default,image_grid,averaged_weights]", "paper.metric=null"]  # fmt: skip
    module = build(compose_job("train", words, str(tmp_path))).module
    assert isinstance(module, ImprovedGAN)
    assert module.matching is None
    assert (module.generator.normalization == "virtual") == (variant != "batch_norm")
    assert (module.discriminator.minibatch is None) == (variant == "no_minibatch")
    assert (module.label_smoothing < 1) == (variant != "no_smoothing")
    assert (module.labelled_weight == 0) == variant.startswith("no_labels")
    assert (module.historical_averaging > 0) == (variant == "no_labels_history")
