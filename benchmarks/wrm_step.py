"""What a step of WRM costs by one of empirical risk minimisation, on the paper's net for MNIST.

    python -m benchmarks.wrm_step --override trainer=cpu

"usual ascent" is how WRM is mostly written: each of its 16 gradients by ``backward``, which gives the weights one, too.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.turns import Turns, table
from foundation.errors import told_as_sentences
from launch.command_line import compose_job
from launch.runs import instantiate
from lightning_modules.networks.precision import at_least_single
from lightning_modules.wrm import LossesOf, ascend, step_shares

ERM, WRM, USUAL = "ERM step", "WRM step", "WRM step, usual ascent"
GAMMA = 0.37


def usual_ascent(losses_of: LossesOf, inputs: Tensor, steps: int) -> Tensor:
    moved = inputs
    for share in step_shares(steps):
        moved = moved.detach().requires_grad_(True)
        losses_of(moved).sum().backward()
        assert moved.grad is not None
        moved = moved + share / (2 * GAMMA) * moved.grad - share * (moved - inputs)
    return moved.detach()


def measure(precision: str, overrides: list[str], rounds: int = 5, batch_size: int = 256) -> Turns:
    """precision: 32-true or bf16-mixed."""
    config = compose_job("train", ["experiment=wrm_mnist", *overrides])
    device = torch.device("cuda" if config["trainer"]["accelerator"] == "gpu" else "cpu")
    torch.manual_seed(0)
    network: nn.Module = instantiate(config["lightning_module"]["network"]).to(device)
    steps = config["lightning_module"]["steps"]
    shape: Any = network.image_shape
    images, labels = torch.rand(batch_size, *shape).to(device), torch.randint(10, (batch_size,)).to(device)
    optimizer = torch.optim.Adam(network.parameters(), fused=True)

    def losses_of(inputs: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            logits = network(inputs)
        return cross_entropy(at_least_single(logits), labels, reduction="none")

    def step_on(moved: Callable[[], Tensor]) -> None:
        inputs = moved()
        optimizer.zero_grad()
        losses_of(inputs).mean().backward()
        optimizer.step()

    contestants = {
        ERM: lambda: images,
        WRM: lambda: ascend(losses_of, images, GAMMA, steps),
        USUAL: lambda: usual_ascent(losses_of, images, steps),
    }
    turns = Turns(f"wrm_mnist, {precision}", device, 1, batch_size)
    for _ in range(rounds + 1):
        for name, moved in contestants.items():
            turns.start()
            step_on(moved)
            turns.stop(name)
    return turns


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--override", action="append", default=[], help="of the experiment, such as trainer=gpu")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args([] if arguments is None else arguments)
    return [measure(precision, given.override, given.rounds) for precision in ("32-true", "bf16-mixed")]


if __name__ == "__main__":
    import sys

    with told_as_sentences():
        found = main(sys.argv[1:])
        print(f"{torch.get_num_threads()} threads")
        print(table([row for turns in found for row in turns.rows(ERM)]))
