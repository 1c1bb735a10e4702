"""A batch in parts has the gradient of the whole: in every method, in float64, with batch norm's statistics frozen."""

from functools import partial

import pytest
import torch
from torch import nn

from lightning_modules.improved_gan import feature_matching
from lightning_modules.information_maximization import InformationMaximization
from lightning_modules.micro_batches import cut, joined, rehearsing
from lightning_modules.networks.dcgan import Discriminator
from tests.lightning_modules import test_draw, test_image_classifier, test_improved_gan, test_infogan
from tests.lightning_modules.alone import alone, step_alone


def frozen(module):
    module.double()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.eval()
    return module


def of_digits(size=6):
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.rand(size, 1, 8, 8, dtype=torch.double, generator=generator), "index": torch.arange(size)}


def terms_alone():
    network = Discriminator([1, 8, 8], [4, 4], [8], posterior_hidden=8, posterior_size=3)
    return InformationMaximization(network, terms=test_infogan.TERMS, optimizer=test_infogan.ADAM)  # type: ignore


def drawn():
    return {"image": test_draw.binary().double(), "index": torch.arange(6)}


def labelled():
    images = torch.rand(6, 2, 4, 4, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    return {"image": images, "index": torch.arange(6), "label": torch.arange(6) % 2}


def streams():
    of_each = test_improved_gan.batch()
    return {name: it | {"image": it["image"].double()} for name, it in of_each.items()}


GAN = test_improved_gan.improved_gan
METHODS = {
    "infogan": (test_infogan.infogan, of_digits),
    "infogan, with terms": (partial(test_infogan.infogan, real_images=test_infogan.TERMS), of_digits),
    "infogan, own q, warming up": (
        partial(test_infogan.infogan, q_optimizer="own", mutual_information_warmup=7), of_digits),
    "terms alone": (terms_alone, of_digits),
    "improved gan": (GAN, streams),
    "improved gan, absolute, two steps": (partial(GAN, matching="absolute", generator_steps=2), streams),
    "improved gan, history": (partial(GAN, matching=None, historical_averaging=0.5), streams),
    "improved gan, virtual": (partial(GAN, normalization="virtual", labelled_weight=0.0), streams),
    "draw": (test_draw.draw, drawn),
    "classifier": (partial(test_image_classifier.classifier, label_smoothing=0.1, gradient_clip_norm=0.1), labelled),
}  # fmt: skip


def gradients(module, inputs) -> dict[str, list[torch.Tensor]]:
    """Of each player's loss."""
    found = {}
    for name, player in module.turns.items():
        module.zero_grad()
        with module.others_at_rest(player):
            module.take_gradient(player, inputs)
        found[name] = [torch.zeros_like(it) if it.grad is None else it.grad.clone() for it in player.parameters]
    return found


@pytest.mark.parametrize("most", [1, 2, 4, 5])  # 4 and 5 do not divide 6
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_the_whole_batch_s(method, most):
    make, batch = METHODS[method]
    torch.manual_seed(0)
    module = frozen(alone(make()))
    inputs = module.host_inputs(batch(), 3)
    whole = gradients(module, inputs)
    module.micro_batch_size = most
    torch.testing.assert_close(gradients(module, inputs), whole, rtol=1e-9, atol=1e-13)
    assert all(any(bool(it.any()) for it in of_player) for of_player in whole.values())


@pytest.mark.parametrize("method", METHODS)
def test_steps_lead_to_the_same_weights_and_tell_the_same(method):
    make, batch = METHODS[method]
    ends = []
    for most in (None, 4):
        torch.manual_seed(0)
        module = alone(frozen(make()))
        module.micro_batch_size = most
        told = [step_alone(module, batch(), iteration) for iteration in range(5)][-1]
        ends.append((module.state_dict(), told))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-7, atol=1e-9)


def test_parts_are_even_and_their_shares_are_of_examples():
    inputs = {"x": torch.arange(7), "of": {"y": torch.rand(7, 2)}, "weight": torch.tensor(0.5)}
    parts = cut(inputs, 3)
    assert [it["x"].tolist() for _, it in parts] == [[0, 1, 2], [3, 4], [5, 6]]
    assert [share for share, _ in parts] == pytest.approx([3 / 7, 2 / 7, 2 / 7])
    assert torch.equal(torch.cat([it["of"]["y"] for _, it in parts]), inputs["of"]["y"])
    assert {float(it["weight"]) for _, it in parts} == {0.5}
    whole = joined([(share, {"mean": it["x"].float().mean(), "row": it["x"]}) for share, it in parts])
    assert float(whole["mean"]) == pytest.approx(3)
    assert whole["row"].tolist() == list(range(7))


def test_rows_of_different_numbers_are_no_batch():
    with pytest.raises(AssertionError, match=r"rows of \[6, 7\] examples in one batch"):
        cut({"x": torch.arange(7), "y": torch.arange(6)}, 3)


def test_noise_inside_layers_is_the_same_when_means_are_found_and_used():
    """The gradient is that of the loss with the noise that each part has got."""
    module = frozen(alone(GAN(noise=0.3, micro_batch_size=2)))
    inputs, player = module.host_inputs(streams(), 0), module.turns["g"]
    torch.manual_seed(5)
    module.take_gradient(player, inputs)
    found = [it.grad.clone() for it in player.parameters]
    module.zero_grad()
    torch.manual_seed(5)
    real, fake = [], []
    for _, part in cut(inputs, 2):
        fake.append(module.discriminator.features(module.generator(part["noise_g0"])))
        real.append(module.discriminator.features(part["for_generator"]["image"]).detach())
    feature_matching(torch.cat(real).mean(0), torch.cat(fake).mean(0), "squared").backward()
    torch.testing.assert_close(found, [it.grad for it in player.parameters])


def test_running_statistics_move_once_a_part():
    torch.manual_seed(0)
    module = alone(test_infogan.infogan(real_images=test_infogan.TERMS, micro_batch_size=3))
    counts = [it for name, it in module.discriminator.named_buffers() if name.endswith("num_batches_tracked")]
    step_alone(module, {key: it.float() if it.is_floating_point() else it for key, it in of_digits().items()})
    # In each of two parts D sees real, moved and generated images, and generated ones again in G's turn.
    assert [int(it) for it in counts] == [2 * 4] * 3


def test_a_rehearsal_leaves_no_trace():
    norm, images = nn.BatchNorm1d(3), torch.randn(5, 3)
    state = torch.random.get_rng_state()
    with rehearsing(norm):
        assert torch.is_grad_enabled() is False
        normalized = norm(images + torch.rand(5, 3) * 0)
    torch.testing.assert_close(normalized.mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.zeros(3))  # type: ignore
    assert norm.track_running_stats


def test_a_loss_that_asks_for_means_without_saying_so_is_a_mistake():
    module = alone(test_image_classifier.classifier(micro_batch_size=2))
    module.loss = lambda inputs: {"loss": module.global_mean(inputs["image"].mean()) * module.network.weight}
    module.turns = module.players()
    with pytest.raises(AssertionError, match="says that it sees_means"):
        step_alone(module, {key: it.float() if it.is_floating_point() else it for key, it in labelled().items()})
