"""A detector as an ONNX file: an image of any size in, boxes, scores, labels and masks out.

How many detections there are depends on the image, so the file is made by following a computation (torch's exporter of
TorchScript), for which torchvision's detectors are written; its own RoIAlign and NMS stand in it as ONNX has them.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OPSET = 17
SHOWN = (192, 256)  # height and width of the image that is followed
CHECKED = ((192, 256), (300, 170), (128, 128))
COMPARED = 10  # best detections of each image
OUTPUTS = ["boxes", "scores", "labels"]
WITH_MASKS = [*OUTPUTS, "masks"]


class Detector(nn.Module):
    """A run's detections of one image that score more than ``min_score``.

    image: [3, H, W] in [0, 1]; min_score: a number -> boxes [N, 4] in the image's pixels, scores [N], labels [N] and,
    of a module that has them, masks [N, H, W] in [0, 1], the probabilities of pixels.
    """

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module
        self.outputs = WITH_MASKS if module.network.roi_heads.has_mask() else OUTPUTS

    def forward(self, image: Tensor, min_score: Tensor) -> tuple[Tensor, ...]:
        heads = self.module.network.roi_heads
        before, heads.score_thresh = heads.score_thresh, min_score
        try:
            (found,) = self.module.network([image])
        finally:
            heads.score_thresh = before
        ids = torch.tensor([0, *self.module.category_ids])
        masks = [found["masks"][:, 0]] if "masks" in self.outputs else []
        return found["boxes"], found["scores"], ids[found["labels"]], *masks


def write_detector(module: Any, metadata: Mapping[str, Any], path: Path) -> float:
    """Write the file; returns how far it is from the module: in scores, and in boxes by the image's longer side."""
    import onnx

    detector = Detector(module).eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.rand(3, *SHOWN, generator=generator), torch.tensor(0.0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of numbers that are constants as they are followed, as they should be
        torch.onnx.export(
            detector, example, str(path), dynamo=False, opset_version=OPSET, input_names=["image", "min_score"],
            output_names=detector.outputs,
            dynamic_axes={
                "image": {1: "height", 2: "width"}, **{name: {0: "detections"} for name in OUTPUTS},
                "masks": {0: "detections", 1: "height", 2: "width"},
            },
        )  # fmt: skip
    program = onnx.load(str(path))
    for key, value in {**metadata, **described(module)}.items():
        program.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
    for node in program.graph.node:
        node.doc_string = ""  # it would tell where the source lies on this machine
    onnx.save(program, str(path))
    return largest_difference(detector, path)


def described(module: Any) -> dict[str, Any]:
    """What the file says of itself."""
    masks = "; masks [detections, height, width], of each pixel how likely it is the object's"
    return {
        "input": "image [3, height, width] in [0, 1], RGB, in its own size; min_score, below which nothing is told",
        "output": "boxes [detections, 4], left, top, right, bottom in pixels, scores and labels [detections]"
        + (masks if module.network.roi_heads.has_mask() else ""),
        "classes": module.class_names or [str(it) for it in module.category_ids],
        "labels": module.category_ids,
        "min_score": module.network.roi_heads.score_thresh,
    }


def largest_difference(detector: Detector, path: Path) -> float:
    """Between the module's best detections and those like them of the file, in images of several sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    generator, differences = torch.Generator().manual_seed(1), [0.0]
    for size in CHECKED:
        image, least = torch.rand(3, *size, generator=generator), torch.tensor(0.0)
        with torch.no_grad():
            expected = detector(image, least)
        given = session.run(detector.outputs, {"image": image.numpy(), "min_score": least.numpy()})
        differences.append(distance(expected, tuple(map(torch.from_numpy, given)), max(size)))
    return max(differences)


def distance(expected: tuple[Tensor, ...], found: tuple[Tensor, ...], side: int) -> float:
    """Of each of the best detections expected to the nearest found of its label, the largest; infinite where there is
    none. The order of two that score alike is nobody's. Of masks the mean over their pixels. side: of the image."""
    best = expected[1].argsort(descending=True, stable=True)[:COMPARED]
    boxes, scores, labels, *masks = (it[best] for it in expected)
    if not len(best):
        return 0.0 if not len(found[0]) else float("inf")
    if not len(found[0]):
        return float("inf")
    away = torch.cat([
        (boxes[:, None] - found[0][None]).abs() / side,
        (scores[:, None] - found[1][None]).abs()[..., None],
    ], dim=2).amax(2)  # fmt: skip
    away[labels[:, None] != found[2][None]] = float("inf")
    least, nearest = away.min(1)
    # A box that is rounded to the next pixel moves its mask by one, so that no single pixel tells.
    apart = [(them - found[3][nearest]).abs().mean((1, 2)) for them in masks]
    return float(torch.stack([least, *apart]).max())
