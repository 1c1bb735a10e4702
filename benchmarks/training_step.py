"""What the platform costs a training step: an experiment through the Trainer against two bare loops.

    python -m benchmarks.training_step infogan_digits infogan_mnist
    python -m benchmarks.training_step infogan_mnist --iterations 200 --rounds 7 --override trainer=gpu
    python -m benchmarks.training_step infogan_digits --everything

- ``platform``: the experiment's config, DataModule, module, logger and callbacks, as train.py runs them. Validation,
  checkpoints, pictures and the record are left out; ``--everything`` leaves them in.
- ``bare loop``: the same losses, networks, optimisers, batch size and precision in a loop over a tensor in memory.
- ``usual loop``: InfoGAN as it is usually written in plain PyTorch: float32, cross-entropies, the images made once
  for D and once for G, two optimisers. It does less where the experiment has terms of its own (infogan_digits).

All take turns in one process, within one fit: after each turn of the Trainer a callback runs the loops.
Where the data is not there, random images of its shape stand in, which is said; nothing is downloaded.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss, one_hot

from benchmarks.turns import Turns, table
from datamodules.images import ImageDataModule, ImageTable
from launch.command_line import compose_job
from launch.config_check import TrainConfig, check_config
from launch.errors import UserError, told_as_sentences
from launch.runs import Run, build
from lightning_modules.infogan import InfoGAN
from lightning_modules.two_player import TwoPlayer

PLATFORM, BARE, USUAL = "platform", "bare loop", "usual loop"
LEFT_OUT = {"checkpoint", "best_checkpoint", "image_grid", "cluster_accuracy", "run_record"}
STAND_IN_SIZE = 10_000
TURN_S = 2.0

Loop = Callable[[int], None]
"""Trains for a number of iterations."""


class InTurns(Callback):
    """Lets the other contestants have their turn after each ``turns.iterations`` of the Trainer's; ends the fit."""

    def __init__(self, turns: Turns, loops: dict[str, Loop], rounds: int) -> None:
        self.turns, self.loops, self.rounds = turns, loops, rounds

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.turns.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.turns.iterations:
            return
        self.turns.stop(PLATFORM)
        for name, loop in self.loops.items():
            self.turns.start()
            loop(self.turns.iterations)
            self.turns.stop(name)
        trainer.should_stop = len(self.turns.turns[PLATFORM]) > self.rounds
        self.turns.start()


def measure(
    experiment: str, overrides: list[str], iterations: int | None = None, rounds: int = 5, everything: bool = False
) -> Turns:
    """Run an experiment and the loops in turns; the first of ``rounds`` + 1 warms up.

    Without ``iterations`` a turn has as many as the bare loop makes in TURN_S.
    """
    with tempfile.TemporaryDirectory() as folder:
        words = [f"experiment={experiment}", f"trainer.max_steps={10**9}", "logger=csv", *overrides]
        config = compose_job("train", words if everything else [*words, "trainer.limit_val_batches=0"], folder)
        check_config(config, TrainConfig)
        if not everything:
            config["callbacks"] = {name: it for name, it in config["callbacks"].items() if name not in LEFT_OUT}
            config["trainer"]["enable_checkpointing"] = False  # else Lightning adds a checkpoint of its own each epoch
            config |= {"optimized_metric": None, "paper": None}  # logged by what is left out
        run = build(config)
        images, device = training_images(run), run.trainer.strategy.root_device
        loops = {BARE: bare_loop(run, images)}
        iterations = iterations or fitting_iterations(loops[BARE], device)
        turns = Turns(experiment, device, iterations, run.datamodule.batch_size)  # pyright: ignore
        if isinstance(run.module, InfoGAN):
            loops[USUAL] = usual_loop(deepcopy(run.module).to(device), images.float() / 255, turns.batch_size)
        run.trainer.callbacks.append(InTurns(turns, loops, rounds))  # pyright: ignore[reportAttributeAccessIssue]
        print(f"{experiment}: batch {turns.batch_size}, {run.trainer.precision}, {device.type}", file=sys.stderr)
        with redirect_stdout(io.StringIO()):  # the progress lines
            run.trainer.fit(run.module, datamodule=run.datamodule)
    return turns


def fitting_iterations(loop: Loop, device: torch.device) -> int:
    tried = Turns("", device, iterations=5, batch_size=1)
    for _ in range(2):
        tried.start()
        loop(tried.iterations)
        tried.stop(BARE)
    return max(round(1000 * TURN_S / tried.milliseconds(BARE)), 1)


def training_images(run: Run) -> Tensor:
    """uint8 [N, C, H, W] on the run's device; where they are missing, random ones, in the run's DataModule too."""
    datamodule = run.datamodule
    assert isinstance(datamodule, ImageDataModule)
    try:
        datamodule.setup("fit")
    except UserError as missing:
        print(f"Random images stand in for {datamodule.name} ({missing})", file=sys.stderr)
        pixels = torch.randint(256, (STAND_IN_SIZE, *datamodule.image_shape), dtype=torch.uint8)
        labels = torch.randint(datamodule.num_classes or 1, (STAND_IN_SIZE,))
        datamodule.tables = dict.fromkeys(("train", "val", "test"), ImageTable(pixels, labels))
        datamodule.prepare_data = lambda: None  # it would download
    return datamodule.tables["train"].images.to(run.trainer.strategy.root_device)


def batches_of(images: Tensor, batch_size: int) -> Callable[[], Tensor]:
    """Each call gives the indices of the next batch of a random order without end."""
    order: list[Tensor] = []

    def following() -> Tensor:
        if not order:
            permutation = torch.randperm(len(images), device=images.device)
            order.extend(permutation[: len(images) // batch_size * batch_size].split(batch_size))
        return order.pop()

    return following


def bare_loop(run: Run, images: Tensor) -> Loop:
    """Every player's turn with its own loss and optimiser, other players' gradients off, as in the experiment."""
    if not isinstance(run.module, TwoPlayer):
        raise UserError(f"{type(run.module).__name__} is no TwoPlayer: only their bare loop is written.")
    module = deepcopy(run.module).to(images.device)
    never: Any = SimpleNamespace(world_size=1, global_rank=0, log_every_n_steps=2**62, global_step=0)
    module._trainer = never
    every = list(module.parameters())
    players = [
        (it, it.optimizer(it.parameters), {id(parameter) for parameter in it.parameters})
        for it in module.players().values()
    ]
    following = batches_of(images, run.datamodule.batch_size)  # pyright: ignore[reportAttributeAccessIssue]
    half = run.trainer.precision == "bf16-mixed"

    def loop(iterations: int) -> None:
        for _ in range(iterations):
            index = following()
            batch = {"index": index, "image": images[index].float().div_(255)}
            for player, optimizer, own in players:
                for parameter in every:
                    parameter.requires_grad_(id(parameter) in own)
                with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
                    loss = player.loss(batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            module.iteration += 1

    return loop


def usual_draws(module: InfoGAN, batch_size: int) -> tuple[Tensor, list[Tensor]]:
    """G's inputs [B, input_size] and the codes in them, from the global generator on the device."""
    noise = torch.rand(batch_size, module.noise_size, device=module.device) * 2 - 1
    codes, inputs = [], [noise]
    for code in module.codes:
        if code.kind == "categorical":
            codes.append(torch.randint(code.size, (batch_size,), device=module.device))
            inputs.append(one_hot(codes[-1], code.size).float())
        else:
            codes.append(torch.rand(batch_size, code.size, device=module.device) * 2 - 1)
            inputs.append(codes[-1])
    return torch.cat(inputs, dim=1), codes


def usual_loop(module: InfoGAN, images: Tensor, batch_size: int) -> Loop:
    """D on real and detached images, then G and Q together on new ones. images: float [N, C, H, W] in [0, 1]."""
    g, d = module.generator, module.discriminator
    optimizer_d = torch.optim.Adam([*d.trunk.parameters(), *d.head.parameters()], lr=2e-4, betas=(0.5, 0.999))
    optimizer_g = torch.optim.Adam([*g.parameters(), *d.posterior.parameters()], lr=1e-3, betas=(0.5, 0.999))
    following = batches_of(images, batch_size)
    ones, zeros = (torch.full((batch_size,), value, device=images.device) for value in (1.0, 0.0))

    def loop(iterations: int) -> None:
        for _ in range(iterations):
            optimizer_d.zero_grad()
            loss_real = binary_cross_entropy_with_logits(d.real_logit(images[following()]), ones)
            inputs, _ = usual_draws(module, batch_size)
            loss_fake = binary_cross_entropy_with_logits(d.real_logit(g(inputs).detach()), zeros)
            (loss_real + loss_fake).backward()
            optimizer_d.step()

            optimizer_g.zero_grad()
            inputs, codes = usual_draws(module, batch_size)
            logit, posterior = d(g(inputs))
            loss = binary_cross_entropy_with_logits(logit, ones)
            for code, output, value in zip(module.codes, module.split(posterior), codes, strict=True):
                is_category = code.kind == "categorical"
                loss += cross_entropy(output, value) if is_category else mse_loss(output.chunk(2, dim=1)[0], value)
            loss.backward()
            optimizer_g.step()

    return loop


def main(arguments: list[str] | None = None) -> list[Turns]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", default=["infogan_digits", "infogan_mnist"])
    parser.add_argument("--iterations", type=int, help=f"in a turn; {TURN_S:g} s of the bare loop unless given")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each that count")
    parser.add_argument("--everything", action="store_true", help="with validation, checkpoints, pictures and record")
    parser.add_argument("--override", action="append", default=[], help="a key of train.py, such as trainer=cpu")
    given = parser.parse_args(arguments)
    measured = []
    for experiment in given.experiments:
        measured.append(measure(experiment, given.override, given.iterations, given.rounds, given.everything))
    return measured


def report(measured: list[Turns]) -> str:
    lines = [turns.overhead(PLATFORM, BARE) for turns in measured]
    return "\n".join([table([row for turns in measured for row in turns.rows(BARE)]), "", *lines])


if __name__ == "__main__":
    with told_as_sentences():
        print(report(main()))
