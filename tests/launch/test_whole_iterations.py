"""Every method that a GPU may take whole, and every variant that takes another way through it: iterations as a rehearsal
takes them are those of a usual loop, bit for bit, and each asks for the same. ``test_capture.py`` has whole runs."""

from copy import deepcopy
from functools import cache, partial
from typing import Any

import pytest
import torch

from foundation.protocols import WholeIteration
from launch.capture import Staging
from launch.command_line import compose_job
from launch.runs import instantiate
from lightning_modules.adversarial_filtering import AdversarialFiltering
from lightning_modules.networks.discriminators import BiLstm
from lightning_modules.schedules import Drops
from lightning_modules.turns import on_device
from tests.launch.replays import Watched, agree
from tests.launch.test_capture import tiny
from tests.lightning_modules.alone import alone
from tests.lightning_modules.batches import batch_for

ITERATIONS, TRACED = 20, 8
FEWER = {"resnet_imagenet": 9}  # of millions of weights
"""Of methods whose step takes longer than a hundredth of a second."""
KEY = "lightning_module"
TEXTS = [f"{KEY}.network.padding_free=false", f"{KEY}.network.vocabulary_size=60"]
GAMMA = [f"{KEY}.gamma.relative=null", f"{KEY}.gamma.absolute=2"]  # the data would say it
VARIANTS: dict[str, list[str]] = {
    "resnet_digits": [],
    "resnet_cifar10_speed": [],
    "resnet_imagenet": [f"{KEY}.network.image_shape=[3,16,16]"],
    "densenet_digits": [],
    "densenet_cifar10_unaugmented": [],
    "infogan_digits": [f"{KEY}.mutual_information_warmup=7", f"{KEY}.gradient_clip_norm=1"],
    "infogan_mnist": [],
    "infogan_digits with_g": [f"{KEY}.q_optimizer=with_g", f"{KEY}.real_images=null"],
    "infogan_digits own": [f"{KEY}.q_optimizer=own", f"{KEY}.real_images=null"],
    "infogan_mnist_terms_alone": [],
    "improved_gan_digits": [f"{KEY}.historical_averaging=0.1", f"{KEY}.generator_steps=2"],
    "improved_gan_mnist_minibatch": [
        f"{KEY}.historical_averaging=0.1",
        f"{KEY}.generator_steps=2",
        f"{KEY}.generator.normalization=virtual",
        f"{KEY}.matching=null",
        f"{KEY}.gradient_clip_norm=1",
    ],
    "improved_gan_mnist_labels_alone": [],
    "improved_gan_svhn": [],
    "improved_gan_imagenet": [],
    "draw_digits": [],
    "draw_digits zeros": [f"{KEY}.network.learn_init=false"],
    "draw_mnist_no_attention": [],
    "draw_svhn": [],
    "draw_cluttered": [],
    "draw_cluttered_convolutional": [],
    **{
        f"wrm_digits {it}": [f"{KEY}.training={it}", f"{KEY}.budget.absolute=0.3", *GAMMA]
        for it in ("erm", "fgm", "ifgm", "pgd", "wrm")
    },
    "wrm_synthetic": [f"{KEY}.cost=linf", *GAMMA],
    **{f"oracle_digits {it}": [f"{KEY}.training={it}"] for it in ("erm", "siamese", "worst", "stability", "pgd")},
    "oracle_synthetic mask": [f"{KEY}.training=mask"],
    "oracle_deepcloak_cifar10": [],
    "bert_tiny_text": TEXTS,
    "bert_tiny_text mlm": [f"+{KEY}/objective=mlm", *TEXTS],
    "bert_tiny_text left_to_right": [f"+{KEY}/objective=left_to_right", *TEXTS],
    "bert_sst2": TEXTS,
    "bert_stsb": TEXTS,
    "bert_squad": TEXTS,
    "bert_conll2003": TEXTS,
    "bert_hellaswag": TEXTS,
    "language_model_transformer": TEXTS,
    "language_model_lstm": TEXTS,
    "filtering_hellaswag_features": [],
    "filtering_synthetic": [],
}


@cache
def node_of(label: str) -> dict[str, Any]:
    experiment, *_ = label.split()
    return compose_job("train", [f"experiment={experiment}", *tiny(experiment), *VARIANTS[label]])[KEY]


def module_of(label: str, device: str = "cpu") -> Any:
    node: dict[str, Any] = deepcopy(node_of(label)) | {"scheduler": None}
    for name in ("optimizer", "optimizer_g", "optimizer_d"):
        if name in node:  # fused steps are written for devices with values alone
            node[name]["fused"] = device != "meta"
    torch.manual_seed(0)
    return alone(instantiate(node).to(device))


def made(label: str) -> tuple[Any, list[Drops]]:
    module = module_of(label)
    schedules = [Drops(it, drops=[6], warmup=3) for it in module.trainer.optimizers]
    torch.manual_seed(1)  # of noise inside layers
    return module, schedules


@pytest.mark.parametrize("label", VARIANTS)
def test_no_value_is_read_on_the_host(label):
    """The step on tensors without values: whoever reads one raises."""
    module = module_of(label, "meta")
    told = module.device_step(on_device(module.host_inputs(batch(module, 3), 3), module.device))
    assert isinstance(module, WholeIteration)
    assert any(name.startswith("loss") for name in told)
    assert all(it.is_meta and not it.requires_grad for it in told.values())


def test_an_lstm_that_filters_endings_is_refused():
    """It packs its texts by their lengths."""
    network = partial(BiLstm, vocabulary_size=60)
    module = AdversarialFiltering(network, choices=3, epochs_a_round=1, optimizer=torch.optim.Adam)
    assert "LSTM" in str(module.not_capturable())


def test_a_value_that_is_read_raises():
    """What this test stands on."""
    value = torch.ones(3, device="meta")
    for reads in (
        lambda: value[0].item(),
        lambda: bool(value.sum()),
        lambda: value.nonzero(),
        lambda: value[value > 0],
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reads()


def state_of(module: Any) -> dict[str, torch.Tensor]:
    return dict(module.state_dict()) | {
        f"{key} {place} of optimiser {number}": it
        for number, optimizer in enumerate(module.trainer.optimizers)
        for place, of_parameter in enumerate(optimizer.state.values())
        for key, it in of_parameter.items()
    }


def batch(module: Any, iteration: int) -> dict[str, Any]:
    return batch_for(module, generator=torch.Generator().manual_seed(iteration))


def taken_as_usual(label: str) -> tuple[dict[str, torch.Tensor], list[float]]:
    module, schedules = made(label)
    losses = []
    for iteration in range(FEWER.get(label, ITERATIONS)):
        told = module.device_step(on_device(module.host_inputs(batch(module, iteration), iteration), module.device))
        losses += [float(it) for key, it in told.items() if key.startswith("loss")]
        for schedule in schedules:
            schedule.step()
    return state_of(module), losses


@pytest.mark.parametrize("label", VARIANTS)
def test_a_rehearsal_has_the_numbers_of_a_usual_loop(label):
    expected, losses = taken_as_usual(label)
    module, schedules = made(label)
    assert module.not_capturable() is None
    strategy = Watched("cpu", rehearses=True)
    strategy.traced = TRACED
    strategy.connect(module)
    strategy.optimizers = module.trainer.optimizers
    strategy.on_train_start()
    found, places = [], {}
    for iteration in range(FEWER.get(label, ITERATIONS)):
        inputs = module.host_inputs(batch(module, iteration), iteration)
        strategy.poison()
        strategy.staging = strategy.staging or Staging(inputs, module.device)
        assert strategy.staging.takes(inputs)
        told = strategy.take(module, strategy.staging.fill(inputs))
        found += [float(it) for key, it in told.items() if key.startswith("loss")]
        for schedule in schedules:
            schedule.step()
        if iteration == 1:
            places = strategy.addresses()
    module.stop_drawing_ahead()
    agree(strategy.traces)
    assert found == losses
    assert strategy.addresses() == places
    for name, it in state_of(module).items():
        torch.testing.assert_close(it, expected[name], rtol=0, atol=0, equal_nan=True, msg=name)
