"""The part of an iteration that a GPU is to take as a whole, on tensors without values: whoever reads one raises."""

import importlib

import pytest
import torch
from torch import Tensor

from foundation.protocols import WholeIteration
from launch.command_line import compose_job
from launch.runs import instantiate
from tests.lightning_modules.alone import alone, step_alone

CPU, META = torch.device("cpu"), torch.device("meta")
EXPERIMENTS = ["infogan_digits", "infogan_mnist_terms_alone", "improved_gan_digits", "improved_gan_mnist_minibatch",
               "draw_digits", "draw_cluttered", "resnet_digits", "wrm_digits", "oracle_digits"]  # fmt: skip
TECHNIQUES = ["lightning_module.historical_averaging=0.1", "lightning_module.generator_steps=2",
              "lightning_module.generator.normalization=virtual", "lightning_module.matching=null",
              "lightning_module.gradient_clip_norm=1"]  # fmt: skip
EXTRAS = {
    "infogan_digits": ["lightning_module.mutual_information_warmup=7", "lightning_module.gradient_clip_norm=1"],
    "improved_gan_mnist_minibatch": TECHNIQUES,
    "oracle_digits": ["lightning_module.training=worst"],
}


def made(experiment: str, device: torch.device = CPU):
    method = compose_job("train", [f"experiment={experiment}"])["lightning_module"]["_target_"].split(".")[1]
    tiny = importlib.import_module(f"tests.lightning_modules.test_{method}").TINY[experiment]
    config = compose_job("train", [f"experiment={experiment}", *tiny, *EXTRAS.get(experiment, [])])
    node = config["lightning_module"]
    for name in ("optimizer", "optimizer_g", "optimizer_d"):  # fused steps are written for devices with values alone
        if name in node:
            node[name]["fused"] = False
    return alone(instantiate(node).to(device))


def batch_for(module, size: int = 4):
    def images() -> dict[str, Tensor]:
        return {"image": torch.rand(size, *module.image_shape), "index": torch.arange(size)}

    labels = {"label": torch.arange(size) % getattr(module, "num_classes", 2)}
    if getattr(module, "needs_streams", False):
        known = {"labelled": images() | labels} if module.labelled_weight else {}
        return known | {"unlabelled": images(), "for_generator": images()}
    return images() | labels


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_value_is_read_on_the_host(experiment):
    module = made(experiment, META)
    assert isinstance(module, WholeIteration)
    told = step_alone(module, batch_for(module), 3)
    assert any(name.startswith("loss") for name in told)
    assert all(it.is_meta and not it.requires_grad for it in told.values())


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_nothing_but_inputs_changes_from_one_iteration_to_the_next(experiment):
    """The same names, shapes and types go in and come out, whatever the iteration's number is."""
    module = made(experiment)
    first, later = (module.host_inputs(batch_for(module), iteration) for iteration in (0, 100))
    assert forms(first) == forms(later)
    assert forms(step_alone(module, batch_for(module), 0)) == forms(step_alone(module, batch_for(module), 100))


def forms(values) -> dict:
    return {key: forms(it) if isinstance(it, dict) else (it.shape, it.dtype) for key, it in values.items()}


def test_a_value_that_is_read_raises():
    """What the first test stands on."""
    value = torch.ones(3, device=META)
    for reads in (
        lambda: value[0].item(),
        lambda: bool(value.sum()),
        lambda: value.nonzero(),
        lambda: value[value > 0],
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reads()
