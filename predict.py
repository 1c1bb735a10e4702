"""What a finished classifier says of your own images.

    python predict.py run=outputs/resnet_mnist/<folder> input=photo.png invert=true
    python predict.py run=<folder> input=folder/of/images

Files become pixels as the run's data did. What is said of an image depends on neither the others nor ``batch_size``,
up to float rounding. A table, a picture of the first images and how both were made go to <folder>/predictions/<time>.
"""

import csv
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig

from launch.command_line import check_command_line, check_writable, with_quoted
from launch.config_check import PredictConfig, check_config, plain
from launch.errors import UserError, told_as_sentences

if TYPE_CHECKING:  # importing torch takes seconds, in which a mistake on the command line is told
    from torch import Tensor

    from datamodules.image_files import Pixels

ALL_UP_TO = 20  # classes; beyond, a row holds the likeliest
LIKELIEST = 5
SHOWN = 36  # images of the picture
TOLD = 10  # lines on the terminal


@dataclass
class Images:
    """Image files by their names, relative to the folder."""

    folder: Path
    names: list[str]


@dataclass
class Predictions:
    """What a run says of images, whatever kind of module it is.

    rows: of the table, the heading first. captions: what is said of an image in a few words. first: the images that a
    picture shows, as the module sees them, uint8 [N, C, H, W]. record: how these predictions were made.
    """

    rows: list[list[str]]
    captions: list[str]
    first: "Tensor"
    record: dict[str, Any]


def predict(config: dict[str, Any]) -> Path:
    """Predict for the images that are asked for; returns the new folder. A command that cannot be served makes none."""
    check_config(config, PredictConfig)
    if config["batch_size"] < 1:
        raise UserError(f"batch_size is {config['batch_size']}: give 1 or more.")
    from callbacks.pictures import save_captioned
    from callbacks.run_record import write_json
    from launch.runs import load_on_device

    images = find_images(config["input"])
    module, saved, checkpoint = load_on_device(config["run"], config["checkpoint"], config["accelerator"])
    predictor = predictor_of(module, config["run"])
    check_writable("run", Path(config["run"]) / "predictions")
    found = predictor(module, saved, images, config)
    folder = Path(config["run"]) / "predictions" / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    folder.mkdir(parents=True)
    write_table(found.rows, folder / "predictions.csv")
    save_captioned(found.first, found.captions, images.names, folder / "predictions.png")
    write_json(folder / "predictions.json", describe(module, config, checkpoint, len(images.names)) | found.record)
    tell(images, found, checkpoint, folder)
    return folder


def find_images(source: str) -> Images:
    """The image itself, or all below a folder in the order of their names."""
    from datamodules.image_files import ENDINGS
    from datamodules.image_folder import images_below

    path = Path(source).expanduser()
    if path.is_dir():
        names = sorted(images_below(path))
        if not names:
            raise UserError(f"input={source} holds no image: looked for {', '.join(ENDINGS)} at every depth.")
        return Images(path, names)
    if not path.is_file():
        raise UserError(f"input={source}: there is no such file or folder. Give an image, or a folder of images.")
    return Images(path.parent, [path.name])


def predictor_of(module: Any, run: str) -> Callable[[Any, Mapping[str, Any], Images, Mapping[str, Any]], Predictions]:
    """What predicts with a module, by what the module can do."""
    from callbacks.protocols import Classifies, capabilities_of

    predictors = {Classifies: classify}
    for capability, predictor in predictors.items():
        if capability in capabilities_of(module):
            return predictor
    raise UserError(
        f"{run} is a run of {type(module).__name__}, which does not tell what is in an image: give a classifier's run, "
        "such as one of experiment=resnet_digits."
    )


# --- classifiers ---------------------------------------------------------------------------------------------


def classify(module: Any, saved: Mapping[str, Any], images: Images, config: Mapping[str, Any]) -> Predictions:
    """The likeliest classes of each image: with few classes all of them."""
    import torch

    from datamodules.image_files import shown, unreadable

    pixels = pixels_of(module, saved)
    kept = module.num_classes if module.num_classes <= ALL_UP_TO else LIKELIEST
    classes, probabilities, first = [], [], []
    bad: dict[str, str] = {}

    def batches(threads: ThreadPoolExecutor) -> Iterator[int]:
        for start in range(0, len(images.names), config["batch_size"]):
            names = images.names[start : start + config["batch_size"]]
            batch = decode(images.folder, names, pixels, config["invert"], bad, threads)
            if not bad:  # from the first bad file on, only the others are looked for, so that all are named
                first.append(batch[: max(SHOWN - start, 0)])
                ordered = class_probabilities(module, batch).sort(dim=1, descending=True, stable=True)
                classes.append(ordered.indices[:, :kept])
                probabilities.append(ordered.values[:, :kept])
            yield len(names)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 32)) as threads:
        for _ in shown(batches(threads), len(images.names), "predicting"):
            pass
    if bad:
        raise unreadable(bad, len(images.names), images.folder)
    paths = [(images.folder / name).as_posix() for name in images.names]
    labels = module.class_names or [str(number) for number in range(module.num_classes)]
    rows = class_table(paths, torch.cat(classes).tolist(), torch.cat(probabilities).tolist(), labels)
    counts = torch.cat(classes)[:, 0].bincount(minlength=len(labels)).tolist()
    record = {
        "pixels": asdict(pixels) | {"invert": config["invert"]},
        "predicted": {label: count for label, count in zip(labels, counts, strict=True) if count},
    }
    return Predictions(rows, [f"{row[1]}  {float(row[2]):.1%}" for row in rows[1:]], torch.cat(first), record)


def pixels_of(module: Any, saved: Mapping[str, Any]) -> "Pixels":
    """How a file becomes what the module was trained on: as its DataModule has it, else the largest square in it."""
    from datamodules.image_files import Pixels
    from launch.runs import instantiate

    wanted = tuple(module.image_shape)
    pixels = getattr(instantiate(saved["datamodule"]), "pixels", None)  # its data need not be here
    if pixels is None and wanted[1] == wanted[2]:
        pixels = Pixels(wanted[1], channels=wanted[0])
    if pixels is None or pixels.shape != wanted:
        raise UserError(
            f"This run's module takes images of (channels, height, width) {wanted}, and files would become "
            f"{pixels.shape if pixels else 'squares'}: predict.py cannot serve it."
        )
    return pixels


def decode(
    folder: Path, names: list[str], pixels: "Pixels", invert: bool, bad: dict[str, str], threads: ThreadPoolExecutor
) -> "Tensor":
    """uint8 [B, C, size, size]. A file that cannot be read is left out, and ``bad`` gets its name and the reason."""
    import numpy as np
    import torch

    read = list(threads.map(pixels.attempt, [folder / name for name in names]))
    bad.update({name: it for name, it in zip(names, read, strict=True) if isinstance(it, str)})
    arrays = [it for it in read if not isinstance(it, str)]
    batch = torch.from_numpy(np.stack(arrays) if arrays else np.empty((0, *pixels.shape), dtype=np.uint8))
    return 255 - batch if invert else batch


def class_probabilities(module: Any, batch: "Tensor") -> "Tensor":
    """batch: uint8 [B, C, H, W] -> [B, num_classes] on the CPU, rows that sum to one."""
    from callbacks.protocols import evaluating

    with evaluating(module):
        probabilities = module.class_logits(batch.to(module.device, module.dtype) / 255).softmax(dim=1).cpu()
    if not probabilities.isfinite().all():
        raise UserError("The run's weights give probabilities that are not finite: name another with checkpoint=.")
    return probabilities


def class_table(
    paths: list[str], classes: list[list[int]], probabilities: list[list[float]], labels: list[str]
) -> list[list[str]]:
    """A heading and a row an image. classes, probabilities: of each image the likeliest, in falling order.

    Where they are all classes, a row goes on with the probability of each in the classes' own order, else with the
    next likeliest labels and their probabilities.
    """
    heading, rows = ["path", "label", "probability"], []
    if whole := len(classes[0]) == len(labels):
        heading += [f"probability_{label}" for label in labels]
    else:
        heading += [f"{what}_{place}" for place in range(2, len(classes[0]) + 1) for what in ("label", "probability")]
    for path, numbers, values in zip(paths, classes, probabilities, strict=True):
        told = [f"{value:.6g}" for value in values]
        row = [path, labels[numbers[0]], told[0]]
        if whole:
            row += [value for _, value in sorted(zip(numbers, told, strict=True))]
        else:
            row += [it for number, value in zip(numbers[1:], told[1:], strict=True) for it in (labels[number], value)]
        rows.append(row)
    return [heading, *rows]


# --- what is written and told --------------------------------------------------------------------------------


def write_table(rows: list[list[str]], path: Path) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def describe(module: Any, config: Mapping[str, Any], checkpoint: Path, count: int) -> dict[str, Any]:
    """What it takes to predict the same again."""
    from launch.checkpoints import read_checkpoint, weights_in

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


def tell(images: Images, found: Predictions, checkpoint: Path, folder: Path) -> None:
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
