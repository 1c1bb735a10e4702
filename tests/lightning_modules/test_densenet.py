"""The recipe of the paper: what falls when, what decays."""

import pytest
import torch

from launch.command_line import compose_job
from launch.runs import instantiate

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SMALL = ["datamodule.batch_size=8", "lightning_module.network.depth=10", "lightning_module.network.growth=4",
         "trainer.precision=32-true"]  # fmt: skip
TINY = {
    "densenet_cifar10": SMALL,
    "densenet_cifar10_unaugmented": SMALL,
    "densenet_digits": SMALL,
}


def test_the_rate_falls_after_a_half_and_three_quarters_of_300_epochs():
    config = compose_job("train", ["experiment=densenet_cifar10"])
    assert (config["trainer"]["max_epochs"], config["datamodule"]["batch_size"]) == (300, 64)
    optimizer = torch.optim.SGD([torch.zeros(())], lr=config["lightning_module"]["optimizer"]["lr"])
    schedule = instantiate(config["lightning_module"]["scheduler"])(optimizer)
    iterations = 300 * (50_000 // 64)
    schedule.follow(lambda: iterations)
    found = {}
    for epoch in (0, 149, 150, 224, 225, 299):
        schedule.go_to(epoch * (50_000 // 64))
        found[epoch] = optimizer.param_groups[0]["lr"]
    assert found == pytest.approx({0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001, 299: 0.001})


def test_momentum_is_nesterov_s_and_every_weight_decays():
    config = compose_job("train", ["experiment=densenet_cifar10"])
    with torch.device("meta"):
        module = instantiate(config["lightning_module"])
    (optimizer,), _ = module.configure_optimizers()
    (group,) = optimizer.param_groups
    assert (group["momentum"], group["nesterov"], group["dampening"], group["weight_decay"]) == (0.9, True, 0, 1e-4)
    assert len(group["params"]) == len(list(module.parameters()))


def test_images_are_dropped_out_of_or_augmented():
    augmented, dropped = (
        compose_job("train", [f"experiment={it}"]) for it in ("densenet_cifar10", "densenet_cifar10_unaugmented")
    )
    assert augmented["datamodule"]["augment"] == {"pad": 4, "flip": True}
    assert augmented["lightning_module"]["network"]["dropout"] == 0.0
    assert dropped["datamodule"]["augment"] is None
    assert dropped["lightning_module"]["network"]["dropout"] == 0.2
