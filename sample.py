"""Pictures from a finished run's generator, with codes of your choice.

    python sample.py run=outputs/infogan_digits/<folder> count=100
    python sample.py run=<folder> codes.code0_categorical=3 codes.code1_continuous0=1.5
    python sample.py run=<folder> start=64 output=files

Image i depends on the seed and i alone. The pictures and how they were made go to <folder>/samples/<time>.
"""

import math
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from foundation.errors import UserError, told_as_sentences
from foundation.security import trusting_as_typed
from launch.command_line import check_command_line, check_writable, readable
from launch.composition import OF_MAIN
from launch.config_check import SampleConfig, check_config, plain
from launch.packed import with_folders


def sample(config: dict[str, Any]) -> Path:
    """Make the pictures that are asked for; returns their new folder. A command that cannot be served makes none."""
    check_config(config, SampleConfig)
    check_numbers(config)
    from callbacks.run_record import write_json
    from launch.runs import load_on_device

    finished = load_on_device(config["run"], config["checkpoint"], config["accelerator"])
    module, checkpoint = finished.module, finished.checkpoint
    check_can_sample(module, config)
    check_writable("run", Path(config["run"]) / "samples")
    folder = Path(config["run"]) / "samples" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    draw(module, config, folder)
    write_json(folder / "samples.json", describe(module, config, checkpoint))
    print(f"{config['count']} images of {checkpoint}:", *sorted(folder.iterdir()), sep="\n  ")
    return folder


def check_numbers(config: Mapping[str, Any]) -> None:
    for key, least in {"count": 1, "start": 0, "batch_size": 1}.items():
        if config[key] < least:
            raise UserError(f"{key} is {config[key]}: give {least} or more.")


def check_can_sample(module: Any, config: Mapping[str, Any]) -> None:
    """Refuse a module that makes no images or, where some are asked for, has no codes or not those; set the seed."""
    from foundation.protocols import ChoosesCodes, SamplesImages, check_codes, serves

    name = type(module).__name__
    if not serves(module, SamplesImages):
        raise UserError(f"{config['run']} is a run of {name}, which makes no images.")
    if config["codes"] and not serves(module, ChoosesCodes):
        raise UserError(f"{config['run']} is a run of {name}, which has no codes to choose: leave out codes.")
    if config["codes"]:
        check_codes(config["codes"], module.code_ranges())
    if config["seed"] is not None:
        module.seed = config["seed"]


def draw(module: Any, config: Mapping[str, Any], folder: Path) -> None:
    """Make the images batch by batch and write them: each as it comes, the grid at the end."""
    import torch

    from callbacks.instruments.pictures import save_grid, save_single
    from foundation.evaluation import evaluating

    start, count, codes = config["start"], config["count"], config["codes"]
    for_grid = []
    for indices in torch.arange(start, start + count).split(config["batch_size"]):
        with evaluating(module):
            images = (module.sample_with_codes(indices, codes) if codes else module.sample(indices)).cpu()
        if config["output"] != "grid":
            for index, image in zip(indices.tolist(), images, strict=True):
                save_single(image, folder / "images" / f"{index:06d}.png")
        if config["output"] != "files":
            for_grid.append(images)
    if for_grid:
        save_grid(torch.cat(for_grid), folder / "grid.png", columns=math.ceil(math.sqrt(count)))


def describe(module: Any, config: Mapping[str, Any], checkpoint: Path) -> dict[str, Any]:
    """What it takes to make the same pictures again."""
    from foundation.checkpoints import read_checkpoint

    return {
        "command": shlex.join(["sample.py", *(it.removeprefix("++") for it in sys.argv[1:])]),
        "checkpoint": checkpoint.name,
        "iteration": read_checkpoint(checkpoint)["global_step"],
        "seed": module.seed,
        "start": config["start"],
        "count": config["count"],
        "codes": config["codes"],
        "precision": str(module.dtype).removeprefix("torch."),
        "device": module.device.type,
    }


def with_free_codes(arguments: list[str]) -> list[str]:
    """Which codes there are is the run's matter, so that Hydra has to take any: codes.x=3 is ++codes.x=3."""
    return [f"++{it}" if it.startswith(("codes.", "codes=")) else it for it in arguments]


@hydra.main(**OF_MAIN, config_path="conf", config_name="sample")
def main(config: DictConfig) -> None:
    with told_as_sentences():
        sample(plain(config))


if __name__ == "__main__":
    with trusting_as_typed():
        with told_as_sentences():
            sys.argv[1:] = readable("sample", with_free_codes(with_folders(sys.argv[1:])), ["run"])
            check_command_line("sample", sys.argv[1:])
        main()
