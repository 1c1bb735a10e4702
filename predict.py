"""What a finished run says of your own images or texts.

    python predict.py run=outputs/resnet_mnist/<folder> input=photo.png invert=true
    python predict.py run=outputs/faster_rcnn_coco/<folder> input=folder/of/images
    python predict.py run=outputs/bert_sst2/<folder> input=lines.txt
    echo 'the cow is in the [MASK] .' | python predict.py run=outputs/bert_tiny_text/<folder> input=-
    python predict.py run=outputs/bert_mini_pretrain/<folder> input=lines.txt output=embeddings
    echo 'Ein Hund läuft.' | python predict.py run=outputs/raml_multi30k/<folder> input=-

What is said of one depends on neither the others nor ``batch_size``, up to float rounding. A table, pictures and how
they were made go to <folder>/predictions/<time>; of a detector also its boxes in COCO's format. What each kind of run
says and writes: docs/using_runs.md; who says it: ``finished/predictors.py``.
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

from foundation.errors import UserError, did_you_mean, told_as_sentences
from foundation.security import trusting_as_typed
from launch.command_line import check_command_line, check_writable, readable
from launch.composition import OF_MAIN
from launch.config_check import PredictConfig, check_config, plain
from launch.packed import with_folders

if TYPE_CHECKING:  # importing torch takes seconds, in which a mistake on the command line is told
    from finished.predictions import Predictions
    from launch.runs import Finished

TOLD = 10  # lines on the terminal
OUTPUTS = ("predictions", "embeddings")


def predict(config: dict[str, Any]) -> Path:
    """Predict for what is asked; returns the new folder. A command that cannot be served makes none."""
    check_config(config, PredictConfig)
    if config["batch_size"] < 1:
        raise UserError(f"batch_size is {config['batch_size']}: give 1 or more.")
    if not 0 <= config["min_score"] <= 1:
        raise UserError(f"min_score is {config['min_score']}: give a score from 0 to 1.")
    if config["output"] not in OUTPUTS:
        raise UserError(f"output={config['output']}: {did_you_mean(config['output'], OUTPUTS)}")
    place = Path(config["input"]).expanduser()
    if config["input"] != "-" and not place.exists() and not place.with_name(f"{place.name}.gz").exists():
        raise UserError(
            f"input={config['input']}: there is no such file or folder. Give an image, a folder of images, a file of "
            "texts, or - for texts from standard input."
        )
    from callbacks.run_record import write_json
    from finished.predictors import predictor_of
    from launch.runs import load_on_device

    finished = load_on_device(config["run"], config["checkpoint"], config["accelerator"])
    predictor = predictor_of(finished.module, config["run"], config["output"])
    asked = predictor.read(config["input"], finished)
    check_writable("run", Path(config["run"]) / "predictions")
    found = predictor.predict(finished, asked, config)
    folder = Path(config["run"]) / "predictions" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    folder.mkdir(parents=True)
    write_table(found.rows, folder / found.table)
    found.write(folder)
    counted = {f"{predictor.unit}s": len(asked.names)}
    write_json(folder / "predictions.json", describe(finished, config) | counted | found.record)
    tell(asked.names, predictor.unit, found, finished.checkpoint, folder)
    return folder


def write_table(rows: list[list[str]], path: Path) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def describe(finished: "Finished", config: Mapping[str, Any]) -> dict[str, Any]:
    """What it takes to predict the same again."""
    from foundation.checkpoints import read_checkpoint, weights_in

    return {
        "command": shlex.join(["predict.py", *sys.argv[1:]]),
        "checkpoint": finished.checkpoint.name,
        "iteration": read_checkpoint(finished.checkpoint)["global_step"],
        "weights": weights_in(finished.checkpoint),
        "input": config["input"],
        "precision": str(finished.module.dtype).removeprefix("torch."),
        "device": finished.module.device.type,
    }


def tell(names: list[str], unit: str, found: "Predictions", checkpoint: Path, folder: Path) -> None:
    width = max(len(name) for name in names[:TOLD])
    for name, caption in zip(names[:TOLD], found.captions, strict=False):
        print(f"{name:<{width}}  {caption}")
    if len(names) > TOLD:
        print(f"... and {len(names) - TOLD} more")
    count = len(names)
    print(f"{count} {unit}{'s' * (count > 1)} by {checkpoint}:", *sorted(folder.iterdir()), sep="\n  ")


@hydra.main(**OF_MAIN, config_path="conf", config_name="predict")
def main(config: DictConfig) -> None:
    with told_as_sentences():
        predict(plain(config))


if __name__ == "__main__":
    with trusting_as_typed():
        with told_as_sentences():
            sys.argv[1:] = readable("predict", with_folders(sys.argv[1:]), ["run", "input"])
            check_command_line("predict", sys.argv[1:])
        main()
