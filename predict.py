"""What a finished classifier or detector says of your own images.

    python predict.py run=outputs/resnet_mnist/<folder> input=photo.png invert=true
    python predict.py run=outputs/faster_rcnn_coco/<folder> input=folder/of/images

What is said of an image depends on neither the others nor ``batch_size``, up to float rounding. A table, pictures and
how they were made go to <folder>/predictions/<time>; of a detector also its boxes in COCO's format. What each kind of
run says and writes: ``finished/predictors.py``.
"""

import csv
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from foundation.errors import UserError, told_as_sentences
from launch.command_line import check_command_line, check_writable, with_quoted
from launch.config_check import PredictConfig, check_config, plain

if TYPE_CHECKING:  # importing torch takes seconds, in which a mistake on the command line is told
    from finished.predictors import Images, Predictions

TOLD = 10  # lines on the terminal


def predict(config: dict[str, Any]) -> Path:
    """Predict for the images that are asked for; returns the new folder. A command that cannot be served makes none."""
    check_config(config, PredictConfig)
    if config["batch_size"] < 1:
        raise UserError(f"batch_size is {config['batch_size']}: give 1 or more.")
    if not 0 <= config["min_score"] <= 1:
        raise UserError(f"min_score is {config['min_score']}: give a score from 0 to 1.")
    from callbacks.run_record import write_json
    from finished.predictors import predictor_of
    from launch.runs import load_on_device

    images = find_images(config["input"])
    finished = load_on_device(config["run"], config["checkpoint"], config["accelerator"])
    module, checkpoint = finished.module, finished.checkpoint
    predictor = predictor_of(module, config["run"])
    check_writable("run", Path(config["run"]) / "predictions")
    found = predictor(finished, images, config)
    folder = Path(config["run"]) / "predictions" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    folder.mkdir(parents=True)
    write_table(found.rows, folder / "predictions.csv")
    found.write(folder)
    write_json(folder / "predictions.json", describe(module, config, checkpoint, len(images.names)) | found.record)
    tell(images, found, checkpoint, folder)
    return folder


def find_images(source: str) -> "Images":
    """The image itself, or all below a folder in the order of their names."""
    from datamodules.decoding import ENDINGS
    from datamodules.folder_layout import images_below
    from finished.predictors import Images

    path = Path(source).expanduser()
    if path.is_dir():
        names = sorted(images_below(path))
        if not names:
            raise UserError(f"input={source} holds no image: looked for {', '.join(ENDINGS)} at every depth.")
        return Images(path, names)
    if not path.is_file():
        raise UserError(f"input={source}: there is no such file or folder. Give an image, or a folder of images.")
    return Images(path.parent, [path.name])


def write_table(rows: list[list[str]], path: Path) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def describe(module: Any, config: Mapping[str, Any], checkpoint: Path, count: int) -> dict[str, Any]:
    """What it takes to predict the same again."""
    from foundation.checkpoints import read_checkpoint, weights_in

    return {
        "command": shlex.join(["predict.py", *sys.argv[1:]]),
        "checkpoint": checkpoint.name,
        "iteration": read_checkpoint(checkpoint)["global_step"],
        "weights": weights_in(checkpoint),
        "input": config["input"],
        "images": count,
        "precision": str(module.dtype).removeprefix("torch."),
        "device": module.device.type,
    }


def tell(images: "Images", found: "Predictions", checkpoint: Path, folder: Path) -> None:
    width = max(len(name) for name in images.names[:TOLD])
    for name, caption in zip(images.names[:TOLD], found.captions, strict=False):
        print(f"{name:<{width}}  {caption}")
    if len(images.names) > TOLD:
        print(f"... and {len(images.names) - TOLD} more")
    count = len(images.names)
    print(f"{count} image{'s' * (count > 1)} by {checkpoint}:", *sorted(folder.iterdir()), sep="\n  ")


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(config: DictConfig) -> None:
    with told_as_sentences():
        predict(plain(config))


if __name__ == "__main__":
    sys.argv[1:] = with_quoted(["run", "input"], sys.argv[1:])
    with told_as_sentences():
        check_command_line("predict", sys.argv[1:])
    main()
