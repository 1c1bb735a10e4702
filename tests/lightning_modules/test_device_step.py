"""What goes into the part of an iteration that a GPU is to take as a whole, and what comes out of it.

``tests/launch/test_whole_iterations.py`` has the rest.
"""

import importlib

import pytest
import torch

from launch.command_line import compose_job
from launch.runs import instantiate
from tests.lightning_modules.alone import alone, step_alone
from tests.lightning_modules.batches import batch_for

CPU = torch.device("cpu")
EXPERIMENTS = ["infogan_digits", "infogan_mnist_terms_alone", "improved_gan_digits", "improved_gan_mnist_minibatch",
               "draw_digits", "draw_cluttered", "resnet_digits", "wrm_digits", "oracle_digits", "bert_tiny_text",
               "filtering_synthetic"]  # fmt: skip
TECHNIQUES = ["lightning_module.historical_averaging=0.1", "lightning_module.generator_steps=2",
              "lightning_module.generator.normalization=virtual", "lightning_module.matching=null",
              "lightning_module.gradient_clip_norm=1"]  # fmt: skip
EXTRAS = {
    "infogan_digits": ["lightning_module.mutual_information_warmup=7", "lightning_module.gradient_clip_norm=1"],
    "improved_gan_mnist_minibatch": TECHNIQUES,
    "oracle_digits": ["lightning_module.training=worst"],
    "bert_tiny_text": ["lightning_module.network.padding_free=false"],
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


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_nothing_but_inputs_changes_from_one_iteration_to_the_next(experiment):
    """The same names, shapes and types go in and come out, whatever the iteration's number is."""
    module = made(experiment)
    first, later = (module.host_inputs(batch_for(module), iteration) for iteration in (0, 100))
    assert forms(first) == forms(later)
    assert forms(step_alone(module, batch_for(module), 0)) == forms(step_alone(module, batch_for(module), 100))


def forms(values) -> dict:
    return {key: forms(it) if isinstance(it, dict) else (it.shape, it.dtype) for key, it in values.items()}
