"""What test_improved_gan.py runs in a process of its own: the method on one and two ranks, in float64."""

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from launch.command_line import compose_job
from launch.runs import build
from lightning_modules.improved_gan import ImprovedGAN
from tests.lightning_modules.test_improved_gan import TECHNIQUES, TINY

QUIET = ["lightning_module.discriminator.input_noise=0", "lightning_module.discriminator.hidden_noise=0"]


class Apart(ImprovedGAN):
    """Compares the examples of a rank with one another alone."""

    def gathered(self, rows: Tensor) -> Tensor:
        return rows


def weights(module: nn.Module) -> Tensor:
    return torch.cat([it.detach().flatten() for it in module.parameters()])


def train(world_size: int, case: str, folder: Path) -> str:
    """Noise inside layers is off, since it is each rank's own; batch statistics are frozen where there are any."""
    overrides = ["experiment=improved_gan_digits", "trainer=cpu" if world_size == 1 else "trainer=ddp_cpu",
                 f"trainer.devices={world_size}", "logger=none", "trainer.max_steps=8", "trainer.precision=64-true",
                 *TINY["improved_gan_digits"], *QUIET, "~callbacks.averaged_weights", "~callbacks.image_grid", *([] if case in ("matching", "cut") else TECHNIQUES)]  # fmt: skip
    overrides = [it for it in overrides if not it.startswith("callbacks.image_grid")]
    overrides += ["+trainer.strategy.start_method=fork"] if world_size > 1 else []
    if case == "cut":
        overrides.append("lightning_module.micro_batch_size=6")
    if case == "apart":
        overrides.append("lightning_module._target_=tests.lightning_modules.improved_gan_on_ranks.Apart")
    run = build(compose_job("train", overrides, str(folder / f"{case}{world_size}")))
    module = run.module.double()
    assert isinstance(module, ImprovedGAN)
    start = weights(module)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d):
            part.eval()
    run.trainer.fit(module, datamodule=run.datamodule)
    assert module.initialized
    torch.save({"start": start, "end": weights(module)}, folder / f"{case}{world_size}.pt")
    return str(weights(module).dtype)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {}
    for case, sizes in {"matching": (1, 2), "techniques": (1, 2), "apart": (2,), "cut": (2,)}.items():
        for world_size in sizes:
            found[case] = train(world_size, case, folder)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
