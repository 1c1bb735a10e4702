"""What a run says of a person's own images: labels of a classifier, boxes of a detector."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.checkpoint import weights_are_finite
from callbacks.detection_grid import likeliest, save_framed
from callbacks.instruments.coco_evaluation import encode
from callbacks.instruments.pictures import save_captioned
from datamodules.decoding import ENDINGS, Pixels, attempt, whole_image
from datamodules.image_files import say, shown, unreadable
from datamodules.listing import listing_of
from finished.predictions import STANDARD_INPUT, Likeliest, Predictions
from foundation.errors import UserError
from foundation.evaluation import evaluating
from foundation.protocols import said
from launch.runs import Finished

SHOWN = 36  # images of the picture


@dataclass
class Images:
    """Image files by their names, relative to the folder."""

    folder: Path
    names: list[str]


def find_images(source: str, finished: Finished) -> Images:
    """The image itself, or all below a folder in the order of their names."""
    if source == STANDARD_INPUT:
        raise UserError("input=- is for runs that read texts, and this one reads images: name an image or a folder.")
    path = Path(source).expanduser()
    if not path.is_dir():
        return Images(path.parent, [path.name])
    listing = listing_of(path)
    left_out = listing.left_out()
    if not listing.images:
        held = f"looked for {', '.join(ENDINGS)} at every depth, and it holds {left_out or 'nothing'}"
        raise UserError(f"input={source} holds no image: {held}.")
    if left_out:
        say(f"input={source}: left out: {left_out}.")
    return Images(path, listing.images)


def lists_of(config: Mapping[str, Any]) -> Path:
    """Where the files are listed that cannot be read."""
    return Path(config["run"])


# --- classifiers ---------------------------------------------------------------------------------------------


def classify(finished: Finished, images: Images, config: Mapping[str, Any]) -> Predictions:
    """The likeliest classes of each image: with few classes all of them."""
    module: Any = finished.module
    pixels, likeliest, first = pixels_of(finished), Likeliest(module), []
    bad: dict[str, str] = {}

    def batches(threads: ThreadPoolExecutor) -> Iterator[int]:
        for start in range(0, len(images.names), config["batch_size"]):
            names = images.names[start : start + config["batch_size"]]
            batch = decode(images.folder, names, pixels, config["invert"], bad, threads)
            if not bad:  # from the first bad file on, only the others are looked for, so that all are named
                first.append(batch[: max(SHOWN - start, 0)])
                with evaluating(module):
                    likeliest.add(module.class_logits(batch.to(module.device, module.dtype) / 255))
            yield len(names)

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 32)) as threads:
        for _ in shown(batches(threads), len(images.names), "predicting"):
            pass
    if bad:
        raise unreadable(bad, len(images.names), images.folder, lists_of(config), "input")
    record = {"pixels": asdict(pixels) | {"invert": config["invert"]}, "predicted": likeliest.counts()}
    captions = likeliest.captions()

    def write(folder: Path) -> None:
        save_captioned(torch.cat(first), captions, images.names, folder / "predictions.png")

    paths = ["path", *((images.folder / name).as_posix() for name in images.names)]
    rows = [[path, *row] for path, row in zip(paths, likeliest.rows(), strict=True)]
    return Predictions(rows, captions, record, write)


def pixels_of(finished: Finished) -> Pixels:
    """How a file becomes what the module was trained on: as its DataModule has it, else the largest square in it."""
    module: Any = finished.module
    wanted = tuple(module.image_shape)
    pixels = said(finished.datamodule, "pixels")
    if pixels is None and wanted[1] == wanted[2]:
        pixels = Pixels(wanted[1], channels=wanted[0])
    if pixels is None or pixels.shape != wanted:
        raise UserError(
            f"This run's module takes images of (channels, height, width) {wanted}, and files would become "
            f"{pixels.shape if pixels else 'squares'}: predict.py cannot serve it."
        )
    return pixels


def decode(
    folder: Path, names: list[str], pixels: Pixels, invert: bool, bad: dict[str, str], threads: ThreadPoolExecutor
) -> Tensor:
    """uint8 [B, C, size, size]. A file that cannot be read is left out, and ``bad`` gets its name and the reason."""
    read = list(threads.map(lambda name: attempt(pixels.decode, folder / name), names))
    bad.update({name: it for name, it in zip(names, read, strict=True) if isinstance(it, str)})
    arrays = [it for it in read if not isinstance(it, str)]
    batch = torch.from_numpy(np.stack(arrays) if arrays else np.empty((0, *pixels.shape), dtype=np.uint8))
    return 255 - batch if invert else batch


# --- detectors -----------------------------------------------------------------------------------------------


def detect(finished: Finished, images: Images, config: Mapping[str, Any]) -> Predictions:
    """The objects in each image, looked at one by one: in a batch an image would be padded to the size of others."""
    module: Any = finished.module
    if not weights_are_finite(module):
        raise UserError("The run's weights are not finite: name another with checkpoint=.")
    bits = said(finished.datamodule, "bits")
    bad: dict[str, str] = {}
    found: list[dict[str, Any]] = []

    def each(threads: ThreadPoolExecutor) -> Iterator[int]:
        for name, read in zip(images.names, read_ahead(images, bits, threads), strict=True):
            if isinstance(read, str):
                bad[name] = read
            if not bad:
                found.append(objects_in(module, as_pixels(read, config["invert"])))
            yield 1

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as threads:
        for _ in shown(each(threads), len(images.names), "looking for objects"):
            pass
    if bad:
        raise unreadable(bad, len(images.names), images.folder, lists_of(config), "input")
    names = dict(zip(module.category_ids, module.class_names or map(str, module.category_ids), strict=True))
    frames = [likeliest(it, names, config["min_score"]) for it in found]
    truth = as_coco(images, found, names)
    counts = Counter(names[it["category_id"]] for it in truth["annotations"])
    record = {"invert": config["invert"], "min_score": config["min_score"], "detected": dict(sorted(counts.items()))}

    def write(folder: Path) -> None:
        (folder / "detections.json").write_text(json.dumps(truth))
        for name, drawn in zip(images.names, frames, strict=True):
            pixels = as_pixels(whole_image(images.folder / name, bits), config["invert"])
            save_framed(pixels, drawn, list(names), folder / "images" / f"{name}.png")

    seen = [Counter(names[it.category] for it in drawn) for drawn in frames]
    captions = [", ".join(f"{count} x {name}" for name, count in it.most_common()) or "nothing" for it in seen]
    return Predictions(detection_table(images, truth, names), captions, record, write)


def read_ahead(
    images: Images, bits: int | None, threads: ThreadPoolExecutor, ahead: int = 16
) -> Iterator[np.ndarray | str]:
    """Each image's pixels or why there are none; a few are decoded before they are wanted."""
    for start in range(0, len(images.names), ahead):
        paths = [images.folder / name for name in images.names[start : start + ahead]]
        yield from threads.map(lambda path: attempt(lambda it: whole_image(it, bits), path), paths)


def as_pixels(read: Any, invert: bool) -> Tensor:
    """uint8 [3, H, W] -> in [0, 1]."""
    pixels = torch.from_numpy(np.ascontiguousarray(read)).float() / 255
    return 1 - pixels if invert else pixels


def objects_in(module: Any, pixels: Tensor) -> dict[str, Any]:
    """What ``DetectsObjectsInImages`` gives for an image, on the CPU, the best first; masks run-length encoded."""
    with evaluating(module):
        (found,) = module.detect_objects([pixels.to(module.device, module.dtype)])
    order = found["scores"].argsort(descending=True, stable=True)
    masks = {"masks": encode(found["masks"][order])} if "masks" in found else {}
    height, width = pixels.shape[1:]
    return {key: found[key][order].cpu() for key in ("boxes", "scores", "labels")} | masks | {"size": [height, width]}


def as_coco(images: Images, found: list[dict[str, Any]], names: Mapping[int, str]) -> dict[str, Any]:
    """All that was detected as a data set in COCO's format, each annotation with its score."""
    listed, annotations = [], []
    for number, (name, it) in enumerate(zip(images.names, found, strict=True), start=1):
        listed.append({"id": number, "file_name": name, "height": it["size"][0], "width": it["size"][1]})
        columns = (it[key].tolist() for key in ("boxes", "scores", "labels"))
        for place, ((left, top, right, bottom), score, label) in enumerate(zip(*columns, strict=True)):
            annotation: dict[str, Any] = {
                "id": len(annotations) + 1, "image_id": number, "category_id": label, "score": score, "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top),
            }  # fmt: skip
            if "masks" in it:
                mask = it["masks"][place]
                annotation["segmentation"] = mask | {"counts": mask["counts"].decode()}
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in names.items()]
    return {"images": listed, "annotations": annotations, "categories": categories}


def detection_table(images: Images, truth: Mapping[str, Any], names: Mapping[int, str]) -> list[list[str]]:
    """A heading and a row a detection."""
    rows = [["path", "label", "score", "left", "top", "right", "bottom"]]
    for it in truth["annotations"]:
        left, top, width, height = it["bbox"]
        path = (images.folder / images.names[it["image_id"] - 1]).as_posix()
        corners = [f"{value:.2f}" for value in (left, top, left + width, top + height)]
        rows.append([path, names[it["category_id"]], f"{it['score']:.6g}", *corners])
    return rows
