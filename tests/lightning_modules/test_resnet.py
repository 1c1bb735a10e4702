"""The paper's learning rates, iteration by iteration; what is trained."""

import pytest
import torch

from foundation.errors import UserError
from launch.command_line import compose_job
from launch.runs import instantiate

# Overrides with which each experiment of this method runs in seconds (tests/contract).
SMALL = ["datamodule.batch_size=8", "lightning_module.network.depth=8", "lightning_module.network.width=4",
         "trainer.precision=32-true"]  # fmt: skip
FAST = [*SMALL, "lightning_module.scheduler.warmup=1"]
PHOTOGRAPHS = ["datamodule.batch_size=8", "datamodule.num_workers=0", "datamodule.size=32",
               "datamodule.short_sides=[36,40]", "datamodule.test_short_side=36",
               "lightning_module.network={depth: 18, image_shape: [3, 32, 32], num_classes: 3}",
               "callbacks.classification.top_k=2", "callbacks.averaged_predictions.top_k=2",
               "trainer.precision=32-true"]  # fmt: skip
TINY = {
    "resnet_cifar10": SMALL,
    "resnet_cifar10_32": SMALL,
    "resnet_cifar10_44": SMALL,
    "resnet_cifar10_56": SMALL,
    "resnet_cifar10_110": SMALL,
    "resnet_cifar10_1202": SMALL,
    "resnet_cifar10_fast": FAST,
    "resnet_cifar10_speed": [SMALL[0], *SMALL[2:], "lightning_module.scheduler.warmup=1"],
    "resnet_imagenet": PHOTOGRAPHS,
    "resnet_imagenet_34": PHOTOGRAPHS,
    "resnet_mnist": FAST,
    "resnet_svhn": FAST,
    "resnet_digits": FAST,
}  # fmt: skip


def rates(experiment: str, iterations: set[int], *overrides: str) -> dict[int, float]:
    """The learning rates of an experiment in these iterations, counted from 0."""
    config = compose_job("train", [f"experiment={experiment}", *overrides])
    with torch.device("meta"):
        module = instantiate(config["lightning_module"])
    (optimizer,), (schedule,) = module.configure_optimizers()
    found = {}
    for iteration in range(max(iterations) + 1):
        if iteration in iterations:
            found[iteration] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
    return found


def test_the_paper_s_rates():
    found = rates("resnet_cifar10", {0, 399, 31_999, 32_000, 47_999, 48_000})
    assert found == pytest.approx({0: 0.1, 399: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001})


@pytest.mark.parametrize("depth", [110, 1202])
def test_the_warm_up_of_110_layers_ends_when_a_fifth_is_right(depth):
    """Set by hand and left to a chained schedule, the rate stays at 0.01 on today's torch."""
    config = compose_job("train", [f"experiment=resnet_cifar10_{depth}"])
    optimizer = torch.optim.SGD([torch.zeros(())], lr=config["lightning_module"]["optimizer"]["lr"])
    schedule = instantiate(config["lightning_module"]["scheduler"])(optimizer)
    found = {}
    for iteration, wrong in enumerate([128] * 200 + [103] * 100 + [102] * 100 + [128] * 31_601):
        if iteration in {0, 299, 300, 399, 400, 31_999, 32_000}:
            found[iteration] = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        if not schedule.is_done():
            schedule.saw_iteration(*torch.tensor([wrong, 128], dtype=torch.float64))
    expected = {0: 0.01, 299: 0.01, 300: 0.01, 399: 0.01, 400: 0.1, 31_999: 0.1, 32_000: 0.01}
    assert found == pytest.approx(expected)


def test_a_number_of_iterations_may_warm_up_as_well():
    found = rates("resnet_cifar10", {0, 399, 400, 32_000}, "lightning_module.scheduler.warmup=400")
    assert found == pytest.approx({0: 0.01, 399: 0.01, 400: 0.1, 32_000: 0.01})


def test_weights_decay_in_every_layer():
    config = compose_job("train", ["experiment=resnet_cifar10"])
    module = instantiate(config["lightning_module"])
    (optimizer,), _ = module.configure_optimizers()
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 1e-4
    assert len(group["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize(("file", "overrides", "refused"), [
    ("resnet50-0676ba61.pth", ["depth=50"], True),
    ("resnet50-0676ba61.pth", ["depth=50", "halves_in=3x3"], False),
    ("resnet18-f37072fd.pth", ["depth=18"], False),
    ("mine.pt", ["depth=50"], False),
])  # fmt: skip
def test_weights_of_a_net_that_halves_elsewhere_are_refused(file, overrides, refused):
    """They fit by name and shape."""
    words = [f"lightning_module.network.{it}" for it in overrides]
    with torch.device("meta"):
        module = instantiate(compose_job("train", ["experiment=resnet_imagenet", *words])["lightning_module"])
    if refused:
        with pytest.raises(UserError, match="resnet50-.*3x3 convolution: set lightning_module.network.halves_in=3x3"):
            module.adopted({}, file, None)
        with pytest.raises(
            UserError, match="init_from: the run was trained in a net .* set lightning_module.network.h"
        ):
            module.from_elsewhere({}, {"network": {"halves_in": "3x3"}})
    else:
        assert module.adopted({}, file, None) == {}
